//! Traces: packets told to the agent while somebody looks. What is wanted, and how much of it, is decided by `zdd_common::trace`.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use zdd_common::frame::Frame as _;
use zdd_common::process::{Verdict, Work};
use zdd_common::snat::Order;
use zdd_common::trace::{TraceAsk, TraceMark};

use crate::bytes::Bytes;
use crate::maps::{TRACE, TRACE_BUDGET, TRACE_OUT};

/// Whether anybody looks.
#[inline(always)]
pub(crate) fn on() -> bool {
    // SAFETY: a map value. All that nobody looks costs is this one word.
    TRACE.get_ptr(0).is_some_and(|ask| unsafe { (&raw const (*ask).until).read_volatile() } != 0)
}

/// Tells of one packet, if anybody wants to know. `work` or `order`: what was found out about it, null if nothing was.
#[inline(always)]
pub(crate) fn look(ctx: &XdpContext, verdict: Verdict, work: *const Work, order: *const Order) {
    if let Some(ask) = TRACE.get_ptr(0)
        // SAFETY: a map value. All that nobody looks costs is this one word.
        && unsafe { (&raw const (*ask).until).read_volatile() } != 0
    {
        let (action, reason) = (TraceMark::action(verdict), verdict.reason() as u32);
        tell(ctx, ask, work, order, action << 8 | reason);
    }
}

/// A function of its own: its stack must not add to the packet path's. Returns a value that nobody needs, because what is left in
/// the return register of a function without one may be a pointer to the stack, which the verifier does not let out.
#[inline(never)]
fn tell(ctx: &XdpContext, ask: *const TraceAsk, work: *const Work, order: *const Order, fate: u32) -> u64 {
    // SAFETY: a map value of the agent's; one that is just being changed wants a mixture, and the agent leaves out what nobody asked for.
    let ask = unsafe { &*ask };
    // SAFETY: the helper has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let length = Bytes::of(ctx).size() as u32;
    // SAFETY: null, or this CPU's own map value.
    let mut mark = TraceMark::of(unsafe { work.as_ref() }, fate);
    // SAFETY: as above.
    if let Some(order) = unsafe { order.as_ref() } {
        mark.ordered(order);
    }
    mark.at_ns = now;
    // SAFETY: the context is valid for the whole run of the program.
    mark.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    mark.length = length;
    mark.captured = if ask.snap < length { ask.snap } else { length };
    if !ask.wants(now, &mark) {
        return 0;
    }
    let Some(budget) = TRACE_BUDGET.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own value; XDP is not preempted by itself.
    match unsafe { (*budget).take(now, ask.rate) } {
        Some(missed) => mark.missed = missed,
        None => return 0,
    }
    // The kernel copies as many bytes of the frame behind the mark as the upper half of the flags says.
    TRACE_OUT.output(ctx, &mark, mark.captured);
    0
}
