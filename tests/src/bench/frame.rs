//! The frames that the driver restores, and the addresses in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zdd_common::bench::{Drive, HEADER};
use zdd_common::net::{TCP, UDP};

use super::cases::{Case, Flows, Kind, MANY, State};

/// Port of every VIP, host order.
pub(super) const PORT: u16 = 80;

/// VIP number `n`: 10.9.0.0 and fd09:: on.
pub(super) fn vip(n: u32, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from(0xfd09_u128 << 112 | u128::from(n)).into()
    } else {
        Ipv4Addr::from(0x0a09_0000 + n).into()
    }
}

/// Number of the first of the services that are settled or in transition, one of each for every forwarding mode. Those of IPv6 are
/// others: their backends have IPv6 addresses.
pub(super) fn first_service(v6: bool) -> u32 {
    if v6 { 50 } else { 0 }
}

/// Number of the first of the many services.
pub(super) fn first_of_many(v6: bool) -> u32 {
    if v6 { 100 + MANY } else { 100 }
}

/// Number of the VIP, and of the service, of a case's forwarding mode.
pub(super) fn service(case: &Case) -> u32 {
    let forward = case.forward as u32;
    match case.state {
        _ if case.services > 1 => first_of_many(case.v6),
        State::Settled => first_service(case.v6) + 2 * forward,
        State::Transition => first_service(case.v6) + 2 * forward + 1,
        State::NotVip => 60_000,
    }
}

/// Protocol of a case's packets.
pub(super) fn proto(kind: Kind) -> u8 {
    if kind == Kind::Udp { UDP } else { TCP }
}

/// What the driver shall do in a case.
pub(super) fn drive(case: &Case) -> Drive {
    let mut header = [0u8; HEADER];
    let frame = bytes(case);
    let restored = frame.len().min(HEADER);
    header[..restored].copy_from_slice(&frame[..restored]);
    let mut drive = Drive {
        mask: match case.flows {
            Flows::Some(n) => n - 1,
            Flows::New => u32::MAX,
        },
        vips: case.services,
        length: frame.len() as u32,
        v6: case.v6.into(),
        isn: u32::from(case.kind == Kind::Syn),
        ..Drive::default()
    };
    for (word, bytes) in drive.header.iter_mut().zip(header.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    drive
}

/// The options of a SYN as Linux sends it over Ethernet: MSS of 1,460, SACK, timestamps, a byte of nothing, window scale.
const OPTIONS: [u8; 20] = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 1, 3, 3, 7];

/// The first frame of a case. Checksums are no valid ones: nobody looks, and the driver changes addresses.
pub(super) fn bytes(case: &Case) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0x0a, 0, 2, 0, 0, 0, 0xee, 0xee];
    let length: u16 = match (case.v6, case.kind) {
        (false, Kind::Syn) => 74,
        (true, Kind::Syn) => 94,
        (false, _) => 64,
        (true, _) => 80,
    };
    match vip(service(case), case.v6) {
        IpAddr::V4(vip) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length - 14).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, proto(case.kind), 0x55, 0xaa]);
            frame.extend([100, 64, 0, 0]);
            frame.extend(vip.octets());
        }
        IpAddr::V6(vip) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((length - 54).to_be_bytes());
            frame.extend([proto(case.kind), 64]);
            frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x6440, 0).octets());
            frame.extend(vip.octets());
        }
    }
    frame.extend([0, 0]);
    frame.extend(PORT.to_be_bytes());
    let l4 = length - frame.len() as u16 + 4;
    match case.kind {
        Kind::Ack => frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0x55, 0xaa, 0, 0]),
        Kind::Syn => {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 0x02, 1, 0, 0x55, 0xaa, 0, 0]);
            frame.extend(OPTIONS);
        }
        Kind::Udp => {
            frame.extend(l4.to_be_bytes());
            frame.extend([0x55, 0xaa]);
        }
    }
    frame.resize(length.into(), 0);
    frame
}
