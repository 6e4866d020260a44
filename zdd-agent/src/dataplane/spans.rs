//! Ends of one port or of many: who looks them up need not know in which map they lie.

use aya::maps::lpm_trie::Key;
use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::{EndEntry, EndKind};
use zdd_common::limits::PREFIXES_MAX;
use zdd_common::net::{Addr, End};
use zdd_common::spans::{self, BEFORE_PORT, Span, SpanKey};

use super::DataplaneError;
use super::fault::{self, Write};
use super::object::{Dataplane, Plain};
use super::tables::{address_of, errno};

/// An end of one port, or of a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The one, or the first.
    pub first: End,
    /// How many ports follow it.
    pub more: u16,
}

impl Ends {
    fn keys(&self) -> Vec<Key<Plain<SpanKey>>> {
        let first = u16::from_be(self.first.port);
        spans::prefixes(first, first.saturating_add(self.more))
            .into_iter()
            .map(|(port, bits)| {
                let end = End { port: port.to_be(), ..self.first };
                Key::new(BEFORE_PORT + bits, Plain(SpanKey::of(&end)))
            })
            .collect()
    }
}

impl Dataplane {
    /// Makes ends known, or changes what they are. A VIP's address becomes known with it, and before it.
    pub fn set_ends(&mut self, ends: Ends, entry: EndEntry, doing: &str) -> Result<(), DataplaneError> {
        if ends.more == 0 {
            return self.set_end(ends.first, entry, doing);
        }
        if entry.is(EndKind::Vip) {
            let address = EndEntry { kind: EndKind::Address as u16, ..EndEntry::default() };
            self.write_end(address_of(ends.first), address, doing)?;
        }
        self.sketch_span(&ends.first.addr);
        let span = Span { end: entry, first: ends.first.port, zero: [0; 3] };
        for key in ends.keys() {
            fault::before(Write::Span);
            self.spans.insert(&key, &Plain(span), 0).map_err(|error| match errno(&error) {
                Some(libc::ENOSPC | libc::E2BIG) => DataplaneError::Kernelspace {
                    what: format!("cannot write {doing}"),
                    reason: format!("map SPANS is full at {PREFIXES_MAX} prefixes"),
                },
                _ => DataplaneError::kernel(format!("cannot write {doing}"), error),
            })?;
        }
        Ok(())
    }

    /// Packets are looked up among ends of many ports only if the sketch knows their address. Nothing is taken out again: a bit too
    /// many costs a lookup.
    fn sketch_span(&self, addr: &Addr) {
        let (word, bit) = spans::sketched(addr);
        fault::before(Write::Sketch);
        // SAFETY: a mapped value; the index is below the words' number.
        unsafe { Host::or((&raw mut (*self.repliers.at(0)).spans).cast::<u64>().add(word), bit) };
    }

    /// Forgets ends. Unknown is fine. With the last VIP of an address goes the address.
    pub fn remove_ends(&mut self, ends: Ends) {
        if ends.more == 0 {
            return self.remove_end(ends.first);
        }
        let keys = ends.keys();
        let vip = keys.iter().any(|key| self.span(key).is_some_and(|span| span.end.is(EndKind::Vip)));
        for key in keys {
            fault::before(Write::SpanEnd);
            let _ = self.spans.remove(&key);
        }
        if vip {
            self.forget_address(ends.first, |_| true);
        }
    }

    /// What is known of ends: of many, what is known of the first.
    pub fn ends_entry(&self, ends: Ends) -> Option<EndEntry> {
        if ends.more == 0 {
            return self.end(ends.first);
        }
        self.span(ends.keys().first()?).map(|span| span.end)
    }

    /// Forgets every span that is none of these: a kill came between removing a service and forgetting its ends. How many
    /// prefixes that were.
    pub fn keep_spans(&mut self, known: &[Ends]) -> usize {
        let keep: std::collections::HashSet<(u32, SpanKey)> =
            known.iter().filter(|ends| ends.more > 0).flat_map(Ends::keys).map(|key| place(&key)).collect();
        let gone: Vec<_> = self.spans.keys().flatten().filter(|key| !keep.contains(&place(key))).collect();
        for key in &gone {
            fault::before(Write::SpanEnd);
            let _ = self.spans.remove(key);
        }
        gone.len()
    }

    /// Whether a VIP of many ports has an address.
    pub(super) fn has_vip_span(&self, addr: Addr) -> bool {
        let words = SpanKey::of(&End::new(addr, 0, 0)).words;
        self.spans.keys().flatten().any(|key| {
            place(&key).1.words[..4] == words[..4]
                && self.span(&key).is_some_and(|span| span.end.is(EndKind::Vip))
        })
    }

    /// The entry of exactly this prefix, if it is there; a longest match might be another's.
    fn span(&self, key: &Key<Plain<SpanKey>>) -> Option<Span> {
        self.spans.get(key, 0).ok().map(|span| span.0)
    }
}

fn place(key: &Key<Plain<SpanKey>>) -> (u32, SpanKey) {
    (key.prefix_len(), key.data().0)
}
