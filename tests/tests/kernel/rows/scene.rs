//! What the tables know before every row.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zdd_common::entries::{Affinity, Backend, Cell, Commit, EndEntry, EndKind, Mode, NextHop, Port, Service};
use zdd_common::net::{Addr, End, TCP, UDP};

use crate::frames::Pkt;
use crate::rig::{Link, MAC_A, MAC_B, Rig, neighbour_mac, neighbour4, neighbour6};

/// Port that redirects towards backends.
pub const REDIRECT: u16 = 1;
/// The port towards clients, from which frames may bounce.
pub const BOUNCE: u16 = 2;
/// The port towards backends when it takes no redirects: the stack forwards.
pub const STACK: u16 = 3;
/// A port whose interface is gone.
pub const GONE: u16 = 4;
/// The port towards clients when it cannot bounce.
pub const SAME: u16 = 5;

/// `l2`, TCP, over IPv4; service and backend have this number, and so on.
pub const L2: u16 = 1;
/// `nat`, TCP, IPv4.
pub const NAT: u16 = 2;
/// `nat`, UDP, IPv4.
pub const NAT_UDP: u16 = 3;
/// `l2`, TCP, IPv6.
pub const L2_V6: u16 = 4;
/// `nat`, TCP, IPv6.
pub const NAT_V6: u16 = 5;
/// `nat`, UDP, IPv6.
pub const NAT_UDP_V6: u16 = 6;
/// `l2`, UDP, IPv4.
pub const L2_UDP: u16 = 7;
/// A service that was never committed.
pub const NEVER: u16 = 8;
/// A second backend in `l2` mode, of whichever service a row gives it to.
pub const OTHER: u16 = 9;
/// A VIP whose service number is beyond the map.
pub const BEYOND: u16 = 10;

/// `snat`, TCP, IPv4.
pub const SNAT: u16 = 20;
/// `snat`, UDP, IPv4.
pub const SNAT_UDP: u16 = 21;
/// `snat`, TCP, IPv6.
pub const SNAT_V6: u16 = 22;
/// `snat`, UDP, IPv6.
pub const SNAT_UDP_V6: u16 = 23;

/// `nat`, TCP, IPv4, by a VIP that maps as under `snat`.
pub const MAPPED: u16 = 24;
/// The same, UDP, IPv6.
pub const MAPPED_UDP_V6: u16 = 28;

/// The VIP of a service.
pub fn vip(n: u16) -> (IpAddr, u16) {
    let port = if is_udp(n) { 53 } else { 80 };
    if is_v6(n) {
        (Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, n).into(), port)
    } else {
        (Ipv4Addr::new(10, 9, 0, n as u8).into(), port)
    }
}

/// A backend's own end.
pub fn backend(n: u16) -> (IpAddr, u16) {
    let port = if is_udp(n) { 5353 } else { 8080 };
    (if is_v6(n) { neighbour6(Link::B, host(n)) } else { neighbour4(Link::B, host(n)) }, port)
}

/// A client's end, of a service's family.
pub fn client(n: u16) -> (IpAddr, u16) {
    (if is_v6(n) { neighbour6(Link::A, 10) } else { neighbour4(Link::A, 10) }, 40_000)
}

/// MAC address of a backend.
pub fn mac(n: u16) -> [u8; 6] {
    neighbour_mac(Link::B, host(n))
}

fn host(n: u16) -> u8 {
    // Numbers are below the neighbours'.
    10 + (n % 8) as u8
}

pub fn is_v6(n: u16) -> bool {
    matches!(n, L2_V6 | NAT_V6 | NAT_UDP_V6 | SNAT_V6 | SNAT_UDP_V6 | MAPPED_UDP_V6)
}

pub fn is_udp(n: u16) -> bool {
    matches!(n, NAT_UDP | NAT_UDP_V6 | L2_UDP | SNAT_UDP | SNAT_UDP_V6 | MAPPED_UDP_V6)
}

pub fn is_nat(n: u16) -> bool {
    matches!(n, NAT | NAT_UDP | NAT_V6 | NAT_UDP_V6) || is_mapped(n)
}

pub fn is_mapped(n: u16) -> bool {
    matches!(n, MAPPED | MAPPED_UDP_V6)
}

