//! Forged packets, poured from the clients' namespace through a packet socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use zdd_tests::rig::{Error, Families, Result, Rig, VIP, VIP6, client_address, client_address6};

/// Frames of one system call.
const BATCH: usize = 64;

/// Frames per second: what two busy processors carry beside the traffic that must not notice.
const RATE: f64 = 150_000.0;

/// What is forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs from addresses that are nobody's.
    Syn,
    /// ACKs out of nowhere, from addresses that are nobody's.
    Ack,
    /// RSTs, half of them from addresses of real clients.
    Rst,
    /// UDP from addresses that are nobody's, to the echo service.
    Udp,
    /// Random bytes behind an Ethernet header, half of them with an IP header to the VIP.
    Noise,
    /// SYNs, ACKs, FINs and RSTs of connections that live, by somebody who knows their ends but not their sequence numbers.
    Live,
}

/// A small generator of even spread (splitmix64); the same seed gives the same flood.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The one's complement sum of RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Sources that are nobody's (RFC 2544); the backends' stacks drop them (see `main.rs`).
pub const NOBODY: &str = "198.18.0.0/15";

/// The same over IPv6 (RFC 5180).
pub const NOBODY6: &str = "2001:2::/48";

fn nobody(random: u64, v6: bool) -> IpAddr {
    let (a, b) = ((random >> 16) as u16, (random >> 24) as u8);
    if v6 {
        return Ipv6Addr::new(0x2001, 2, 0, (random >> 40 & 1) as u16, 0, 0, b.into(), a).into();
    }
    Ipv4Addr::new(198, 18 + (random >> 40 & 1) as u8, a as u8, b).into()
}

fn client(i: usize, v6: bool) -> IpAddr {
    if v6 { client_address6(i).into() } else { client_address(i).into() }
}

/// A packet to the VIP of the source's family, with a right transport checksum at `sum_at`: its EtherType and bytes.
fn packet(source: IpAddr, proto: u8, l4: &mut [u8], sum_at: Option<usize>) -> (u16, Vec<u8>) {
    let (ethertype, mut ip, ends) = match source {
        IpAddr::V4(source) => (0x0800, header4(source, proto, l4.len()), 12),
        IpAddr::V6(source) => (0x86dd, header6(source, proto, l4.len()), 8),
    };
    if let Some(at) = sum_at {
        l4[at..at + 2].fill(0);
        let pseudo = [0, proto, 0, l4.len() as u8];
        let sum = checksum(&[&ip[ends..], &pseudo, l4]);
        l4[at..at + 2].copy_from_slice(&sum);
    }
    ip.extend_from_slice(l4);
    (ethertype, ip)
}

fn header4(source: Ipv4Addr, proto: u8, payload: usize) -> Vec<u8> {
    let length = ((20 + payload) as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, proto, 0, 0];
    ip.extend(source.octets().into_iter().chain(VIP.octets()));
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    ip
}

fn header6(source: Ipv6Addr, proto: u8, payload: usize) -> Vec<u8> {
    let length = (payload as u16).to_be_bytes();
    let mut ip = vec![0x60, 0, 0, 0, length[0], length[1], proto, 64];
    ip.extend(source.octets().into_iter().chain(VIP6.octets()));
    ip
}

fn tcp(flags: u8, random: u64, source: IpAddr) -> (u16, Vec<u8>) {
    tcp_of(flags, random, source, (random >> 48) as u16 | 1024)
}

fn tcp_of(flags: u8, random: u64, source: IpAddr, port: u16) -> (u16, Vec<u8>) {
    let port = port.to_be_bytes();
    let (seq, ack) = ((random as u32).to_be_bytes(), ((random >> 13) as u32).to_be_bytes());
    let ack = if flags & 0x10 == 0 { [0; 4] } else { ack };
    let mut header = [
        port[0], port[1], 0, 80, seq[0], seq[1], seq[2], seq[3], ack[0], ack[1], ack[2], ack[3], 0x50, flags,
        0xff, 0xff, 0, 0, 0, 0,
    ];
    packet(source, 6, &mut header, Some(16))
}

