//! The other ends of this host's veths, in whatever named or running network namespace they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

/// Namespaces that are entered at the most: a host with more has somebody else to look at them.
const NAMESPACES: usize = 512;

/// What the other end of a veth leaves to its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offload {
    /// Checksums of what it sends.
    pub(super) tx: bool,
    /// What to put before a command so that it runs there, with a blank at its end; empty: here.
    pub(super) enter: String,
    /// Its name there.
    pub(super) device: String,
}

/// One end of a veth pair.
#[derive(Clone, Debug)]
struct Veth {
    index: u32,
    name: String,
    /// Index of the other end, in its namespace.
    peer: u32,
    /// The number by which this namespace knows the other end's; none: this one.
    nsid: Option<i32>,
}

/// By index of ours: the other ends that could be found.
pub(super) fn peers(ours: &[u32]) -> BTreeMap<u32, Offload> {
    let own: Vec<Veth> = veths().into_iter().filter(|veth| ours.contains(&veth.index)).collect();
    let mut found = BTreeMap::new();
    for veth in own.iter().filter(|veth| veth.nsid.is_none()) {
        let other = veths().into_iter().find(|other| other.index == veth.peer);
        let tx = other.as_ref().and_then(|other| tx_checksum(&other.name).ok());
        if let (Some(other), Some(tx)) = (other, tx) {
            found.insert(veth.index, Offload { tx, enter: String::new(), device: other.name });
        }
    }
    let away: BTreeSet<i32> = own.iter().filter_map(|veth| veth.nsid).collect();
    let mut seen = BTreeSet::new();
    for (path, enter) in namespaces() {
        let Ok(file) = File::open(&path) else { continue };
        let Ok(inode) = file.metadata().map(|meta| meta.ino()) else { continue };
        if !seen.insert(inode) || seen.len() > NAMESPACES {
            continue;
        }
        // By the kernel's own number: indices alone are the same in many namespaces.
        let Some(nsid) = nsid_of(&file).filter(|nsid| away.contains(nsid)) else { continue };
        let wanted: Vec<&Veth> = own.iter().filter(|veth| veth.nsid == Some(nsid)).collect();
        let look = || -> Vec<(u32, Offload)> {
            let there = veths();
            let ends = wanted.iter().filter_map(|veth| {
                let other = there.iter().find(|other| other.index == veth.peer)?;
                let tx = tx_checksum(&other.name).ok()?;
                Some((veth.index, Offload { tx, enter: enter.clone(), device: other.name.clone() }))
            });
            ends.collect()
        };
        found.extend(inside(&file, look));
    }
    found
}

/// Files that stand for namespaces, and what to write before a command that is to run there. Named ones first: their names stay.
fn namespaces() -> Vec<(PathBuf, String)> {
    let names = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let named = names("/run/netns").map(|path| {
        let enter = format!("ip netns exec {} ", name(&path));
        (path, enter)
    });
    let running = names("/proc").filter(|path| name(path).bytes().all(|b| b.is_ascii_digit())).map(|path| {
        let enter = format!("nsenter -t {} -n ", name(&path));
        (path.join("ns/net"), enter)
    });
    named.chain(running).collect()
}

/// Runs `look` on a thread of its own that is in the namespace; nothing when it may not enter.
fn inside<T: Send + Default>(namespace: &File, look: impl FnOnce() -> T + Send) -> T {
    let fd = namespace.as_raw_fd();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: changes the namespace of this thread alone, which ends below.
            let entered = unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0;
            if entered { look() } else { T::default() }
        });
        thread.join().unwrap_or_default()
    })
}

/// The veths of the calling thread's namespace.
fn veths() -> Vec<Veth> {
    // A runtime on a thread of its own: the caller may be inside of one, and sockets belong to the namespace of their thread.
    let list = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().ok()?;
            let task = tokio::spawn(connection);
            let messages: Result<Vec<_>, _> = handle.link().get().execute().try_collect().await;
            task.abort();
            messages.ok()
        })
    };
    // A thread starts in the namespace of the one that makes it.
    let messages = std::thread::scope(|scope| scope.spawn(list).join().ok().flatten()).unwrap_or_default();
    let veth = |message: &rtnetlink::packet_route::link::LinkMessage| {
        let (mut name, mut peer, mut nsid, mut is) = (None, None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Link(index) => peer = Some(*index),
                LinkAttribute::LinkNetNsId(id) => nsid = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    is = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        is.then_some(Veth { index: message.header.index, name: name?, peer: peer?, nsid })
    };
    messages.iter().filter_map(veth).collect()
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// include/uapi/linux/ethtool.h: whether the device computes the checksums of what is sent.
const ETHTOOL_GTXCSUM: u32 = 0x16;

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a device of the calling thread's namespace leaves checksums to its hardware.
fn tx_checksum(device: &str) -> io::Result<bool> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut value = [ETHTOOL_GTXCSUM, 0];
    // SAFETY: all zero is a valid request to be filled.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request names a device and a struct ethtool_value that live through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value[1] != 0)
}

/// The number by which the calling thread's namespace knows another one (RTM_GETNSID with NETNSA_FD, rtnetlink(7)).
fn nsid_of(namespace: &File) -> Option<i32> {
    const RTM_NEWNSID: u16 = 88;
    const RTM_GETNSID: u16 = 90;
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).ok()?;
    let mut message = Vec::with_capacity(28);
    message.extend(28u32.to_ne_bytes());
    message.extend(RTM_GETNSID.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(8u16.to_ne_bytes());
    message.extend(NETNSA_FD.to_ne_bytes());
    message.extend(namespace.as_raw_fd().to_ne_bytes());
    let mut answer = [0u8; 256];
    // SAFETY: valid buffers and their lengths. The kernel answers a question about an identifier before `send` returns.
    let got = unsafe {
        if libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) != message.len() as isize
        {
            return None;
        }
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT)
    };
    let answer = answer.get(..usize::try_from(got).ok()?)?;
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != RTM_NEWNSID || half(22)? != NETNSA_NSID {
        return None;
    }
    let nsid = i32::from_ne_bytes(answer.get(24..28)?.try_into().ok()?);
    (nsid >= 0).then_some(nsid)
}
