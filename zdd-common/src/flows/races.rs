//! One CPU's operation on the flow table, and another's whole operation between any two of its steps.

use std::cell::Cell;
use std::rc::Rc;

use super::{Bucket, Slot, find, glance, insert, replace, update};
use crate::atomic::Host;
use crate::atomic::interrupted::{Interrupted, with};
use crate::entries::{Class, FlowKey, Positions, State, Word};
use crate::net::Addr;
use crate::tables::Found;
use crate::time::Tick;

const HASH: u64 = 0x1234_5678_9abc_def0;
const OLD: Positions = Positions::new(100, 100);
const NEW: Positions = Positions::new(900_000_000, 100);

type Homes = [*mut Bucket; 2];

/// Two buckets; they are the test's for good, because the other CPU's work outlives every borrow.
fn homes() -> Homes {
    let buckets = Box::leak(Box::new([Bucket::default(); 2]));
    let first = buckets.as_mut_ptr();
    // SAFETY: there are two.
    [first, unsafe { first.add(1) }]
}

fn key(client: u64) -> FlowKey {
    FlowKey { client: Addr { hi: 0, lo: client }, ports: 0x1f90_9c40 }
}

fn word(backend: u16) -> Word {
    Word::new(State::Est, Class::Learned, backend, backend, Tick(1))
}

fn look(homes: &Homes, key: &FlowKey) -> Found<Slot> {
    // SAFETY: valid buckets.
    unsafe { find::<Host>(homes, key, HASH) }
}

/// Another CPU makes an entry; whether it did.
fn inserts(homes: Homes, key: FlowKey, backend: u16) -> (impl FnOnce(), Rc<Cell<bool>>) {
    let made = Rc::new(Cell::new(false));
    let tell = made.clone();
    // SAFETY: valid buckets.
    (move || tell.set(unsafe { insert::<Host>(&homes, &key, HASH, word(backend), OLD) }), made)
}

/// One CPU's insertion interrupted by another's, of keys of these clients, at every step, with some ways taken already: `(one, other)`
/// were made.
fn insertions(clients: [u64; 2], taken: u64, mut check: impl FnMut(&Homes, bool, bool)) {
    for step in 0.. {
        let homes = homes();
        for client in 0..taken {
            // SAFETY: valid buckets.
            assert!(unsafe { insert::<Host>(&homes, &key(1000 + client), HASH, word(7), OLD) });
        }
        let (other, made) = inserts(homes, key(clients[1]), 2);
        // SAFETY: as above.
        let one = || unsafe { insert::<Interrupted>(&homes, &key(clients[0]), HASH, word(1), OLD) };
        let (one, met) = with(step, other, one);
        if !met {
            assert!(step > 10, "an insertion has more steps");
            return;
        }
        check(&homes, one, made.get());
    }
}

#[test]
fn two_insertions_of_one_flow_make_one_entry_at_most_whichever_ways_are_free() {
    // With one way taken they take the last good way of the first bucket and one of the second.
    for taken in 0..7 {
        insertions([1, 1], taken, |homes, one, other| {
            assert!(!(one && other), "both, with {taken} ways taken");
            let found = matches!(look(homes, &key(1)), Found::Live(..));
            assert_eq!(found, one || other, "what was made is there, and nothing else");
        });
    }
}

#[test]
fn two_flows_never_get_one_way() {
    for taken in 0..8 {
        insertions([1, 2], taken, |homes, one, other| {
            for (client, made) in [(1, one), (2, other)] {
                let found = match look(homes, &key(client)) {
                    Found::Live(_, word, _) => Some(word.backend()),
                    _ => None,
                };
                assert_eq!(found, made.then_some(client as u16), "{taken} ways taken");
            }
        });
    }
}

#[test]
fn who_looks_while_an_entry_is_made_is_told_to_make_none() {
    let mut told = Vec::new();
    for step in 0.. {
        let homes = homes();
        let seen = Rc::new(Cell::new(0));
        let tell = seen.clone();
        let looks = move || {
            tell.set(match look(&homes, &key(1)) {
                Found::None => 1,
                Found::Busy => 2,
                Found::Live(..) => 3,
                Found::Dead(..) => 4,
            });
        };
        // SAFETY: valid buckets.
        let one = || unsafe { insert::<Interrupted>(&homes, &key(1), HASH, word(1), OLD) };
        let (made, met) = with(step, looks, one);
        assert!(made);
        if !met {
            break;
        }
        told.push(seen.get());
    }
    // The key's two words, its ports, positions, the barrier, looks for rivals, and the last word.
    assert!(told.is_sorted() && told.iter().filter(|told| **told == 2).count() > 5, "{told:?}");
}