impl Kind {
    /// What follows the Ethernet header, and its type.
    fn forge(self, random: &mut Random, families: Families, live: &[SocketAddr]) -> (u16, Vec<u8>) {
        let r = random.next();
        let v6 = match families {
            Families::Both => r >> 41 & 1 != 0,
            one => one.v6(),
        };
        match self {
            Kind::Syn => tcp(0x02, r, nobody(r, v6)),
            Kind::Ack => tcp(0x10, r, nobody(r, v6)),
            Kind::Rst if r & 1 == 0 => tcp(0x04, r, nobody(r, v6)),
            Kind::Rst => tcp(0x04, r, client((r >> 32) as usize % 100, v6)),
            Kind::Live => {
                let flags = [0x02, 0x10, 0x11, 0x04][(r >> 44) as usize % 4];
                let victim = live[(r >> 8) as usize % live.len()];
                tcp_of(flags, random.next(), victim.ip(), victim.port())
            }
            Kind::Udp => {
                let port = ((r >> 48) as u16 | 1024).to_be_bytes();
                let to = 5353u16.to_be_bytes();
                let mut l4 = [port[0], port[1], to[0], to[1], 0, 12, 0, 0, b'1', b'2', b'3', b'4'];
                packet(nobody(r, v6), 17, &mut l4, Some(6))
            }
            Kind::Noise => {
                let length = 1 + (r >> 8) as usize % 90;
                let mut bytes: Vec<u8> =
                    (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
                bytes.truncate(length);
                if r & 1 == 0 {
                    return ((r >> 16) as u16, bytes);
                }
                packet(nobody(r, v6), if r & 2 == 0 { 6 } else { (r >> 24) as u8 }, &mut bytes, None)
            }
        }
    }
}

/// MAC address of a device.
fn mac(rig: &Rig, role: &str, device: &str) -> Result<[u8; 6]> {
    let text = rig.ns(role).run(&["ip", "-o", "link", "show", device])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let shown = words.nth(1).unwrap_or_default();
    let mut bytes = shown.split(':').filter_map(|hex| u8::from_str_radix(hex, 16).ok());
    Ok(std::array::from_fn(|_| bytes.next().expect("a veth has a MAC address")))
}

/// Pours `count` frames of a kind towards the balancer. Bounded: a frame that the wire has no room for is not tried again.
/// `live`: clients' ends of connections, for [`Kind::Live`].
pub fn pour(
    rig: &Rig,
    kind: Kind,
    families: Families,
    live: &[SocketAddr],
    count: u64,
    seed: u64,
) -> Result<()> {
    let ethernet = [mac(rig, "lb", "zlc")?, mac(rig, "c", "c0")?].concat();
    rig.in_ns("c", || {
        let socket = packet_socket("c0")?;
        let mut random = Random(seed);
        let begun = Instant::now();
        let mut sent = 0u64;
        while sent < count {
            let mut frames: Vec<Vec<u8>> = (0..BATCH)
                .map(|_| {
                    let (ethertype, rest) = kind.forge(&mut random, families, live);
                    [&ethernet[..], &ethertype.to_be_bytes(), &rest].concat()
                })
                .collect();
            send(&socket, &mut frames)?;
            sent += BATCH as u64;
            let due = Duration::from_secs_f64(sent as f64 / RATE);
            if let Some(ahead) = due.checked_sub(begun.elapsed()) {
                std::thread::sleep(ahead);
            }
        }
        Ok(())
    })?
    .map_err(Error::io("pour frames"))
}

/// A packet socket that sends on `device`, past its queue.
fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: plain calls; the descriptor is owned at once, and the structures are of the sizes given.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        if libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, (&raw const on).cast(), length)
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        if libc::bind(fd, (&raw const address).cast(), length) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

fn send(socket: &OwnedFd, frames: &mut [Vec<u8>]) -> io::Result<()> {
    let mut parts: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeroes is an empty message.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut done = 0;
    while done < messages.len() {
        let rest = &mut messages[done..];
        // SAFETY: the messages, their parts and their bytes live until the call returns.
        let n = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match n {
            n if n > 0 => done += n as usize,
            _ => {
                let error = io::Error::last_os_error();
                // No room on the wire, or a frame that is no frame (too short): the flood goes on with the next one.
                match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::EINVAL) => done += 1,
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// The clients' ends of all established connections to the VIP's port 80.
pub fn live(rig: &Rig) -> Result<Vec<SocketAddr>> {
    // Of the thread's own namespace: addresses are words as they lie in memory.
    let table = rig.in_ns("c", || std::fs::read_to_string("/proc/thread-self/net/tcp"))?;
    let table = table.map_err(Error::io("read the connections"))?;
    let end = |text: &str| {
        let (addr, port) = text.split_once(':')?;
        let addr = Ipv4Addr::from(u32::from_str_radix(addr, 16).ok()?.to_ne_bytes());
        Some(SocketAddr::from((addr, u16::from_str_radix(port, 16).ok()?)))
    };
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let to_us =
        lines.filter(|line| line.len() > 3 && line[3] == "01" && end(line[2]) == Some((VIP, 80).into()));
    Ok(to_us.filter_map(|line| end(line[1])).collect())
}
