//! What is not a plain packet, with real sockets: datagrams in fragments, a router's "fragmentation needed", ping. Needs root.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header,
    UdpHeader, icmpv4,
};
use zdd_tests::rig::{self, Families, Forward, Result, VIP, VIP6, wait_for};
use zdd_tests::world::status::count;
use zdd_tests::world::{ECHO_PORT, LOOK_EVERY, PATIENCE, Setup, World};

/// Three fragments on an Ethernet.
const LARGE: usize = 4000;
const BACKENDS: u8 = 4;

/// Echoes datagrams of any size, with the backend's number in the first byte.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(world: &World) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = vec![];
        for number in 1..=BACKENDS {
            let own = source(world, number);
            let socket = world
                .rig
                .in_ns(&format!("b{number}"), || UdpSocket::bind((own, ECHO_PORT)))?
                .expect("a server's socket");
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                    buffer[0] = number;
                    // A client that is gone is the client's to tell.
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// What a backend answers from.
fn source(world: &World, number: u8) -> IpAddr {
    match (world.setup.forward.direct(), world.setup.families.v4()) {
        (true, _) => vip(world),
        (_, true) => rig::backend_address(number).into(),
        (_, false) => rig::backend_address6(number).into(),
    }
}

fn vip(world: &World) -> IpAddr {
    if world.setup.families.v4() { VIP.into() } else { VIP6.into() }
}

fn address(world: &World, client: usize) -> IpAddr {
    if world.setup.families.v4() {
        rig::client_address(client).into()
    } else {
        rig::client_address6(client).into()
    }
}

fn world(forward: Forward, families: Families) -> Result<(World, Echo)> {
    let mut world = World::without_servers(Setup {
        forward,
        families,
        backends: BACKENDS,
        health: None,
        echo_health: None,
        v2_percent: 50,
        ..Setup::default()
    })?;
    let echo = Echo::start(&world)?;
    world.start_agent()?;
    Ok((world, echo))
}

fn client(world: &World, number: usize) -> Result<UdpSocket> {
    let from = (address(world, number), 0);
    let socket = world.rig.in_ns("c", || {
        let socket = UdpSocket::bind(from)?;
        socket.connect((vip(world), ECHO_PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        std::io::Result::Ok(socket)
    })?;
    Ok(socket.expect("a client's socket"))
}

/// Sends `size` bytes and gets them back whole; the backend's number. Datagrams may be lost while a neighbour is looked for.
fn echoed(socket: &UdpSocket, size: usize) -> u8 {
    let asked: Vec<u8> = (0..size).map(|n| ((n * 31) >> 3) as u8).collect();
    let mut answer = vec![0; 65_536];
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        socket.send(&asked).expect("sent");
        match socket.recv(&mut answer) {
            Ok(length) => {
                assert_eq!(length, size);
                assert_eq!(answer[1..length], asked[1..], "what came back is another datagram");
                return answer[0];
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no answer to {size} bytes from {:?}", socket.local_addr());
}

fn reason(world: &World, name: &str) -> Result<u64> {
    let status = world.status()?;
    let reasons = &status["reasons"];
    Ok(count(reasons, &format!("/{name}")))
}

fn a_datagram_in_fragments_is_echoed_whole(forward: Forward, families: Families) -> Result<()> {
    let (mut world, _echo) = world(forward, families)?;
    let sockets: Vec<_> = (0..20).map(|number| client(&world, number)).collect::<Result<_>>()?;
    let small: Vec<u8> = sockets.iter().map(|socket| echoed(socket, 100)).collect();
    let large: Vec<u8> = sockets.iter().map(|socket| echoed(socket, LARGE)).collect();
    assert_eq!(small, large, "a flow's fragments go where its other packets go");
    assert!(small.iter().any(|to| *to != small[0]), "all went to one backend: {small:?}");
    // A change must not part a flow from its backend, in whatever pieces it comes.
    world.zdd().run(&["shift", "echo", "v2=100%"])?;
    let after: Vec<u8> = sockets.iter().map(|socket| echoed(socket, LARGE)).collect();
    assert_eq!(large, after);
    // The program for such frames outlives the agent as the first one does, and is replaced as it is.
    world.kill_agent();
    assert_eq!(sockets.iter().map(|socket| echoed(socket, LARGE)).collect::<Vec<_>>(), large);
    world.start_agent()?;
    assert_eq!(sockets.iter().map(|socket| echoed(socket, LARGE)).collect::<Vec<_>>(), large);
    assert_eq!(reason(&world, "pass_odd")?, 0);
    // Until the agent knows a backend's neighbour, the stack sends what was rewritten.
    let sent = reason(&world, "fragment")? + reason(&world, "stack_routed")?;
    assert!(sent >= 4 * 2 * 20, "{}", world.status()?["reasons"]);
    assert_eq!(reason(&world, "drop_fragment_early")?, 0);
    Ok(())
}

#[test]
fn a_datagram_in_fragments_is_echoed_whole_under_nat() -> Result<()> {
    a_datagram_in_fragments_is_echoed_whole(Forward::Nat, Families::V4)?;
    a_datagram_in_fragments_is_echoed_whole(Forward::Nat, Families::V6)
}

#[test]
fn a_datagram_in_fragments_is_echoed_whole_under_l2() -> Result<()> {
    a_datagram_in_fragments_is_echoed_whole(Forward::L2, Families::V4)?;
    a_datagram_in_fragments_is_echoed_whole(Forward::L2, Families::V6)
}

#[test]
fn a_datagram_in_fragments_is_echoed_whole_under_snat() -> Result<()> {
    a_datagram_in_fragments_is_echoed_whole(Forward::Snat, Families::V4)?;
    a_datagram_in_fragments_is_echoed_whole(Forward::Snat, Families::V6)
}

#[test]
fn a_datagram_in_fragments_is_echoed_whole_under_ipip() -> Result<()> {
    a_datagram_in_fragments_is_echoed_whole(Forward::Ipip, Families::V4)?;
    a_datagram_in_fragments_is_echoed_whole(Forward::Ipip, Families::V6)
}

/// A raw ICMP socket in the clients' namespace, of one of their addresses.
fn raw(world: &World, number: usize) -> Result<UdpSocket> {
    let from = address(world, number);
    let open = || {
        let (family, proto) = match from {
            IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
            IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
        };
        // SAFETY: plain system call.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, proto) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that is ours.
        let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let bind = |addr: *const libc::sockaddr, size| {
            // SAFETY: a valid address and its size.
            unsafe { libc::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), addr, size) }
        };
        let bound = match from {
            IpAddr::V4(from) => {
                // SAFETY: all zero is a valid address.
                let mut addr: libc::sockaddr_in = unsafe { MaybeUninit::zeroed().assume_init() };
                addr.sin_family = libc::AF_INET as u16;
                addr.sin_addr.s_addr = u32::from_ne_bytes(from.octets());
                bind((&raw const addr).cast(), size_of_val(&addr) as u32)
            }
            IpAddr::V6(from) => {
                // SAFETY: as above.
                let mut addr: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
                addr.sin6_family = libc::AF_INET6 as u16;
                addr.sin6_addr.s6_addr = from.octets();
                bind((&raw const addr).cast(), size_of_val(&addr) as u32)
            }
        };
        if bound != 0 {
            return Err(std::io::Error::last_os_error());
        }
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    };
    Ok(world.rig.in_ns("c", open)?.expect("a raw socket"))
}

/// The MTU that the routers of these tests tell of.
const NARROW: u32 = 1300;

/// "Fragmentation needed" or "packet too big", as a router on the way to `client` says it about what the VIP sent.
fn too_big(vip: IpAddr, client: SocketAddr) -> Vec<u8> {
    let udp =
        UdpHeader { source_port: ECHO_PORT, destination_port: client.port(), length: 1408, checksum: 0x1234 };
    let length = udp.length;
    match (vip, client.ip()) {
        (IpAddr::V4(vip), IpAddr::V4(client)) => {
            let mut ip =
                Ipv4Header::new(length, 60, IpNumber::UDP, vip.octets(), client.octets()).expect("it fits");
            ip.header_checksum = ip.calc_header_checksum();
            let quote = [&ip.to_bytes()[..], &udp.to_bytes()].concat();
            let next_hop_mtu = NARROW as u16;
            let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(needed), &quote);
            [&icmp.to_bytes()[..], &quote].concat()
        }
        (IpAddr::V6(vip), IpAddr::V6(client)) => {
            let ip = Ipv6Header {
                payload_length: length,
                next_header: IpNumber::UDP,
                hop_limit: 60,
                source: vip.octets(),
                destination: client.octets(),
                ..Ipv6Header::default()
            };
            // Linux fills in the checksum of a raw ICMPv6 socket.
            let icmp = Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu: NARROW });
            [&icmp.to_bytes()[..], &ip.to_bytes()[..], &udp.to_bytes()].concat()
        }
        families => panic!("one family: {families:?}"),
    }
}

