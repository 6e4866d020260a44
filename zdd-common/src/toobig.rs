//! The ICMP error for a packet that does not fit: "fragmentation needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443).
//!
//! It is the frame itself, turned round: its end is cut off, new headers go in front. It comes from the VIP, like every answer
//! that the client expects, and keeps the tags of the link that the packet came by. One error for one packet, and smaller than it: no
//! amplifier.

use crate::checksum::Delta;
use crate::encap::HOPS;
use crate::frame::Frame;
use crate::packet::{ETHERTYPE, L3, Packet, ipv4, ipv6};

/// Bytes of the packet that are quoted over IPv4: the error has at most 576 (RFC 1812, 4.3.2.3).
pub const QUOTED_V4: usize = 544;
/// Bytes of the packet that are quoted over IPv6: the error has 1,280, the least MTU (RFC 4443, 2.4 c).
pub const QUOTED_V6: usize = 1232;
/// The least MTU of IPv6 (RFC 8200, 5): no sender goes below.
pub const MTU_MIN_V6: u32 = 1280;

/// Length of an ICMP error's header before its quote.
pub(crate) const ICMP: usize = 8;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
/// Precedence of errors: internetwork control (RFC 1812, 4.3.2.5).
const CLASS: u8 = 0xc0;
/// Don't-fragment in the seventh byte of an IPv4 header.
pub(crate) const DF: u8 = 0x40;

/// Turns a frame into the error that tells its sender to send at most `mtu` bytes, ready to go back where it came from.
/// False: no error may be sent, or none can be made; the frame is to be dropped.
// A function of its own in the kernel: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn answer<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, mtu: u32) -> bool {
    if !may_tell(frame, packet.v6) {
        return false;
    }
    let Some(dst) = frame.read_link::<[u8; 6]>(0) else { return false };
    let Some(src) = frame.read_link::<[u8; 6]>(6) else { return false };
    let Some(ether_type) = frame.read::<u16>(ETHERTYPE) else { return false };
    let done = if packet.v6 {
        mtu >= MTU_MIN_V6
            && frame.truncate(L3 + QUOTED_V6)
            && frame.prepend(ipv6::LEN + ICMP)
            && error_v6(frame, packet, mtu)
    } else {
        frame.truncate(L3 + QUOTED_V4) && frame.prepend(ipv4::LEN + ICMP) && error_v4(frame, packet, mtu)
    };
    done && frame.write_link(0, src) && frame.write_link(6, dst) && frame.write(ETHERTYPE, ether_type)
}

/// Whether a packet's sender may be told: it is a single host (others get no errors: RFC 1122, 3.2.2; RFC 4443, 2.4 e), and lets nobody on
/// the way cut its packets. Asked of the frame: were the parsed address read here, the verifier would follow all steering once for each
/// way it was parsed.
#[inline(always)]
pub(crate) fn may_tell<F: Frame + ?Sized>(frame: &F, v6: bool) -> bool {
    if v6 {
        !matches!(frame.read::<u8>(L3 + ipv6::SRC), None | Some(0 | 0xff))
    } else {
        !matches!(frame.read::<u8>(L3 + ipv4::SRC), None | Some(0 | 127 | 224..))
            && frame.read::<u8>(L3 + 6).unwrap_or_default() & DF != 0
    }
}

#[inline(always)]
fn error_v4<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, mtu: u32) -> bool {
    const LENGTH: u16 = (ipv4::LEN + ICMP + QUOTED_V4) as u16;
    match sum_v4(frame, mtu) {
        Some(sum) => head_v4(frame, packet, mtu, LENGTH, sum),
        None => false,
    }
}

/// The checksum of an IPv4 error about `mtu` that quotes [`QUOTED_V4`] bytes.
#[inline(always)]
pub(crate) fn sum_v4<F: Frame + ?Sized>(frame: &F, mtu: u32) -> Option<u16> {
    let at = L3 + ipv4::LEN;
    sum(frame, at + ICMP, QUOTED_V4 / 8, start_v4(Delta::default(), mtu))
}

/// Adds what an IPv4 error's checksum covers before the quote.
#[inline(always)]
pub(crate) const fn start_v4(delta: Delta, mtu: u32) -> Delta {
    let [.., high, low] = mtu.to_be_bytes();
    delta
        .more(u32::from_ne_bytes([UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0]))
        .more(u32::from_ne_bytes([0, 0, high, low]))
}

