//! Breadth-first search with a hashed set of visited states, so that the first violation has a shortest trace.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A world whose states are to be visited.
pub trait World {
    /// Everything that tells one moment from another.
    type State: Copy;
    /// What may happen, and what comes of it.
    type Step: Copy + Debug;
    /// What must never happen.
    type Violation: Copy + Debug;

    /// The beginning, as [`World::steps`] would tell it.
    fn first(&self) -> Self::State;
    /// All steps from a state, in an order that depends on the state alone.
    fn steps(&self, from: &Self::State, out: &mut Vec<Self::Step>);
    /// 64 bits that stand for a state. Two of ten million states share theirs with a chance of 3 in a million.
    fn fingerprint(state: &Self::State) -> u64;
    /// The state after a step, what it broke, and what else is counted, one bit each.
    fn after(step: &Self::Step) -> (&Self::State, Option<Self::Violation>, u8);
    /// What is broken if the world, left alone, does not become clean.
    fn never_clean(&self, state: &Self::State) -> Option<Self::Violation>;
}

/// Bounds of a search.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most memory, bytes: some 25 for every state, and some hundred for each whose steps are still to be tried.
    pub memory: usize,
    /// Longest time.
    pub time: Duration,
    /// Every how many states "left alone, it becomes clean" is tried.
    pub clean_every: u64,
}

/// How a search ended.
#[derive(Clone, Debug)]
pub struct Found<Violation, Step> {
    /// Different states.
    pub states: usize,
    /// Steps tried.
    pub transitions: u64,
    /// Longest shortest path.
    pub depth: u32,
    /// How long it took.
    pub time: Duration,
    /// Whether every reachable state was visited.
    pub complete: bool,
    /// The violation and the shortest way to it.
    pub violation: Option<(Violation, Vec<Step>)>,
    /// How often each bit of [`World::after`] was met.
    pub notes: [u64; 8],
}

/// Fingerprints, open addressing, at most three quarters full.
struct Visited {
    table: Vec<u64>,
    count: usize,
}

impl Visited {
    fn new() -> Self {
        Self { table: vec![0; 1 << 12], count: 0 }
    }

    fn insert(&mut self, fingerprint: u64) -> bool {
        let fingerprint = fingerprint.max(1);
        if (self.count + 1) * 4 > self.table.len() * 3 {
            let old = std::mem::take(&mut self.table);
            self.table = vec![0; old.len() * 2];
            for known in old.into_iter().filter(|known| *known != 0) {
                let place = self.place(known);
                self.table[place] = known;
            }
        }
        let place = self.place(fingerprint);
        let new = self.table[place] == 0;
        self.table[place] = fingerprint;
        self.count += usize::from(new);
        new
    }

    /// Whether the next piece's states may make it grow.
    fn nearly_full(&self) -> bool {
        (self.count + (1 << 16)) * 4 > self.table.len() * 3
    }

    fn place(&self, fingerprint: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut place = fingerprint as usize & mask;
        while self.table[place] != 0 && self.table[place] != fingerprint {
            place = (place + 1) & mask;
        }
        place
    }
}

/// How often a long search tells how far it is, on stderr.
const PROGRESS: Duration = Duration::from_secs(20);

/// What waits for its steps, in pieces: one that was worked off is given back at once, and none is copied as they grow more.
struct Frontier<T>(VecDeque<Vec<T>>);

impl<T> Frontier<T> {
    const PIECE: usize = 4096;

    fn push(&mut self, one: T) {
        match self.0.back_mut() {
            Some(piece) if piece.len() < Self::PIECE => piece.push(one),
            _ => {
                let mut piece = Vec::with_capacity(Self::PIECE);
                piece.push(one);
                self.0.push_back(piece);
            }
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn bytes(&self) -> usize {
        self.0.len() * Self::PIECE * size_of::<T>()
    }
}

/// Visits every reachable state of a world, up to the first violation.
pub fn search<W: World>(world: &W, bounds: &Bounds) -> Found<W::Violation, W::Step> {
    let begun = Instant::now();
    let first = world.first();
    let mut visited = Visited::new();
    visited.insert(W::fingerprint(&first));
    // Of every state: its predecessor and which of its steps led here.
    let mut parents: Vec<(u32, u16)> = vec![(0, 0)];
    let mut frontier = Frontier(VecDeque::from([vec![(first, 0u32)]]));
    let mut found = Found {
        states: 1,
        transitions: 0,
        depth: 0,
        time: Duration::ZERO,
        complete: false,
        violation: None,
        notes: [0; 8],
    };
    let mut out = Vec::new();
    let mut told = Duration::ZERO;
    'levels: while !frontier.0.is_empty() {
        let mut next = Frontier(VecDeque::new());
        while let Some(piece) = frontier.0.pop_front() {
            for (state, id) in &piece {
                world.steps(state, &mut out);
                for (ordinal, step) in out.iter().enumerate() {
                    let (after, mut violation, notes) = W::after(step);
                    found.transitions += 1;
                    for (bit, count) in found.notes.iter_mut().enumerate() {
                        *count += u64::from(notes >> bit & 1);
                    }
                    let fingerprint = W::fingerprint(after);
                    let new = visited.insert(fingerprint);
                    if new && violation.is_none() && fingerprint % bounds.clean_every == 0 {
                        violation = world.never_clean(after);
                    }
                    if let Some(violation) = violation {
                        let trace = retrace(world, first, &parents, *id, ordinal as u16);
                        found.depth += 1;
                        found.violation = Some((violation, trace));
                        break 'levels;
                    }
                    if new {
                        let number = parents.len() as u32;
                        parents.push((*id, ordinal as u16));
                        next.push((*after, number));
                    }
                }
            }
            let known = size_of_val(&visited.table[..]) + parents.capacity() * size_of::<(u32, u16)>();
            // A table that grows is there twice for a moment.
            let grows = if visited.nearly_full() { 2 * size_of_val(&visited.table[..]) } else { 0 };
            if known + grows + frontier.bytes() + next.bytes() > bounds.memory
                || begun.elapsed() > bounds.time
            {
                break 'levels;
            }
        }
        if begun.elapsed() > told + PROGRESS {
            told = begun.elapsed();
            let (waits, bytes) = (next.count(), next.bytes() >> 20);
            eprintln!(
                "{} states, {} deep; {waits} to go on from, {bytes} MiB",
                parents.len(),
                found.depth + 1
            );
        }
        found.complete = next.0.is_empty();
        found.depth += u32::from(!next.0.is_empty());
        frontier = next;
    }
    found.states = parents.len();
    found.time = begun.elapsed();
    found
}

/// Walks the shortest way again: steps depend on the state alone.
fn retrace<W: World>(
    world: &W,
    first: W::State,
    parents: &[(u32, u16)],
    last: u32,
    ordinal: u16,
) -> Vec<W::Step> {
    let mut ordinals = vec![ordinal];
    let mut id = last;
    while id != 0 {
        let (parent, ordinal) = parents[id as usize];
        ordinals.push(ordinal);
        id = parent;
    }
    let (mut state, mut out, mut trace) = (first, Vec::new(), Vec::new());
    for ordinal in ordinals.into_iter().rev() {
        world.steps(&state, &mut out);
        let step = out[usize::from(ordinal)];
        state = *W::after(&step).0;
        trace.push(step);
    }
    trace
}
