//! Writes the inputs that fuzzing begins with: each kind of frame to each kind of service.
//!
//! `seeds DIRECTORY`

use std::net::IpAddr;
use std::path::Path;

use zdd_fuzz::frames::{ACK, FIN, Pkt, RST, SYN};
use zdd_fuzz::input::Writer;
use zdd_fuzz::odd_frames::{DESTINATION, Error, FRAGMENT, HOP_BY_HOP, QINQ, ROUTING, VLAN};
use zdd_fuzz::odd_frames::{extended, fragments, tagged};
use zdd_fuzz::world::{CLIENTS, SERVICES, backend, backends, vip};

fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("usage: seeds DIRECTORY"));
    };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory)?;
    let mut written = 0;
    for id in 0..SERVICES.len() {
        for (name, frames) in kinds(id) {
            // All settled, all changing, all armed.
            for cells in [0, 0o11, 0o55] {
                let mut seed = Writer::world(5, &[cells; SERVICES.len()]);
                for frame in &frames {
                    seed = seed.frame(frame);
                }
                // Once more after a change and some time, from another cell's state.
                let mut seed = seed.act(200, id as u8 * 2 | 1 << 5).act(220, 30);
                for frame in &frames {
                    seed = seed.frame(frame);
                }
                std::fs::write(directory.join(format!("{id}-{name}-{cells}")), &seed.bytes)?;
                written += 1;
            }
        }
    }
    println!("{written} seeds in {}", directory.display());
    Ok(())
}

fn kinds(id: usize) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let kind = SERVICES[id];
    let client: (IpAddr, u16) = (CLIENTS[usize::from(kind.v6)], 40_000);
    let vip = vip(id);
    let packet = |flags, seq| if kind.udp { Pkt::udp(client, vip) } else { Pkt::tcp(client, vip, flags, seq) };
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
        ("large", vec![packet(ACK, 1).payload(&[9; 400]).bytes()]),
        ("direct", vec![if own.0.is_ipv6() == kind.v6 { packet(SYN, 5).dst(own).bytes() } else { whole.clone() }]),
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
