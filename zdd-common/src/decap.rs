//! The other end of `ipip`: takes the outer header off at the backend, if a balancer put it there.
//!
//! Only what a balancer of ours sends is taken apart: no options, no fragments, the inner packet for one of the VIPs.
//! Everything that is not IP in IP passes untouched.

use crate::checksum::Delta;
use crate::encap::{IPV4, IPV6};
use crate::frame::Frame;
use crate::limits::EXTENSIONS_MAX;
use crate::net::Addr;
use crate::odd::{FRAGMENT, LIMIT, is_extension};
use crate::packet::{ETHERTYPE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, L3, ipv4, ipv6};

/// What became of a frame, and why: each in one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Up the stack without its outer header.
    Unwrapped = 0,
    /// Up the stack untouched: not IP in IP.
    Other = 1,
    /// Dropped: IP in IP that does not come from a balancer. Believed, it would let anybody speak in any client's name.
    Foreign = 2,
    /// Dropped: from a balancer, but the inner packet is for none of the VIPs.
    NotVip = 3,
    /// Dropped: lengths or versions contradict each other, or the outer header has options.
    Malformed = 4,
    /// Dropped: a fragment of an outer packet. Balancers forbid fragmenting, and nothing here puts one together.
    Fragment = 5,
    /// Dropped: congestion on the way, which a sender that does not speak ECN must learn by a loss (RFC 6040, 4.2).
    Congested = 6,
}

/// All outcomes in the order of their numbers.
pub const OUTCOMES: [Outcome; 7] = [
    Outcome::Unwrapped,
    Outcome::Other,
    Outcome::Foreign,
    Outcome::NotVip,
    Outcome::Malformed,
    Outcome::Fragment,
    Outcome::Congested,
];

impl Outcome {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unwrapped => "unwrapped",
            Self::Other => "pass_other",
            Self::Foreign => "drop_foreign",
            Self::NotVip => "drop_not_vip",
            Self::Malformed => "drop_malformed",
            Self::Fragment => "drop_fragment",
            Self::Congested => "drop_congested",
        }
    }

    /// Whether the frame goes up the stack.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Unwrapped | Self::Other)
    }
}

/// What the decision asks for.
pub trait Known {
    /// Whether outer packets from here are believed.
    fn balancer(&mut self, source: &Addr) -> bool;
    /// Whether inner packets may be for this address.
    fn vip(&mut self, addr: &Addr) -> bool;
}

/// The ECN field of the packet that goes on, from the inner and the outer one; [`DROP`] if none does (RFC 6040, figure 4).
#[inline(always)]
pub const fn merge(inner: u8, outer: u8) -> u8 {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => DROP,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (inner, _) => inner,
    }
}

/// [`merge`]: congestion that the sender could not be told.
pub const DROP: u8 = 4;

/// What the outer header says.
struct Outer {
    length: usize,
    payload: u16,
    class: u8,
    next: u8,
}

/// Decides about a frame, and takes its outer header off.
#[inline(always)]
pub fn unwrap<F: Frame + ?Sized, K: Known>(frame: &mut F, known: &mut K) -> Outcome {
    match frame.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_IPV4) => {
            let Some(header) = frame.read::<[u8; ipv4::LEN]>(L3) else { return Outcome::Other };
            if header[9] != IPV4 && header[9] != IPV6 {
                return Outcome::Other;
            }
            let total = u16::from_be_bytes([header[2], header[3]]);
            let source = Addr::v4([header[12], header[13], header[14], header[15]]);
            if !known.balancer(&source) {
                return Outcome::Foreign;
            }
            if (header[6] & 0x3f) | header[7] != 0 {
                return Outcome::Fragment;
            }
            // Version 4, and five words: options are nothing that a balancer sends.
            if header[0] != 0x45 || (total as usize) < ipv4::LEN {
                return Outcome::Malformed;
            }
            let payload = total - ipv4::LEN as u16;
            inner(frame, known, &Outer { length: ipv4::LEN, payload, class: header[1], next: header[9] })
        }
        Some(ETHERTYPE_IPV6) => {
            let Some(head) = frame.read::<[u8; 8]>(L3) else { return Outcome::Other };
            // Behind extension headers too: a stranger's tunnel is no less one for a fragment header, or an option that limits how deep.
            let extended = is_extension(head[6]);
            let Behind { next, fragment, beyond } = behind(frame, head[6]);
            if beyond {
                return Outcome::Malformed;
            }
            if next != IPV4 && next != IPV6 {
                return Outcome::Other;
            }
            let Some(source) = frame.read::<Addr>(L3 + ipv6::SRC) else { return Outcome::Malformed };
            // A mapped address in an IPv6 header would stand for an IPv4 balancer.
            if source.is_v4() || !known.balancer(&source) {
                return Outcome::Foreign;
            }
            if fragment {
                return Outcome::Fragment;
            }
            if extended || head[0] >> 4 != 6 {
                return Outcome::Malformed;
            }
            let payload = u16::from_be_bytes([head[4], head[5]]);
            let class = head[0] << 4 | head[1] >> 4;
            inner(frame, known, &Outer { length: ipv6::LEN, payload, class, next })
        }
        _ => Outcome::Other,
    }
}

