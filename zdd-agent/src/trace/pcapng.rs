//! Traced packets as a pcapng file (draft-ietf-opsawg-pcapng), for Wireshark and its kin: each frame with what became of it as its
//! comment, and with the verdict as the option that the format has for XDP. Only writing, and only the blocks that it needs.

use super::TracedPacket;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Tells the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
/// Of a section: the program that wrote it.
const USER_APPL: u16 = 4;
/// Of an interface.
const NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
/// Of a packet: those lost between it and the one before.
const DROP_COUNT: u16 = 4;
const VERDICT: u16 = 7;
/// The verdict is what an XDP program returned.
const XDP: u8 = 2;

/// Writes one file. Interfaces are named in it as their first packets come.
#[derive(Debug)]
pub struct Writer {
    interfaces: Vec<String>,
    snap: u32,
}

impl Writer {
    /// A file of frames of at most `snap` bytes, and how it begins.
    pub fn begin(snap: u32) -> (Self, Vec<u8>) {
        let mut body = Vec::new();
        body.extend(MAGIC.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        // Of unknown length: it goes on until the file ends.
        body.extend(u64::MAX.to_ne_bytes());
        option(&mut body, USER_APPL, concat!("zdd ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, END, &[]);
        (Self { interfaces: Vec::new(), snap }, block(SECTION, &body))
    }

    /// One packet, with its interface in front if it is the first of that one.
    pub fn packet(&mut self, packet: &TracedPacket) -> Vec<u8> {
        let mut out = Vec::new();
        let known = self.interfaces.iter().position(|name| *name == packet.interface);
        let interface = known.unwrap_or_else(|| {
            out = self.interface(&packet.interface);
            self.interfaces.push(packet.interface.clone());
            self.interfaces.len() - 1
        });
        let mut body = Vec::new();
        body.extend((interface as u32).to_ne_bytes());
        body.extend(((packet.unix_ns >> 32) as u32).to_ne_bytes());
        body.extend((packet.unix_ns as u32).to_ne_bytes());
        body.extend((packet.frame.0.len() as u32).to_ne_bytes());
        body.extend(packet.bytes.to_ne_bytes());
        padded(&mut body, &packet.frame.0);
        let words: Vec<String> = packet.told().split_whitespace().map(str::to_owned).collect();
        option(&mut body, COMMENT, format!("zdd: {}", words.join(" ")).as_bytes());
        option(&mut body, DROP_COUNT, &packet.missed.to_ne_bytes());
        let action: u64 = match packet.verdict.as_str() {
            "drop" => 1,
            "pass" => 2,
            "transmit" => 3,
            _ => 4,
        };
        option(&mut body, VERDICT, &[&[XDP], &action.to_ne_bytes()[..]].concat());
        option(&mut body, END, &[]);
        out.extend(block(ENHANCED_PACKET, &body));
        out
    }

    fn interface(&self, name: &str) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        body.extend(self.snap.to_ne_bytes());
        option(&mut body, NAME, name.as_bytes());
        // Times are in units of 10^-9 s.
        option(&mut body, TIME_RESOLUTION, &[9]);
        option(&mut body, END, &[]);
        block(INTERFACE, &body)
    }
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_ne_bytes();
    [&kind.to_ne_bytes(), &length, body, &length].concat()
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    to.extend(code.to_ne_bytes());
    to.extend((value.len() as u16).to_ne_bytes());
    padded(to, value);
}

/// Values fill up to four bytes.
fn padded(to: &mut Vec<u8>, value: &[u8]) {
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Frame;

    #[test]
    fn blocks_have_their_lengths_on_both_ends_and_fill_four_bytes() {
        let packet = |interface: &str| TracedPacket {
            unix_ns: 0x1_0000_0002,
            interface: interface.into(),
            verdict: "drop".into(),
            reason: "drop_ttl".into(),
            protocol: None,
            from: None,
            to: None,
            service: None,
            version: None,
            backend: None,
            bytes: 60,
            missed: 3,
            frame: Frame(vec![1, 2, 3, 4, 5]),
        };
        let (mut writer, mut file) = Writer::begin(96);
        for interface in ["eth0", "eth1", "eth0"] {
            file.extend(writer.packet(&packet(interface)));
        }
        let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(at + length - 4) as usize, length);
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, ENHANCED_PACKET, INTERFACE, ENHANCED_PACKET, ENHANCED_PACKET]);
    }
}
