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
