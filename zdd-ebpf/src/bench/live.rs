//! Programs for frames on a wire: what the generator ends in, the floors of whoever sends by redirection, and where frames end.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

use crate::floors;

/// Index of the interface that frames leave by.
#[map]
static EXIT: Array<u32> = Array::with_max_entries(1, 0);

#[inline(always)]
fn leave() -> u32 {
    match EXIT.get(0) {
        // SAFETY: the helper has no conditions.
        Some(index) => unsafe { bpf_redirect(*index, 0) as u32 },
        None => XDP_ABORTED,
    }
}

/// Hands every frame on as it is.
#[xdp]
pub fn redirect(_ctx: XdpContext) -> u32 {
    leave()
}

/// [`floors::stateless`] with another last step: between veths frames leave by redirection.
#[xdp]
pub fn stateless_live(ctx: XdpContext) -> u32 {
    match floors::encapsulate(&ctx) {
        XDP_TX => leave(),
        other => other,
    }
}

/// Drops UDP and IPIP over IPv4, which is all that the generator makes and all that becomes of it; passes the rest (ARP, TCP).
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    const PROTOCOL: usize = 14 + 9;
    let start = ctx.data();
    if start + PROTOCOL + 1 > ctx.data_end() {
        return XDP_PASS;
    }
    // SAFETY: within the frame, checked above.
    let (ethertype, protocol) = unsafe {
        (((start + 12) as *const u16).read_volatile(), ((start + PROTOCOL) as *const u8).read_volatile())
    };
    match (u16::from_be(ethertype), protocol) {
        (0x0800, 4 | 17) => XDP_DROP,
        _ => XDP_PASS,
    }
}
