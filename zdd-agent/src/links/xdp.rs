//! What XDP has to do with an interface: a program that is there, and whether frames can be redirected to it.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use super::LinksError;

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

/// Whether a device's driver runs XDP programs; `None` before Linux 6.3, where the kernel does not tell.
pub fn native(ifindex: u32) -> Option<bool> {
    super::features::native(ifindex)
}
