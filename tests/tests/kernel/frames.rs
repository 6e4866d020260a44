//! Frames, built and checked by etherparse: nothing here shares code with the program.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, NetHeaders, PacketHeaders, TcpHeader,
    TransportHeader, UdpHeader,
};

/// Length of an Ethernet header.
pub const L3: usize = 14;

/// TCP flags.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// The transport header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP with flags and sequence number.
    Tcp(u8, u32),
    /// UDP; `false` leaves the checksum 0.
    Udp(bool),
}

/// What a frame shall be. Addresses of one family.
#[derive(Clone, Debug)]
pub struct Pkt {
    pub macs: ([u8; 6], [u8; 6]),
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub l4: L4,
    /// TTL or hop limit.
    pub hops: u8,
    /// Of IPv4; a multiple of four bytes.
    pub ip_options: Vec<u8>,
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Ethernet padding after the packet.
    pub padding: usize,
}

/// MAC addresses (destination, source) of frames as they come in.
pub const OUTSIDE: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0x0a, 0], [2, 0, 0, 0, 0xee, 0xee]);

impl Pkt {
    pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8, seq: u32) -> Self {
        Self {
            macs: OUTSIDE,
            src,
            dst,
            l4: L4::Tcp(flags, seq),
            hops: 64,
            ip_options: vec![],
            tcp_options: vec![],
            payload: vec![],
            padding: 0,
        }
    }

    pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        Self { l4: L4::Udp(true), payload: b"datagram".to_vec(), ..Self::tcp(src, dst, 0, 0) }
    }

    pub fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    pub fn src(self, src: (IpAddr, u16)) -> Self {
        Self { src, ..self }
    }

    pub fn dst(self, dst: (IpAddr, u16)) -> Self {
        Self { dst, ..self }
    }

    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// To the next hop `dst` from our interface `src`.
    pub fn macs(self, dst: [u8; 6], src: [u8; 6]) -> Self {
        Self { macs: (dst, src), ..self }
    }

    /// The frame, with right lengths and checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let (source, destination) = (self.macs.1, self.macs.0);
        let v6 = self.src.0.is_ipv6();
        let ether_type = if v6 { etherparse::EtherType::IPV6 } else { etherparse::EtherType::IPV4 };
        let mut frame = Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec();
        let number = match self.l4 {
            L4::Tcp(..) => IpNumber::TCP,
            L4::Udp(_) => IpNumber::UDP,
        };
        let l4 = self.transport();
        match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4Header::new(l4.len() as u16, self.hops, number, src.octets(), dst.octets())
                    .expect("it fits");
                ip.options = Ipv4Options::try_from(&self.ip_options[..]).expect("whole words");
                ip.set_payload_len(l4.len()).expect("it fits");
                ip.identification = 0x1234;
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend_from_slice(&ip.to_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    payload_length: l4.len() as u16,
                    next_header: number,
                    hop_limit: self.hops,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                frame.extend_from_slice(&ip.to_bytes());
            }
            families => panic!("one family: {families:?}"),
        }
        frame.extend_from_slice(&l4);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut l4 = match self.l4 {
            L4::Tcp(flags, seq) => {
                let mut tcp = TcpHeader::new(self.src.1, self.dst.1, seq, 4000);
                tcp.fin = flags & FIN != 0;
                tcp.syn = flags & SYN != 0;
                tcp.rst = flags & RST != 0;
                tcp.psh = flags & PSH != 0;
                tcp.ack = flags & ACK != 0;
                tcp.urg = flags & URG != 0;
                tcp.urgent_pointer = if tcp.urg { 1 } else { 0 };
                tcp.ece = flags & ECE != 0;
                tcp.cwr = flags & CWR != 0;
                tcp.set_options_raw(&self.tcp_options).expect("they fit");
                tcp.checksum = match (self.src.0, self.dst.0) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        tcp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &self.payload)
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        tcp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &self.payload)
                    }
                    families => panic!("one family: {families:?}"),
                }
                .expect("it fits");
                tcp.to_bytes().to_vec()
            }
            L4::Udp(summed) => {
                let mut udp = UdpHeader {
                    source_port: self.src.1,
                    destination_port: self.dst.1,
                    length: (UdpHeader::LEN + self.payload.len()) as u16,
                    checksum: 0,
                };
                if summed {
                    udp.checksum = udp_sum(&udp, self.src.0, self.dst.0, &self.payload);
                }
                udp.to_bytes().to_vec()
            }
        };
        l4.extend_from_slice(&self.payload);
        l4
    }
}

fn udp_sum(udp: &UdpHeader, src: IpAddr, dst: IpAddr, payload: &[u8]) -> u16 {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => udp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => udp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload),
        families => panic!("one family: {families:?}"),
    }
    .expect("it fits")
}

/// Whether a frame's checksums are right. What cannot be parsed has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// IPv4 header.
    pub ip: bool,
    /// TCP or UDP; a UDP checksum of 0 is none.
    pub l4: bool,
}

