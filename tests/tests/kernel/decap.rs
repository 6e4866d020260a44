//! The backend's program: rows built by etherparse, and the host's decision beside the kernel's on random frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::programs::ProgramFd;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use zdd_agent::dataplane::{Decap, DecapSpec};
use zdd_agent::prefix::Prefix;
use zdd_common::decap::{Known, OUTCOMES, Outcome, unwrap};
use zdd_common::net::Addr;

use crate::bpf;
use crate::frames::{ACK, L3, OUTSIDE, Pkt, SYN, assert_sums_kept};
use crate::odd_frames::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, extended};
use crate::rig::alone;

const DROP: u32 = 1;
const PASS: u32 = 2;

/// Whom the backend's program believes.
const BALANCERS: [&str; 4] = ["10.255.0.0/16", "192.0.2.7/32", "fd7a:6464::/64", "2001:db8:7::9/128"];
/// For whom it unwraps.
const DECAP_VIPS: [&str; 3] = ["10.9.0.1", "10.9.0.2", "fd09::1"];

/// The program in the kernel, apart from the balancer's: kernels that refuse that one may take this one.
pub struct Rig {
    decap: Decap,
    program: ProgramFd,
}

static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| {
    let made = std::thread::Builder::new().name("decap".into()).spawn(make);
    Mutex::new(made.expect("a thread").join().expect("a rig, see above; it needs root"))
});

fn make() -> Rig {
    alone();
    let known = |text: &str| text.parse().expect("a prefix");
    let spec = DecapSpec { from: BALANCERS.map(known).to_vec(), vips: DECAP_VIPS.map(addr).to_vec() };
    let mut decap = Decap::open(Path::new("/tmp/zdd-decap"), &spec).unwrap_or_else(|error| panic!("{error}"));
    let info = decap.program().expect("the program").info().expect("its info");
    Rig { program: info.fd().expect("the program's descriptor"), decap }
}

