//! Address prefixes, as `10.255.0.0/16`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zdd_common::net::Addr;

use crate::text::Unreadable;

/// A prefix; all bits behind it are 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    /// Its first address.
    pub addr: IpAddr,
    /// Bits that belong to it, of 32 or 128.
    pub length: u8,
}

/// Where outer headers of `ipip` come from when the configuration says nothing; `zdd decap` believes the same.
pub const ENCAP_SOURCES: [Prefix; 2] = [
    Prefix { addr: IpAddr::V4(Ipv4Addr::new(10, 255, 0, 0)), length: 16 },
    Prefix { addr: IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x6464, 0, 0, 0, 0, 0, 0)), length: 64 },
];

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// Every IPv6 address.
    pub const ALL_V6: Self = Self { addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The prefix of so many bits that an address lies in.
    pub fn of(addr: IpAddr, length: u8) -> Self {
        let prefix = Self { addr, length };
        let addr = match addr {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & prefix.mask() as u32).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & prefix.mask()).into()),
        };
        Self { addr, length }
    }

    /// Bits of an address of its family.
    pub fn width(&self) -> u8 {
        if self.addr.is_ipv4() { 32 } else { 128 }
    }

    /// The bits of an address's last four bytes that are behind the prefix, host order.
    pub fn free_low_bits(&self) -> u32 {
        let free = u32::from(self.width() - self.length);
        u32::MAX.checked_shr(32 - free.min(32)).unwrap_or(0)
    }

    /// Whether an address lies in it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(own), IpAddr::V4(addr)) => u32::from(own) == u32::from(addr) & self.mask() as u32,
            (IpAddr::V6(own), IpAddr::V6(addr)) => u128::from(own) == u128::from(addr) & self.mask(),
            _ => false,
        }
    }

    /// As traces compare it: its first address and its mask, an IPv4 one behind the 96 bits that it has in maps.
    pub fn as_map_words(&self) -> (Addr, Addr) {
        let length = u32::from(128 - self.width() + self.length);
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        (self.addr.into(), Addr::v6(mask.to_be_bytes()))
    }

    fn mask(&self) -> u128 {
        let left = u32::from(128 - self.width() + self.length);
        u128::MAX.checked_shl(128 - left).unwrap_or(0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = Unreadable;

    /// Reads what [`Display`](fmt::Display) writes; an address alone is a prefix of all its bits.
    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let wrong = || {
            Unreadable(format!(
                "`{text}` is not an address prefix; write address/length, as \"10.255.0.0/16\" or \"fd00:1::/64\""
            ))
        };
        let (addr, length) = text.split_once('/').map_or((text, None), |(addr, length)| (addr, Some(length)));
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let width = if addr.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(text) => text.parse().ok().filter(|length| *length <= width).ok_or_else(wrong)?,
            None => width,
        };
        let prefix = Self::of(addr, length);
        if prefix.addr != addr {
            return Err(Unreadable(format!("`{text}` has bits behind its length; write {prefix}")));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_written() {
        for text in
            ["10.255.0.0/16", "0.0.0.0/0", "192.0.2.1/32", "fd7a:6464::/64", "::/0", "2001:db8::1/128"]
        {
            assert_eq!(text.parse::<Prefix>().map(|prefix| prefix.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("192.0.2.1".parse::<Prefix>().map(|p| p.to_string()), Ok("192.0.2.1/32".to_owned()));
        for (text, said) in [
            ("10.0.0.0/33", "is not an address prefix"),
            ("10.0.0/8", "is not an address prefix"),
            ("fd00::/129", "is not an address prefix"),
            ("fd00::/-1", "is not an address prefix"),
            ("10.255.3.0/16", "write 10.255.0.0/16"),
            ("fd00::1/64", "write fd00::/64"),
        ] {
            let error = text.parse::<Prefix>().expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn what_lies_in_a_prefix() {
        for (prefix, addr, inside) in [
            ("10.255.0.0/16", "10.255.255.255", true),
            ("10.255.0.0/16", "10.254.255.255", false),
            ("10.255.0.0/16", "::ffff:10.255.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("192.0.2.1/32", "192.0.2.2", false),
            ("fd00::/64", "fd00::1:2:3:4", true),
            ("fd00::/64", "fd00:0:0:1::", false),
            ("::/0", "10.0.0.1", false),
        ] {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            assert_eq!(prefix.contains(addr.parse().expect("an address")), inside, "{prefix} {addr}");
        }
    }

    #[test]
    fn what_a_prefix_leaves_free_of_the_last_four_bytes() {
        for (text, free) in [
            ("10.255.0.0/16", 0xffff),
            ("10.0.0.0/8", 0xff_ffff),
            ("10.0.0.1/32", 0),
            ("0.0.0.0/0", u32::MAX),
            ("fd00::/64", u32::MAX),
            ("fd00::/96", u32::MAX),
            ("fd00::/112", 0xffff),
            ("fd00::1/128", 0),
        ] {
            assert_eq!(text.parse::<Prefix>().map(|prefix| prefix.free_low_bits()), Ok(free), "{text}");
        }
    }
}
