//! What should never be, for the agent's log.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use zdd_common::frame::Frame as _;

use crate::bytes::Bytes;

/// A frame met no program where there should be one. One in 64 is told, so that a flood of them does not fill the log.
#[inline(always)]
pub(crate) fn no_program(ctx: &XdpContext, reason: u32) {
    // SAFETY: the helper has no conditions.
    if unsafe { bpf_get_prandom_u32() } & 63 == 0 {
        tell(ctx, Bytes::of(ctx).size() as u32, reason);
    }
}

/// A function of its own: the logger's stack must not add to the packet path's. For why it returns something, see `trace::tell`.
#[inline(never)]
fn tell(ctx: &XdpContext, length: u32, reason: u32) -> u64 {
    warn!(
        ctx,
        "a frame of {} bytes from interface {} found no program to go on in (reason {}): restart the agent, and report it",
        length,
        ctx.ingress_ifindex(),
        reason
    );
    0
}
