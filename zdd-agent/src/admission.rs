//! Who may dial a service, how often, and which clients go first: what a service says of the sources of its packets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zdd_common::pace::Pace;
use zdd_common::sources::Source;

use crate::cohort::Members;
use crate::dataplane::SourceSet;
use crate::prefix::Prefix;

/// Source prefixes that may dial a service, and those that may not. The longest prefix that a source lies in decides. With an
/// allowed one, sources that lie in none are denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessSpec {
    /// These may.
    pub allow: Vec<Prefix>,
    /// These may not.
    pub deny: Vec<Prefix>,
}

/// How many new TCP connections one source (an IPv4 address, an IPv6 /64) may open: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPerSource {
    /// A second, 1 to 1,000,000.
    pub rate: u32,
    /// At once, 1 to 1,000,000. Default: as many as a second.
    pub burst: u32,
}

impl NewPerSource {
    /// As packets see it.
    pub fn pace(limit: Option<Self>) -> Pace {
        limit.map_or_else(Pace::default, |limit| Pace::new(limit.rate, limit.burst))
    }
}

impl AccessSpec {
    /// Whether nobody is denied.
    pub fn open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// For people: `2 allowed, 1 denied`.
    pub fn summary(&self) -> String {
        if self.open() {
            return "everybody".to_owned();
        }
        format!("{} allowed, {} denied", self.allow.len(), self.deny.len())
    }
}

/// What is said of a prefix; the rest it has from the prefix around it.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    flags: Option<u16>,
    service: Option<u16>,
}

/// The set of a VIP. `v4`: of IPv4; `service`: the number of its own row of cells; `members`: whose row is another one.
pub fn compile(access: &AccessSpec, v4: bool, service: u16, members: &Members) -> SourceSet {
    let mut marks: BTreeMap<Prefix, Mark> = BTreeMap::new();
    for (prefix, row) in members.rows() {
        marks.entry(prefix).or_default().service = Some(row);
    }
    if !access.allow.is_empty() {
        let everybody = if v4 { Prefix::ALL_V4 } else { Prefix::ALL_V6 };
        marks.insert(everybody, Mark { flags: Some(Source::DENIED), ..Mark::default() });
    }
    for (prefixes, flags) in [(&access.allow, 0), (&access.deny, Source::DENIED)] {
        for prefix in prefixes.iter().filter(|prefix| prefix.addr.is_ipv4() == v4) {
            marks.entry(*prefix).or_default().flags = Some(flags);
        }
    }
    inherit(marks, Source { flags: 0, service })
}

/// Prefixes in their order: one that lies in another comes after it, so those around it are a stack.
fn inherit(marks: BTreeMap<Prefix, Mark>, outside: Source) -> SourceSet {
    let mut around: Vec<(Prefix, Source)> = Vec::new();
    marks
        .into_iter()
        .map(|(prefix, mark)| {
            while around.pop_if(|(outer, _)| !outer.contains(prefix.addr)).is_some() {}
            let outer = around.last().map_or(outside, |(_, source)| *source);
            let source = Source {
                flags: mark.flags.unwrap_or(outer.flags),
                service: mark.service.unwrap_or(outer.service),
            };
            around.push((prefix, source));
            (prefix, source)
        })
        .collect()
}

/// What a set says of an address, and by which prefix; `None`: nothing.
pub fn look_up(set: &SourceSet, addr: std::net::IpAddr) -> Option<(Prefix, Source)> {
    (0..=Prefix { addr, length: 0 }.width()).rev().find_map(|length| {
        set.get_key_value(&Prefix::of(addr, length)).map(|(prefix, source)| (*prefix, *source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn denied(allow: &[&str], deny: &[&str], addr: &str) -> bool {
        let addr: std::net::IpAddr = addr.parse().expect("an address");
        let access = AccessSpec { allow: prefixes(allow), deny: prefixes(deny) };
        let set = compile(&access, addr.is_ipv4(), 3, &Members::default());
        look_up(&set, addr).is_some_and(|(_, source)| source.flags == Source::DENIED)
    }

    #[test]
    fn the_longest_prefix_decides() {
        for (allow, deny, addr, is) in [
            (&[][..], &[][..], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "192.0.2.1", true),
            (&[], &["192.0.2.0/24"], "192.0.3.1", false),
            (&["192.0.2.0/24"], &[], "192.0.2.1", false),
            (&["192.0.2.0/24"], &[], "192.0.3.1", true),
            (&["192.0.2.0/24"], &[], "2001:db8::1", true),
            (&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16"], "10.1.3.3", true),
            (&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16"], "10.2.3.3", false),
            (&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16"], "11.2.3.3", true),
            (&["0.0.0.0/0"], &["10.0.0.0/8"], "11.0.0.1", false),
            (&["0.0.0.0/0"], &["10.0.0.0/8"], "10.0.0.1", true),
            (&["2001:db8::/32"], &["2001:db8:1::/48"], "2001:db8:1::1", true),
            (&["2001:db8::/32"], &["2001:db8:1::/48"], "2001:db8:2::1", false),
        ] {
            assert_eq!(denied(allow, deny, addr), is, "allow {allow:?} deny {deny:?} {addr}");
        }
    }

    #[test]
    fn a_service_that_says_nothing_has_no_set() {
        assert!(compile(&AccessSpec::default(), true, 3, &Members::default()).is_empty());
        // Nor has a VIP of a family that nobody is denied in.
        let access = AccessSpec { allow: vec![], deny: prefixes(&["10.0.0.0/8"]) };
        assert!(compile(&access, false, 3, &Members::default()).is_empty());
    }
}
