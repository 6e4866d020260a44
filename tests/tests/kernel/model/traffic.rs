//! Random frames with structure: mostly packets of few connections, some replies, some nonsense.

use std::net::IpAddr;

use super::random::Random;
use super::world::{self, LOST, SERVICES, backend, backends, is_udp, is_v6, vip};
use crate::frames::{ACK, FIN, L4, PSH, Pkt, RST, SYN};
use crate::rig::{FAR, FAR6, Link, neighbour4, neighbour6};

/// Sequence numbers near each other, near the reaches of the rules, far away, and around the wrap.
const SEQS: [u32; 14] = [
    1000,
    1001,
    1500,
    999,
    1000 + (64 << 10),
    1001 + (64 << 10),
    1000 + (64 << 20),
    1001 + (64 << 20),
    1000 + (128 << 20),
    0x8000_0000,
    0x8000_03e8,
    u32::MAX,
    0,
    900_000_000,
];

/// The next frame, and where it comes in.
pub fn frame(random: &mut Random) -> (Link, Vec<u8>) {
    let link = if random.chance(80) { Link::A } else { Link::B };
    let id = if random.chance(3) { random.of(&LOST) } else { 1 + random.below(SERVICES.into()) as u16 };
    let service = id.min(SERVICES);
    let number = random.of(&backends(service).collect::<Vec<_>>());
    let client = client(random, id);
    let own = backend(service, number);
    let mut pkt = match random.below(20) {
        // A reply, or the answer to somebody who asked the backend itself.
        0..4 if own.0.is_ipv6() == is_v6(id) => packet(random, service).src(own).dst(client),
        4 if own.0.is_ipv6() == is_v6(id) && random.chance(30) => {
            packet(random, service).src(client).dst(own)
        }
        5 => packet(random, id).src(client).dst((vip(id).0, random.of(&[79, 80, 53]))),
        _ => packet(random, id).src(client).dst(vip(id)),
    };
    if random.chance(10) {
        pkt.hops = random.of(&[0, 1, 2, 255]);
    }
    if random.chance(40) {
        let most = random.of(&[60, 60, 60, 60, 1600]);
        pkt.payload = (0..random.below(most)).map(|_| random.bits() as u8).collect();
    }
    if random.chance(5) && !is_v6(id) {
        pkt.ip_options = vec![1; 4 * random.below(11)];
    }
    if random.chance(15) && matches!(pkt.l4, L4::Tcp(..)) {
        let mut options = vec![1; random.below(8)];
        options.extend([2, 4, random.bits() as u8, random.bits() as u8]);
        options.resize(options.len().next_multiple_of(4), 0);
        pkt.tcp_options = options;
    }
    if random.chance(10) {
        pkt.padding = random.below(20);
    }
    let mut frame = pkt.bytes();
    if random.chance(8) {
        nonsense(random, &mut frame);
    }
    (link, frame)
}

/// One of few: the far one, two that the host may call its own, the others neighbours; few ports.
fn client(random: &mut Random, id: u16) -> (IpAddr, u16) {
    let host = random.of(&[10, 10, 10, 11, 12, 99]);
    let near = if is_v6(id) { neighbour6(Link::A, host) } else { neighbour4(Link::A, host) };
    let far: IpAddr = if is_v6(id) { FAR6.into() } else { FAR.into() };
    (if random.chance(20) { far } else { near }, random.of(&[40_000, 40_000, 40_000, 40_001, 40_001, 40_002]))
}

fn packet(random: &mut Random, id: u16) -> Pkt {
    let end = world::vip(id);
    if is_udp(id) {
        return Pkt { l4: L4::Udp(random.chance(80)), ..Pkt::udp(end, end) };
    }
    let flags = match random.below(20) {
        0..8 => SYN,
        8..14 => ACK,
        14 => ACK | PSH,
        15 => ACK | FIN,
        16 => RST,
        17 => RST | ACK,
        18 => SYN | ACK,
        _ => random.bits() as u8,
    };
    let seq = if random.chance(90) { random.of(&SEQS[..]) } else { random.bits() as u32 };
    // The initial numbers are fewer still, so that retransmissions are common.
    let seq = if flags == SYN && random.chance(60) { SEQS[0] } else { seq };
    Pkt::tcp(end, end, flags, seq)
}

/// Cuts, flips bits of the headers, or replaces the headers' length fields.
fn nonsense(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(4) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            let at = 12 + random.below((frame.len() - 12).min(60));
            frame[at] ^= 1 << random.below(8);
        }
        2 => {
            let at = random.of(&[14usize, 16, 17, 18, 19, 20, 21]);
            frame[at] = random.bits() as u8;
        }
        _ => {
            for _ in 0..random.below(6) {
                let at = 12 + random.below((frame.len() - 12).min(60));
                frame[at] = random.bits() as u8;
            }
        }
    }
}
