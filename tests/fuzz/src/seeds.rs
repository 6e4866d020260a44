//! The inputs that fuzzing begins with: each kind of frame to each kind of service.

use std::net::IpAddr;

use crate::frames::{ACK, FIN, Pkt, RST, SYN};
use crate::input::Writer;
use crate::odd_frames::{DESTINATION, Error, FRAGMENT, HOP_BY_HOP, QINQ, ROUTING, VLAN};
use crate::odd_frames::{extended, fragments, tagged};
use crate::world::{CLIENTS, SERVICES, backend, backends, vip};

/// All of them, with names.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for id in 0..SERVICES.len() {
        for (name, frames) in kinds(id) {
            // All settled, all changing, all armed.
            for cells in [0, 0o11, 0o55] {
                let mut seed = Writer::world(5, &[cells; SERVICES.len()]);
                for frame in &frames {
                    seed = seed.frame(frame);
                }
                // Once more after a change and some time, from another cell's state, with other sources admitted.
                let mut seed = seed.act(200, (id as u8 * 2) | (1 << 5)).act(220, 30).act(230, 0x55);
                for frame in &frames {
                    seed = seed.frame(frame);
                }
                seeds.push((format!("{id}-{name}-{cells}"), seed.bytes));
            }
        }
    }
    seeds
}

fn kinds(id: usize) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let kind = SERVICES[id];
    let client: (IpAddr, u16) = (CLIENTS[usize::from(kind.v6)], 40_000);
    let vip = vip(id);
    let packet =
        |flags, seq| if kind.udp { Pkt::udp(client, vip) } else { Pkt::tcp(client, vip, flags, seq) };
    let whole = packet(ACK, 1001).payload(&[7; 100]).bytes();
    let own = backend(id, backends(id).start);
    let mut options = packet(SYN, 1000);
    if !kind.udp {
        options.tcp_options = vec![2, 4, 5, 0xb4, 1, 1, 1, 0];
    }
    let mut all = vec![
        ("flow", vec![packet(SYN, 1000).bytes(), packet(ACK, 1001).bytes(), packet(ACK | FIN, 1100).bytes()]),
        ("again", vec![packet(SYN, 1000).bytes(), packet(SYN, 1 << 31).bytes(), packet(RST, 1001).bytes()]),
        ("options", vec![options.bytes()]),
        ("ports", [8000, 8050, 8099, 8100].map(|port| packet(SYN, 5).dst((vip.0, port)).bytes()).to_vec()),
        ("large", vec![packet(ACK, 1).payload(&[9; 400]).bytes()]),
        (
            "direct",
            vec![if own.0.is_ipv6() == kind.v6 { packet(SYN, 5).dst(own).bytes() } else { whole.clone() }],
        ),
        ("tags", vec![tagged(&whole, &[(VLAN, 7)]), tagged(&whole, &[(QINQ, 5), (VLAN, 6)])]),
        ("fragments", fragments(&whole, 48)),
        ("last hop", vec![packet(ACK, 1).hops(1).bytes()]),
        ("error", vec![Error::about(&packet(ACK, 1).src(vip).dst(client).bytes(), client.0, vip.0).bytes()]),
    ];
    if kind.v6 {
        let chain = [(HOP_BY_HOP, 8), (ROUTING, 8), (DESTINATION, 16), (FRAGMENT, 8)];
        all.push(("headers", vec![extended(&whole, &chain), extended(&whole, &chain[..1])]));
    }
    if own.0.is_ipv6() == kind.v6 {
        let reply = packet(SYN | ACK, 9).src(own).dst(client).bytes();
        let refused = Error::about(&packet(SYN, 9).dst(own).bytes(), own.0, client.0).bytes();
        all.push(("reply", vec![packet(SYN, 1000).bytes(), reply, refused]));
    }
    all
}
