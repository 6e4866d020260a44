//! Single connections from a chosen address and port.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::rig::{Error, Netns, Result, v4};

/// Whom a connection met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// The version's name.
    pub version: String,
    /// The backend's name.
    pub backend: String,
    /// The client's address as the server saw it.
    pub source: String,
}

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nobody must answer: SYNs at 0, 1 and 3 s.
const SILENCE: Duration = Duration::from_secs(5);

/// Opens a connection to one of our servers from exactly `from` inside `ns`, exchanges `lines` lines, and says whom it met. Port 0 leaves the
/// choice to the kernel.
pub fn talk(ns: &Netns, from: SocketAddr, target: SocketAddr, lines: u32) -> Result<Met> {
    talk_within(ns, from, target, lines, PATIENCE)
}

/// The same, with less patience for each answer.
pub fn talk_within(
    ns: &Netns,
    from: SocketAddr,
    target: SocketAddr,
    lines: u32,
    patience: Duration,
) -> Result<Met> {
    let what = || format!("talk to {target} from {from} in {}", ns.name());
    ns.enter(|| exchange(from, target, lines, patience))?.map_err(Error::io(what()))
}

/// Nobody answers `client` at `target`, not even with a refusal.
///
/// # Panics
/// When somebody does.
pub fn unanswered(ns: &Netns, client: Ipv4Addr, target: SocketAddr) {
    match talk_within(ns, v4(client, 0), target, 1, SILENCE) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::TimedOut => {}
        met => panic!("{client} asked {target}: {met:?}"),
    }
}

/// The same from a client's address and port, with a single line.
pub fn ask_from(ns: &Netns, client: Ipv4Addr, port: u16, target: SocketAddr) -> Result<Met> {
    talk(ns, v4(client, port), target, 1)
}

fn exchange(from: SocketAddr, target: SocketAddr, lines: u32, patience: Duration) -> std::io::Result<Met> {
    let stream = connect(from, target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    let wrong = |line: &str| std::io::Error::other(format!("unexpected answer {line:?}"));
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let &["HELLO", version, backend, source] = &words[..] else { return Err(wrong(&line)) };
    let met = Met { version: version.to_owned(), backend: backend.to_owned(), source: source.to_owned() };
    for n in 1..=lines {
        (&stream).write_all(format!("{n}\n").as_bytes())?;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line != format!("{n} {} {}\n", met.version, met.backend) {
            return Err(wrong(&line));
        }
    }
    (&stream).write_all(b"Q\n")?;
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest)?;
    Ok(met)
}

/// A connection from exactly `from`; std cannot bind before it connects.
fn connect(from: SocketAddr, target: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until = Instant::now() + patience;
    loop {
        match runtime.block_on(dial(from, target, patience)) {
            // Of the connection before from the same port, the last ACK is still on its way.
            Err(busy) if busy.kind() == ErrorKind::AddrNotAvailable && Instant::now() < until => {
                std::thread::sleep(super::LOOK_EVERY);
            }
            dialled => {
                let stream = dialled?;
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
        }
    }
}

async fn dial(from: SocketAddr, target: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let socket =
        if from.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    let on: libc::c_int = 1;
    // So that a test can use a port again whose last connection is in TIME_WAIT.
    // SAFETY: the descriptor is open, the option value is a live int of the given size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).expect("4 fits"),
        )
    };
    socket.bind(from)?;
    let connected = tokio::time::timeout(patience, socket.connect(target)).await;
    connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?.into_std()
}

/// `curl URL` in `ns` from the address `from`, with at most 5 s for a connection and 30 s in all: the body. Whatever goes wrong is an error with
/// curl's own message.
pub fn curl(ns: &Netns, from: Option<Ipv4Addr>, url: &str) -> Result<String> {
    let from = from.map(|a| a.to_string());
    let mut argv =
        vec!["curl", "--silent", "--show-error", "--fail", "--connect-timeout", "5", "--max-time", "30"];
    if let Some(from) = &from {
        argv.extend(["--interface", from]);
    }
    argv.push(url);
    ns.run(&argv)
}
