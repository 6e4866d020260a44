//! Who belongs to what, and what is said of files that cannot be used.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::admission::{AccessSpec, compile, look_up};

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn row(members: &Members, addr: &str) -> u16 {
    members.row(addr.parse().expect("an address")).unwrap_or(OWN)
}

const OWN: u16 = 3;

#[test]
fn a_client_of_several_cohorts_belongs_to_the_one_that_leads_first() {
    let (staff, beta) = (prefixes(&["10.0.0.0/8"]), prefixes(&["10.1.0.0/16", "10.1.2.0/24", "11.0.0.0/8"]));
    let first = Members::new([(7, &staff[..]), (8, &beta[..])], true, OWN);
    for (addr, is) in
        [("10.1.2.3", 7), ("10.9.0.1", 7), ("11.0.0.1", 8), ("12.0.0.0", OWN), ("9.255.255.255", OWN)]
    {
        assert_eq!(row(&first, addr), is, "{addr}");
    }
    // Turned around, the longer prefixes lead first.
    let last = Members::new([(8, &beta[..]), (7, &staff[..])], true, OWN);
    for (addr, is) in [("10.1.2.3", 8), ("10.1.255.255", 8), ("10.2.0.0", 7), ("10.0.255.255", 7)] {
        assert_eq!(row(&last, addr), is, "{addr}");
    }
    assert_eq!((last.count(8), last.count(7)), (2, 1), "10.1.2.0/24 says nothing new");
}

