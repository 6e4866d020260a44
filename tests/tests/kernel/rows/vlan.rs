//! Tags stay in place, and a frame leaves only by a port of the VLANs that it came from.

use zdd_common::entries::Port;
use zdd_common::reason::Reason;

use super::actions::{PASS, REDIRECT, TX};
use super::scene::{self, L2, L2_UDP, L2_V6, NAT, NAT_UDP_V6, NAT_V6, backend, mac, to_client, to_vip, vip};
use super::{Row, cut};
use crate::frames::{FIN, L4, Pkt, SYN};
use crate::odd_frames::{QINQ, VLAN, fragments, tagged};
use crate::rig::{Link, MAC_A, MAC_B, Rig};

/// Puts the port of a slot into VLANs.
fn in_vlans(slot: u16, tags: u32) -> impl Fn(&mut Rig) {
    move |rig| {
        let port = rig.plane.port(slot);
        rig.plane.set_port(slot, Port { tags, ..port }).expect("a port");
    }
}

/// What a packet becomes at its backend's door.
fn sent(n: u16, src: [u8; 6]) -> Pkt {
    let pkt = to_vip(n).macs(mac(n), src);
    if scene::is_nat(n) { pkt.dst(backend(n)).hops(63) } else { pkt }
}

/// Tags as {EtherType, VLAN}, outermost first.
type Tags = &'static [(u16, u16)];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    let kinds: [(&str, Tags, u32); 6] = [
        ("one tag", &[(VLAN, 7)], 7),
        ("the highest VLAN", &[(VLAN, 4095)], 4095),
        ("a service tag alone", &[(QINQ, 7)], 7),
        ("QinQ", &[(QINQ, 5), (VLAN, 6)], 5 | 6 << 16),
        ("two 802.1Q tags", &[(VLAN, 5), (VLAN, 6)], 5 | 6 << 16),
        ("a priority tag belongs to the untagged link", &[(VLAN, 0)], 0),
    ];
    for n in [L2, NAT, L2_V6, NAT_V6, L2_UDP, NAT_UDP_V6] {
        for (what, tags, vlans) in kinds {
            rows.push(
                Row::new(format!("{what}, service {n}"), tagged(&to_vip(n).bytes(), tags))
                    .with(in_vlans(scene::REDIRECT, vlans))
                    .out(REDIRECT, tagged(&sent(n, MAC_B).bytes(), tags), Reason::Settled)
                    .counts(n, n, false),
            );
        }
        let qinq: Tags = &[(QINQ, 5), (VLAN, 6)];
        let pieces = |pkt: Pkt| fragments(&pkt.payload(&[0xa5; 60]).bytes(), 24);
        let (came, gone) = (pieces(to_vip(n)), pieces(sent(n, MAC_B)));
        for (at, out) in gone.iter().enumerate() {
            let row = Row::new(format!("QinQ, fragment {at}, service {n}"), tagged(&came[at], qinq))
                .with(in_vlans(scene::REDIRECT, 5 | 6 << 16));
            let (row, reason) = match at {
                0 => (row, Reason::Settled),
                _ => (row.after(Link::A, tagged(&came[0], qinq)), Reason::Fragment),
            };
            rows.push(row.out(REDIRECT, tagged(out, qinq), reason).counts(n, n, false));
        }
        let tags = &[(VLAN, 7)];
        let row = |what: &str| Row::new(format!("{what}, service {n}"), tagged(&to_vip(n).bytes(), tags));
        rows.push(
            row("a tagged frame bounced where it came in")
                .with(in_vlans(scene::BOUNCE, 7))
                .with(move |rig| scene::hop(rig, n, scene::BOUNCE))
                .out(TX, tagged(&sent(n, MAC_A).bytes(), tags), Reason::Settled)
                .counts(n, n, false),
        );
        for (what, vlans) in
            [("an untagged port", 0), ("a port of another VLAN", 8), ("a port of QinQ", 7 | 7 << 16)]
        {
            let row = row(&format!("a tagged frame and {what}")).with(in_vlans(scene::REDIRECT, vlans));
            rows.push(elsewhere(row, n, &|pkt| tagged(&pkt.bytes(), tags)));
        }
        let row = Row::new(format!("an untagged frame and a port of a VLAN, service {n}"), to_vip(n).bytes())
            .with(in_vlans(scene::REDIRECT, 7));
        rows.push(elsewhere(row, n, &Pkt::bytes));
    }
    rows.extend(odd());
    rows
}

