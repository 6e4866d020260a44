//! Counters, each CPU its own.

use zdd_common::entries::BackendId;
use zdd_common::reason::Reason;

use crate::maps::{BACKEND_COUNT, REASON_COUNT, REFUSED_COUNT, SERVICE_COUNT};

/// Every packet passes here exactly once.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(count) = REASON_COUNT.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own value; XDP is not preempted by itself.
        unsafe { *count += 1 };
    }
}

/// A packet that was forwarded.
#[inline(always)]
pub(crate) fn count_flow(service: u16, backend: BackendId, bytes: u32, reason: Reason, new_flow: bool) {
    if let Some(counters) = SERVICE_COUNT.get_ptr_mut(service.into()) {
        // SAFETY: as above.
        unsafe { (*counters).add(bytes, reason, new_flow) };
    }
    if let Some(counters) = BACKEND_COUNT.get_ptr_mut(backend.into()) {
        // SAFETY: as above.
        unsafe { (*counters).add(bytes, reason, new_flow) };
    }
}

/// A packet that was turned away. A function of its own: most packets never come here.
#[inline(never)]
pub(crate) fn count_refused(service: u16, reason: Reason) -> u64 {
    if let Some(refusals) = REFUSED_COUNT.get_ptr_mut(service.into()) {
        // SAFETY: as above.
        unsafe { (*refusals).add(reason) };
    }
    0
}