pub fn is_snat(n: u16) -> bool {
    matches!(n, SNAT | SNAT_UDP | SNAT_V6 | SNAT_UDP_V6)
}

/// A packet of the service's protocol from its client to its VIP; TCP with a plain ACK.
pub fn to_vip(n: u16) -> Pkt {
    if is_udp(n) {
        Pkt::udp(client(n), vip(n))
    } else {
        Pkt::tcp(client(n), vip(n), crate::frames::ACK, 1000)
    }
}

/// A packet from the service's backend to its client; TCP with SYN and ACK.
pub fn to_client(n: u16) -> Pkt {
    let flags = crate::frames::SYN | crate::frames::ACK;
    if is_udp(n) { Pkt::udp(backend(n), client(n)) } else { Pkt::tcp(backend(n), client(n), flags, 7000) }
}

pub fn end((addr, port): (IpAddr, u16), n: u16) -> End {
    End::new(Addr::from(addr), port.to_be(), if is_udp(n) { UDP } else { TCP })
}

/// Sets the one cell of a service.
pub fn cell(rig: &Rig, n: u16, cell: Cell) {
    rig.plane.write_row(n.into(), &[cell]);
}

/// Sets where a backend's frames go.
pub fn hop(rig: &Rig, n: u16, port: u16) {
    rig.plane.set_next_hop(n, NextHop::new(mac(n), port));
}

/// Fills the tables: every service has one group of one cell, settled on the backend of its number.
pub fn build(rig: &mut Rig) {
    for (slot, ifindex, flags, mac) in [
        (REDIRECT, rig.b, 0, MAC_B),
        (BOUNCE, rig.a, Port::TX, MAC_A),
        (STACK, rig.b, Port::STACK, MAC_B),
        (GONE, 9999, 0, MAC_B),
        (SAME, rig.a, 0, MAC_A),
    ] {
        rig.plane.set_port(slot, Port { ifindex, flags, mac, tags: 0, mtu: 0 }).expect("a port");
    }
    let all = [L2, NAT, NAT_UDP, L2_V6, NAT_V6, NAT_UDP_V6, L2_UDP, NEVER, OTHER];
    for n in all.into_iter().chain([SNAT, SNAT_UDP, SNAT_V6, SNAT_UDP_V6, MAPPED, MAPPED_UDP_V6]) {
        let (addr, port) = backend(n);
        rig.plane.write_backend(
            n,
            &Backend {
                addr: addr.into(),
                next_hop: NextHop::new(mac(n), REDIRECT).0,
                port: port.to_be(),
                mode: match () {
                    () if is_nat(n) => Mode::Nat,
                    () if is_snat(n) => Mode::Snat,
                    () => Mode::L2,
                } as u16,
                service: n.into(),
                ..Backend::default()
            },
        );
        rig.plane.write_service(
            n,
            &Service {
                commit: 0,
                groups: 1,
                per_group: 1,
                affinity: Affinity::Flow as u32,
                udp_idle: 100,
                ..Service::default()
            },
        );
        cell(rig, n, Cell::settled(n));
        if n != NEVER {
            rig.plane.commit(n, Commit::new(n.into(), 1));
        }
        if n != OTHER {
            let mapped = is_mapped(n).into();
            let entry =
                EndEntry { kind: EndKind::Vip as u16, service: n, id: n, mapped, ..EndEntry::default() };
            rig.plane.set_end(end(vip(n), n), entry, "a VIP").expect("a VIP");
        }
        if is_nat(n) || is_snat(n) {
            let kind = if is_nat(n) { EndKind::NatBackend } else { EndKind::SnatBackend } as u16;
            let (vip, vip_port) = (vip(n).0.into(), vip(n).1.to_be());
            let mapped = is_mapped(n).into();
            let entry = EndEntry { kind, service: n, id: n, vip_port, vip, mapped, ..EndEntry::default() };
            rig.plane.set_end(end(backend(n), n), entry, "a backend").expect("a backend");
        }
    }
    let entry = EndEntry {
        kind: EndKind::Vip as u16,
        service: crate::rig::SERVICES as u16,
        id: BEYOND,
        ..EndEntry::default()
    };
    rig.plane.set_end(end(vip(BEYOND), BEYOND), entry, "a VIP").expect("a VIP");
}
