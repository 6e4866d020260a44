//! What silence means. The agent asks this of every flow that is followed, now and then.

use super::stage::{self, ANSWERED, ASKED, DONE, ESTABLISHED, ONE_AHEAD, STAGE, SYN, SYN_ACK};
use super::{Event, SignalFlow};
use crate::time::{Tick, ticks};

/// How long a flow may take, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For its handshake.
    pub handshake: u64,
    /// For the first byte of a reply.
    pub answer: u64,
    /// Between two packets, once there was a reply.
    pub idle: u64,
}

/// What becomes of a flow at `now` (ns since boot, exact or coarse): `None`: nothing, else its new word and what is counted.
pub fn expire(flow: &SignalFlow, patience: &Patience, now: u64) -> Option<(u64, Event)> {
    let over = |since: u64, patience: u64| now.saturating_sub(since) >= patience;
    let done = flow.word & !STAGE | DONE;
    match flow.word & STAGE {
        SYN if over(flow.began, patience.handshake) => Some((done, Event::HalfOpen)),
        SYN_ACK if over(flow.began, patience.handshake) => Some((done, Event::Unfinished)),
        ESTABLISHED if over(flow.asked, patience.answer) => {
            let event = match flow.word & (ONE_AHEAD | ASKED) {
                // Only the backend's FIN was acknowledged, and the client leaves it at that.
                both if both & ONE_AHEAD != 0 => Event::BackendCloseEarly,
                ASKED => Event::Unanswered,
                _ => Event::Silent,
            };
            Some((done, event))
        }
        ANSWERED if Tick::from_ns(now).since(stage::seen_at(flow.word)) > ticks(patience.idle) => {
            Some((done, Event::None))
        }
        // Once its place is needed it is taken anyway; this keeps an old tuple from being met again after a day.
        DONE if Tick::from_ns(now).since(stage::seen_at(flow.word)) > ticks(patience.idle) => {
            Some((stage::FREE, Event::None))
        }
        _ => None,
    }
}
