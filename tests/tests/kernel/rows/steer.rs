//! Changing cells: which backend, by whose word. The MAC address tells which backend it was.

use zdd_common::entries::Cell;
use zdd_common::reason::Reason;

use super::Row;
use super::actions::REDIRECT;
use super::scene::{L2, L2_UDP, L2_V6, OTHER, cell, mac, to_vip};
use crate::frames::{ACK, FIN, L4, Pkt, RST, SYN};
use crate::rig::{Link, MAC_B, Rig};

const CHANGING: u64 = Cell::DIRTY | Cell::LOOKUP;

/// The cell moves from the service's backend to [`OTHER`].
fn dirty(n: u16) -> impl Fn(&mut Rig) {
    move |rig| cell(rig, n, Cell::new(n, OTHER, CHANGING))
}

fn goes(name: impl Into<String>, pkt: &Pkt, n: u16, (to, new_flow): (u16, bool), reason: Reason) -> Row {
    Row::new(name, pkt.bytes())
        .out(REDIRECT, pkt.clone().macs(mac(to), MAC_B).bytes(), reason)
        .counts(n, to, new_flow)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (family, n) in [("", L2), ("IPv6, ", L2_V6)] {
        let tcp = move |flags: u8, seq: u32| Pkt { l4: L4::Tcp(flags, seq), ..to_vip(n) };
        let syn = tcp(SYN, 1000);
        let name = |what: &str| format!("changing {family}{what}");
        let far = 1000 + (512 << 20);
        rows.extend([
            goes(name("a new connection"), &syn, n, (OTHER, true), Reason::New).with(dirty(n)),
            goes(name("its SYN again"), &syn, n, (OTHER, false), Reason::Entry)
                .with(dirty(n))
                .after(Link::A, syn.bytes()),
            goes(name("its next packet"), &tcp(ACK, 1001), n, (OTHER, false), Reason::Entry)
                .with(dirty(n))
                .after(Link::A, syn.bytes()),
            goes(
                name("a packet of an older connection of the tuple"),
                &tcp(ACK, far),
                n,
                (n, false),
                Reason::Alt,
            )
            .with(dirty(n))
            .after(Link::A, syn.bytes()),
            goes(name("a connection under way"), &tcp(ACK, 5), n, (n, false), Reason::Learned).with(dirty(n)),
            goes(name("a FIN of a connection under way"), &tcp(ACK | FIN, 5), n, (n, false), Reason::Learned)
                .with(dirty(n)),
            goes(name("a RST is not learned"), &tcp(RST, 5), n, (n, false), Reason::Base).with(dirty(n)),
            goes(name("no room for a new connection"), &syn, n, (n, true), Reason::Fallback)
                .with(dirty(n))
                .with(|rig| rig.limit_quotas([0; 3])),
            goes(name("no room to learn"), &tcp(ACK, 5), n, (n, false), Reason::Fallback)
                .with(dirty(n))
                .with(|rig| rig.limit_quotas([0; 3])),
            goes(name("looked up, but clean"), &syn, n, (n, true), Reason::Base)
                .with(move |rig| cell(rig, n, Cell::new(n, n, Cell::LOOKUP))),
            goes(name("a SYN that was seen before the change"), &syn, n, (n, false), Reason::Replayed).with(
                move |rig| {
                    rig.run(Link::A, &Pkt { l4: L4::Tcp(SYN, 1000), ..to_vip(n) }.bytes());
                    dirty(n)(rig);
                },
            ),
            goes(
                name("the tuple again, while its first connection lives"),
                &tcp(SYN, far),
                n,
                (OTHER, true),
                Reason::New,
            )
            .with(dirty(n))
            .after(Link::A, tcp(ACK, 5).bytes()),
        ]);
    }
    let udp = to_vip(L2_UDP);
    rows.extend([
        goes(
            "changing UDP: armed, an unknown flow is an old one",
            &udp,
            L2_UDP,
            (L2_UDP, false),
            Reason::Learned,
        )
        .with(|rig| cell(rig, L2_UDP, Cell::new(L2_UDP, OTHER, CHANGING | Cell::ARMED))),
        goes("changing UDP: not armed, it is new", &udp, L2_UDP, (OTHER, true), Reason::New)
            .with(dirty(L2_UDP)),
        goes("changing UDP: its entry", &udp, L2_UDP, (OTHER, false), Reason::Entry)
            .with(dirty(L2_UDP))
            .after(Link::A, udp.bytes()),
        goes("changing UDP: no room", &udp, L2_UDP, (L2_UDP, false), Reason::Fallback)
            .with(dirty(L2_UDP))
            .with(|rig| rig.limit_quotas([0; 3])),
        goes("changing UDP: clean", &udp, L2_UDP, (L2_UDP, false), Reason::Base)
            .with(|rig| cell(rig, L2_UDP, Cell::new(L2_UDP, L2_UDP, Cell::LOOKUP))),
    ]);
    rows
}
