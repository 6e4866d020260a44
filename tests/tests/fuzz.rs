//! The fuzz target's own code, built like every other test: each seed, and changes of the seeds made by chance. `cargo xtask fuzz`
//! searches on from there, guided by coverage.

#[path = "kernel/frames.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod frames;
#[path = "../fuzz/src/input.rs"]
mod input;
#[path = "kernel/odd_frames.rs"]
#[allow(dead_code, reason = "the kernel tests use the rest")]
mod odd_frames;
#[path = "../fuzz/src/run.rs"]
mod run;
#[path = "../fuzz/src/seeds.rs"]
mod seeds;
#[path = "../fuzz/src/world.rs"]
mod world;

use proptest::prelude::*;

#[test]
fn every_seed_runs() {
    let seeds = seeds::all();
    assert!(seeds.len() > 200);
    for (name, bytes) in seeds {
        println!("{name}");
        run::run(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn changed_seeds_run(
        seed in 0..seeds::all().len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = seeds::all().swap_remove(seed).1;
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        run::run(&bytes[..=cut.index(bytes.len())]);
        run::run(&bytes);
    }
}
