//! How the domain's values are written and read: one place, so that configuration, commands, state and reports agree.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::desired::{Affinity, BasisPoints, FULL, Forward, Protocol, UdpPolicy, Vip};

/// A text that is not what it should be; the message says what was expected, with an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Affinity::Flow => "flow",
            Affinity::Client => "client",
            Affinity::ClientVersion => "client-version",
        })
    }
}

impl fmt::Display for UdpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UdpPolicy::Stick => "stick",
            UdpPolicy::Now => "now",
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Forward::L2 => "l2",
            Forward::Nat => "nat",
            Forward::Ipip => "ipip",
            Forward::Snat => "snat",
        })
    }
}

impl Vip {
    /// Address and port, without the protocol.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
}

/// An address with what stands where its port would.
pub fn at_port(addr: IpAddr, ports: &str) -> String {
    match addr {
        IpAddr::V4(v4) => format!("{v4}:{ports}"),
        IpAddr::V6(v6) => format!("[{v6}]:{ports}"),
    }
}

/// `10.0.0.10:80/tcp`, `[2001:db8::1]:443/udp`, `10.0.0.10:8000-8099/tcp`, `10.0.0.10:*/tcp`.
impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ports();
        let ports = match self.more {
            0 => first.to_string(),
            u16::MAX => "*".to_owned(),
            _ => format!("{first}-{last}"),
        };
        write!(f, "{}/{}", at_port(self.addr, &ports), self.protocol)
    }
}

impl FromStr for Vip {
    type Err = Unreadable;

    /// Reads what [`Display`](fmt::Display) writes. Whether the address can be a VIP is for `config` to judge.
    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let wrong = || {
            Unreadable(format!(
                "`{text}` is not a VIP; write address:port/protocol, as \"10.0.0.10:80/tcp\" or \"[2001:db8::1]:443/udp\"; a range of ports as 8000-8099, all ports as *"
            ))
        };
        let (socket, protocol) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (host, ports) = socket.rsplit_once(':').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let (port, more) = match ports.split_once('-') {
            _ if ports == "*" => (0, u16::MAX),
            None => (number(ports)?, 0),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                let more =
                    last.checked_sub(first).filter(|more| first > 0 && *more > 0).ok_or_else(|| {
                        Unreadable(format!(
                            "`{ports}` is no range of ports; write the lower one first, as 8000-8099"
                        ))
                    })?;
                (first, more)
            }
        };
        // With a port, because an address alone may be written without the brackets.
        let socket: SocketAddr = format!("{host}:{port}").parse().map_err(|_| wrong())?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        Ok(Vip { addr: socket.ip(), port, more, protocol })
    }
}

/// Reads a backend: `addr:port`, or `addr:*` (port 0) behind a VIP of all ports.
pub fn parse_backend(text: &str) -> Result<SocketAddr, Unreadable> {
    match text.strip_suffix(":*") {
        Some(host) => parse_socket(&format!("{host}:0")),
        None => parse_socket(text),
    }
}

/// Reads `addr:port`; the error shows both families.
pub fn parse_socket(text: &str) -> Result<SocketAddr, Unreadable> {
    text.parse().map_err(|_| {
        if let Ok(addr) = text.parse::<IpAddr>() {
            let written = if addr.is_ipv4() { addr.to_string() } else { format!("[{addr}]") };
            return Unreadable(format!("`{text}` has no port; write {written}:PORT"));
        }
        Unreadable(format!(
            "`{text}` is not an address; write address:port, as \"10.1.0.1:8080\" or \"[2001:db8::2]:8080\""
        ))
    })
}

/// Reads a share: `10`, `12.5`, `12.5%`, at most two decimals, 0 to 100. Decimal digits only, so that nothing is rounded.
pub fn parse_percent(text: &str) -> Result<BasisPoints, Unreadable> {
    let wrong = |why: &str| {
        Unreadable(format!(
            "`{text}` is not a weight: {why}; write a percentage from 0 to 100, as 10, 12.5 or \"0.25%\""
        ))
    };
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(decimals) {
        return Err(wrong("it is not a number"));
    }
    // Zeros at the end say nothing: 12.500 is 12.5, as a TOML writer may put it.
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > 2 {
        return Err(wrong("a share is exact to two decimals"));
    }
    let above = || wrong("it is above 100");
    let whole: u32 = whole.parse().map_err(|_| above())?;
    let hundredths: u32 = format!("{decimals:0<2}").parse().map_err(|_| above())?;
    let points =
        whole.checked_mul(100).and_then(|points| points.checked_add(hundredths)).ok_or_else(above)?;
    if points > FULL { Err(above()) } else { Ok(points) }
}

/// Writes a share as [`parse_percent`] reads it, as short as it gets: `100%`, `12.5%`, `0.01%`.
pub fn percent(points: BasisPoints) -> String {
    let (whole, hundredths) = (points / 100, points % 100);
    match (hundredths, hundredths % 10) {
        (0, _) => format!("{whole}%"),
        (_, 0) => format!("{whole}.{}%", hundredths / 10),
        _ => format!("{whole}.{hundredths:02}%"),
    }
}

/// Reads a duration: `350s`, `500ms`, `2m`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, Unreadable> {
    humantime::parse_duration(text)
        .map_err(|_| Unreadable(format!("`{text}` is not a duration; write \"350s\", \"500ms\" or \"2m\"")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vip_reads_what_it_writes() {
        for text in [
            "10.0.0.10:80/tcp",
            "[2001:db8::1]:443/udp",
            "10.0.0.10:8000-8099/tcp",
            "[2001:db8::1]:1-65535/udp",
            "10.0.0.10:*/tcp",
            "[2001:db8::1]:*/udp",
        ] {
            assert_eq!(text.parse::<Vip>().unwrap().to_string(), text);
        }
        for text in [
            "10.0.0.10:80",
            "10.0.0.10/tcp",
            "10.0.0.10:80/sctp",
            "web:80/tcp",
            "10.0.0.10:8099-8000/tcp",
            "10.0.0.10:80-80/tcp",
            "10.0.0.10:0-80/tcp",
            "10.0.0.10:80-/tcp",
            "10.0.0.10:80-70000/tcp",
            "10.0.0.10:**/tcp",
            "2001:db8::1:*/tcp",
            "2001:db8::1:443/udp/x",
            "",
        ] {
            assert!(text.parse::<Vip>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn weights_are_read_exactly_or_not_at_all() {
        for (text, points) in [
            ("0", 0),
            ("100", 10_000),
            ("100%", 10_000),
            ("12.5", 1_250),
            ("12.50", 1_250),
            ("0.01%", 1),
            ("29.29", 2_929),
        ] {
            assert_eq!(parse_percent(text), Ok(points), "{text}");
        }
        for text in ["", "%", "-1", "100.01", "101", "1e1", "0.001", ".5", "5.", "99999999999", "NaN", "1_0"]
        {
            assert!(parse_percent(text).is_err(), "{text} was taken");
        }
    }

    proptest! {
        #[test]
        fn every_weight_survives_being_written(points in 0..=FULL) {
            prop_assert_eq!(parse_percent(&percent(points)), Ok(points));
        }
    }
}
