//! What the program costs the verifier.

use crate::{decap, rig};

/// The verifier gives up at a million; other kernels count a little differently.
const BUDGET: u32 = 300_000;

#[test]
fn the_verifier_has_room_left() {
    for (which, name) in ["plain frames", "other frames", "snat"].into_iter().enumerate() {
        let (verified, jitted) = rig::with(|rig| rig.size(which));
        println!("{name}: verified instructions: {verified} of {BUDGET}; machine code: {jitted} bytes");
        assert!(verified <= BUDGET, "{name}: {verified} verified instructions, {BUDGET} are allowed");
    }
    let backends = decap::with(decap::Rig::verified);
    println!("verified instructions of the backend's program: {backends:?}");
}
