//! The lines over plain shared memory: reuse, adoption, a full line, a VIP that did not come to be one.

use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};

use zdd_common::entries::{EndEntry, EndKind};
use zdd_common::net::{Addr, TCP};

use super::*;

const LINES: u32 = 8;

/// Memory as a map of lines is.
fn memory() -> OwnedFd {
    // SAFETY: plain calls; a new descriptor that is ours.
    unsafe {
        let fd = libc::memfd_create(c"lines".as_ptr(), 0);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, 4096), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn over(memory: &OwnedFd) -> Vips {
    Vips::new(Mapped::new(memory.as_fd(), LINES).unwrap())
}

/// Ends that all have the same line.
fn neighbours(vips: &Vips) -> Vec<End> {
    let end = |n: u8| End::new(Addr::v4([10, 80, 0, n]), 443u16.to_be(), TCP);
    let line = vips.place(&end(1)).0;
    (1..=255).map(end).filter(|end| vips.place(end).0 == line).take(4).collect()
}

fn word(service: u16) -> VipWord {
    let entry = EndEntry { kind: EndKind::Vip as u16, service, id: service, ..EndEntry::default() };
    VipWord::of(&entry).unwrap()
}

/// As packets look it up.
fn found(vips: &Vips, end: &End) -> Option<u16> {
    let (line, tag) = vips.place(end);
    // SAFETY: a mapped value.
    let word = unsafe { vips::find::<Host>(vips.lines.at(line), end, tag) };
    word.map(|word| word.entry().service)
}

fn put(vips: &mut Vips, end: &End, service: u16, now: Instant) -> bool {
    let has = vips.claim(end, now);
    if has {
        vips.tell(end, word(service));
    }
    has
}

#[test]
fn a_full_line_has_no_way_for_a_third_until_one_is_long_gone() {
    let memory = memory();
    let mut vips = over(&memory);
    let [a, b, c, d] = neighbours(&vips)[..] else { panic!("too few") };
    let now = Instant::now();
    assert!(put(&mut vips, &a, 1, now) && put(&mut vips, &b, 2, now) && !put(&mut vips, &c, 3, now));
    assert_eq!([a, b, c].map(|end| found(&vips, &end)), [Some(1), Some(2), None]);
    vips.retire(&a, now);
    assert_eq!(found(&vips, &a), None);
    // A packet may still be looking at the key.
    assert!(!put(&mut vips, &c, 3, now + FORGOTTEN));
    assert!(put(&mut vips, &c, 3, now + 2 * FORGOTTEN));
    assert_eq!([a, b, c].map(|end| found(&vips, &end)), [None, Some(2), Some(3)]);
    assert!(!put(&mut vips, &d, 4, now + 9 * FORGOTTEN), "both are taken");
    vips.retire(&a, now);
    assert_eq!(found(&vips, &c), Some(3), "what is unknown takes nobody's way");
}

#[test]
fn a_vip_that_comes_back_has_its_own_way_at_once() {
    let memory = memory();
    let mut vips = over(&memory);
    let [a, b, c, _] = neighbours(&vips)[..] else { panic!("too few") };
    let now = Instant::now();
    put(&mut vips, &a, 1, now);
    put(&mut vips, &b, 2, now);
    vips.retire(&a, now);
    assert!(put(&mut vips, &a, 5, now));
    assert_eq!(found(&vips, &a), Some(5));
    assert!(!put(&mut vips, &c, 3, now + 2 * FORGOTTEN), "it is not free because it once was");
}

#[test]
fn a_way_that_never_got_a_word_is_given_back() {
    let memory = memory();
    let mut vips = over(&memory);
    let [a, b, c, _] = neighbours(&vips)[..] else { panic!("too few") };
    let now = Instant::now();
    // Their inserts into the table of ends fail.
    for end in [&a, &b] {
        assert!(vips.claim(end, now));
        vips.retire(end, now);
        // Once more, later: that does not begin anew.
        vips.retire(end, now + FORGOTTEN);
    }
    assert!(!vips.claim(&c, now));
    assert!(put(&mut vips, &c, 3, now + FORGOTTEN + Duration::from_millis(1)));
    assert_eq!(found(&vips, &c), Some(3));
}

#[test]
fn an_agent_that_adopts_lines_keeps_what_is_so_and_takes_back_what_is_not() {
    let memory = memory();
    let mut before = over(&memory);
    // Each in a line of its own.
    let mut all: Vec<End> = Vec::new();
    for end in (0..=255).map(|n| End::new(Addr::v4([10, 81, n, 1]), 80u16.to_be(), TCP)) {
        if all.iter().all(|other| before.place(other).0 != before.place(&end).0) {
            all.push(end);
        }
    }
    let [stays, goes, changes, claimed, comes, unsaid, ..] = all[..] else { panic!("too few") };
    let now = Instant::now();
    for (n, end) in (1..).zip([&stays, &goes, &changes]) {
        assert!(put(&mut before, end, n, now));
    }
    // It died before the word was there.
    assert!(before.claim(&claimed, now));
    drop(before);
    let mut vips = over(&memory);
    let there = [
        (stays, Some(word(1))),
        (changes, Some(word(7))),
        (comes, Some(word(8))),
        // What has an access list is in no line.
        (unsaid, None),
    ];
    let mut told = Vec::new();
    vips.compare(&there.into_iter().collect(), now, |end| told.push(*end));
    assert_eq!(
        [stays, goes, changes, comes, unsaid].map(|end| found(&vips, &end)),
        [Some(1), None, Some(7), Some(8), None]
    );
    for end in [goes, changes, unsaid] {
        assert!(told.contains(&end), "{end:?}");
    }
    assert!(!told.contains(&stays));
    // What nobody uses any more is free in time.
    let since = |end: &End| vips.way(end).and_then(|(line, way, _)| vips.retired.get(&(line, way)).copied());
    assert_eq!([since(&goes), since(&claimed), since(&stays)], [Some(now), Some(now), None]);
}
