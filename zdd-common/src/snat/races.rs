//! One CPU gives a flow a port, and another does the same between any two of its steps.

use std::cell::Cell;
use std::rc::Rc;

use super::mapping::{Bucket, Mapping, State};
use super::table::{Found, Wanted, find, make, update};
use crate::atomic::Host;
use crate::atomic::interrupted::{Interrupted, with};
use crate::entries::FlowKey;
use crate::limits::SNAT_WAYS;
use crate::net::Addr;
use crate::time::Tick;

type Homes = [*mut Bucket; 2];

/// Two buckets, the test's for good: the other CPU's work outlives every borrow.
fn homes() -> Homes {
    let buckets = Box::leak(Box::new([Bucket::default(); 2]));
    let first = buckets.as_mut_ptr();
    // SAFETY: there are two.
    [first, unsafe { first.add(1) }]
}

/// All flows have one tag: only keys tell them apart.
fn wanted(client: u8, turn: u32) -> Wanted {
    let key = FlowKey::new(Addr::v4([192, 0, 2, client]), 4000, 80, 9);
    let word = Mapping::new(1, false, 77, Tick(1));
    Wanted { key, vip: Addr::v4([10, 9, 0, 1]), word, reached: 5, turn }
}

/// Two flows, or one, are given ports: what each was given, and what is in the table then. `turns`: where each looks first.
fn both(clients: [u8; 2], turns: [u32; 2], mut check: impl FnMut(&Homes, [Option<(u32, u32)>; 2])) {
    for step in 0.. {
        let homes = homes();
        let got = Rc::new(Cell::new(None));
        let tell = got.clone();
        // SAFETY: valid buckets.
        let other = move || tell.set(unsafe { make::<Host>(&homes, &wanted(clients[1], turns[1])) });
        // SAFETY: as above.
        let one = || unsafe { make::<Interrupted>(&homes, &wanted(clients[0], turns[0])) };
        let (one, met) = with(step, other, one);
        if !met {
            assert!(step > 2 * SNAT_WAYS, "it has more steps");
            return;
        }
        check(&homes, [one, got.get()]);
    }
}

fn used(homes: &Homes) -> usize {
    // SAFETY: valid buckets.
    homes.iter().flat_map(|bucket| unsafe { (**bucket).words }).filter(|word| *word != 0).count()
}

#[test]
fn one_flow_gets_one_port_at_most_whatever_the_cpus_do_between() {
    for turns in [[0, 0], [0, 3], [7, 2]] {
        let mut both_tried = 0;
        both([1, 1], turns, |homes, got| {
            let made = got.iter().flatten().count();
            assert!(made <= 1, "{got:?}");
            assert_eq!(used(homes), made, "nothing is left of who stood back");
            both_tried += 1;
        });
        assert!(both_tried > 0);
    }
}

#[test]
fn two_flows_never_get_one_port() {
    for turns in [[0, 0], [0, 3]] {
        both([1, 2], turns, |homes, got| {
            assert!(got[0] != got[1] || got[0].is_none(), "{got:?}");
            for (client, got) in (1u8..).zip(got) {
                // SAFETY: valid buckets.
                let found = unsafe { find::<Host>(homes, &wanted(client, 0)) };
                match (found, got) {
                    (Found::Here(bucket, way, _), Some(place)) => assert_eq!((bucket, way), place),
                    (Found::None, None) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}

#[test]
fn who_looks_while_a_port_is_given_is_told_so() {
    let mut told = Vec::new();
    for step in 0.. {
        let homes = homes();
        let seen = Rc::new(Cell::new(Found::None));
        let tell = seen.clone();
        // SAFETY: valid buckets.
        let looks = move || tell.set(unsafe { find::<Host>(&homes, &wanted(1, 0)) });
        // SAFETY: as above.
        let (got, met) = with(step, looks, || unsafe { make::<Interrupted>(&homes, &wanted(1, 0)) });
        assert!(got.is_some());
        if !met {
            break;
        }
        told.push(match seen.get() {
            Found::None => 1,
            Found::Busy => 2,
            Found::Here(.., word) if word.is(State::Live) => 3,
            other => panic!("{other:?}"),
        });
    }
    assert!(told.is_sorted() && told.iter().filter(|told| **told == 2).count() > 7, "{told:?}");
}

#[test]
fn a_word_that_another_changed_is_left_alone() {
    let homes = homes();
    // SAFETY: valid buckets.
    let (second, way) = unsafe { make::<Host>(&homes, &wanted(1, 0)) }.expect("room");
    let (bucket, old) = (homes[second as usize], wanted(1, 0).word);
    // SAFETY: as above.
    unsafe {
        assert!(update::<Host>(bucket, way, old, old.with_state(State::Dead)));
        assert!(!update::<Host>(bucket, way, old, old));
        assert!(matches!(find::<Host>(&homes, &wanted(1, 0)), Found::Here(.., word) if word.is(State::Dead)));
    }
}
