//! The MSS option of a SYN, lowered to what fits (RFC 9293, 3.7.1).

use core::hint::black_box;

use crate::checksum::Delta;
use crate::frame::Frame;
use crate::packet::{L3, Packet, TCP_CHECKSUM, ipv4, ipv6};

/// Offset of the data offset in a TCP header.
const WORDS: usize = 12;
/// Offset of the flags.
const FLAGS: usize = 13;
/// Length of a TCP header without options.
const HEADER: usize = 20;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: u8 = 4;

/// Whether a TCP packet is the first of a connection: SYN without ACK.
#[inline(always)]
pub fn told_by<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    frame.read::<u8>(packet.l4 as usize + FLAGS).unwrap_or_default() & (SYN | ACK) == SYN
}

/// Whether a TCP packet has SYN set, with or without ACK.
#[inline(always)]
pub fn any_syn<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> bool {
    const SYN: u8 = 0x02;
    frame.read::<u8>(packet.l4 as usize + FLAGS).unwrap_or_default() & SYN != 0
}

/// Whether a TCP header has options.
#[inline(always)]
pub fn has_options<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> bool {
    frame.read::<u8>(packet.l4 as usize + WORDS).unwrap_or_default() >> 4 > (HEADER / 4) as u8
}

/// A TCP header from its data offset to the end of a first option of four bytes, in words as they stand in the frame: data offset, flags and
/// window; checksum and urgent pointer; the option. Read in one go, for each look is checked against the frame's end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Start([u32; 3]);

impl Start {
    /// Of a packet. Of a frame that ends before, nothing: no options.
    #[inline(always)]
    pub(crate) fn of<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Self {
        Self(frame.read(packet.l4 as usize + WORDS).unwrap_or_default())
    }

    /// Bytes of the header.
    #[inline(always)]
    const fn header(self) -> usize {
        (self.0[0].to_ne_bytes()[0] >> 4) as usize * 4
    }

    #[inline(always)]
    pub(crate) const fn has_options(self) -> bool {
        self.header() > HEADER
    }

    /// Whether the MSS stands first among the options, as most systems send it.
    #[inline(always)]
    pub(crate) const fn leads(self, packet: &Packet) -> bool {
        let [kind, length, ..] = self.0[2].to_ne_bytes();
        // See [`find`].
        self.header() >= HEADER + MSS_LENGTH as usize
            && packet.l4 as usize + self.header() <= L3 + packet.ip_length as usize
            && kind == MSS
            && length == MSS_LENGTH
    }

    /// [`clamp`] for an option that [`Start::leads`].
    #[inline(always)]
    pub(crate) fn clamp<F: Frame + ?Sized>(self, frame: &mut F, packet: &Packet, most: u32) {
        let [kind, length, high, low] = self.0[2].to_ne_bytes();
        if u16::from_be_bytes([high, low]) as u32 <= most {
            return;
        }
        let [a, b, urgent @ ..] = self.0[1].to_ne_bytes();
        let (was, is) = (u16::from_ne_bytes([high, low]), (most as u16).to_be());
        let [c, d] = Delta::new().word(was, is).apply(u16::from_ne_bytes([a, b])).to_ne_bytes();
        let [new_high, new_low] = is.to_ne_bytes();
        let words = [[c, d, urgent[0], urgent[1]], [kind, length, new_high, new_low]].map(u32::from_ne_bytes);
        frame.write(packet.l4 as usize + TCP_CHECKSUM, words);
    }
}

/// Makes a SYN, with or without ACK, tell that only what fits an IP packet of `mtu` bytes may be sent to its sender.
#[inline(always)]
pub fn fit<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, mtu: u32) {
    if any_syn(frame, packet) {
        clamp(frame, packet, most(packet, mtu));
    }
}

/// What a SYN may tell if IP packets of `mtu` bytes shall fit. The header counts without options (RFC 6691).
#[inline(always)]
pub(crate) fn most(packet: &Packet, mtu: u32) -> u32 {
    let headers = if packet.v6 { ipv6::LEN } else { ipv4::LEN } + HEADER;
    mtu.saturating_sub(headers as u32)
}

/// Lowers the option to `most` bytes if it says more, and corrects the checksum. Without one, or with options that make no
/// sense, nothing is changed: the other end then counts on 536 bytes (IPv4) or 1,220 (IPv6), which fit.
// A function of its own in the kernel: see `steer`'s query.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn clamp<F: Frame + ?Sized>(frame: &mut F, packet: &Packet, most: u32) {
    let l4 = packet.l4 as usize;
    let at = find(frame, packet);
    if at == NOWHERE {
        return;
    }
    if let Some([_, length, high, low]) = frame.read::<[u8; 4]>(l4 + at) {
        let told = u16::from_be_bytes([high, low]);
        if length == MSS_LENGTH && told as u32 > most {
            lower(frame, l4, at + 2, told, most as u16);
        }
    }
}

/// [`find`] found nothing.
const NOWHERE: usize = 0;
/// The last place at which the option fits into the longest header.
const LAST: usize = 60 - MSS_LENGTH as usize;

/// Offset of the first MSS option in the packet's TCP header.
#[inline(always)]
fn find<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> usize {
    let l4 = packet.l4 as usize;
    let Some(words) = frame.read::<u8>(l4 + WORDS) else { return NOWHERE };
    let end = ((words >> 4) as usize) * 4;
    // A header that goes on behind the packet, into Ethernet's padding: what stands there is under no checksum.
    if l4 + end > L3 + packet.ip_length as usize {
        return NOWHERE;
    }
    let mut at = HEADER;
    // Each step takes a byte at least.
    for _ in HEADER..=LAST {
        if at + MSS_LENGTH as usize > end || at > LAST {
            return NOWHERE;
        }
        // Fewer than four bytes, even with what follows the header, hold no such option.
        let Some([kind, length, ..]) = frame.read::<[u8; 4]>(l4 + at) else { return NOWHERE };
        if kind == MSS {
            return at;
        }
        // Without branches, hidden from the compiler, which would make some: the verifier would follow every sequence of
        // options that there can be.
        let nop = black_box(((kind ^ NOP) as u32).wrapping_sub(1)) >> 31;
        let step = nop + (length as u32 & black_box(nop.wrapping_sub(1)));
        if kind == END || step + nop < 2 {
            return NOWHERE;
        }
        at += step as usize;
    }
    NOWHERE
}

/// Writes the new value at an offset in the TCP header.
#[inline(always)]
fn lower<F: Frame + ?Sized>(frame: &mut F, l4: usize, at: usize, old: u16, new: u16) {
    let (mut was, mut is) = (old.to_be(), new.to_be());
    // Opaque: that it was read is no proof to the verifier that it may be written.
    if !frame.write(black_box(l4 + at), is) {
        return;
    }
    // At an odd offset its bytes belong to two words of the sum, each in the other half.
    if at & 1 != 0 {
        (was, is) = (was.swap_bytes(), is.swap_bytes());
    }
    if let Some(checksum) = frame.read::<u16>(l4 + TCP_CHECKSUM) {
        frame.write(l4 + TCP_CHECKSUM, Delta::default().word(was, is).apply(checksum));
    }
}