/// Computes all checksums of a frame anew.
pub fn sums(frame: &[u8]) -> Sums {
    let wrong = Sums { ip: false, l4: false };
    if let [link @ .., 0x81, 0] | [link @ .., 0x88, 0xa8] = &frame[..L3.min(frame.len())]
        && link.len() == L3 - 2
        && frame.len() > L3 + 4
    {
        return sums(&[link, &frame[L3 + 2..]].concat());
    }
    if let Some((outer, inner)) = tunnelled(frame) {
        let inside = sums(&inner);
        return Sums { ip: outer && inside.ip, ..inside };
    }
    let Ok(headers) = PacketHeaders::from_ethernet_slice(frame) else { return wrong };
    let payload = headers.payload.slice();
    let (ip, src, dst): (bool, IpAddr, IpAddr) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            (ip.header_checksum == ip.calc_header_checksum(), ip.source.into(), ip.destination.into())
        }
        Some(NetHeaders::Ipv6(ip, _)) => (true, ip.source.into(), ip.destination.into()),
        _ => return wrong,
    };
    let l4 = match (&headers.transport, src, dst) {
        (Some(TransportHeader::Tcp(tcp)), IpAddr::V4(src), IpAddr::V4(dst)) => {
            tcp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload).ok() == Some(tcp.checksum)
        }
        (Some(TransportHeader::Tcp(tcp)), IpAddr::V6(src), IpAddr::V6(dst)) => {
            tcp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload).ok() == Some(tcp.checksum)
        }
        (Some(TransportHeader::Udp(udp)), src, dst) => {
            udp.checksum != 0 && udp_sum(udp, src, dst, payload) == udp.checksum
        }
        (Some(TransportHeader::Icmpv4(icmp)), ..) => {
            let message = icmp_message(frame, payload, icmp.header_len());
            message.is_some_and(|message| Sum16BitWords::new().add_slice(message).ones_complement() == 0)
        }
        (Some(TransportHeader::Icmpv6(icmp)), IpAddr::V6(src), IpAddr::V6(dst)) => {
            icmp_message(frame, payload, icmp.header_len()).is_some_and(|message| {
                let mut sum = Sum16BitWords::new().add_slice(message);
                // The pseudo-header (RFC 8200, 8.1).
                sum = sum.add_16bytes(src.octets()).add_16bytes(dst.octets());
                sum = sum.add_4bytes((message.len() as u32).to_be_bytes());
                sum.add_2bytes([0, IpNumber::IPV6_ICMP.0]).ones_complement() == 0
            })
        }
        _ => false,
    };
    Sums { ip, l4 }
}

/// An ICMP message as it stands in the frame: of its header, etherparse computes a sum without what it holds for unused, and an error's
/// unused bytes may hold something (RFC 4884, 3).
fn icmp_message<'a>(frame: &'a [u8], payload: &[u8], header: usize) -> Option<&'a [u8]> {
    let from = (payload.as_ptr() as usize).checked_sub(frame.as_ptr() as usize + header)?;
    frame.get(from..from + header + payload.len())
}

/// Of IP in IP: whether the outer header's checksum is right, and the inner packet behind an Ethernet header of its own.
fn tunnelled(frame: &[u8]) -> Option<(bool, Vec<u8>)> {
    let packet = frame.get(L3..)?;
    let (right, next, inner) = match packet.first()? >> 4 {
        4 => {
            let (ip, rest) = Ipv4Header::from_slice(packet).ok()?;
            (ip.header_checksum == ip.calc_header_checksum(), ip.protocol, rest)
        }
        _ => {
            let (ip, rest) = Ipv6Header::from_slice(packet).ok()?;
            (true, ip.next_header, rest)
        }
    };
    let ether_type: u16 = match next {
        IpNumber::IPV4 => 0x0800,
        IpNumber::IPV6 => 0x86dd,
        _ => return None,
    };
    Some((right, [&frame[..12], &ether_type.to_be_bytes()[..], inner].concat()))
}

/// Sees that checksums which were right before still are.
pub fn assert_sums_kept(before: &[u8], after: &[u8], what: &str) {
    let (was, is) = (sums(before), sums(after));
    assert!(
        is.ip || !was.ip,
        "{what}: the IP checksum was right and is no longer\n{before:02x?}\n{after:02x?}"
    );
    assert!(
        is.l4 || !was.l4,
        "{what}: the L4 checksum was right and is no longer\n{before:02x?}\n{after:02x?}"
    );
}

#[test]
fn of_an_icmp_error_every_byte_counts_for_its_checksum() {
    let frame = |unused: [u8; 2]| {
        let mut icmp = [&[3, 4, 0, 0][..], &unused, &[5, 0xdc], &[0x45; 28]].concat();
        let sum = Sum16BitWords::new().add_slice(&icmp).ones_complement();
        icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
        let ip = Ipv4Header::new(icmp.len() as u16, 64, IpNumber::ICMP, [10, 0, 2, 17], [10, 0, 2, 1]);
        let mut ip = ip.expect("it fits");
        ip.header_checksum = ip.calc_header_checksum();
        [&[2; 12][..], &[8, 0], &ip.to_bytes(), &icmp].concat()
    };
    for unused in [[0, 0], [0, 7], [0x76, 0xff]] {
        let mut frame = frame(unused);
        assert_eq!(sums(&frame), Sums { ip: true, l4: true }, "{unused:?}");
        frame[L3 + 20 + 4] ^= 0x10;
        assert_eq!(sums(&frame), Sums { ip: true, l4: false }, "{unused:?}");
    }
}
