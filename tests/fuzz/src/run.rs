//! An input is a small world and what comes to it: frames, changes of cells, time. [`run`] lets it all happen and checks what must
//! hold whatever comes.

use zdd_common::entries::{CLASSES, State, Word};
use zdd_common::limits::WAYS;
use zdd_common::model::Model;
use zdd_common::process::{Verdict, process, process_by};
use zdd_common::reason::Reason;

use crate::input::{Act, Input};
use crate::{frames, world};

/// Lets an input happen.
///
/// # Panics
/// When something does not hold: a finding.
pub fn run(bytes: &[u8]) {
    let mut input = Input::of(bytes);
    let mut model = world::build(&mut input);
    while let Some(act) = input.act() {
        match act {
            Act::Frame(frame) => packet(&mut model, frame),
            act => world::change(&mut model, act),
        }
    }
}

fn packet(model: &mut Model, before: &[u8]) {
    let mut frame = before.to_vec();
    // The quick way and the long one come to the same: in frames, tables and counters.
    let (mut long, mut other) = (before.to_vec(), model.clone());
    let told = process_by(&mut long, &mut other, false);
    let verdict = process(&mut frame, model);
    assert_eq!((verdict, &frame), (told, &long), "the express way");
    assert!(*model == other, "the express way leaves other tables");
    model.count(verdict.reason());
    match verdict {
        Verdict::Odd | Verdict::Map => panic!("{verdict:?} is for another part, which gave none"),
        // Whoever asked too much is answered, and what waits for a route is rewritten; whatever else passes is untouched.
        Verdict::Pass(Reason::StackRouted | Reason::ReplyStackRouted | Reason::PassTooBig) => {
            kept(before, &frame);
        }
        Verdict::Pass(_) | Verdict::Drop(_) if frame.len() != before.len() => {
            assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?} of another length");
        }
        Verdict::Pass(_) => assert_eq!(before, frame, "{verdict:?} rewrites"),
        Verdict::Drop(_) => {}
        Verdict::Transmit(reason) | Verdict::Redirect(_, reason) => {
            if reason != Reason::TooBig {
                kept(before, &frame);
            }
        }
    }
    counted(model);
}

/// Checksums that were right are right.
fn kept(before: &[u8], after: &[u8]) {
    frames::assert_sums_kept(before, after, "fuzz");
}

/// The quotas count what is in the table, and every entry is one that steering may make.
fn counted(model: &Model) {
    let mut used = [0; CLASSES.len()];
    for bucket in &model.buckets {
        for way in 0..WAYS {
            let word = Word(bucket.ways[way].word);
            if word.is(State::Free) {
                continue;
            }
            assert!(!word.is(State::Busy) && !word.is(State::Pending), "left half-written: {word:?}");
            used[word.class_bits()] += 1;
            assert!(word.backend() <= world::BACKENDS && word.alt() <= world::BACKENDS, "{word:?}");
        }
    }
    assert_eq!(used, model.used, "entries by class, and what the quotas say");
}
