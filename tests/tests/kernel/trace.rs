//! Traces: what the program tells of packets, to whom, and when it is silent.

use std::net::SocketAddr;

use zdd_agent::dataplane::TraceRing;
use zdd_common::net::Addr;
use zdd_common::reason::Reason;
use zdd_common::trace::{TraceAsk, TraceMark, reason_bit};

use crate::rig::{self, Link, Rig};
use crate::rows::scene::{self, NAT, backend, client, to_client, to_vip, vip};

/// One that wants everything, for long enough.
fn all() -> TraceAsk {
    TraceAsk {
        until: u64::MAX,
        reasons: u64::MAX,
        services: u64::MAX,
        rate: 1000,
        snap: 60,
        ..TraceAsk::default()
    }
}

fn told(rings: &mut [TraceRing]) -> Vec<(TraceMark, Vec<u8>)> {
    let mut marks = Vec::new();
    for ring in rings {
        assert_eq!(ring.drain(|mark, frame| marks.push((mark, frame))), 0, "the ring is full");
    }
    marks
}

fn socket((addr, port): (std::net::IpAddr, u16)) -> SocketAddr {
    SocketAddr::new(addr, port)
}

fn ends(mark: &TraceMark) -> (SocketAddr, SocketAddr) {
    let end = |addr: Addr, port: u16| SocketAddr::new(addr.into(), u16::from_be(port));
    (end(mark.src, mark.src_port), end(mark.dst, mark.dst_port))
}

/// A scene with rings open, and the program silent again afterwards.
fn traced(test: impl FnOnce(&mut Rig, &mut Vec<TraceRing>)) {
    rig::with(|rig| {
        scene::build(rig);
        let mut rings = rig.plane.open_trace().expect("rings");
        test(rig, &mut rings);
        rig.plane.ask_trace(TraceAsk::default()).expect("off");
    });
}

#[test]
fn a_packet_is_told_with_its_ends_its_service_its_fate_and_its_frame() {
    traced(|rig, rings| {
        rig.plane.ask_trace(all()).expect("on");
        let ran = rig.run(Link::A, &to_vip(NAT).bytes());
        let [(mark, frame)] = &told(rings)[..] else { panic!("one packet") };
        assert_eq!(mark.known, TraceMark::PARSED | TraceMark::SERVED);
        assert_eq!(ends(mark), (socket(client(NAT)), socket(vip(NAT))), "as it came");
        assert_eq!((mark.service, mark.backend, mark.reason), (NAT, NAT, ran.reason as u8));
        assert_eq!((mark.action, mark.proto, mark.missed), (TraceMark::REDIRECT, 6, 0));
        assert_eq!((mark.length as usize, mark.ifindex), (ran.frame.len(), rig.ifindex(Link::A)));
        let captured = ran.frame.len().min(60);
        assert_eq!((mark.captured as usize, &frame[..]), (captured, &ran.frame[..captured]), "as it left");

        let reply = rig.run(Link::B, &to_client(NAT).bytes());
        let [(mark, _)] = &told(rings)[..] else { panic!("one packet") };
        assert_eq!(ends(mark), (socket(backend(NAT)), socket(client(NAT))));
        assert_eq!((mark.service, mark.backend, mark.reason), (NAT, NAT, reply.reason as u8));

        // By the other program: a tag makes it no plain frame.
        let tagged = {
            let mut frame = to_vip(NAT).bytes();
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
            frame
        };
        let ran = rig.run(Link::A, &tagged);
        let [(mark, _)] = &told(rings)[..] else { panic!("one packet") };
        assert_eq!((ends(mark).1, mark.service, mark.reason), (socket(vip(NAT)), NAT, ran.reason as u8));

        // What could not be read is told without what an earlier packet left behind.
        let ran = rig.run(Link::A, &[0xff; 60]);
        let [(mark, _)] = &told(rings)[..] else { panic!("one packet") };
        assert_eq!((mark.known, mark.reason), (0, ran.reason as u8));
        assert_eq!((mark.src, mark.service, mark.backend), (Addr::default(), 0, 0));
    });
}

#[test]
fn nothing_is_told_when_nobody_asks_when_time_is_up_or_of_what_is_not_wanted() {
    traced(|rig, rings| {
        let frame = to_vip(NAT).bytes();
        let now = {
            rig.plane.ask_trace(all()).expect("on");
            rig.run(Link::A, &frame);
            told(rings)[0].0.at_ns
        };
        let (net, mask) =
            "203.0.113.0/24".parse::<zdd_agent::prefix::Prefix>().expect("a prefix").as_map_words();
        for (what, ask) in [
            ("off", TraceAsk::default()),
            ("over", TraceAsk { until: now, ..all() }),
            ("another reason", TraceAsk { reasons: reason_bit(Reason::DropTtl), ..all() }),
            ("another service", TraceAsk { services: 1 << (NAT + 1), ..all() }),
            ("another network", TraceAsk { net, mask, ..all() }),
            ("none at all", TraceAsk { rate: 0, ..all() }),
        ] {
            rig.plane.ask_trace(ask).expect("asked");
            rig.run(Link::A, &frame);
            assert_eq!(told(rings).len(), 0, "{what}");
        }
        let (net, mask) =
            "10.0.1.0/24".parse::<zdd_agent::prefix::Prefix>().expect("a prefix").as_map_words();
        let ask = TraceAsk { services: 1 << NAT, reasons: reason_bit(Reason::Settled), net, mask, ..all() };
        rig.plane.ask_trace(ask).expect("asked");
        rig.run(Link::A, &frame);
        assert_eq!(told(rings).len(), 1, "what is wanted is told");
    });
}

#[test]
fn a_flood_is_told_at_the_rate_and_the_rest_is_counted() {
    traced(|rig, rings| {
        rig.plane.ask_trace(TraceAsk { rate: 5, ..all() }).expect("on");
        let frame = to_vip(NAT).bytes();
        let mut marks = Vec::new();
        // Long enough to see more than one second, on whichever CPU.
        let begin = std::time::Instant::now();
        let mut sent = 0;
        while sent <= 100 || begin.elapsed() < std::time::Duration::from_millis(2500) {
            rig.run(Link::A, &frame);
            sent += 1;
            marks.extend(told(rings));
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // Seconds begin where they will: parts of two more than went by.
        let seconds = begin.elapsed().as_secs() as usize + 2;
        assert!(marks.len() <= seconds * 5 * cpus, "{} of {sent} in parts of {seconds} s", marks.len());
        assert!(marks.len() >= 5, "{} of {sent}", marks.len());
        let missed: u64 = marks.iter().map(|(mark, _)| u64::from(mark.missed)).sum();
        assert!(
            missed > 0 && missed as usize + marks.len() <= sent,
            "{missed} and {} of {sent}",
            marks.len()
        );
    });
}