fn a_path_mtu_reaches_the_backend_that_sent_the_packet(forward: Forward, families: Families) -> Result<()> {
    let (world, _echo) = world(forward, families)?;
    let mapped: IpAddr = if families.v4() { rig::SNAT_SOURCE.into() } else { rig::SNAT_SOURCE6.into() };
    let narrow = format!("mtu {NARROW}");
    let mut told_before = vec![];
    for number in [0, 1, 2, 3] {
        let socket = client(&world, number)?;
        let to = echoed(&socket, 100);
        let local = socket.local_addr().expect("an address");
        let told = raw(&world, number)?;
        // Another client's flow on the same backend stays as it is.
        let mtu_of = |backend: u8, client: IpAddr| {
            // Under `snat` all clients are one, and a backend tells apart no paths.
            let client = if forward == Forward::Snat { mapped } else { client };
            let (client, source) = (client.to_string(), source(&world, backend).to_string());
            world.rig.ns(&format!("b{backend}")).run(&["ip", "route", "get", &client, "from", &source])
        };
        wait_for("the backend to learn the path's MTU", PATIENCE, LOOK_EVERY, || {
            told.send_to(&too_big(vip(&world), local), (vip(&world), 0)).expect("sent");
            Ok::<_, rig::Error>(mtu_of(to, address(&world, number))?.contains(&narrow).then_some(()))
        })?;
        if forward == Forward::Snat {
            told_before.push(to);
        }
        for other in (1..=BACKENDS).filter(|other| *other != to && !told_before.contains(other)) {
            let said = mtu_of(other, address(&world, number))?;
            assert!(!said.contains(&narrow), "b{other} was told too: {said}");
        }
        let stranger = mtu_of(to, address(&world, 50))?;
        assert!(forward == Forward::Snat || !stranger.contains(&narrow), "another client is not meant");
        assert_eq!(echoed(&socket, LARGE), to, "in smaller fragments than before");
    }
    assert!(reason(&world, "icmp_error")? + reason(&world, "stack_routed")? >= 4);
    Ok(())
}

