//! Frames larger than a page, which come in several buffers: in every mode as those in one.

use zdd_common::entries::Port;
use zdd_common::reason::Reason;

use super::actions::REDIRECT;
use super::hostile::{Way, ways};
use super::scene;
use super::{Row, patch};
use crate::frames::{L3, Pkt};
use crate::odd_frames::{DESTINATION, VLAN, extended, tagged};

/// A packet of the largest size that links of jumbo frames take, and of what is longer than one page and two.
const SIZES: [usize; 3] = [9000, 3600, 7600];

fn sized(way: Way, size: usize) -> Pkt {
    let pkt = way.packet();
    let headers = pkt.clone().payload(b"").bytes().len() - L3;
    let payload: Vec<u8> = (0..size - headers).map(|at| (at % 251) as u8).collect();
    pkt.payload(&payload)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for way in ways() {
        for size in SIZES {
            let pkt = sized(way, size);
            rows.push(way.goes(&format!("{size} bytes"), &pkt));
            rows.push(way.goes(&format!("{size} bytes and padding"), &Pkt { padding: 7, ..pkt.clone() }));
            let length = L3 + if way.v6() { 4 } else { 2 };
            let told = u16::from_be_bytes([pkt.bytes()[length], pkt.bytes()[length + 1]]);
            let longer = patch(pkt.bytes(), length, &(told + 1).to_be_bytes());
            rows.push(
                way.row(&format!("{size} bytes, one more told"), longer.clone()).drop(Reason::DropMalformed),
            );
            rows.push(way.row(&format!("{size} bytes, one more told, to others"), longer).elsewhere());
            if !way.v6() {
                let options = Pkt { ip_options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..sized(way, size - 8) };
                rows.push(way.goes(&format!("{size} bytes with a route recorded"), &options));
            }
        }
    }
    for n in [scene::L2, scene::NAT, scene::L2_V6, scene::NAT_V6] {
        let way = Way::Plain(n);
        let pkt = sized(way, 9000);
        let sent = way.forwarded(&pkt);
        let vlan = |frame: &[u8]| tagged(frame, &[(VLAN, 7)]);
        rows.push(
            way.row("9000 bytes, tagged", vlan(&pkt.bytes()))
                .with(|rig| {
                    let port = rig.plane.port(scene::REDIRECT);
                    rig.plane.set_port(scene::REDIRECT, Port { tags: 7, ..port }).expect("a port");
                })
                .out(REDIRECT, vlan(&sent), Reason::Settled)
                .counts(n, n, false),
        );
        if way.v6() {
            let behind = |frame: &[u8]| extended(frame, &[(DESTINATION, 16)]);
            rows.push(
                way.row("9000 bytes, options for the destination", behind(&pkt.bytes()))
                    .out(REDIRECT, behind(&sent), Reason::Settled)
                    .counts(n, n, false),
            );
        }
    }
    rows.extend(super::mtu::jumbo());
    rows
}
