//! IPv6 extension headers (RFC 8200, 4): walked up to a stated limit, and left in place. A fragment header
//! must be the last: more headers in the part that is divided up are beyond the limit.

use super::{Done, View, done};
use crate::frame::Frame;
use crate::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX};
use crate::packet::{L3, ipv6};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// At a header that is no extension, or one that is not looked behind (ESP, AH, no next header); or at a later fragment.
    Header,
    /// At a routing header with segments left: the destination is only a stop on the way.
    Elsewhere,
    /// At a limit.
    TooLong,
    /// Beyond the frame.
    Cut,
}

/// A chain of extension headers.
pub(super) struct Chain {
    /// Number of the header at `at`.
    pub(super) next: u8,
    /// Its offset in the frame.
    pub(super) at: u8,
    pub(super) end: End,
    /// See `Odd::fragment`.
    pub(super) fragment: u16,
    /// The datagram's number, as it stands in the frame.
    pub(super) id: u32,
}

impl Chain {
    #[inline(always)]
    pub(super) const fn new(next: u8) -> Self {
        let at = (L3 + ipv6::LEN) as u8;
        Self { next, at, end: End::Header, fragment: 0, id: 0 }
    }
}

/// Where the headers end at the latest.
pub(crate) const LIMIT: usize = L3 + ipv6::LEN + EXTENSION_BYTES_MAX;
const _: () = assert!(LIMIT <= u8::MAX as usize, "offsets of transport headers are bytes");

/// Follows the chain to its end.
// A function of its own, so that the verifier meets its paths once and what follows only afterwards.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn walk<F: Frame>(frame: &mut View<F>, chain: &mut Chain) -> Done {
    follow(frame, chain);
    done()
}

#[inline(always)]
fn follow<F: Frame>(frame: &mut View<F>, chain: &mut Chain) {
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(chain.next) {
            return;
        }
        let Some(head) = frame.read::<[u8; 8]>(chain.at as usize) else {
            chain.end = End::Cut;
            return;
        };
        let mut length = (head[1] as usize + 1) * 8;
        if chain.next == FRAGMENT {
            length = 8;
            let field = u16::from_be_bytes([head[2], head[3]]);
            chain.fragment = field & !6;
            chain.id = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        } else if chain.next == ROUTING && head[3] != 0 {
            chain.end = End::Elsewhere;
            return;
        }
        let at = chain.at as usize + length;
        if at > LIMIT {
            chain.end = End::TooLong;
            return;
        }
        let last = chain.next == FRAGMENT;
        chain.next = head[0];
        chain.at = at as u8;
        if last {
            break;
        }
    }
    // Of a later fragment the next header tells what its first one begins with.
    if is_extension(chain.next) && chain.fragment & !7 == 0 {
        chain.end = End::TooLong;
    }
}

#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}
