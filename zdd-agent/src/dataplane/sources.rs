//! Sets of source prefixes; see `zdd_common::sources`.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::Key;
use zdd_common::limits::PREFIXES_MAX;
use zdd_common::net::Addr;
use zdd_common::sources::{BEFORE_ADDR, Source, SourceKey};

use super::DataplaneError;
use super::fault::{self, Write};
use super::object::{Dataplane, Plain};
use super::tables::errno;
use crate::prefix::Prefix;

/// What a set says, by prefix.
pub type SourceSet = BTreeMap<Prefix, Source>;

fn key(set: u32, prefix: &Prefix) -> Key<Plain<SourceKey>> {
    let before = if prefix.addr.is_ipv4() { 96 } else { 0 };
    let bits = BEFORE_ADDR + before + u32::from(prefix.length);
    Key::new(bits, Plain(SourceKey::of(set, &Addr::from(prefix.addr))))
}

impl Dataplane {
    /// Writes a set that no VIP names yet. On an error nothing of it is left.
    pub fn write_sources(&mut self, set: u32, table: &SourceSet) -> Result<(), DataplaneError> {
        for (prefix, source) in table {
            fault::before(Write::Source);
            if let Err(error) = self.sources.insert(&key(set, prefix), &Plain(*source), 0) {
                self.remove_sources(set, table);
                return Err(match errno(&error) {
                    Some(libc::ENOSPC | libc::E2BIG) => DataplaneError::Kernelspace {
                        what: format!("cannot write {} source prefixes", table.len()),
                        reason: format!(
                            "map SOURCES is full at {PREFIXES_MAX}, where a change needs room for the old and the new ones: use fewer or shorter prefixes"
                        ),
                    },
                    _ => DataplaneError::kernel("cannot write a source prefix", error),
                });
            }
        }
        Ok(())
    }

    /// Forgets a set that no packet can be looking at.
    pub fn remove_sources(&mut self, set: u32, table: &SourceSet) {
        for prefix in table.keys() {
            fault::before(Write::SourceEnd);
            let _ = self.sources.remove(&key(set, prefix));
        }
    }

    /// All sets, as they stand.
    pub fn source_sets(&self) -> BTreeMap<u32, SourceSet> {
        let mut sets: BTreeMap<u32, SourceSet> = BTreeMap::new();
        for (key, source) in self.sources.iter().flatten() {
            let words = key.data().0.words;
            let mut bytes = [0; 16];
            for (part, word) in bytes.chunks_mut(4).zip(&words[1..]) {
                part.copy_from_slice(&word.to_ne_bytes());
            }
            let (addr, length) = (Addr::v6(bytes), key.prefix_len().saturating_sub(BEFORE_ADDR) as u8);
            // Prefixes of IPv4 addresses are longer than what marks them as such.
            let prefix = if addr.is_v4() && length >= 96 {
                Prefix { addr: addr.into(), length: length - 96 }
            } else {
                Prefix { addr: std::net::Ipv6Addr::from(bytes).into(), length }
            };
            sets.entry(words[0]).or_default().insert(prefix, source.0);
        }
        sets
    }
}
