//! The program and its maps, with one service, in namespaces of the calling thread.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zdd_agent::dataplane::Dataplane;
use zdd_agent::desired::{AgentSpec, AttachMode, EncapSources, Limits, SnatSpec};
use zdd_common::entries::{Affinity, Backend, EndEntry, EndKind, FlowKey, NextHop, Port, Service};
use zdd_common::hash::HashKey;
use zdd_common::net::{Addr, End, TCP};

use super::kernel;

/// Cells of the service under measurement.
pub(super) const CELLS: u32 = 1 << 20;
/// Flows that there shall be room for, twice as many as the sweep is measured over: an operator's sizing, and not that of buckets.
const FLOWS: u32 = 1 << 21;
/// Of all services.
const KEY: HashKey = HashKey { k0: 11, k1: 22 };
/// Number of the service and of its VIP.
pub(super) const SERVICE: u16 = 0;
pub(super) const VIP_ID: u16 = 1;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const VIP_PORT: u16 = 80;

/// Sizes of the tables: what a large host would ask for.
pub(super) fn limits() -> Limits {
    Limits {
        services: 1024,
        backends: 20_480,
        cells: 4 * CELLS,
        flows: FLOWS,
        syn_filter: 4 << 20,
        direct: 65_536,
        signals: 32_768,
        snat: 65_536,
    }
}

/// Everything that the measurements on one program share.
pub(super) struct Plane {
    pub(super) plane: Dataplane,
    pub(super) program: OwnedFd,
    pub(super) pins: PathBuf,
}

fn check(result: libc::c_int, what: &str) -> Result<()> {
    ensure!(result == 0, "{what}: {}", std::io::Error::last_os_error());
    Ok(())
}

impl Plane {
    /// Moves the calling thread into new network and mount namespaces, which end with it, and loads the program there.
    pub(super) fn new() -> Result<Self> {
        // SAFETY: plain system calls with constant arguments; only this thread moves.
        unsafe {
            check(
                libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS),
                "cannot make namespaces; it needs root",
            )?;
            let (none, root) = (std::ptr::null(), c"/".as_ptr());
            check(
                libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
                "make / private",
            )?;
            let (name, at) = (c"bpf".as_ptr(), c"/tmp".as_ptr());
            check(libc::mount(name, at, name, 0, none.cast()), "mount a BPF file system")?;
        }
        let pins = Path::new("/tmp/zdd").to_owned();
        let spec = AgentSpec {
            interfaces: vec![],
            mode: AttachMode::Native,
            pin_dir: pins.clone(),
            state_dir: pins.clone(),
            key_file: None,
            socket: pins.clone(),
            metrics: None,
            page: None,
            otlp: None,
            log_json: false,
            seccomp: true,
            limits: limits(),
            syn_memory: std::time::Duration::from_secs(64),
            encap: EncapSources::default(),
            snat: SnatSpec { sources: vec![IpAddr::V4(Ipv4Addr::new(10, 9, 7, 1))], ..SnatSpec::default() },
            api: Default::default(),
            probe_budget: Default::default(),
            alerts: Vec::new(),
        };
        let (mut plane, _) = Dataplane::open(&spec, KEY, false)?;
        let program = plane.program().context("the object has no program")?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        let mut plane = Self { plane, program, pins };
        plane.fill()?;
        Ok(plane)
    }

    fn fill(&mut self) -> Result<()> {
        let plane = &mut self.plane;
        plane.write_service(
            SERVICE,
            &Service { groups: CELLS, per_group: 1, affinity: Affinity::Flow as u32, ..Service::default() },
        );
        for id in 1..=2u16 {
            let addr = IpAddr::V4(Ipv4Addr::new(10, 9, 8, id as u8));
            let hop = NextHop::new(mac(id), 1);
            plane.write_backend(id, &Backend { addr: addr.into(), next_hop: hop.0, ..Backend::default() });
        }
        plane.set_port(1, Port { ifindex: 1, flags: Port::TX, mac: mac(9), tags: 0, mtu: 0 })?;
        let entry =
            EndEntry { kind: EndKind::Vip as u16, service: SERVICE, id: VIP_ID, ..EndEntry::default() };
        plane.set_end(End::new(Addr::from(IpAddr::V4(VIP)), VIP_PORT.to_be(), TCP), entry, "the VIP")?;
        Ok(())
    }

    /// A pinned map's descriptor.
    pub(super) fn map(&self, name: &str) -> Result<OwnedFd> {
        kernel::open_pinned(&self.pins.join(name)).with_context(|| format!("cannot open map {name}"))
    }
}

/// MAC address behind which backend `id` is.
pub(super) fn mac(id: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0, id as u8]
}

/// Address and port of client `n`.
fn client(n: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(0x0a40_0000 + n / 16), 20_000 + (n % 16) as u16)
}

/// The key of client `n`'s flow.
pub(super) fn flow_key(n: u32) -> FlowKey {
    let (addr, port) = client(n);
    FlowKey::new(Addr::from(IpAddr::V4(addr)), port.to_be(), VIP_PORT.to_be(), VIP_ID)
}

/// An ACK of client `n` to the VIP: Ethernet, IPv4, TCP, nothing else.
pub(super) fn frame(n: u32) -> [u8; 64] {
    let (addr, port) = client(n);
    let mut frame = [0u8; 64];
    frame[0..6].copy_from_slice(&mac(7));
    frame[6..12].copy_from_slice(&mac(8));
    frame[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&40u16.to_be_bytes());
    frame[22] = 64;
    frame[23] = TCP;
    frame[26..30].copy_from_slice(&addr.octets());
    frame[30..34].copy_from_slice(&VIP.octets());
    let sum =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[36..38].copy_from_slice(&VIP_PORT.to_be_bytes());
    frame[38..42].copy_from_slice(&1000u32.to_be_bytes());
    // Data offset 5, ACK.
    frame[46] = 0x50;
    frame[47] = 0x10;
    frame[48..50].copy_from_slice(&0xffffu16.to_be_bytes());
    frame
}