/// An entry that another CPU replaces, or that is replaced: what belongs together.
fn together(found: &Found<Slot>, old: Word, new: Word) -> bool {
    match found {
        Found::Live(_, word, _) if word.is(State::Pending) => word.backend() == old.backend(),
        Found::Live(_, word, positions) => {
            (*word, *positions) == (old, OLD) || (*word, *positions) == (new, NEW)
        }
        _ => false,
    }
}

fn second() -> Word {
    Word::new(State::Half, Class::Half, 2, 1, Tick(1))
}

fn made() -> (Homes, Slot) {
    let homes = homes();
    // SAFETY: valid buckets.
    assert!(unsafe { insert::<Host>(&homes, &key(1), HASH, word(1), OLD) });
    let Found::Live(slot, ..) = look(&homes, &key(1)) else { panic!("it was made") };
    (homes, slot)
}

#[test]
fn word_and_positions_that_are_read_belong_together() {
    let (old, new) = (word(1), second());
    for step in 0.. {
        let (homes, slot) = made();
        // SAFETY: a slot of a valid bucket.
        let other = move || assert!(unsafe { replace::<Host>(slot, old, new, NEW) });
        // SAFETY: valid buckets.
        let (found, met) = with(step, other, || unsafe { find::<Interrupted>(&homes, &key(1), HASH) });
        assert!(together(&found, old, new), "step {step}: {found:?}");
        if !met {
            break;
        }
    }
    for step in 0.. {
        let (homes, slot) = made();
        // SAFETY: a slot of a valid bucket.
        let other = move || assert!(unsafe { replace::<Host>(slot, old, new, NEW) });
        // SAFETY: valid buckets.
        let (found, met) = with(step, other, || unsafe { glance::<Interrupted>(&homes, &key(1), HASH) });
        let nothing = found.1 == Word::default();
        assert!(nothing || together(&Found::Live(found.0, found.1, found.2), old, new), "step {step}");
        if !met {
            break;
        }
    }
}

#[test]
fn an_entry_that_is_being_replaced_shows_no_positions_of_one_and_word_of_the_other() {
    let (old, new) = (word(1), second());
    let mut pending = 0;
    for step in 0.. {
        let (homes, slot) = made();
        let seen = Rc::new(Cell::new(Found::None));
        let tell = seen.clone();
        let other = move || tell.set(look(&homes, &key(1)));
        // SAFETY: a slot of a valid bucket.
        let (done, met) = with(step, other, || unsafe { replace::<Interrupted>(slot, old, new, NEW) });
        assert!(done);
        if !met {
            break;
        }
        let found = seen.get();
        assert!(together(&found, old, new), "step {step}: {found:?}");
        pending += u32::from(matches!(found, Found::Live(_, word, _) if word.is(State::Pending)));
    }
    assert_eq!(pending, 2, "before the positions are written, and after");
}

#[test]
fn a_packet_that_comes_while_an_entry_is_replaced_changes_nothing() {
    let (old, new) = (word(1), second());
    for step in 0.. {
        let (homes, slot) = made();
        let updated = Rc::new(Cell::new(false));
        let tell = updated.clone();
        // SAFETY: a slot of a valid bucket.
        let other = move || tell.set(unsafe { update::<Host>(slot, old, old.with_fin()) });
        // SAFETY: as above.
        let (replaced, met) = with(step, other, || unsafe { replace::<Interrupted>(slot, old, new, NEW) });
        assert!(replaced != updated.get(), "step {step}: one of the two, whichever was first");
        let Found::Live(_, word, _) = look(&homes, &key(1)) else { panic!("it is there") };
        assert_eq!(word, if replaced { new } else { old.with_fin() });
        if !met {
            break;
        }
    }
}

#[test]
fn a_glance_takes_no_flow_for_another_that_gets_its_way_meanwhile() {
    let another = FlowKey { ports: key(1).ports ^ 1, ..key(1) };
    for step in 0.. {
        let (homes, slot) = made();
        // SAFETY: a slot of a valid bucket, and valid buckets.
        let other = move || unsafe {
            assert!(update::<Host>(slot, word(1), Word::default()));
            assert!(insert::<Host>(&homes, &another, HASH, word(2), OLD));
        };
        // SAFETY: as above.
        let (found, met) = with(step, other, || unsafe { glance::<Interrupted>(&homes, &key(1), HASH) });
        assert!(found.1 == Word::default() || found.1 == word(1), "step {step}: {:?}", found.1);
        if !met {
            break;
        }
    }
}
