//! Traces as people ask for them and are told: what the API carries and the command line prints.

pub mod pcapng;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, Serializer};
use zdd_common::reason::REASONS;
use zdd_common::trace::reason_bit;

use crate::prefix::Prefix;
use crate::text::Unreadable;

/// Which packets, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFilter {
    /// Only of this service; `None`: any, and those of none.
    pub service: Option<String>,
    /// Bit n: those with the reason of number n.
    pub reasons: u64,
    /// Only from or to this network.
    pub from: Option<Prefix>,
    /// Packets per second at the most.
    pub rate: u32,
    /// Bytes of each frame at the most.
    pub snap: u32,
}

/// Packets per second unless asked otherwise.
pub const RATE: u32 = 100;
/// Packets per second at the most: a look, not a capture.
pub const RATE_MAX: u32 = 10_000;
/// Bytes of a frame unless asked otherwise: its headers.
pub const SNAP: u32 = 96;
/// Bytes of a frame at the most.
pub const SNAP_MAX: u32 = 9_216;

/// The reasons that a word names: one by its name, or all of a kind: `pass` or `drop`.
///
/// # Errors
/// There is no such reason.
pub fn reasons(word: &str) -> Result<u64, Unreadable> {
    let kind = matches!(word, "pass" | "drop").then(|| format!("{word}_"));
    let named = |name: &str| name == word || kind.as_ref().is_some_and(|kind| name.starts_with(kind));
    let bits = REASONS
        .iter()
        .filter(|reason| named(reason.name()))
        .fold(0, |bits, reason| bits | reason_bit(*reason));
    if bits == 0 {
        let all: Vec<&str> = REASONS.iter().map(|reason| reason.name()).collect();
        return Err(Unreadable(format!(
            "`{word}` is no packet reason; write pass, drop, or one of {}",
            all.join(", ")
        )));
    }
    Ok(bits)
}

/// One packet, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// When, in nanoseconds since 1970 by the clock of this machine.
    pub unix_ns: u64,
    /// Interface that it came in by.
    pub interface: String,
    /// `pass`, `drop`, `transmit` (by the same interface) or `redirect` (by another).
    pub verdict: String,
    /// Why, by the name that `zdd status` counts it under.
    pub reason: String,
    /// `tcp`, `udp` or a number; `None`: it could not be read.
    pub protocol: Option<String>,
    /// Its source as it came.
    pub from: Option<SocketAddr>,
    /// Its destination as it came.
    pub to: Option<SocketAddr>,
    /// The service it belongs to.
    pub service: Option<String>,
    /// The version of its backend.
    pub version: Option<String>,
    /// The backend that it was sent to, or that sent it.
    pub backend: Option<SocketAddr>,
    /// Length of the frame as it left zdd.
    pub bytes: u32,
    /// Packets that were wanted and are not told, since the one before.
    pub missed: u64,
    /// The first bytes of the frame, as it left zdd: rewritten already.
    pub frame: Frame,
}

/// Bytes that are written as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        to.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(from)?;
        let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        bytes.map(Frame).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

impl TracedPacket {
    /// What became of it, in one line without its time.
    pub fn told(&self) -> String {
        let mut text = format!("{:<9}{:<17}", self.verdict, self.reason);
        if let (Some(protocol), Some(from), Some(to)) = (&self.protocol, self.from, self.to) {
            text.push_str(&format!(" {protocol} {from} > {to}"));
        }
        if let Some(service) = &self.service {
            text.push_str(&format!("  {service}"));
            if let (Some(version), Some(backend)) = (&self.version, self.backend) {
                text.push_str(&format!("/{version} {backend}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_one_reason_or_a_kind() {
        assert_eq!(reasons("new").unwrap().count_ones(), 1);
        let drops = REASONS.iter().filter(|reason| reason.name().starts_with("drop_")).count();
        assert_eq!(reasons("drop").unwrap().count_ones() as usize, drops);
        assert!(reasons("dropped").unwrap_err().0.contains("write pass, drop, or one of settled"));
    }

    #[test]
    fn a_packet_reads_what_it_writes() {
        let packet = TracedPacket {
            unix_ns: 1,
            interface: "eth0".into(),
            verdict: "redirect".into(),
            reason: "new".into(),
            protocol: Some("tcp".into()),
            from: Some("10.0.0.1:40000".parse().unwrap()),
            to: Some("10.0.0.10:80".parse().unwrap()),
            service: Some("web".into()),
            version: Some("v2".into()),
            backend: Some("10.1.0.2:8080".parse().unwrap()),
            bytes: 74,
            missed: 0,
            frame: Frame(vec![0, 0xab]),
        };
        let text = serde_json::to_string(&packet).unwrap();
        assert!(text.ends_with("\"frame\":\"00ab\"}"), "{text}");
        assert_eq!(serde_json::from_str::<TracedPacket>(&text).unwrap(), packet);
        assert_eq!(
            packet.told(),
            "redirect new               tcp 10.0.0.1:40000 > 10.0.0.10:80  web/v2 10.1.0.2:8080"
        );
    }
}
