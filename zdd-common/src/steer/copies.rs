//! Two copies of one SYN on two CPUs while a row is committed, in every order of what the three do to the tables in which the CPUs take
//! turns four times.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::{Segment, Transport, steer};
use crate::entries::{BackendId, Cell, Class, Commit, FlowKey, Positions, Service, ServiceView, Word};
use crate::model::Model;
use crate::net::Addr;
use crate::tables::{Found, Rule, SteerTables};
use crate::time::{TICK_SHIFT, Tick};

type Slot = <Model as SteerTables>::Slot;

const BASE: BackendId = 1;
const CURRENT: BackendId = 2;
/// More looks at the tables than a SYN takes.
const LOOKS: usize = 12;

/// Who does the next thing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    /// A copy looks at the tables once.
    Copy(usize),
    /// The row in which the cell changes becomes the live one.
    Commit,
}

/// The tables, and the order in which they are used.
struct Shared {
    model: Model,
    order: Vec<Who>,
    done: usize,
    ended: [bool; 2],
    looks: [usize; 2],
}

impl Shared {
    /// Whose turn it is: `None` once all have ended.
    fn turn(&mut self) -> Option<usize> {
        loop {
            match self.order.get(self.done) {
                Some(Who::Copy(copy)) if !self.ended[*copy] => return Some(*copy),
                Some(Who::Copy(_)) => {}
                Some(Who::Commit) => {
                    self.model.services.get_mut(&0).expect("the service").commit = Commit::new(1, 2).0;
                }
                None => return self.ended.iter().position(|ended| !ended),
            }
            self.done += 1;
        }
    }
}

/// The tables as one copy sees them.
struct Turns<'a> {
    shared: &'a Mutex<Shared>,
    moved: &'a Condvar,
    copy: usize,
    without: Option<Rule>,
}

impl Turns<'_> {
    fn wait(&self) -> MutexGuard<'_, Shared> {
        let shared = self.shared.lock().expect("nobody panicked");
        let others = |shared: &mut Shared| shared.turn() != Some(self.copy);
        let (shared, late) =
            self.moved.wait_timeout_while(shared, Duration::from_secs(60), others).expect("nobody panicked");
        assert!(!late.timed_out(), "the other copy has not gone on");
        shared
    }

    fn look<R>(&self, with: impl FnOnce(&mut Model) -> R) -> R {
        let mut shared = self.wait();
        let seen = with(&mut shared.model);
        shared.done += 1;
        shared.looks[self.copy] += 1;
        assert!(shared.looks[self.copy] <= LOOKS, "a SYN looks more often: not all orders are tried");
        self.moved.notify_all();
        seen
    }

    /// Asks for what nobody changes: in which order does not matter.
    fn same<R>(&self, with: impl FnOnce(&mut Model) -> R) -> R {
        with(&mut self.shared.lock().expect("nobody panicked").model)
    }

    /// Steers the SYN.
    fn steer(&mut self) -> BackendId {
        let key = FlowKey::new(Addr::v4([192, 0, 2, 1]), 4000, 80, 1);
        let syn = Segment { syn: true, seq: 7, ..Segment::default() };
        let to = steer(self, 0, &key, Transport::Tcp(syn));
        self.shared.lock().expect("nobody panicked").ended[self.copy] = true;
        self.moved.notify_all();
        to.backend
    }
}

impl SteerTables for Turns<'_> {
    type Slot = Slot;

    fn now_ns(&mut self) -> u64 {
        self.same(|model| model.now_ns())
    }
    fn service(&mut self, id: u16) -> Option<ServiceView> {
        self.same(|model| model.service(id))
    }
    fn commit(&mut self, id: u16) -> Commit {
        self.look(|model| model.commit(id))
    }
    fn cell(&mut self, index: u32) -> Option<Cell> {
        self.look(|model| model.cell(index))
    }
    fn syn_seen(&mut self, hash: u64, now: Tick) -> bool {
        self.look(|model| model.syn_seen(hash, now))
    }
    fn syn_seen_before(&mut self, hash: u64, now: Tick) -> bool {
        self.look(|model| model.syn_seen_before(hash, now))
    }
    fn udp_fail(&mut self, service: u16) -> u64 {
        self.look(|model| model.udp_fail(service))
    }
    fn note_failure(&mut self, service: u16, now_ns: u64, udp: bool) {
        self.look(|model| model.note_failure(service, now_ns, udp));
    }
    fn find(&mut self, key: &FlowKey, hash: u64) -> Found<Slot> {
        self.look(|model| model.find(key, hash))
    }
    fn insert(&mut self, key: &FlowKey, hash: u64, word: Word, positions: Positions) -> bool {
        self.look(|model| model.insert(key, hash, word, positions))
    }
    fn update(&mut self, slot: Slot, old: Word, new: Word) -> bool {
        self.look(|model| model.update(slot, old, new))
    }
    fn advance(&mut self, slot: Slot, old: Positions, new: Positions) {
        self.look(|model| model.advance(slot, old, new));
    }
    fn replace(&mut self, slot: Slot, old: Word, new: Word, positions: Positions) -> bool {
        self.look(|model| model.replace(slot, old, new, positions))
    }
    fn take(&mut self, class: Class) -> bool {
        self.look(|model| model.take(class))
    }
    fn give(&mut self, class: usize) {
        self.look(|model| model.give(class));
    }
    fn without(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }
}

fn settled() -> Model {
    let mut model = Model::new(8, 8);
    let service =
        Service { commit: Commit::new(0, 1).0, groups: 1, per_group: 1, udp_idle: 10, ..Service::default() };
    model.services.insert(0, service);
    model.cells = vec![Cell::settled(BASE), Cell::new(BASE, CURRENT, Cell::DIRTY | Cell::LOOKUP)];
    model.now_ns = 1000 << TICK_SHIFT;
    model
}

/// Where the copies go.
fn play(order: &[Who], without: Option<Rule>) -> [BackendId; 2] {
    let shared =
        Shared { model: settled(), order: order.to_vec(), done: 0, ended: [false; 2], looks: [0; 2] };
    let (shared, moved) = (&Mutex::new(shared), &Condvar::new());
    thread::scope(|scope| {
        let copy = |copy| scope.spawn(move || Turns { shared, moved, copy, without }.steer());
        [copy(0), copy(1)].map(|copy| copy.join().expect("steered"))
    })
}

/// The first looks so often, the second, the first again, the second as often as it wants, and the first; and the commit anywhere.
fn orders() -> impl Iterator<Item = Vec<Who>> {
    let looks = || 0..LOOKS;
    looks().flat_map(move |a| looks().flat_map(move |b| looks().map(move |c| (a, b, c)))).flat_map(
        |(a, b, c)| {
            let mut order = vec![];
            for (copy, times) in [(0, a), (1, b), (0, c), (1, LOOKS), (0, LOOKS)] {
                order.extend(vec![Who::Copy(copy); times]);
            }
            (0..=a + b + c + LOOKS).map(move |at| {
                let mut order = order.clone();
                order.insert(at, Who::Commit);
                order
            })
        },
    )
}

fn parted(without: Option<Rule>) -> Option<Vec<Who>> {
    orders().find(|order| {
        let [a, b] = play(order, without);
        assert!([BASE, CURRENT].contains(&a), "{a}");
        a != b
    })
}

#[test]
fn copies_of_a_syn_go_to_one_backend_whenever_a_row_is_committed() {
    assert_eq!(parted(None), None);
}

#[test]
fn copies_part_where_nobody_looks_whether_the_row_changed() {
    assert!(parted(Some(Rule::SameRow)).is_some());
}
