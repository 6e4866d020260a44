//! IPv4 options of every length, and IPv6 extension headers up to the limit.

use zdd_common::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX};
use zdd_common::reason::Reason;

use super::actions::REDIRECT;
use super::scene::{self, L2, L2_V6, NAT, NAT_UDP_V6, NAT_V6, backend, mac, to_client, to_vip, vip};
use super::{Row, cut, patch};
use crate::frames::{L3, Pkt};
use crate::odd_frames::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, extended};
use crate::rig::{Link, MAC_A, MAC_B, neighbour_mac};

fn sent(pkt: &Pkt, n: u16) -> Pkt {
    let pkt = pkt.clone().macs(mac(n), MAC_B);
    if scene::is_nat(n) { pkt.dst(backend(n)).hops(63) } else { pkt }
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for n in [L2, NAT] {
        for words in 0..=10 {
            let pkt = Pkt { ip_options: vec![1; 4 * words], ..to_vip(n) };
            rows.push(
                Row::new(format!("{words} words of IPv4 options, service {n}"), pkt.bytes())
                    .out(REDIRECT, sent(&pkt, n).bytes(), Reason::Settled)
                    .counts(n, n, false),
            );
        }
    }
    let chains: [(&str, &[(u8, usize)]); 9] = [
        ("hop-by-hop options", &[(HOP_BY_HOP, 8)]),
        ("destination options", &[(DESTINATION, 8)]),
        ("a routing header with no segments left", &[(ROUTING, 8)]),
        ("a longer routing header with no segments left", &[(ROUTING, 24)]),
        ("an atomic fragment", &[(FRAGMENT, 8)]),
        ("one header as long as may be", &[(DESTINATION, EXTENSION_BYTES_MAX)]),
        ("two headers", &[(HOP_BY_HOP, 16), (DESTINATION, 8)]),
        ("as many headers as may be", &[(HOP_BY_HOP, 8), (DESTINATION, 8), (ROUTING, 8), (DESTINATION, 8)]),
        (
            "all kinds, as long as may be",
            &[(HOP_BY_HOP, 56), (DESTINATION, 40), (ROUTING, 24), (FRAGMENT, 8)],
        ),
    ];
    assert_eq!(chains[7].1.len(), EXTENSIONS_MAX);
    for n in [L2_V6, NAT_V6, NAT_UDP_V6] {
        for (what, headers) in chains {
            rows.push(
                Row::new(format!("{what}, service {n}"), extended(&to_vip(n).bytes(), headers))
                    .out(REDIRECT, extended(&sent(&to_vip(n), n).bytes(), headers), Reason::Settled)
                    .counts(n, n, false),
            );
        }
    }
    for n in [NAT_V6, NAT_UDP_V6] {
        let out = to_client(n).src(vip(n)).hops(63).macs(neighbour_mac(Link::A, 10), MAC_A);
        let headers = &[(HOP_BY_HOP, 8), (DESTINATION, 16)];
        rows.push(
            Row::new(
                format!("a reply with extension headers, service {n}"),
                extended(&to_client(n).bytes(), headers),
            )
            .from(Link::B)
            .out(REDIRECT, extended(&out.bytes(), headers), Reason::Reply),
        );
    }
    rows.extend(beyond());
    rows
}

fn beyond() -> Vec<Row> {
    let plain = to_vip(L2_V6).bytes();
    let too_long: [(&str, &[(u8, usize)]); 5] = [
        (
            "a header more than may be",
            &[(HOP_BY_HOP, 8), (DESTINATION, 8), (ROUTING, 8), (DESTINATION, 8), (FRAGMENT, 8)],
        ),
        ("one header longer than may be", &[(DESTINATION, EXTENSION_BYTES_MAX + 8)]),
        ("a header that says 2048 bytes", &[(DESTINATION, 2048)]),
        ("two headers longer than may be", &[(HOP_BY_HOP, EXTENSION_BYTES_MAX), (DESTINATION, 8)]),
        ("a header behind a fragment header", &[(FRAGMENT, 8), (DESTINATION, 8)]),
    ];
    let mut rows = vec![];
    for (what, headers) in too_long {
        let frame = extended(&plain, headers);
        let other = extended(&to_vip(L2_V6).dst(backend(L2_V6)).bytes(), headers);
        rows.push(Row::new(what, frame).drop(Reason::DropHeaders));
        rows.push(Row::new(format!("{what}, for somebody else"), other).pass(Reason::PassNotVip));
    }
    let options = extended(&plain, &[(HOP_BY_HOP, 8), (DESTINATION, 16)]);
    for (what, number) in [("ESP", 50), ("AH", 51), ("no next header", 59), ("SCTP", 132)] {
        rows.push(
            Row::new(format!("{what} behind extension headers"), patch(options.clone(), L3 + 48, &[number]))
                .pass(Reason::PassNotTransport),
        );
    }
    rows.push(
        Row::new("a routing header with a segment left: the VIP is a stop on the way", {
            patch(extended(&plain, &[(ROUTING, 24)]), L3 + 43, &[1])
        })
        .pass(Reason::PassNotTransport),
    );
    for length in L3..options.len() {
        let row = Row::new(format!("extension headers, cut to {length} bytes"), cut(options.clone(), length));
        let known = length >= L3 + 40;
        rows.push(if known { row.drop(Reason::DropMalformed) } else { row.pass(Reason::PassNotIp) });
    }
    rows
}
