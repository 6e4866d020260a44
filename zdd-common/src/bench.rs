//! What the bench's driver program (`zdd-ebpf/src/bench`) and the bench on the host agree on. Nothing that steers uses it.

use crate::net::Addr;

/// Bytes of a frame's start that the driver restores: Ethernet, IPv6, TCP and its first option, rounded up to words.
pub const HEADER: usize = 80;
/// Flows per client address: the bits of a flow's number that go into the source port, from [`PORT_FIRST`] on.
pub const PORT_BITS: u32 = 14;
/// First source port.
pub const PORT_FIRST: u16 = 1024;
/// Slots of the stateless floor's table for each VIP, as many as a service has cells by default.
pub const SLOTS: u32 = 1 << 14;

/// What the driver shall do with the next packet; the only value of its map.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Drive {
    /// Packets so far: the driver counts.
    pub next: u64,
    /// Flows minus one; they are a power of two. All ones: every packet is a new flow.
    pub mask: u32,
    /// VIPs that flows spread over: consecutive addresses from the frame's on.
    pub vips: u32,
    /// Bytes of a frame.
    pub length: u32,
    /// 1: IPv6, 0: IPv4.
    pub v6: u32,
    /// 1: every packet has another sequence number, as SYNs of new connections have.
    pub isn: u32,
    /// 0.
    pub zero: u32,
    /// The start of every frame.
    pub header: [u64; HEADER / 8],
    /// 0.
    pub reserved: [u64; 2],
}
wire!(Drive, 128, {
    next: u64, mask: u32, vips: u32, length: u32, v6: u32, isn: u32, zero: u32, header: [u64; HEADER / 8],
    reserved: [u64; 2],
});

/// Key of the floors' VIP lookup: what a balancer of one family at a time would use.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vip4 {
    /// Address, network byte order.
    pub addr: u32,
    /// Port, network byte order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u16,
}
wire!(Vip4, 8, { addr: u32, port: u16, proto: u16 });

/// [`Vip4`] for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vip6 {
    /// Address.
    pub addr: Addr,
    /// Port, network byte order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u16,
    /// 0.
    pub zero: u32,
}
wire!(Vip6, 24, { addr: Addr, port: u16, proto: u16, zero: u32 });
