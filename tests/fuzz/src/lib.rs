//! Coverage-guided fuzzing of everything that happens to a packet; see [`run`]. The tests of the workspace include these files too, so
//! that they build and every seed runs there.

#[path = "../../tests/kernel/frames.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
pub mod frames;
pub mod input;
#[path = "../../tests/kernel/odd_frames.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
pub mod odd_frames;
pub mod run;
pub mod seeds;
pub mod world;
