//! What XDP has to do with an interface: a program that is there, and whether frames can be redirected to it.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use super::LinksError;

/// Bytes of an IP packet above which a frame does not fit one page: 4096 less headroom (256), the kernel's tail (320), the Ethernet header (14)
/// and a VLAN tag (4). A driver either refuses XDP on an interface with a larger MTU, or keeps such frames in several buffers.
pub const MTU_OF_ONE_PAGE: u32 = 3498;

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Id of the program.
    pub program: u32,
}

/// The XDP program of an interface, if it has one.
///
/// # Errors
/// When the kernel cannot be asked, or there is no such interface.
pub async fn attached(ifindex: u32) -> Result<Option<Present>, LinksError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let answer = handle.link().get().match_index(ifindex).execute().try_next().await;
    task.abort();
    let Ok(Some(message)) = answer else { return Ok(None) };
    for attribute in message.attributes {
        let LinkAttribute::Xdp(all) = attribute else { continue };
        let none = all.iter().any(|x| matches!(x, LinkXdp::Attached(XdpAttached::None)));
        if none {
            return Ok(None);
        }
        for x in all {
            if let LinkXdp::ProgId(program) = x {
                return Ok(Some(Present { program }));
            }
        }
    }
    Ok(None)
}

/// Whether frames redirected to a device arrive.
///
/// Under generic XDP every device can send. A driver that has native XDP can as a rule, but a veth only when its peer has
/// GRO on or an XDP program (the kernel tells since 6.3, and keeps quiet before).
pub fn takes_redirects(ifindex: u32, kind: Option<&str>, generic: bool) -> bool {
    generic || super::features::redirect_target(ifindex).unwrap_or(kind != Some("veth"))
}

/// Bytes of the largest packet that XDP can send by a device of this MTU in native mode: one whose driver says that it sends no frames in several
/// buffers drops them without a word.
pub fn sends(ifindex: u32, mtu: u32, generic: bool) -> u32 {
    if generic || mtu <= MTU_OF_ONE_PAGE || super::features::sends_frags(ifindex) != Some(false) {
        mtu
    } else {
        MTU_OF_ONE_PAGE
    }
}

/// Whether a device's driver hands frames in several buffers to programs that take them; `None` before Linux 6.3.
pub fn receives_frags(ifindex: u32) -> Option<bool> {
    super::features::receives_frags(ifindex)
}

/// Whether a device's driver runs XDP programs; `None` before Linux 6.3, where the kernel does not tell.
pub fn native(ifindex: u32) -> Option<bool> {
    super::features::native(ifindex)
}
