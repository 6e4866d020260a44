//! What the program costs the verifier.

use crate::rig;

/// The verifier gives up at a million; other kernels count a little differently.
const BUDGET: u32 = 300_000;

#[test]
fn the_verifier_has_room_left() {
    for (name, odd) in [("plain frames", false), ("other frames", true)] {
        let (verified, jitted) = rig::with(|rig| rig.size(odd));
        println!("{name}: verified instructions: {verified} of {BUDGET}; machine code: {jitted} bytes");
        assert!(verified <= BUDGET, "{name}: {verified} verified instructions, {BUDGET} are allowed");
    }
    let backends = rig::with(|rig| {
        rig.decap.0.program().expect("the program").info().expect("its info").verified_instruction_count()
    });
    println!("verified instructions of the backend's program: {backends:?}");
}
