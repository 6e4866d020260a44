//! The entry points and the one counted exit.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use zdd_common::odd;
use zdd_common::process::{Verdict, plain};

use crate::bytes::Bytes;
use crate::tables::Maps;
use crate::{events, maps, stats};

#[xdp]
fn zdd(ctx: XdpContext) -> u32 {
    let mut frame = Bytes::of(&ctx);
    let verdict = match maps::WORK.get_ptr_mut(0) {
        // SAFETY: this CPU's own, and XDP is not preempted by itself; all zero, as it begins, is a valid value.
        Some(work) => plain(&mut frame, &mut Maps::of(&ctx), unsafe { &mut *work }),
        None => Verdict::Odd,
    };
    if let Verdict::Odd = verdict {
        // SAFETY: nothing here waits to be dropped. It only comes back when the slot is empty.
        unsafe { maps::PROGRAMS.tail_call(&ctx, maps::ODD) };
    }
    leave(&ctx, verdict)
}

/// Frames that are not plain; see `maps::PROGRAMS`.
#[xdp]
fn zdd_odd(ctx: XdpContext) -> u32 {
    let verdict = match maps::ODD_WORK.get_ptr_mut(0) {
        // SAFETY: this CPU's own, and XDP is not preempted by itself; the first thing is to overwrite it, by plain values.
        Some(work) => odd::process(Bytes::of(&ctx), &mut Maps::of(&ctx), unsafe { &mut *work }),
        None => Verdict::Odd,
    };
    leave(&ctx, verdict)
}

#[inline(always)]
fn leave(ctx: &XdpContext, verdict: Verdict) -> u32 {
    stats::count_reason(verdict.reason());
    events::sample(ctx, verdict.reason());
    match verdict {
        Verdict::Pass(_) | Verdict::Odd => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit(_) => xdp_action::XDP_TX,
        // A port that vanished between the agent's look and this frame: its next hop is about to be replaced.
        Verdict::Redirect(ifindex, _) => match maps::TX.redirect(ifindex, 0) {
            Ok(action) | Err(action) => action,
        },
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse an endless loop that is reachable.
    loop {}
}

/// The licence that the kernel checks before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
