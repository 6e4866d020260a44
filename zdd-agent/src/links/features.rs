//! Which XDP actions a device takes, by the kernel's `netdev` generic netlink family (Linux 6.3,
//! Documentation/netlink/specs/netdev.yaml). Two questions over a plain socket; a crate would bring an async stack along.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// The driver runs XDP programs, with all verdicts that need no other device.
const NETDEV_XDP_ACT_BASIC: u64 = 1;
/// The device transmits frames that are redirected to it.
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;
/// The driver hands over frames in several buffers.
const NETDEV_XDP_ACT_RX_SG: u64 = 32;
/// The device transmits redirected frames that lie in several buffers.
const NETDEV_XDP_ACT_NDO_XMIT_SG: u64 = 64;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADERS: usize = 16 + 4;

/// Whether a device takes redirected frames; `None` when the kernel does not tell.
pub(super) fn redirect_target(ifindex: u32) -> Option<bool> {
    Some(of(ifindex)? & NETDEV_XDP_ACT_NDO_XMIT != 0)
}

/// Whether a device's driver runs XDP programs; `None` when the kernel does not tell.
pub(super) fn native(ifindex: u32) -> Option<bool> {
    Some(of(ifindex)? & NETDEV_XDP_ACT_BASIC != 0)
}

/// Whether a driver hands over frames in several buffers; `None` when the kernel does not tell.
pub(super) fn receives_frags(ifindex: u32) -> Option<bool> {
    Some(of(ifindex)? & NETDEV_XDP_ACT_RX_SG != 0)
}

/// Whether a device sends such frames; `None` when the kernel does not tell.
pub(super) fn sends_frags(ifindex: u32) -> Option<bool> {
    Some(of(ifindex)? & NETDEV_XDP_ACT_NDO_XMIT_SG != 0)
}

/// The device's feature bits.
fn of(ifindex: u32) -> Option<u64> {
    let socket = open()?;
    let family = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0")?;
    let family = attribute(&family, CTRL_ATTR_FAMILY_ID)?;
    let family = u16::from_ne_bytes(family.get(..2)?.try_into().ok()?);
    let answer = ask(&socket, family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes())?;
    let features = attribute(&answer, NETDEV_A_DEV_XDP_FEATURES)?;
    Some(u64::from_ne_bytes(features.get(..8)?.try_into().ok()?))
}

fn open() -> Option<OwnedFd> {
    // SAFETY: no pointers.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: a new descriptor that is ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel answers at once; this only keeps a surprise from hanging the agent.
    let patience = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
    // SAFETY: a valid pointer and its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of::<libc::timeval>() as u32,
        );
    }
    Some(socket)
}

/// One request with one attribute; the answer's attributes.
fn ask(socket: &OwnedFd, family: u16, command: u8, kind: u16, value: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(64);
    let attribute = 4 + value.len();
    let total = HEADERS + attribute.next_multiple_of(4);
    message.extend((total as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(total, 0);
    // SAFETY: a valid buffer and its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent != message.len() as isize {
        return None;
    }
    let mut answer = vec![0u8; 8192];
    // SAFETY: a valid buffer and its length.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    answer.truncate(usize::try_from(got).ok()?);
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    (kind != NLMSG_ERROR && answer.len() > HEADERS).then(|| answer.split_off(HEADERS))
}

/// An attribute's value.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        if length < 4 || length > rest.len() {
            return None;
        }
        if kind == wanted {
            return Some(&rest[4..length]);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_nonsense_is_not() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 6, 0, 2, 0, 7, 8, 0, 0];
        assert_eq!(attribute(&bytes, 1), Some(&[9u8][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[7u8, 8][..]));
        assert_eq!(attribute(&bytes, 3), None);
        assert_eq!(attribute(&[2, 0, 1, 0], 1), None);
        assert_eq!(attribute(&[200, 0, 1, 0], 1), None);
    }
}
