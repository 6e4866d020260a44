//! What the program that steers leaves for the one that maps.

use crate::net::{Addr, TCP};
use crate::odd::DatagramKey;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::steer::{Segment, Transport};

/// What is to be done with the frame at hand.
///
/// In the kernel it travels through a map of one value per CPU that outlives both programs, so its layout is a part of the maps':
/// either program may be of another build than the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Order {
    /// The packet's addresses.
    pub src: Addr,
    /// Its destination.
    pub dst: Addr,
    /// Of an ICMP error: where the quoted packet was going.
    pub quote_dst: Addr,
    /// TCP's sequence number, host order.
    pub seq: u32,
    /// See [`crate::frame::Frame::tags`].
    pub tags: u32,
    /// Number of a fragment's datagram, as it stands in the frame.
    pub id: u32,
    /// Length of the IP packet.
    pub ip_length: u16,
    /// Bytes of VLAN tags behind the MAC addresses.
    pub skip: u16,
    /// Ports, network byte order.
    pub src_port: u16,
    /// Port that it is for.
    pub dst_port: u16,
    /// Ports of the quoted packet, network byte order.
    pub quote_src_port: u16,
    /// Port that it was for.
    pub quote_dst_port: u16,
    /// Bytes from the error's network header to the quoted one.
    pub quote_depth: u16,
    /// Where the quote ends, seen from itself.
    pub quote_end: u16,
    /// Number of the VIP.
    pub vip_id: u16,
    /// The service.
    pub service: u16,
    /// The backend that it goes to or comes from.
    pub backend: u16,
    /// Of a first fragment: bytes of the datagram that it holds.
    pub covered: u16,
    /// [`Kind`] as a number; 0: no order.
    pub kind: u8,
    /// IP protocol number.
    pub proto: u8,
    /// 1: IPv6.
    pub v6: u8,
    /// Offset of the transport header.
    pub l4: u8,
    /// TCP: 1 SYN without ACK, 2 FIN, 4 RST.
    pub flags: u8,
    /// Why it goes where it goes, as a number.
    pub reason: u8,
    /// 1: it begins a flow.
    pub new_flow: u8,
    /// 1: it is a first fragment.
    pub first: u8,
    /// Protocol of the quoted packet.
    pub quote_proto: u8,
    /// Offset of its transport header, seen from itself.
    pub quote_l4: u8,
    /// Of a later fragment: 1 + the number of our address.
    pub source: u8,
    /// Of a backend's packet: how many flows are followed, [`crate::signals::Rate`]. 0, as programs of before wrote it: none.
    pub rate: u8,
}
wire!(Order, 96, {
    src: Addr, dst: Addr, quote_dst: Addr, seq: u32, tags: u32, id: u32, ip_length: u16, skip: u16, src_port: u16,
    dst_port: u16, quote_src_port: u16, quote_dst_port: u16, quote_depth: u16, quote_end: u16, vip_id: u16, service: u16,
    backend: u16, covered: u16, kind: u8, proto: u8, v6: u8, l4: u8, flags: u8, reason: u8, new_flow: u8, first: u8,
    quote_proto: u8, quote_l4: u8, source: u8, rate: u8,
});

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A client's, with ports.
    Out = 1,
    /// A backend's, with ports.
    Back = 2,
    /// A later fragment of a client's.
    OutLater = 3,
    /// A later fragment of a backend's.
    BackLater = 4,
    /// An ICMP error for a VIP.
    OutError = 5,
    /// An ICMP error for one of our addresses.
    BackError = 6,
}

// Odd numbers go to backends; see `outward` and `headless`.
const _: () = assert!(Kind::OutLater as u8 & Kind::OutError as u8 & Kind::Out as u8 & 1 == 1);
const _: () = assert!((Kind::Back as u8 | Kind::BackLater as u8 | Kind::BackError as u8) & 1 == 0);
const SYN: u8 = 1;
const FIN: u8 = 2;
const RST: u8 = 4;

impl Order {
    /// An order about a packet, without more.
    #[inline(always)]
    pub(crate) fn about(&mut self, packet: &Packet, kind: Kind) {
        self.src = packet.src;
        self.dst = packet.dst;
        self.src_port = packet.src_port;
        self.dst_port = packet.dst_port;
        self.ip_length = packet.ip_length;
        self.proto = packet.proto;
        self.v6 = packet.v6 as u8;
        self.l4 = packet.l4;
        let (mut flags, mut seq) = (0, 0);
        if let Transport::Tcp(segment) = packet.transport {
            flags = (segment.syn as u8 * SYN) | (segment.fin as u8 * FIN) | (segment.rst as u8 * RST);
            seq = segment.seq;
        }
        self.flags = flags;
        self.seq = seq;
        self.kind = kind as u8;
        self.tags = 0;
        self.skip = 0;
        self.first = 0;
        self.source = 0;
        self.service = 0;
        self.vip_id = 0;
        self.backend = 0;
        self.reason = Reason::Reply as u8;
        self.new_flow = 0;
        self.rate = 0;
    }

    /// Whether it is of this kind.
    #[inline(always)]
    pub(crate) const fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }

    /// Whether it goes to a backend.
    #[inline(always)]
    pub(crate) const fn outward(&self) -> bool {
        self.kind & 1 != 0
    }

    /// Whether no transport header of the packet's own is in sight.
    #[inline(always)]
    pub(crate) const fn headless(&self) -> bool {
        self.kind > Kind::Back as u8
    }

    /// What numbers its datagram, if it is a fragment.
    #[inline(always)]
    pub(crate) fn datagram(&self) -> DatagramKey {
        let proto = if self.v6 != 0 { 0 } else { self.proto };
        DatagramKey { src: self.src, dst: self.dst, id: self.id, proto, zero: [0; 3] }
    }

    /// TCP's header.
    #[inline(always)]
    pub(crate) const fn segment(&self) -> Segment {
        let flags = self.flags;
        Segment { syn: flags & SYN != 0, fin: flags & FIN != 0, rst: flags & RST != 0, seq: self.seq }
    }

    /// Whether what it tells of its flow is noted.
    #[inline(always)]
    pub(crate) const fn is_followed(&self) -> bool {
        self.rate != 0 && self.is(Kind::Back) && self.first == 0
    }

    /// The packet as it was parsed.
    #[inline(always)]
    pub(crate) fn packet(&self) -> Packet {
        let transport = if self.proto == TCP { Transport::Tcp(self.segment()) } else { Transport::Udp };
        Packet {
            src: self.src,
            dst: self.dst,
            src_port: self.src_port,
            dst_port: self.dst_port,
            proto: self.proto,
            transport,
            v6: self.v6 != 0,
            l4: self.l4,
            ip_length: self.ip_length,
        }
    }
}
