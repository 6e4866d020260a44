//! The IPv6 half of the rig: an address of this family beside each IPv4 one, on the same wires.
//!
//! Addresses are unique local ones (RFC 4193) without duplicate address detection, so that they can be used at once.

use std::net::Ipv6Addr;

use super::{Forward, Netns, Result, Rig};

/// The VIP of this family.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0xff, 0, 0, 0, 0x10);

/// The IPv6 one of [`super::PREVIEW`].
pub const PREVIEW6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0xff, 0, 0, 0, 0x11);

/// The IPv6 one of [`super::SNAT_SOURCE`].
pub const SNAT_SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0xfe, 0, 0, 0, 1);

/// Address number `i`, from 0, of the clients: fd80:0:0:1::1 and so on.
pub fn client_address6(i: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd80, 0, 0, 1, 0, 0, 0, u16::try_from(i % 250 + 1).expect("1 to 250"))
}

/// The address of backend `b<i>`, `i` from 1.
pub fn backend_address6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd81, 0, 0, i.into(), 0, 0, 0, 2)
}

/// Which address families a test speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// Both at once.
    Both,
}

impl Families {
    /// IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// IPv6 is among them.
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// Namespaces of the rig have no IPv6 unless a test asks for it: nobody's router solicitations among its packets.
pub(super) fn enable(ns: &Netns) -> Result<()> {
    for scope in ["all", "default"] {
        ns.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
        // Link-local addresses, too, are there at once.
        ns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    Ok(())
}

impl Rig {
    pub(super) fn wire_clients6(&self) -> Result<()> {
        let (c, lb) = (self.ns("c"), self.ns("lb"));
        lb.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let mut lines = vec!["addr add fd80::2/64 dev c0 nodad".to_owned()];
        lines.extend(
            (0..self.spec.clients)
                .map(|i| format!("addr add {}/128 dev c0 nodad", client_address6(i.into()))),
        );
        lines.push("route add default via fd80::1".to_owned());
        c.ip_batch(&lines)?;
        let mut lines = vec![
            "addr add fd80::1/64 dev zlc nodad".to_owned(),
            // Routed, not on the link: one neighbour to resolve instead of 250.
            "route add fd80:0:0:1::/64 via fd80::2".to_owned(),
            format!("addr add {SNAT_SOURCE6}/128 dev lo nodad"),
        ];
        lines.extend(self.vips6());
        lb.ip_batch(&lines)
    }

    /// What gives a host the VIPs of this family: as many as there are of the other.
    fn vips6(&self) -> impl Iterator<Item = String> {
        let owned = [VIP6, PREVIEW6].into_iter().take(self.spec.vips.len());
        owned.map(|vip| format!("addr add {vip}/128 dev lo nodad"))
    }

    /// `direct`: replies leave by the wire that does not touch the balancer, from the VIP. Linux answers for an IPv6 address only
    /// on the device that has it, so the one on `lo` stays silent by itself (`ndisc_recv_ns`).
    pub(super) fn wire_backend6(&self, i: u8, direct: bool) -> Result<()> {
        let b = self.ns(&format!("b{i}"));
        self.ns("lb").ip_batch(&[format!("addr add fd81:0:0:{i:x}::1/64 dev zlb{i} nodad")])?;
        b.ip_batch(&[format!("addr add {}/64 dev b0 nodad", backend_address6(i))])?;
        if !direct {
            let snat = self.spec.forward == Forward::Snat;
            let to = if snat { format!("{SNAT_SOURCE6}/128") } else { "default".to_owned() };
            return b.ip_batch(&[format!("route add {to} via fd81:0:0:{i:x}::1")]);
        }
        self.ns("c").ip_batch(&[format!("addr add fd82:0:0:{i:x}::1/64 dev r{i} nodad")])?;
        let mut lines = vec![
            format!("addr add fd82:0:0:{i:x}::2/64 dev r0 nodad"),
            format!("route add default via fd82:0:0:{i:x}::1"),
        ];
        lines.extend(self.vips6());
        b.ip_batch(&lines)
    }
}
