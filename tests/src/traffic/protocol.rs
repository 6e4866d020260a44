//! The words that clients and servers exchange: lines of text.
//!
//! ```text
//! server, on connect:      HELLO <version> <backend> <the client's address as the server sees it>
//! client:                  <n>          server: <n> <version> <backend>
//! client, to finish:       Q            server: <version> <backend>, and it closes
//! UDP, one per datagram:   <n>          server: <n> <version> <backend>
//! ```

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;

/// Who serves: an index into a [`Fleet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the version.
    pub version: u8,
    /// Index of the backend, over all versions.
    pub backend: u8,
}

/// One backend by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The version's name; no blanks.
    pub version: String,
    /// The backend's name; no blanks.
    pub backend: String,
}

/// All backends that may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    members: Vec<Member>,
    versions: Vec<String>,
}

impl Fleet {
    /// Versions are numbered in the order in which they first occur.
    pub fn new(members: Vec<Member>) -> Self {
        let mut versions: Vec<String> = Vec::new();
        for member in &members {
            if !versions.contains(&member.version) {
                versions.push(member.version.clone());
            }
        }
        Self { members, versions }
    }

    /// The backends in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Names of the versions in order.
    pub fn versions(&self) -> &[String] {
        &self.versions
    }

    /// Index of a version by name.
    pub fn version(&self, name: &str) -> Option<u8> {
        self.versions.iter().position(|v| v == name).and_then(|i| u8::try_from(i).ok())
    }

    /// The place that these names denote; `None`: nobody of ours.
    pub fn place(&self, version: &str, backend: &str) -> Option<Place> {
        let i = self.members.iter().position(|m| m.version == version && m.backend == backend)?;
        Some(Place { version: self.version(version)?, backend: u8::try_from(i).ok()? })
    }
}

/// What a server says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who serves.
    pub place: Place,
    /// The client's address as the server sees it.
    pub source: SocketAddr,
}

/// Reads `HELLO <version> <backend> <source>`.
pub fn parse_greeting(fleet: &Fleet, line: &[u8]) -> Option<Greeting> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != "HELLO" {
        return None;
    }
    let place = fleet.place(words.next()?, words.next()?)?;
    let source = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Greeting { place, source })
}

/// Reads `<version> <backend>`.
pub fn parse_place(fleet: &Fleet, line: &[u8]) -> Option<Place> {
    let (version, backend) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    fleet.place(version, backend)
}

/// Reads `<n> <version> <backend>`.
pub fn parse_echo(fleet: &Fleet, line: &[u8]) -> Option<(u64, Place)> {
    let (n, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((n.parse().ok()?, parse_place(fleet, rest.as_bytes())?))
}

/// Longest line of the protocol; more without an end is not ours.
const LINE_MAX: usize = 256;

/// Cuts a byte stream into lines without allocating per line.
#[derive(Debug)]
pub struct Lines {
    buffer: [u8; LINE_MAX],
    filled: usize,
    /// Length, with its end, of the line that was handed out last.
    taken: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { buffer: [0; LINE_MAX], filled: 0, taken: 0 }
    }
}

impl Lines {
    /// The next line without its end; `None` at the end of the stream. A stream that ends within a line, or a line that is too long, is an
    /// error. Safe to cancel: bytes that were read stay in the buffer.
    pub async fn next<R: AsyncReadExt + Unpin>(&mut self, from: &mut R) -> std::io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        loop {
            if let Some(end) = self.buffer[..self.filled].iter().position(|b| *b == b'\n') {
                self.taken = end + 1;
                return Ok(Some(&self.buffer[..end]));
            }
            if self.filled == LINE_MAX {
                return Err(std::io::Error::other("a line of the peer is too long"));
            }
            let n = from.read(&mut self.buffer[self.filled..]).await?;
            if n == 0 && self.filled == 0 {
                return Ok(None);
            }
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let member = |v: &str, b: &str| Member { version: v.into(), backend: b.into() };
        Fleet::new(vec![member("v1", "b1"), member("v1", "b2"), member("v2", "b3")])
    }

    #[test]
    fn a_greeting_names_a_known_place_and_an_address() {
        let source = "10.80.1.9:4000".parse().expect("an address");
        let place = Place { version: 1, backend: 2 };
        assert_eq!(parse_greeting(&fleet(), b"HELLO v2 b3 10.80.1.9:4000"), Some(Greeting { place, source }));
        for wrong in [
            "HELLO v1 b3 1.1.1.1:1",
            "HELLO v2 b3",
            "HELLO v2 b3 x",
            "v2 b3 1.1.1.1:1",
            "HELLO v2 b3 1.1.1.1:1 x",
        ] {
            assert_eq!(parse_greeting(&fleet(), wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn an_echo_carries_its_number() {
        assert_eq!(parse_echo(&fleet(), b"17 v1 b2"), Some((17, Place { version: 0, backend: 1 })));
        assert_eq!(parse_echo(&fleet(), b"x v1 b2"), None);
        assert_eq!(parse_echo(&fleet(), b"17 v1 b9"), None);
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_the_reads_fall() {
        let (mut write, mut read) = tokio::io::duplex(4);
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut write, b"one\ntwo two\n\nlast").await.expect("written");
        });
        let mut lines = Lines::default();
        for expected in ["one", "two two", ""] {
            let line = lines.next(&mut read).await.expect("a line").expect("not the end");
            assert_eq!(line, expected.as_bytes());
        }
        let cut = lines.next(&mut read).await.expect_err("the last line has no end");
        assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
        writer.await.expect("the writer ends");
    }
}