#[test]
fn a_path_mtu_reaches_the_backend_that_sent_the_packet_under_nat() -> Result<()> {
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Nat, Families::V4)?;
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Nat, Families::V6)
}

#[test]
fn a_path_mtu_reaches_the_backend_that_sent_the_packet_under_l2() -> Result<()> {
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::L2, Families::V4)?;
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::L2, Families::V6)
}

#[test]
fn a_path_mtu_reaches_the_backend_that_sent_the_packet_under_snat() -> Result<()> {
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Snat, Families::V4)?;
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Snat, Families::V6)
}

#[test]
fn a_path_mtu_reaches_the_backend_that_sent_the_packet_under_ipip() -> Result<()> {
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Ipip, Families::V4)?;
    a_path_mtu_reaches_the_backend_that_sent_the_packet(Forward::Ipip, Families::V6)
}

/// An echo request, as a raw socket of the family takes it.
fn ping(v4: bool, header: IcmpEchoHeader, payload: &[u8]) -> Vec<u8> {
    let head = if v4 {
        Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(header), payload).to_bytes().to_vec()
    } else {
        Icmpv6Header::new(Icmpv6Type::EchoRequest(header)).to_bytes().to_vec()
    };
    [&head, payload].concat()
}

/// What a raw socket of the family hears, if it is the reply to it.
fn is_reply(v4: bool, heard: &[u8], header: IcmpEchoHeader, payload: &[u8]) -> bool {
    if v4 {
        let (ip, rest) = Ipv4Header::from_slice(heard).expect("an IPv4 packet");
        let Ok((icmp, rest)) = Icmpv4Header::from_slice(rest) else { return false };
        icmp.icmp_type == Icmpv4Type::EchoReply(header) && ip.source == VIP.octets() && rest == payload
    } else {
        let Ok((icmp, rest)) = Icmpv6Header::from_slice(heard) else { return false };
        icmp.icmp_type == Icmpv6Type::EchoReply(header) && rest == payload
    }
}

#[test]
fn a_ping_to_the_vip_is_answered_by_the_host_whatever_its_size() -> Result<()> {
    for (forward, families) in [
        (Forward::Nat, Families::V4),
        (Forward::L2, Families::V4),
        (Forward::Nat, Families::V6),
        (Forward::Snat, Families::V6),
    ] {
        let (world, _echo) = world(forward, families)?;
        let socket = raw(&world, 0)?;
        for size in [8, LARGE] {
            let payload = vec![0x5a; size];
            let header = IcmpEchoHeader { id: 77, seq: size as u16 };
            let ask = ping(families.v4(), header, &payload);
            let mut buffer = vec![0; 65_536];
            wait_for("an echo reply from the VIP", PATIENCE, LOOK_EVERY, || {
                socket.send_to(&ask, (vip(&world), 0)).expect("sent");
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    return Ok::<_, rig::Error>(None);
                };
                let ours = is_reply(families.v4(), &buffer[..length], header, &payload);
                Ok((ours && from.ip() == vip(&world)).then_some(()))
            })?;
        }
        // Both were asked of the host, not of a backend.
        assert_eq!(reason(&world, "fragment")?, 0);
    }
    Ok(())
}

fn a_closed_port_is_refused_by_the_vip(families: Families) -> Result<()> {
    let (world, echo) = world(Forward::Nat, families)?;
    drop(echo);
    let socket = client(&world, 0)?;
    wait_for("the client to be refused", PATIENCE, LOOK_EVERY, || {
        // What came back for an earlier datagram is told at the next one, sent or received.
        let refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        let told = socket.send(b"?").err().or_else(|| socket.recv(&mut [0; 8]).err());
        Ok::<_, rig::Error>(told.filter(refused).map(drop))
    })
}

/// A backend without a server says so, and the client hears it from the VIP: a refused datagram, not silence.
#[test]
fn a_port_that_is_closed_at_the_backend_is_refused_by_the_vip_under_nat() -> Result<()> {
    a_closed_port_is_refused_by_the_vip(Families::V4)?;
    a_closed_port_is_refused_by_the_vip(Families::V6)
}
