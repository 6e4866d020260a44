//! A frame seen as if it were plain: tags, or what lies before a quoted packet, left out.
//!
//! Everything behind the MAC addresses is read and written `skip` bytes further back. So parsing and rewriting know one
//! layout, and what is skipped stays in place untouched.

use crate::frame::Frame;
use crate::packet::{ETHERTYPE, ETHERTYPE_QINQ, ETHERTYPE_VLAN, L3, ipv4};
use crate::wire::Wire;

/// Length of a VLAN tag (IEEE 802.1Q).
const TAG: u16 = 4;
/// Ethernet and IPv4 headers.
const SHORTEST: usize = L3 + ipv4::LEN;
/// The 12 bits of a tag that number the VLAN; the others are priority and drop eligibility.
const VID: u16 = 0x0fff;
/// Upper bound of `skip`, for the verifier: two tags, Ethernet, IPv6 with extensions and the ICMP header before a quote, or two IPv6 headers
/// and it.
const SKIP_MASK: usize = 0x1ff;

/// A frame without its tags.
pub(crate) struct View<F> {
    frame: F,
    skip: u16,
    tags: u32,
    /// See [`Frame::headless`].
    pub(crate) headless: bool,
}

impl<F: Frame> View<F> {
    /// Skips up to two tags. A third one is no EtherType that anybody knows. `None`: too short for any IP packet.
    #[inline(always)]
    pub(crate) fn of(frame: F) -> Option<Self> {
        // Asked for once and for all: had the verifier seen more of the frame on one path than on another, it would follow all
        // that comes after once for each.
        frame.read::<u16>(SHORTEST - 2)?;
        let (mut skip, mut tags) = (0, 0);
        let mut shift = 0;
        for _ in 0..2 {
            let at = ETHERTYPE + skip as usize;
            if !matches!(frame.read::<u16>(at), Some(ETHERTYPE_VLAN | ETHERTYPE_QINQ)) {
                break;
            }
            let Some(control) = frame.read::<u16>(at + 2) else { break };
            tags |= ((u16::from_be(control) & VID) as u32) << shift;
            shift = 16;
            skip += TAG;
        }
        // The same numbers, of which the verifier knows their bits only: it would follow all that comes after once for each.
        let kind = frame.read::<u16>(ETHERTYPE).unwrap_or(0);
        let zero = core::hint::black_box(kind).wrapping_sub(kind);
        let skip = skip.wrapping_add(zero) & (3 * TAG);
        let tags = tags | zero as u32;
        Some(Self { frame, skip, tags, headless: false })
    }

    /// A frame of which another program has seen how much to skip.
    #[inline(always)]
    pub(crate) fn resume(frame: F, skip: u16, tags: u32, headless: bool) -> Self {
        Self { frame, skip: skip & (3 * TAG), tags, headless }
    }

    /// How many bytes are skipped.
    #[inline(always)]
    pub(crate) fn skip(&self) -> u16 {
        self.skip
    }

    /// Leaves `more` bytes out from now on: what lies there is seen as the network header.
    #[inline(always)]
    pub(crate) fn deeper(&mut self, more: u16) {
        self.skip = self.skip.wrapping_add(more);
    }

    /// Undoes [`View::deeper`].
    #[inline(always)]
    pub(crate) fn back(&mut self, more: u16) {
        self.skip = self.skip.wrapping_sub(more);
    }

    #[inline(always)]
    fn at(&self, offset: usize) -> usize {
        offset + (self.skip as usize & SKIP_MASK)
    }
}

impl<F: Frame> Frame for View<F> {
    #[inline(always)]
    fn length(&self) -> usize {
        // The skipped bytes were read, so they are there.
        self.frame.length().wrapping_sub(self.skip as usize)
    }

    #[inline(always)]
    fn size(&self) -> usize {
        self.frame.size()
    }

    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        self.frame.read(self.at(offset))
    }

    #[inline(always)]
    fn write<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        self.frame.write(self.at(offset), value)
    }

    #[inline(always)]
    fn read_link<T: Wire>(&self, offset: usize) -> Option<T> {
        self.frame.read_link(offset)
    }

    #[inline(always)]
    fn write_link<T: Wire>(&mut self, offset: usize, value: T) -> bool {
        self.frame.write_link(offset, value)
    }

    // Tags move along to the new front; where more is skipped, nothing may come before it. What goes in front is an IP header at the
    // least, longer than the tags: they are not overwritten while they are read.
    #[inline(always)]
    fn prepend(&mut self, bytes: usize) -> bool {
        // Of a copy that the compiler does not know: else it would find the mask of later offsets needless, by a bound that the verifier
        // of Linux 6.1 does not see there.
        let skip = core::hint::black_box(self.skip);
        if skip > 2 * TAG || !self.frame.prepend(bytes) {
            return false;
        }
        for tag in 0..2 {
            let at = ETHERTYPE + (tag * TAG) as usize;
            if tag * TAG < skip {
                let Some(moved) = self.frame.read::<u32>(bytes + at) else { return false };
                if !self.frame.write(at, moved) {
                    return false;
                }
            }
        }
        true
    }

    // Tags move along to the new front, as above.
    #[inline(always)]
    fn strip(&mut self, bytes: usize) -> bool {
        let skip = core::hint::black_box(self.skip);
        let Some(tags) = self.frame.read::<[u32; 2]>(ETHERTYPE) else { return false };
        skip <= 2 * TAG
            && self.frame.strip(bytes)
            && (skip < TAG || self.frame.write(ETHERTYPE, tags[0]))
            && (skip < 2 * TAG || self.frame.write(ETHERTYPE + TAG as usize, tags[1]))
    }

    // Behind tags at the most: where more is skipped, the end belongs to another packet.
    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        let skip = core::hint::black_box(self.skip);
        skip <= 2 * TAG && self.frame.truncate(length + (skip & (3 * TAG)) as usize)
    }

    #[inline(always)]
    fn tags(&self) -> u32 {
        self.tags
    }

    #[inline(always)]
    fn headless(&self) -> bool {
        self.headless
    }
}