/// Runs a test with the program to itself.
pub fn with<R>(test: impl FnOnce(&mut Rig) -> R) -> R {
    test(&mut RIG.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Rig {
    /// Instructions that the verifier looked at.
    pub fn verified(&mut self) -> Option<u32> {
        self.decap.program().expect("the program").info().expect("its info").verified_instruction_count()
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn vip4() -> Pkt {
    Pkt::tcp((addr("198.51.100.7"), 40_000), (addr("10.9.0.1"), 80), ACK, 1000).payload(b"words")
}

fn vip6() -> Pkt {
    Pkt::tcp((addr("2001:db8::7"), 40_000), (addr("fd09::1"), 80), SYN, 1000)
}

/// Puts an outer header from `from` in front, with this class.
fn wrap(frame: &[u8], from: IpAddr, class: u8) -> Vec<u8> {
    let packet = &frame[L3..];
    let next = if packet[0] >> 4 == 6 { IpNumber::IPV6 } else { IpNumber::IPV4 };
    // As long as the packet says; Ethernet's padding stays outside.
    let length = if packet[0] >> 4 == 6 {
        40 + u16::from_be_bytes([packet[4], packet[5]])
    } else {
        u16::from_be_bytes([packet[2], packet[3]])
    };
    let mut out = [&OUTSIDE.0[..], &OUTSIDE.1[..]].concat();
    match from {
        IpAddr::V4(from) => {
            out.extend([8, 0]);
            let to = Ipv4Addr::new(10, 0, 2, 14);
            let mut ip = Ipv4Header::new(length, 64, next, from.octets(), to.octets()).expect("it fits");
            ip.dscp = (class >> 2).try_into().expect("six bits");
            ip.ecn = (class & 3).try_into().expect("two bits");
            ip.header_checksum = ip.calc_header_checksum();
            out.extend(ip.to_bytes());
        }
        IpAddr::V6(from) => {
            out.extend([0x86, 0xdd]);
            let ip = Ipv6Header {
                traffic_class: class,
                flow_label: 0x1_2345.try_into().expect("twenty bits"),
                payload_length: length,
                next_header: next,
                hop_limit: 64,
                source: from.octets(),
                destination: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 14).octets(),
            };
            out.extend(ip.to_bytes());
        }
    }
    out.extend_from_slice(packet);
    out
}

/// A frame's IP header with another class; checksum right.
fn with_class(frame: Vec<u8>, class: u8) -> Vec<u8> {
    crate::rows::with_class(frame, class)
}

fn outer4() -> IpAddr {
    addr("10.255.3.4")
}

fn outer6() -> IpAddr {
    addr("fd7a:6464::5:6")
}

struct Row {
    name: String,
    frame: Vec<u8>,
    outcome: Outcome,
    /// `None`: unchanged.
    out: Option<Vec<u8>>,
}

fn row(name: impl Into<String>, frame: Vec<u8>, outcome: Outcome) -> Row {
    Row { name: name.into(), frame, outcome, out: None }
}

fn unwrapped(name: impl Into<String>, frame: Vec<u8>, out: Vec<u8>) -> Row {
    Row { out: Some(out), ..row(name, frame, Outcome::Unwrapped) }
}

fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (name, pkt, from) in [
        ("4in4", vip4(), outer4()),
        ("4in6", vip4(), outer6()),
        ("6in6", vip6(), outer6()),
        ("6in4", vip6(), outer4()),
    ] {
        let inner = pkt.bytes();
        let say = |what: &str| format!("{name}: {what}");
        let one = if from.is_ipv4() { addr("192.0.2.7") } else { addr("2001:db8:7::9") };
        let foreign = if from.is_ipv4() { addr("10.254.3.4") } else { addr("fd7a:6464:0:1::1") };
        let beside = if from.is_ipv4() { addr("192.0.2.8") } else { addr("2001:db8:7::8") };
        let options = Pkt { ip_options: vec![148, 4, 0, 0], ..pkt.clone() };
        let other = Pkt {
            dst: (if pkt.dst.0.is_ipv4() { addr("10.9.0.3") } else { addr("fd09::2") }, 80),
            ..pkt.clone()
        };
        rows.extend([
            unwrapped(say("from a balancer"), wrap(&inner, from, 0), inner.clone()),
            unwrapped(say("from a single balancer"), wrap(&inner, one, 0), inner.clone()),
            row(say("from a stranger"), wrap(&inner, foreign, 0), Outcome::Foreign),
            row(say("from beside a single balancer"), wrap(&inner, beside, 0), Outcome::Foreign),
            row(
                say("a stranger's for no VIP is a stranger's"),
                wrap(&other.bytes(), foreign, 0),
                Outcome::Foreign,
            ),
            row(say("for no VIP"), wrap(&other.bytes(), from, 0), Outcome::NotVip),
            unwrapped(
                say("padding stays"),
                wrap(&Pkt { padding: 9, ..pkt.clone() }.bytes(), from, 0),
                Pkt { padding: 9, ..pkt.clone() }.bytes(),
            ),
            unwrapped(
                say("a full payload"),
                wrap(&pkt.clone().payload(&[0x5a; 1400]).bytes(), from, 0),
                pkt.clone().payload(&[0x5a; 1400]).bytes(),
            ),
            unwrapped(
                say("the hop count stays"),
                wrap(&pkt.clone().hops(1).bytes(), from, 0),
                pkt.clone().hops(1).bytes(),
            ),
            unwrapped(
                say("DSCP stays the inner one"),
                wrap(&with_class(inner.clone(), 46 << 2), from, 8 << 2),
                with_class(inner.clone(), 46 << 2),
            ),
        ]);
        if pkt.dst.0.is_ipv4() {
            rows.push(unwrapped(say("inner options stay"), wrap(&options.bytes(), from, 0), options.bytes()));
        }
        // RFC 6040, figure 4: rows inner Not-ECT, ECT(0), ECT(1), CE; columns outer in the same order; 4 is a drop.
        let order = [(0u8, "Not-ECT"), (2, "ECT(0)"), (1, "ECT(1)"), (3, "CE")];
        let table = [[0, 0, 0, 4], [2, 2, 1, 3], [1, 1, 1, 3], [3, 3, 3, 3]];
        for ((inside, inner_name), line) in order.iter().zip(table) {
            for ((outside, outer_name), ecn) in order.iter().zip(line) {
                let dscp = 26 << 2;
                let what = say(&format!("inner {inner_name}, outer {outer_name}"));
                let frame = wrap(&with_class(inner.clone(), dscp | inside), from, *outside);
                rows.push(if ecn == 4 {
                    row(what, frame, Outcome::Congested)
                } else {
                    unwrapped(what, frame, with_class(inner.clone(), dscp | ecn))
                });
            }
        }
        rows.extend(broken(name, &inner, from));
    }
    rows.extend(others());
    rows
}

/// Lengths and versions that contradict each other.
fn broken(name: &str, inner: &[u8], from: IpAddr) -> Vec<Row> {
    let frame = wrap(inner, from, 0);
    let outer = if from.is_ipv4() { 20 } else { 40 };
    let say = |what: &str| format!("{name}: {what}");
    let patch = |at: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let cut = |length: usize| frame[..length].to_vec();
    let mut rows = vec![
        row(say("cut within the inner header"), cut(L3 + outer + 10), Outcome::Malformed),
        row(say("cut within the payload"), cut(frame.len() - 1), Outcome::Malformed),
        row(say("inner version 5"), patch(L3 + outer, &[0x55]), Outcome::Malformed),
    ];
    let inner_length = if inner[L3] >> 4 == 6 { L3 + outer + 4 } else { L3 + outer + 2 };
    rows.push(row(
        say("inner packet longer than the outer says"),
        patch(inner_length, &[0x7f, 0xff]),
        Outcome::Malformed,
    ));
    if from.is_ipv4() {
        rows.extend([
            row(say("outer options"), patch(L3, &[0x46]), Outcome::Malformed),
            row(say("outer version 6"), patch(L3, &[0x65]), Outcome::Malformed),
            row(say("outer length below its header"), patch(L3 + 2, &[0, 19]), Outcome::Malformed),
            row(say("outer longer than the frame"), patch(L3 + 2, &[0x40, 0]), Outcome::Malformed),
            row(say("first outer fragment"), patch(L3 + 6, &[0x20, 0]), Outcome::Fragment),
            row(say("last outer fragment"), patch(L3 + 6, &[0, 9]), Outcome::Fragment),
            row(say("cut within the outer header"), cut(L3 + 19), Outcome::Other),
        ]);
    } else {
        rows.extend([
            row(say("outer version 4"), patch(L3, &[0x40]), Outcome::Malformed),
            row(say("outer longer than the frame"), patch(L3 + 4, &[0x40, 0]), Outcome::Malformed),
            row(say("cut within the outer source"), cut(L3 + 12), Outcome::Malformed),
            row(say("cut within the outer header"), cut(L3 + 6), Outcome::Other),
            row(
                say("a mapped source is no IPv4 balancer"),
                patch(L3 + 8, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 255, 3, 4]),
                Outcome::Foreign,
            ),
        ]);
        let foreign = wrap(inner, addr("fd7a:6464:0:1::1"), 0);
        for (number, what) in [
            (HOP_BY_HOP, "hop-by-hop"),
            (ROUTING, "routing"),
            (FRAGMENT, "fragment"),
            (DESTINATION, "destination"),
        ] {
            let outcome = if number == FRAGMENT { Outcome::Fragment } else { Outcome::Malformed };
            let behind = |frame: &[u8]| extended(frame, &[(number, 8)]);
            rows.extend([
                row(say(&format!("an outer {what} header")), behind(&frame), outcome),
                row(
                    say(&format!("an outer {what} header, a stranger's")),
                    behind(&foreign),
                    Outcome::Foreign,
                ),
                row(
                    say(&format!("an outer {what} header, cut")),
                    behind(&frame)[..L3 + 40].to_vec(),
                    Outcome::Other,
                ),
                row(say(&format!("a {what} header before TCP")), behind(&vip6().bytes()), Outcome::Other),
            ]);
        }
    }
    if !from.is_ipv4() {
        rows.extend(chains(name, &frame, &wrap(inner, addr("fd7a:6464:0:1::1"), 0)));
    }
    rows
}

/// Several extension headers before the inner packet, or before something else.
fn chains(name: &str, frame: &[u8], foreign: &[u8]) -> Vec<Row> {
    let tcp = vip6().bytes();
    let mut rows = vec![];
    type Headers = &'static [(u8, usize)];
    let kinds: [(&str, Headers, Outcome); 5] = [
        ("two", &[(HOP_BY_HOP, 8), (DESTINATION, 8)], Outcome::Malformed),
        ("three", &[(HOP_BY_HOP, 16), (ROUTING, 8), (DESTINATION, 8)], Outcome::Malformed),
        (
            "four",
            &[(DESTINATION, 8), (DESTINATION, 8), (DESTINATION, 8), (DESTINATION, 8)],
            Outcome::Malformed,
        ),
        ("a fragment's and another", &[(FRAGMENT, 8), (DESTINATION, 8)], Outcome::Fragment),
        (
            "as long as may be, four",
            &[(HOP_BY_HOP, 96), (ROUTING, 8), (FRAGMENT, 8), (DESTINATION, 16)],
            Outcome::Fragment,
        ),
    ];
    for (what, headers, outcome) in kinds {
        let say = |whose: &str| format!("{name}: extension headers, {what}, {whose}");
        rows.extend([
            row(say("a balancer's"), extended(frame, headers), outcome),
            row(say("a stranger's"), extended(foreign, headers), Outcome::Foreign),
            row(say("before TCP"), extended(&tcp, headers), Outcome::Other),
        ]);
    }
    let kinds: [(&str, Headers); 3] = [
        ("five", &[(DESTINATION, 8); 5]),
        ("longer than may be", &[(DESTINATION, 136)]),
        ("two longer than may be", &[(HOP_BY_HOP, 64), (DESTINATION, 72)]),
    ];
    for (what, headers) in kinds {
        let say = |whose: &str| format!("{name}: extension headers, {what}, {whose}");
        for (whose, frame) in [("a balancer's", frame), ("a stranger's", foreign), ("before TCP", &tcp[..])] {
            rows.push(row(say(whose), extended(frame, headers), Outcome::Malformed));
        }
    }
    let mut later = extended(foreign, &[(FRAGMENT, 8), (DESTINATION, 8)]);
    later[L3 + 42..L3 + 44].copy_from_slice(&[0, 8]);
    rows.push(row(
        format!("{name}: a stranger's later fragment that begins with another header"),
        later,
        Outcome::Other,
    ));
    rows
}

/// What is not IP in IP.
fn others() -> Vec<Row> {
    let mut arp = vip4().bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut gre = wrap(&vip4().bytes(), addr("10.254.0.1"), 0);
    gre[L3 + 9] = 47;
    vec![
        row("a plain packet for a VIP", vip4().bytes(), Outcome::Other),
        row("a plain packet from a balancer's prefix", vip4().src((outer4(), 1)).bytes(), Outcome::Other),
        row("a plain IPv6 packet", vip6().bytes(), Outcome::Other),
        row("neither IPv4 nor IPv6", arp, Outcome::Other),
        row("another tunnel", gre, Outcome::Other),
        row("an Ethernet header alone", vip4().bytes()[..L3].to_vec(), Outcome::Other),
    ]
}

/// Runs the backend's program, and sees that exactly one outcome was counted, once.
fn run(rig: &Rig, frame: &[u8]) -> (u32, Vec<u8>, Outcome) {
    let before = rig.decap.counts();
    let (action, out) = bpf::run_anywhere(rig.program.as_fd(), frame).expect("BPF_PROG_TEST_RUN");
    let moved: Vec<_> = (rig.decap.counts().iter().zip(&before).map(|(after, before)| after - before))
        .zip(OUTCOMES)
        .filter(|(count, _)| *count != 0)
        .collect();
    let &[(1, outcome)] = &moved[..] else { panic!("one frame, one outcome: {moved:?}") };
    (action, out, outcome)
}

/// What the rig told the program, for the host's decision.
struct Told;

impl Known for Told {
    fn balancer(&mut self, source: &Addr) -> bool {
        let inside = |prefix: Prefix, addr: IpAddr| match (prefix.addr, addr) {
            (IpAddr::V4(p), IpAddr::V4(a)) => {
                (u32::from(p) ^ u32::from(a)).leading_zeros() >= prefix.length.into()
            }
            (IpAddr::V6(p), IpAddr::V6(a)) => {
                (u128::from(p) ^ u128::from(a)).leading_zeros() >= prefix.length.into()
            }
            _ => false,
        };
        BALANCERS.iter().any(|text| inside(text.parse().expect("a prefix"), (*source).into()))
    }

    fn vip(&mut self, vip: &Addr) -> bool {
        DECAP_VIPS.iter().any(|text| Addr::from(addr(text)) == *vip)
    }
}

#[test]
fn every_row_of_the_backends_program_holds() {
    let rows = rows();
    println!("{} rows of the backend's program", rows.len());
    with(|rig| {
        for Row { name, frame, outcome, out } in &rows {
            let (action, got, met) = run(rig, frame);
            assert_eq!(met, *outcome, "{name}");
            assert_eq!(action, if outcome.passes() { PASS } else { DROP }, "{name}");
            let want = out.as_ref().unwrap_or(frame);
            assert!(got == *want, "{name}:\n in {frame:02x?}\nout {got:02x?}\nnot {want:02x?}");
            if outcome.passes() {
                assert_sums_kept(frame, &got, name);
            }
        }
    });
    for outcome in OUTCOMES {
        assert!(rows.iter().any(|row| row.outcome == outcome), "no row ends in {outcome:?}");
    }
}

#[test]
fn the_backends_program_decides_as_the_host_does() {
    const FRAMES: u64 = 20_000;
    let seeds = rows();
    let mut random = crate::model::Random(7);
    with(|rig| {
        for number in 0..FRAMES {
            let mut frame = random.pick(&seeds).frame.clone();
            for _ in 0..random.below(4) {
                // Around both headers.
                let at = 12 + random.below((frame.len() - 12).min(90));
                frame[at] =
                    if random.chance(50) { frame[at] ^ 1 << random.below(8) } else { random.bits() as u8 };
            }
            if random.chance(10) {
                frame.truncate(L3 + random.below(frame.len() - L3 + 1));
            }
            let mut out = frame.clone();
            let outcome = unwrap(&mut out, &mut Told);
            let (_, got, met) = run(rig, &frame);
            assert_eq!(met, outcome, "frame {number}: {frame:02x?}");
            assert!(got == out, "frame {number}: {frame:02x?}\nkernel {got:02x?}\nhost   {out:02x?}");
        }
    });
}
