//! A server that says who it is, takes bytes and gives bytes, and its client.
#![allow(dead_code, reason = "several tests have a copy of it, and none uses all")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zdd_tests::rig::{Error, Netns, Result};

/// How long anything may stand still.
const STALL: Duration = Duration::from_secs(60);
const CHUNK: usize = 64 * 1024;
/// What is sent repeats after so many bytes, a prime, so that a piece in the wrong place shows.
const PERIOD: usize = 251;

/// Bytes that go up and down: `ZDD_BULK_MIB` MiB, 100 if it is not set.
pub fn bulk() -> u64 {
    bulk_or(100)
}

/// The same with another number of MiB if it is not set.
pub fn bulk_or(otherwise: u64) -> u64 {
    std::env::var("ZDD_BULK_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise) << 20
}

/// The pattern, long enough for a chunk from any place in it.
fn pattern() -> Vec<u8> {
    (0..CHUNK + PERIOD).map(|at| (at % PERIOD) as u8).collect()
}

/// The part of the pattern that a stream has at `at`.
fn piece(pattern: &[u8], at: u64, length: usize) -> &[u8] {
    &pattern[(at % PERIOD as u64) as usize..][..length]
}

/// TCP segments that a namespace has sent again, and all that it has sent.
pub fn retransmitted(ns: &Netns) -> Result<(u64, u64)> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let text = ns.enter(read)?.map_err(Error::io("read /proc/thread-self/net/snmp"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split_whitespace());
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { panic!("no TCP counters: {text}") };
    let of = |name: &str| {
        let known = names.clone().zip(values.clone()).find(|(n, _)| *n == name);
        known.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    Ok((of("RetransSegs"), of("OutSegs")))
}

/// Requests: a letter and a number.
const WHO: u8 = b'W';
const UPLOAD: u8 = b'U';
const DOWNLOAD: u8 = b'D';
const SOURCE: u8 = b'S';

/// Serves until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Server {
    /// Listens on a port of all addresses in a namespace; answers with the number `who`.
    pub fn start(ns: &Netns, port: u16, who: u8) -> Result<Self> {
        let listen = || TcpListener::bind(SocketAddr::from(([0u16; 8], port)));
        let listener = ns.enter(listen)?.map_err(Error::io(format!("listen on {port} in {}", ns.name())))?;
        listener.set_nonblocking(true).map_err(Error::io("a listener that does not block"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        // Ends with its connection, which ends with the test's namespaces at the latest.
                        std::thread::spawn(move || serve(stream, from, who));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Ok(Self { stop })
    }
}

fn serve(mut stream: TcpStream, from: SocketAddr, who: u8) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL * 3))?;
    let mut chunk = vec![0u8; CHUNK];
    let pattern = pattern();
    loop {
        let mut request = [0; 9];
        stream.read_exact(&mut request)?;
        let [kind, length @ ..] = request;
        let whole = u64::from_be_bytes(length);
        let mut left = whole;
        match kind {
            UPLOAD => {
                while left > 0 {
                    let part = left.min(CHUNK as u64) as usize;
                    stream.read_exact(&mut chunk[..part])?;
                    if chunk[..part] != *piece(&pattern, whole - left, part) {
                        return Err(std::io::Error::other("what came up is not what was sent"));
                    }
                    left -= part as u64;
                }
                stream.write_all(&[who])?;
            }
            DOWNLOAD => {
                stream.write_all(&[who])?;
                while left > 0 {
                    let part = left.min(CHUNK as u64) as usize;
                    stream.write_all(piece(&pattern, whole - left, part))?;
                    left -= part as u64;
                }
            }
            SOURCE => {
                let text = from.ip().to_canonical().to_string();
                stream.write_all(&[text.len() as u8])?;
                stream.write_all(text.as_bytes())?;
            }
            _ => stream.write_all(&[who])?,
        }
    }
}

/// One connection.
pub struct Talk {
    stream: TcpStream,
}

impl Talk {
    /// Connects from inside a namespace.
    pub fn open(ns: &Netns, to: SocketAddr) -> Result<Self> {
        Self::open_within(ns, to, STALL)
    }

    /// The same, with less patience.
    pub fn open_within(ns: &Netns, to: SocketAddr, patience: Duration) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&to, patience);
        let stream = ns.enter(connect)?.map_err(Error::io(format!("connect to {to} from {}", ns.name())))?;
        let ready = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(STALL)))
            .and_then(|()| stream.set_write_timeout(Some(STALL)));
        ready.map_err(Error::io("set timeouts"))?;
        Ok(Self { stream })
    }

    fn ask(&mut self, kind: u8, number: u64) -> std::io::Result<()> {
        self.stream.write_all(&[&[kind][..], &number.to_be_bytes()[..]].concat())
    }

    fn answer(&mut self) -> std::io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).map(|()| byte[0])
    }

    /// Which backend is at the other end.
    pub fn who(&mut self) -> Result<u8> {
        self.ask(WHO, 0).and_then(|()| self.answer()).map_err(Error::io("ask who it is"))
    }

    /// The client's address as the backend sees it.
    pub fn seen_from(&mut self) -> Result<String> {
        let mut ask = || {
            self.ask(SOURCE, 0)?;
            let mut text = vec![0; self.answer()?.into()];
            self.stream.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        ask().map_err(Error::io("ask for the source"))
    }

    /// Sends so many bytes; who took them all.
    pub fn upload(&mut self, bytes: u64) -> Result<u8> {
        let pattern = pattern();
        let mut send = || {
            self.ask(UPLOAD, bytes)?;
            let mut left = bytes;
            while left > 0 {
                let part = left.min(CHUNK as u64) as usize;
                self.stream.write_all(piece(&pattern, bytes - left, part))?;
                left -= part as u64;
            }
            self.answer()
        };
        send().map_err(Error::io("upload"))
    }

    /// Receives so many bytes; who sent them.
    pub fn download(&mut self, bytes: u64) -> Result<u8> {
        let mut chunk = vec![0; CHUNK];
        let pattern = pattern();
        let mut receive = || {
            self.ask(DOWNLOAD, bytes)?;
            let who = self.answer()?;
            let mut left = bytes;
            while left > 0 {
                let part = left.min(CHUNK as u64) as usize;
                self.stream.read_exact(&mut chunk[..part])?;
                if chunk[..part] != *piece(&pattern, bytes - left, part) {
                    return Err(std::io::Error::other("what came down is not what was sent"));
                }
                left -= part as u64;
            }
            Ok(who)
        };
        receive().map_err(Error::io("download"))
    }

    pub fn peer(&self) -> Result<SocketAddr> {
        self.stream.peer_addr().map_err(Error::io("the peer's address"))
    }

    pub fn local(&self) -> Result<SocketAddr> {
        self.stream.local_addr().map_err(Error::io("the own address"))
    }
}
