//! Addresses and ports as they stand in maps and frames.

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), as two words of network byte order
/// bytes. One type for both families keeps every table and every decision a single code path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Addr {
    /// Bytes 0 to 7.
    pub hi: u64,
    /// Bytes 8 to 15.
    pub lo: u64,
}
wire!(Addr, 16, { hi: u64, lo: u64 });

/// Bytes 8 to 11 of an IPv4-mapped address.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Addr {
    /// From the four bytes of an IPv4 address, network order.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        let [m0, m1, m2, m3] = MAPPED;
        Self { hi: 0, lo: u64::from_ne_bytes([m0, m1, m2, m3, a, b, c, d]) }
    }

    /// From the sixteen bytes of an IPv6 address, network order.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            hi: u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            lo: u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        }
    }

    /// All sixteen bytes, network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.hi.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.lo.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The four bytes of an IPv4-mapped address; of another, its last four.
    #[inline(always)]
    pub const fn v4_octets(self) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = self.lo.to_ne_bytes();
        [a, b, c, d]
    }

    /// With more bits set in the last four bytes; `bits` in host order.
    #[inline(always)]
    pub const fn or_low(self, bits: u32) -> Self {
        let [a, b, c, d] = bits.to_be_bytes();
        Self { hi: self.hi, lo: self.lo | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d]) }
    }

    /// Whether this is an IPv4-mapped address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let [m0, m1, m2, m3] = MAPPED;
        let (mask, mapped) = ([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], [m0, m1, m2, m3, 0, 0, 0, 0]);
        // Without a branch: asked twice about one address, it is computed once.
        self.hi | self.lo & u64::from_ne_bytes(mask) ^ u64::from_ne_bytes(mapped) == 0
    }

    /// Whether no router may forward what says that it comes from here, nor answer it: not one host of a network, or one of this link
    /// only. IPv4: 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 (RFC 1122, 3.2.1.3; RFC 1812, 5.3.7). IPv6: `::`, `::1`,
    /// multicast (RFC 4291, 2.5 and 2.7), link-local (RFC 4291, 2.5.6). The same that Linux does not forward.
    #[inline(always)]
    pub const fn is_martian(self) -> bool {
        // Products, one branch: of a choice, the verifier would follow each way through all that comes after.
        if self.is_v4() {
            let number = u32::from_be_bytes(self.v4_octets());
            let first = (number >> 24) as u64;
            return first * (first ^ 127) * (first >> 4 ^ 14) * !number as u64 == 0;
        }
        let [first, second, ..] = self.hi.to_ne_bytes();
        let ten = (first as u64) << 2 | second as u64 >> 6;
        let rest = self.hi | self.lo & !1u64.to_be();
        (first as u64 ^ 0xff) * (ten ^ 0x3fa) * (rest >> 32 | rest & u32::MAX as u64) == 0
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() { Self::V4(addr.v4_octets().into()) } else { Self::V6(addr.octets().into()) }
    }
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// One end of a conversation: key of the VIPs and backends that the XDP program knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct End {
    /// Address.
    pub addr: Addr,
    /// Port, network byte order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always 0: keys are compared as bytes.
    pub zero: [u8; 5],
}
wire!(End, 24, { addr: Addr, port: u16, proto: u8, zero: [u8; 5] });

impl End {
    /// An end; `port` in network byte order.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, zero: [0; 5] }
    }
}

/// A conversation with a backend's own address that must not be rewritten on its way back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DirectKey {
    /// The backend's end.
    pub backend: End,
    /// The other side's address.
    pub peer: Addr,
    /// The other side's port, network byte order.
    pub peer_port: u16,
    /// Always 0.
    pub zero: [u8; 6],
}
wire!(DirectKey, 48, { backend: End, peer: Addr, peer_port: u16, zero: [u8; 6] });

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    /// As the standard library tells addresses apart.
    fn martian(addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(v4) => {
                v4.octets()[0] == 0 || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast()
            }
            IpAddr::V6(v6) => {
                v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()
            }
        }
    }

    #[test]
    fn martians_are_the_addresses_that_no_router_forwards_from() {
        let ends = [0u32, 1, 0x7f_ffff, 0xff_ffff, 0x0100_0000 - 2];
        for first in 0..=255u32 {
            for low in ends {
                let v4 = IpAddr::from(Ipv4Addr::from_bits(first << 24 | low & 0xff_ffff));
                assert_eq!(Addr::from(v4).is_martian(), martian(v4), "{v4}");
            }
        }
        // Every pair of first bytes, alone and with one bit further behind.
        for first in 0..=0xffffu128 {
            for bit in 0..=112 {
                let low = if bit == 112 { 0 } else { 1u128 << bit };
                let v6 = Ipv6Addr::from_bits(first << 112 | low);
                assert_eq!(Addr::v6(v6.octets()).is_martian(), martian(v6.into()), "{v6}");
            }
        }
        assert!(!Addr::v6(Ipv6Addr::from_bits(3).octets()).is_martian());
    }
}
