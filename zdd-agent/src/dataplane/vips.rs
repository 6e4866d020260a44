//! The lines in which packets find VIPs quickly: a copy of what the table of ends says; see `zdd_common::vips`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::VipWord;
use zdd_common::net::End;
use zdd_common::vips::{self, VIP_WAYS, VipLine};

use super::fault::{self, Write};
use super::mapped::Mapped;
use super::object::Dataplane;
use super::tables::note_in;

/// No packet looks at a line for as long: what XDP does with one takes microseconds.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The lines, and since when ways are nobody's.
pub(super) struct Vips {
    lines: Mapped<VipLine>,
    /// By line and way.
    retired: HashMap<(usize, usize), Instant>,
}

impl Vips {
    /// Ways that an earlier run took back count as taken back now.
    pub(super) fn new(lines: Mapped<VipLine>) -> Self {
        Self { lines, retired: HashMap::new() }
    }

    fn word(&self, line: usize, way: usize) -> u64 {
        // SAFETY: a mapped value; one word.
        unsafe { Host::load(&raw const (*self.lines.at(line)).words[way]) }
    }

    fn set(&self, line: usize, way: usize, word: u64) {
        fault::before(if word == 0 { Write::LineEnd } else { Write::Line });
        // SAFETY: as above.
        unsafe { Host::store(&raw mut (*self.lines.at(line)).words[way], word) };
    }

    fn key(&self, line: usize, way: usize) -> End {
        // SAFETY: a mapped value that only this process writes.
        unsafe { (&raw const (*self.lines.at(line)).keys[way]).read_volatile() }
    }

    fn place(&self, end: &End) -> (usize, u64) {
        let (line, tag) = vips::place(end, self.lines.len() as u32);
        (line as usize, tag)
    }

    /// The way that is an end's.
    fn way(&self, end: &End) -> Option<(usize, usize, u64)> {
        let (line, tag) = self.place(end);
        (0..VIP_WAYS).find(|way| self.key(line, *way) == *end).map(|way| (line, way, tag))
    }

    /// Makes a way an end's, if one is free.
    fn claim(&mut self, end: &End, now: Instant) -> bool {
        if self.way(end).is_some() {
            return true;
        }
        let (line, _) = self.place(end);
        let free = |way: &usize| {
            let since = self.retired.get(&(line, *way));
            self.key(line, *way) == End::default()
                || self.word(line, *way) == 0
                    && since.is_some_and(|since| now.duration_since(*since) > FORGOTTEN)
        };
        let Some(way) = (0..VIP_WAYS).find(free) else { return false };
        self.retired.remove(&(line, way));
        fault::before(Write::Claim);
        // SAFETY: a mapped value; its word is 0, and nobody looks at its old key any more.
        unsafe { vips::claim::<Host>(self.lines.at(line), way, end) };
        true
    }

    /// Gives a way its word, if it is the end's.
    fn tell(&mut self, end: &End, word: VipWord) {
        if let Some((line, way, tag)) = self.way(end) {
            self.set(line, way, word.0 | tag);
            self.retired.remove(&(line, way));
        }
    }

    /// Takes an end's word away: its way is free for others when nobody looks at it any more. Also one that was claimed and never got a
    /// word. Unknown is fine.
    fn retire(&mut self, end: &End, now: Instant) {
        if let Some((line, way, _)) = self.way(end) {
            let had = self.word(line, way) != 0;
            self.set(line, way, 0);
            if had {
                self.retired.insert((line, way), now);
            } else {
                self.retired.entry((line, way)).or_insert(now);
            }
        }
    }

    /// Makes the lines agree with the VIPs that there are (`None`: one that no line can say). `note`: ends that packets have to look for in
    /// the table of ends from now on, told before that is so.
    fn compare(&mut self, vips: &HashMap<End, Option<VipWord>>, now: Instant, mut note: impl FnMut(&End)) {
        for line in 0..self.lines.len() {
            for way in 0..VIP_WAYS {
                let (word, key) = (self.word(line, way), self.key(line, way));
                let (_, tag) = self.place(&key);
                let said = vips.get(&key).copied().flatten().map(|word| word.0 | tag);
                if word != 0 && said != Some(word) {
                    note(&key);
                    self.set(line, way, 0);
                }
                if key != End::default() && self.word(line, way) == 0 {
                    self.retired.insert((line, way), now);
                }
            }
        }
        for (end, word) in vips {
            match word.filter(|_| self.claim(end, now)) {
                Some(word) => self.tell(end, word),
                None => note(end),
            }
        }
    }
}

impl Dataplane {
    /// Whether a VIP can be found quickly: it gets a way of its line if there is one. Follow it by [`Dataplane::tell_line`] or
    /// [`Dataplane::retire_line`].
    pub(super) fn has_line(&mut self, end: &End) -> bool {
        self.vips.claim(end, Instant::now())
    }

    /// Lets packets find a VIP that has a line.
    pub(super) fn tell_line(&mut self, end: &End, word: VipWord) {
        self.vips.tell(end, word);
    }

    /// From now on packets ask the table of ends. Unknown is fine.
    pub(super) fn retire_line(&mut self, end: &End) {
        self.vips.retire(end, Instant::now());
    }

    /// Gives the way of an end back that did not come to be one; what is found there already stays as it is.
    pub(super) fn unclaim_line(&mut self, end: &End) {
        if self.vips.way(end).is_some_and(|(line, way, _)| self.vips.word(line, way) == 0) {
            self.retire_line(end);
        }
    }

    /// Makes the lines agree with the table of ends: an agent may have ended between the two.
    pub(super) fn compare_vips(&mut self) {
        let vips: HashMap<End, Option<VipWord>> = self
            .ends()
            .into_iter()
            .filter_map(|end| self.end(end).map(|entry| (end, entry)))
            .filter(|(_, entry)| entry.is(zdd_common::entries::EndKind::Vip))
            .map(|(end, entry)| (end, VipWord::of(&entry)))
            .collect();
        let Self { vips: lines, repliers, .. } = self;
        lines.compare(&vips, Instant::now(), |end| note_in(repliers, end));
    }
}

#[cfg(test)]
mod tests;