/// What is behind the extension headers of an outer IPv6 header.
struct Behind {
    next: u8,
    /// One of them is a fragment header.
    fragment: bool,
    /// There are more than anybody looks behind: they might hide a tunnel.
    beyond: bool,
}

#[inline(always)]
fn behind<F: Frame + ?Sized>(frame: &F, first: u8) -> Behind {
    let mut behind = Behind { next: first, fragment: false, beyond: false };
    let mut at = (L3 + ipv6::LEN) as u8;
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(behind.next) {
            return behind;
        }
        // Cut short, it is nothing that a stack makes anything of.
        let Some(head) = frame.read::<[u8; 8]>(at as usize) else { return behind };
        let mut length = (head[1] as usize + 1) * 8;
        let mut later = false;
        if behind.next == FRAGMENT {
            length = 8;
            behind.fragment = true;
            later = u16::from_be_bytes([head[2], head[3]]) & !7 != 0;
        }
        behind.next = head[0];
        let end = at as usize + length;
        if later {
            // What follows is no header: the first fragment has been judged by what it held.
            return behind;
        }
        if end > LIMIT {
            behind.beyond = true;
            return behind;
        }
        at = end as u8;
    }
    behind.beyond = is_extension(behind.next);
    behind
}

#[inline(always)]
fn inner<F: Frame + ?Sized, K: Known>(frame: &mut F, known: &mut K, outer: &Outer) -> Outcome {
    let at = L3 + outer.length;
    if at + outer.payload as usize > frame.length() {
        return Outcome::Malformed;
    }
    if outer.next == IPV4 {
        let Some(header) = frame.read::<[u8; ipv4::LEN]>(at) else { return Outcome::Malformed };
        let total = u16::from_be_bytes([header[2], header[3]]);
        if header[0] >> 4 != 4 || header[0] & 0x0f < 5 || total > outer.payload {
            return Outcome::Malformed;
        }
        if !known.vip(&Addr::v4([header[16], header[17], header[18], header[19]])) {
            return Outcome::NotVip;
        }
        let ecn = merge(header[1], outer.class);
        if ecn == DROP {
            return Outcome::Congested;
        }
        let class = header[1] & !3 | ecn;
        if class != header[1] {
            let old = u16::from_ne_bytes([header[0], header[1]]);
            let new = u16::from_ne_bytes([header[0], class]);
            let checksum = u16::from_ne_bytes([header[10], header[11]]);
            let checksum = Delta::default().word(old, new).apply(checksum);
            if !(frame.write(at + 1, class) && frame.write(at + ipv4::CHECKSUM, checksum)) {
                return Outcome::Malformed;
            }
        }
        return strip(frame, outer.length, ETHERTYPE_IPV4);
    }
    let Some(head) = frame.read::<[u8; 8]>(at) else { return Outcome::Malformed };
    let Some(to) = frame.read::<Addr>(at + ipv6::DST) else { return Outcome::Malformed };
    let payload = u16::from_be_bytes([head[4], head[5]]) as u32;
    if head[0] >> 4 != 6 || payload + ipv6::LEN as u32 > outer.payload as u32 {
        return Outcome::Malformed;
    }
    if to.is_v4() || !known.vip(&to) {
        return Outcome::NotVip;
    }
    let ecn = merge(head[1] >> 4, outer.class);
    if ecn == DROP {
        return Outcome::Congested;
    }
    // The class's last two bits are bits 4 and 5 of the second byte.
    if !frame.write(at + 1, head[1] & 0xcf | ecn << 4) {
        return Outcome::Malformed;
    }
    strip(frame, outer.length, ETHERTYPE_IPV6)
}

/// Takes the outer header off from below the Ethernet header.
#[inline(always)]
fn strip<F: Frame + ?Sized>(frame: &mut F, bytes: usize, ether_type: u16) -> Outcome {
    let Some(dst) = frame.read::<[u8; 6]>(0) else { return Outcome::Malformed };
    let Some(src) = frame.read::<[u8; 6]>(6) else { return Outcome::Malformed };
    let done = frame.strip(bytes)
        && frame.write(0, dst)
        && frame.write(6, src)
        && frame.write(ETHERTYPE, ether_type);
    if done { Outcome::Unwrapped } else { Outcome::Malformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_is_merged_as_rfc_6040_says() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let order = [0, 2, 1, 3];
        let table = [[0, 0, 0, DROP], [2, 2, 1, 3], [1, 1, 1, 3], [3, 3, 3, 3]];
        for (inner, row) in order.into_iter().zip(table) {
            for (outer, out) in order.into_iter().zip(row) {
                assert_eq!(merge(inner, outer), out, "inner {inner}, outer {outer}");
                assert_eq!(merge(0xfc | inner, 0xb8 | outer), out, "DSCP has no say");
            }
        }
    }

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, outcome) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert!(OUTCOMES[..index].iter().all(|other| other.name() != outcome.name()));
        }
    }
}
