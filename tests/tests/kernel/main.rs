//! The XDP program in the kernel, run on frames by BPF_PROG_TEST_RUN: packet rows, the host's model beside it, two CPUs at
//! once, and what it costs the verifier.

mod budget;
mod decap;
mod floor;
mod frames;
mod hammer;
mod model;
mod odd_frames;
mod rig;
mod rows;
mod trace;

use zdd_tests::bpf;
