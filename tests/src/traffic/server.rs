//! The backends' side: TCP lines, UDP echo, and a health page that can be made to fail.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::protocol::{Lines, Member};
use crate::rig::{Error, Result, Rig};

/// One backend.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Role of its namespace.
    pub role: String,
    /// What it says of itself.
    pub member: Member,
    /// Where it listens for TCP.
    pub tcp: SocketAddr,
    /// Where it echoes UDP: an answer leaves from the address that its socket is bound to.
    pub udp: Vec<SocketAddr>,
    /// Where it answers `GET /health`.
    pub health: SocketAddr,
}

/// What is wrong with a backend's TCP server; its health page knows nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// One connection in this many is reset when it was accepted.
    Resets(u64),
    /// Its first byte comes this many milliseconds later.
    Later(u64),
    /// It accepts, and says nothing.
    Mute,
    /// It does not listen any more, for good.
    Refuses,
}

#[derive(Debug)]
struct Backend {
    spec: ServerSpec,
    fault: tokio::sync::watch::Sender<Fault>,
    healthy: AtomicBool,
    page: Mutex<String>,
    accepted: AtomicU64,
    probes: AtomicU64,
    sources: Mutex<BTreeSet<IpAddr>>,
}

/// All backends, on one thread. Dropping it closes every socket.
#[derive(Debug)]
pub struct Servers {
    backends: Vec<Arc<Backend>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Sockets = (std::net::TcpListener, Vec<std::net::UdpSocket>, std::net::TcpListener);

impl Servers {
    /// Opens every socket inside its namespace; when this returns, all of them listen.
    pub fn start(rig: &Rig, specs: &[ServerSpec]) -> Result<Self> {
        let mut all = Vec::new();
        for spec in specs {
            let sockets = rig.in_ns(&spec.role, || open(spec))?.map_err(Error::io(format!(
                "listen on {}, {:?}/udp, {} in {}",
                spec.tcp, spec.udp, spec.health, spec.role
            )))?;
            let backend = Backend {
                spec: spec.clone(),
                fault: tokio::sync::watch::Sender::default(),
                healthy: AtomicBool::new(true),
                page: Mutex::default(),
                accepted: AtomicU64::new(0),
                probes: AtomicU64::new(0),
                sources: Mutex::default(),
            };
            all.push((Arc::new(backend), sockets));
        }
        let backends = all.iter().map(|(b, _)| Arc::clone(b)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start the servers' runtime"))?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("zdd-servers".into())
            .spawn(move || {
                runtime.block_on(async move {
                    for (backend, sockets) in all {
                        if let Err(e) = serve(backend, sockets) {
                            eprintln!("a server cannot use its sockets: {e}");
                        }
                    }
                    // Dropped or told: either way it ends.
                    drop(stopped.await);
                });
            })
            .map_err(Error::io("start the servers' thread"))?;
        Ok(Self { backends, stop: Some(stop), thread: Some(thread) })
    }

    fn backend(&self, name: &str) -> &Backend {
        match self.backends.iter().find(|b| b.spec.member.backend == name) {
            Some(backend) => backend,
            None => panic!("there is no backend {name:?}"),
        }
    }

    /// From now on `/health` of backend `name` answers 200 (true) or 503 (false); everything else goes on.
    pub fn set_healthy(&self, name: &str, healthy: bool) {
        self.backend(name).healthy.store(healthy, Ordering::Relaxed);
    }

    /// From now on the text of its health page is this; at first it is empty.
    pub fn set_health_page(&self, name: &str, text: &str) {
        text.clone_into(&mut self.backend(name).page.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on backend `name` has this fault.
    pub fn set_fault(&self, name: &str, fault: Fault) {
        self.backend(name).fault.send_replace(fault);
    }

    /// TCP connections that backend `name` accepted.
    pub fn accepted(&self, name: &str) -> u64 {
        self.backend(name).accepted.load(Ordering::Relaxed)
    }

    /// Requests that its health page answered.
    pub fn probes(&self, name: &str) -> u64 {
        self.backend(name).probes.load(Ordering::Relaxed)
    }

    /// Addresses from which it accepted TCP connections.
    pub fn sources(&self, name: &str) -> BTreeSet<IpAddr> {
        self.backend(name).sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn open(spec: &ServerSpec) -> std::io::Result<Sockets> {
    let tcp = std::net::TcpListener::bind(spec.tcp)?;
    let udp = spec.udp.iter().map(std::net::UdpSocket::bind).collect::<std::io::Result<Vec<_>>>()?;
    let health = std::net::TcpListener::bind(spec.health)?;
    tcp.set_nonblocking(true)?;
    for socket in &udp {
        socket.set_nonblocking(true)?;
        roomy(socket)?;
    }
    health.set_nonblocking(true)?;
    Ok((tcp, udp, health))
}

/// Room for what comes while a busy machine lets nobody read: seconds of everybody's datagrams.
fn roomy(socket: &std::net::UdpSocket) -> std::io::Result<()> {
    let bytes: libc::c_int = 8 << 20;
    // SAFETY: the descriptor is open, the option value is a live int of the given size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            libc::socklen_t::try_from(size_of_val(&bytes)).expect("4 fits"),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Starts the tasks of one backend; called within the runtime.
fn serve(backend: Arc<Backend>, (tcp, udp, health): Sockets) -> std::io::Result<()> {
    let tcp = TcpListener::from_std(tcp)?;
    let health = TcpListener::from_std(health)?;
    tokio::spawn(accept_all(tcp, Arc::clone(&backend)));
    for socket in udp {
        tokio::spawn(echo(UdpSocket::from_std(socket)?, Arc::clone(&backend)));
    }
    tokio::spawn(answer_probes(health, backend));
    Ok(())
}

async fn accept_all(listener: TcpListener, backend: Arc<Backend>) {
    let Member { version, backend: name } = &backend.spec.member;
    let identity: Arc<str> = format!("{version} {name}").into();
    let mut faults = backend.fault.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = faults.wait_for(|fault| *fault == Fault::Refuses) => return,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, or the peer gave up: neither is cured by spinning.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        // One socket for both families shows IPv4 addresses as mapped ones (RFC 4291, 2.5.5.2).
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let nth = backend.accepted.fetch_add(1, Ordering::Relaxed);
        let fault = *faults.borrow();
        backend.sources.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.ip());
        // A client that goes away is the client's to report.
        let identity = Arc::clone(&identity);
        tokio::spawn(async move {
            match fault {
                Fault::Resets(one_in) if nth.is_multiple_of(one_in) => drop(stream.set_zero_linger()),
                Fault::Mute => {
                    // Until the client has given up.
                    let mut stream = stream;
                    while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
                }
                Fault::Later(ms) => {
                    tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
                    drop(talk(stream, peer, &identity).await);
                }
                _ => drop(talk(stream, peer, &identity).await),
            }
        });
    }
}

async fn talk(mut stream: TcpStream, peer: SocketAddr, identity: &str) -> std::io::Result<()> {
    use std::io::Write;
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(64);
    writeln!(answer, "HELLO {identity} {peer}")?;
    stream.write_all(&answer).await?;
    let mut lines = Lines::default();
    while let Some(line) = lines.next(&mut stream).await? {
        answer.clear();
        if line == b"Q" {
            writeln!(answer, "{identity}")?;
            stream.write_all(&answer).await?;
            return stream.shutdown().await;
        }
        answer.extend_from_slice(line);
        writeln!(answer, " {identity}")?;
        stream.write_all(&answer).await?;
    }
    stream.shutdown().await
}

async fn echo(socket: UdpSocket, backend: Arc<Backend>) {
    let Member { version, backend: name } = &backend.spec.member;
    let suffix = format!(" {version} {name}");
    let mut buffer = [0u8; 128];
    loop {
        // Leaves room for the suffix; errors here are ICMP answers to earlier echoes.
        let Ok((n, peer)) = socket.recv_from(&mut buffer[..64]).await else { continue };
        let mut answer = buffer[..n].to_vec();
        answer.extend_from_slice(suffix.as_bytes());
        drop(socket.send_to(&answer, peer).await);
    }
}

async fn answer_probes(listener: TcpListener, backend: Arc<Backend>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let mut request = Vec::new();
            let mut chunk = [0u8; 512];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < 8192 {
                match stream.read(&mut chunk).await {
                    // A TCP probe connects and says nothing.
                    Ok(0) | Err(_) => return,
                    Ok(n) => request.extend_from_slice(&chunk[..n]),
                }
            }
            backend.probes.fetch_add(1, Ordering::Relaxed);
            let known = request.starts_with(b"GET /health ");
            let status = match (known, backend.healthy.load(Ordering::Relaxed)) {
                (false, _) => "404 Not Found",
                (true, true) => "200 OK",
                (true, false) => "503 Service Unavailable",
            };
            let page = backend.page.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let length = page.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}");
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        });
    }
}