/// Writes the headers of the IPv4 error for `packet`'s sender: it has `length` bytes and this checksum.
#[inline(always)]
pub(crate) fn head_v4<F: Frame + ?Sized>(
    frame: &mut F,
    packet: &Packet,
    mtu: u32,
    length: u16,
    sum: u16,
) -> bool {
    let at = L3 + ipv4::LEN;
    let [.., high, low] = mtu.to_be_bytes();
    let told = u32::from_ne_bytes([0, 0, high, low]);
    let [a, b] = sum.to_ne_bytes();
    let kind = u32::from_ne_bytes([UNREACHABLE, FRAGMENTATION_NEEDED, a, b]);
    let [high, low] = length.to_be_bytes();
    let first = u32::from_ne_bytes([0x45, CLASS, high, low]);
    // Never fragmented, so without an identification (RFC 6864).
    let second = u32::from_ne_bytes([0, 0, DF, 0]);
    let third = u32::from_ne_bytes([HOPS, ICMPV4, 0, 0]);
    let from = u32::from_ne_bytes(packet.dst.v4_octets());
    let to = u32::from_ne_bytes(packet.src.v4_octets());
    let [a, b] =
        Delta::default().more(first).more(second).more(third).more(from).more(to).whole().to_ne_bytes();
    frame.write(L3, first)
        && frame.write(L3 + 4, second)
        && frame.write(L3 + ipv4::TTL, u32::from_ne_bytes([HOPS, ICMPV4, a, b]))
        && frame.write(L3 + ipv4::SRC, from)
        && frame.write(L3 + ipv4::DST, to)
        && frame.write(at, kind)
        && frame.write(at + 4, told)
}

#[inline(always)]
fn error_v6<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, mtu: u32) -> bool {
    const LENGTH: u16 = (ipv6::LEN + ICMP + QUOTED_V6) as u16;
    let start = start_v6(Delta::default(), packet, mtu, LENGTH);
    match sum(frame, L3 + ipv6::LEN + ICMP, QUOTED_V6 / 8, start) {
        Some(sum) => head_v6(frame, packet, mtu, LENGTH, sum),
        None => false,
    }
}

/// Bytes behind the IPv6 header of an error of `length` bytes, as they stand in it.
#[inline(always)]
const fn payload(length: u16) -> [u8; 2] {
    length.wrapping_sub(ipv6::LEN as u16).to_be_bytes()
}

/// Adds what an IPv6 error's checksum covers before the quote, the pseudo-header too (RFC 8200, 8.1): both addresses, length, next
/// header.
#[inline(always)]
pub(crate) const fn start_v6(delta: Delta, packet: &Packet, mtu: u32, length: u16) -> Delta {
    let (from, to) = (packet.dst, packet.src);
    let [high, low] = payload(length);
    delta
        .more_quad(from.hi)
        .more_quad(from.lo)
        .more_quad(to.hi)
        .more_quad(to.lo)
        .more(u32::from_ne_bytes([0, 0, high, low]))
        .more(u32::from_ne_bytes([0, 0, 0, ICMPV6]))
        .more(u32::from_ne_bytes([PACKET_TOO_BIG, 0, 0, 0]))
        .more(mtu.to_be())
}

/// Writes the headers of the IPv6 error for `packet`'s sender: it has `length` bytes and this checksum.
#[inline(always)]
pub(crate) fn head_v6<F: Frame + ?Sized>(
    frame: &mut F,
    packet: &Packet,
    mtu: u32,
    length: u16,
    sum: u16,
) -> bool {
    let at = L3 + ipv6::LEN;
    let (from, to) = (packet.dst, packet.src);
    let [high, low] = payload(length);
    let [a, b] = sum.to_ne_bytes();
    let first = (6 << 28 | u32::from(CLASS) << 20).to_be();
    frame.write(L3, first)
        && frame.write(L3 + 4, u32::from_ne_bytes([high, low, ICMPV6, HOPS]))
        && frame.write(L3 + ipv6::SRC, from.hi)
        && frame.write(L3 + ipv6::SRC + 8, from.lo)
        && frame.write(L3 + ipv6::DST, to.hi)
        && frame.write(L3 + ipv6::DST + 8, to.lo)
        && frame.write(at, u32::from_ne_bytes([PACKET_TOO_BIG, 0, a, b]))
        && frame.write(at + 4, mtu.to_be())
}

/// The checksum of what `start` has and of so many words of eight bytes from `at` on.
#[inline(always)]
fn sum<F: Frame + ?Sized>(frame: &F, at: usize, words: usize, start: Delta) -> Option<u16> {
    let mut sum = start;
    for word in 0..words {
        // Opaque: the compiler would compare with a moved end of the frame, which the verifier takes from nobody.
        sum = sum.more_quad(frame.read::<u64>(core::hint::black_box(at + 8 * word))?);
    }
    Some(sum.whole())
}