/// `nat` routes, so the stack may; `l2` does not, and the stack would answer for the VIP.
fn elsewhere(row: Row, n: u16, bytes: &dyn Fn(&Pkt) -> Vec<u8>) -> Row {
    if scene::is_nat(n) {
        row.out(PASS, bytes(&to_vip(n).dst(backend(n))), Reason::StackRouted).counts(n, n, false)
    } else {
        row.drop(Reason::DropNoNextHop)
    }
}

fn odd() -> Vec<Row> {
    let one = |frame: &[u8]| tagged(frame, &[(VLAN, 7)]);
    let syn_fin = Pkt { l4: L4::Tcp(SYN | FIN, 1), ..to_vip(L2) };
    let padded = Pkt { padding: 4, ..to_vip(L2) };
    let mut arp = to_vip(L2).bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    let whole = one(&to_vip(L2).bytes());
    let mut rows = vec![
        Row::new("three tags", tagged(&to_vip(L2).bytes(), &[(QINQ, 1), (VLAN, 2), (VLAN, 3)]))
            .pass(Reason::PassNotIp),
        // The older numbers of an outer tag, which no standard has.
        Row::new("an outer tag of 0x9100", tagged(&to_vip(L2).bytes(), &[(0x9100, 1), (VLAN, 2)]))
            .pass(Reason::PassNotIp),
        Row::new("an outer tag of 0x9200", tagged(&to_vip(L2).bytes(), &[(0x9200, 1), (VLAN, 2)]))
            .pass(Reason::PassNotIp),
        Row::new("QinQ with an inner tag of 0x9100", tagged(&to_vip(L2).bytes(), &[(QINQ, 1), (0x9100, 2)]))
            .pass(Reason::PassNotIp),
        Row::new("a service tag within another", tagged(&to_vip(L2).bytes(), &[(QINQ, 5), (QINQ, 6)]))
            .with(in_vlans(scene::REDIRECT, 5 | 6 << 16))
            .out(
                REDIRECT,
                tagged(&to_vip(L2).macs(mac(L2), MAC_B).bytes(), &[(QINQ, 5), (QINQ, 6)]),
                Reason::Settled,
            )
            .counts(L2, L2, false),
        Row::new("tagged ARP", one(&arp)).pass(Reason::PassNotIp),
        Row::new("tagged SYN and FIN", one(&syn_fin.bytes())).drop(Reason::DropSynFin),
        Row::new("tagged, for a VIP's other port", one(&to_vip(L2).dst((vip(L2).0, 81)).bytes()))
            .pass(Reason::PassNotVip),
        Row::new("tagged, with padding", one(&padded.bytes()))
            .with(in_vlans(scene::REDIRECT, 7))
            .out(REDIRECT, one(&padded.macs(mac(L2), MAC_B).bytes()), Reason::Settled)
            .counts(L2, L2, false),
    ];
    for n in [NAT, NAT_V6] {
        rows.push(
            // The routing table's answer is about the untagged link.
            Row::new(
                format!("a tagged reply is the stack's to route, service {n}"),
                one(&to_client(n).bytes()),
            )
            .from(Link::B)
            .out(PASS, one(&to_client(n).src(vip(n)).bytes()), Reason::ReplyStackRouted),
        );
    }
    for length in 14..whole.len() {
        // Nothing is known before the addresses are; behind them the VIP's address is.
        let known = length >= 14 + 4 + 20;
        let row = Row::new(format!("tagged, cut to {length} bytes"), cut(whole.clone(), length));
        rows.push(if known { row.drop(Reason::DropMalformed) } else { row.pass(Reason::PassNotIp) });
    }
    rows
}
