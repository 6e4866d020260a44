//! Sampled events for people who look: off unless the configuration asks for them.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use zdd_common::reason::Reason;

/// Logs one packet in `sample`.
#[inline(always)]
pub(crate) fn sample(ctx: &XdpContext, reason: Reason) {
    let sample = crate::maps::config().sample;
    // SAFETY: the helper has no conditions.
    if sample != 0 && unsafe { bpf_get_prandom_u32() } % sample == 0 {
        log(ctx, reason as u32);
    }
}

/// A function of its own: the logger's stack must not add to the packet path's.
#[inline(never)]
fn log(ctx: &XdpContext, reason: u32) {
    let length = ctx.data_end() - ctx.data();
    debug!(ctx, "packet if={} bytes={} reason={}", ctx.ingress_ifindex(), length, reason);
}
