//! The Internet checksum, changed without reading the data again (RFC 1624, equation 3).

/// A sum of 16-bit words in network order as they stand in memory, not yet folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// Of nothing.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A field of two bytes changed; both values as read from the frame.
    #[inline(always)]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// A field of four bytes changed; both values as read from the frame.
    #[inline(always)]
    pub const fn double(self, old: u32, new: u32) -> Self {
        self.word(old as u16, new as u16).word((old >> 16) as u16, (new >> 16) as u16)
    }

    /// A field of eight bytes changed; both values as read from the frame.
    #[inline(always)]
    pub const fn quad(self, old: u64, new: u64) -> Self {
        self.double(old as u32, new as u32).double((old >> 32) as u32, (new >> 32) as u32)
    }

    /// Four bytes that were not there before, as they stand in the frame.
    #[inline(always)]
    pub const fn more(self, new: u32) -> Self {
        Self(self.0 + (new & 0xffff) as u64 + (new >> 16) as u64)
    }

    /// Eight bytes that were not there before, as they stand in the frame.
    #[inline(always)]
    pub const fn more_quad(self, new: u64) -> Self {
        self.more(new as u32).more((new >> 32) as u32)
    }

    /// The checksum of what was added, as it goes into the frame: one of a new header, with 0 in its own place.
    #[inline(always)]
    pub const fn whole(self) -> u16 {
        self.apply(0xffff)
    }

    /// The checksum after the changes; before and after as they stand in the frame.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let mut sum = self.0 + (!checksum) as u64;
        sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}

/// The checksum after the first byte of one of its words became less by one, as a time to live does.
#[inline(always)]
pub const fn after_one_less(checksum: u16) -> u16 {
    // The word falls by this, so the checksum, which is the sum's complement, rises by it; 0xffff stands for 0 (RFC 1624).
    let sum = checksum as u32 + u16::from_ne_bytes([1, 0]) as u32;
    (sum + ((sum + 1) >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(data: &[u16]) -> u16 {
        let mut sum: u32 = data.iter().map(|w| u32::from(*w)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn one_less_is_what_the_general_way_says() {
        for first in 1..=u8::MAX {
            for rest in 0..=u16::MAX {
                let [proto, other] = rest.to_ne_bytes();
                let (old, new) = (u16::from_ne_bytes([first, proto]), u16::from_ne_bytes([first - 1, proto]));
                // Every checksum but the one that no header has.
                let checksum = rest.wrapping_mul(u16::from(other) | 1).min(0xfffe);
                assert_eq!(after_one_less(checksum), Delta::new().word(old, new).apply(checksum));
            }
        }
        for checksum in 0..0xffff {
            let general = Delta::new().word(u16::from_ne_bytes([9, 6]), u16::from_ne_bytes([8, 6]));
            assert_eq!(after_one_less(checksum), general.apply(checksum), "{checksum:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_the_one_of_the_changed_data(mut data in prop::collection::vec(any::<u16>(), 8..40), new: u64, port: u16) {
            // A packet with all words 0 does not exist: version, length and protocol are never 0.
            data.push(0x4500);
            let old = u64::from(data[0]) | u64::from(data[1]) << 16 | u64::from(data[2]) << 32 | u64::from(data[3]) << 48;
            let before = whole(&data);
            let delta = Delta::default().quad(old, new).word(data[4], port);
            for (i, word) in data.iter_mut().take(4).enumerate() {
                *word = (new >> (16 * i)) as u16;
            }
            data[4] = port;
            prop_assert_eq!(delta.apply(before), whole(&data));
        }
    }
}