#[test]
fn the_ends_of_the_address_space_have_rows_too() {
    let all = prefixes(&["0.0.0.0/0", "255.255.255.255/32", "::/0"]);
    let members = Members::new([(9, &all[1..2]), (7, &all[..])], true, OWN);
    assert_eq!((row(&members, "0.0.0.0"), row(&members, "255.255.255.254")), (7, 7));
    assert_eq!(row(&members, "255.255.255.255"), 9);
    let members = Members::new([(7, &all[..])], false, OWN);
    assert_eq!(row(&members, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 7);
}

#[test]
fn a_denied_member_is_denied_and_membership_outlives_a_change_of_the_list() {
    let staff = prefixes(&["10.1.0.0/16"]);
    let members = Members::new([(7, &staff[..])], true, OWN);
    for (allow, deny, addr, denied, row) in [
        (&[][..], &["10.1.0.0/16"][..], "10.1.2.3", true, 7),
        (&[], &["10.0.0.0/8"], "10.1.2.3", true, 7),
        (&[], &["10.1.2.0/24"], "10.1.2.3", true, 7),
        (&[], &["10.1.2.0/24"], "10.1.3.3", false, 7),
        (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.1.3.3", false, 7),
        (&["192.0.2.0/24"], &[], "10.1.3.3", true, 7),
        (&["192.0.2.0/24"], &[], "192.0.2.1", false, OWN),
    ] {
        let access = AccessSpec { allow: prefixes(allow), deny: prefixes(deny) };
        let set = compile(&access, true, OWN, &members);
        let (_, source) = look_up(&set, addr.parse().expect("an address")).expect("something is said");
        assert_eq!((source.flags != 0, source.service), (denied, row), "{allow:?} {deny:?} {addr}");
        assert_eq!(Members::of_set(&set, OWN), members, "{allow:?} {deny:?}");
    }
}

proptest! {
    #[test]
    fn a_set_in_the_maps_says_what_its_members_say(
        cohorts in prop::collection::vec(prop::collection::vec((any::<u8>(), 0u8..=8), 0..6), 1..4),
        deny in prop::collection::vec((any::<u8>(), 0u8..=8), 0..4),
    ) {
        // Prefixes of the first byte of 10.x: small enough to ask every address.
        let prefix = |(byte, length): &(u8, u8)| Prefix::of(IpAddr::from([10, *byte, 0, 0]), 8 + length);
        let cohorts: Vec<Vec<Prefix>> = cohorts.iter().map(|c| c.iter().map(prefix).collect()).collect();
        let rows = || (10u16..).zip(cohorts.iter().map(Vec::as_slice));
        let members = Members::new(rows(), true, OWN);
        let access = AccessSpec { allow: vec![], deny: deny.iter().map(prefix).collect() };
        let set = compile(&access, true, OWN, &members);
        prop_assert_eq!(&Members::of_set(&set, OWN), &members);
        for byte in 0..=255u8 {
            let addr = IpAddr::from([10, byte, 1, 2]);
            let is = rows().find(|(_, own)| own.iter().any(|p| p.contains(addr))).map_or(OWN, |(row, _)| row);
            prop_assert_eq!(members.row(addr).unwrap_or(OWN), is);
            prop_assert_eq!(look_up(&set, addr).map_or(OWN, |(_, source)| source.service), is);
        }
    }
}

fn scratch(name: &str, text: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("zdd-{}-cohort-{name}", std::process::id()));
    std::fs::write(&path, text).expect("writing");
    path
}

fn spec(list: Option<PathBuf>, countries: &[&str], mmdb: Option<PathBuf>) -> CohortSpec {
    let countries = countries.iter().map(|code| (*code).to_owned()).collect();
    CohortSpec { name: "staff".to_owned(), cidrs: vec![], list, countries, mmdb, prefixes: None }
}

#[test]
fn a_list_has_one_prefix_a_line_and_says_which_line_is_wrong() {
    let path = scratch("list", b"# staff\n10.1.0.0/16 # office\n\n2001:db8::/32\n10.1.2.0/24\n192.0.2.7\n");
    let read = spec(Some(path.clone()), &[], None).read();
    assert_eq!(read.as_deref(), Ok(&prefixes(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"])[..]));
    for (text, said) in
        [("10.1.0.0/16\n10.0.0.0/99\n", ":2: `10.0.0.0/99` is not"), ("# nobody\n", "names nobody")]
    {
        std::fs::write(&path, text).expect("writing");
        let error = spec(Some(path.clone()), &[], None).read().expect_err(text);
        assert!(error.contains(said), "{error}");
    }
    std::fs::remove_file(&path).expect("removing");
    assert!(spec(Some(path), &[], None).read().expect_err("gone").contains("cannot be read"));
    assert!(spec(Some("/dev/zero".into()), &[], None).read().expect_err("endless").contains("is no file"));
}

/// A database of both families with 24-bit records: each leaf is the code of a country.
struct Mmdb {
    nodes: Vec<[u32; 2]>,
    data: Vec<u8>,
}

const EMPTY: u32 = u32::MAX;

impl Mmdb {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.push(0x40 | text.len() as u8);
        bytes.extend(text.bytes());
    }

    /// `key` is `country` or `registered_country`.
    fn record(&mut self, key: &str, code: &str) -> u32 {
        let at = self.data.len() as u32;
        for (key, value) in [(key, None), ("iso_code", Some(code))] {
            // A map of one pair.
            self.data.push(0xe1);
            Self::text(&mut self.data, key);
            value.into_iter().for_each(|code| Self::text(&mut self.data, code));
        }
        at
    }

    fn insert(&mut self, prefix: &str, record: u32) {
        let prefix: Prefix = prefix.parse().expect("a prefix");
        let (bits, length) = match prefix.addr {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), prefix.length + 96),
            IpAddr::V6(v6) => (v6.into(), prefix.length),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                self.nodes[node][side] = record | 1 << 31;
            } else if self.nodes[node][side] == EMPTY {
                self.nodes[node][side] = self.nodes.len() as u32;
                node = self.nodes.len();
                self.nodes.push([EMPTY; 2]);
            } else {
                node = self.nodes[node][side] as usize;
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len() as u32;
        let mut all = Vec::new();
        for record in self.nodes.iter().flatten() {
            let word = match *record {
                EMPTY => count,
                leaf if leaf >> 31 == 1 => count + 16 + (leaf & !(1 << 31)),
                node => node,
            };
            all.extend(&word.to_be_bytes()[1..]);
        }
        all.extend([0; 16]);
        all.extend(&self.data);
        all.extend(b"\xab\xcd\xefMaxMind.com");
        all.push(0xe9);
        let int = |all: &mut Vec<u8>, key: &str, kind: u8, value: u32| {
            Self::text(all, key);
            all.push(kind << 5 | 4);
            all.extend(value.to_be_bytes());
        };
        int(&mut all, "node_count", 6, count);
        for (key, value) in [
            ("record_size", 24u16),
            ("ip_version", 6),
            ("binary_format_major_version", 2),
            ("binary_format_minor_version", 0),
        ] {
            Self::text(&mut all, key);
            all.push(5 << 5 | 2);
            all.extend(value.to_be_bytes());
        }
        Self::text(&mut all, "database_type");
        Self::text(&mut all, "Test-Country");
        Self::text(&mut all, "languages");
        // Kinds above 7 are extended: an empty array, an empty map, a 64-bit number of no bytes.
        all.extend([0, 11 - 7]);
        Self::text(&mut all, "description");
        all.push(7 << 5);
        Self::text(&mut all, "build_epoch");
        all.extend([0, 9 - 7]);
        all
    }
}

#[test]
fn countries_are_their_networks_of_both_families() {
    let mut mmdb = Mmdb { nodes: vec![[EMPTY; 2]], data: Vec::new() };
    let (is, no) = (mmdb.record("country", "IS"), mmdb.record("country", "NO"));
    let registered = mmdb.record("registered_country", "IS");
    for (prefix, record) in [
        ("192.0.2.0/25", is),
        ("192.0.2.128/25", no),
        ("198.51.100.0/24", registered),
        ("2001:db8:1::/48", is),
        ("2001:db8:2::/48", no),
    ] {
        mmdb.insert(prefix, record);
    }
    let path = scratch("mmdb", &mmdb.bytes());
    let read = |codes: &[&str]| spec(None, codes, Some(path.clone())).read();
    let is = prefixes(&["192.0.2.0/25", "198.51.100.0/24", "2001:db8:1::/48"]);
    assert_eq!(read(&["IS"]).as_deref(), Ok(&is[..]));
    assert_eq!(read(&["IS", "NO"]).map(|all| all.len()), Ok(5));
    assert!(read(&["IS", "XX"]).expect_err("unknown").contains("no network of country XX"));
    let bytes = mmdb.bytes();
    // Whatever is wrong with it, it is told.
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("writing");
    assert!(read(&["IS"]).expect_err("half of it").contains("cannot be used"));
    std::fs::remove_file(&path).expect("removing");
}
