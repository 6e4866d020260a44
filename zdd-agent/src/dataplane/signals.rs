//! The flows that are followed, and what was counted of them.

use zdd_common::atomic::{Atomics as _, Host};
use zdd_common::entries::BackendId;
use zdd_common::hash::{HashKey, fold};
use zdd_common::signals::stage::FREE;
use zdd_common::signals::table::SIGNAL_WAYS;
use zdd_common::signals::{Event, SignalCounters, SignalFlow};

use super::error::DataplaneError;
use super::fault::{self, Write};
use super::object::Dataplane;

impl Dataplane {
    /// What a backend's flows have told.
    pub fn signals(&self, id: BackendId) -> SignalCounters {
        // SAFETY: a mapped value; figures that may be a moment apart.
        unsafe { self.signals.at(id.into()).read_volatile() }
    }

    /// Sets a backend's signals to 0, before its id is used again. Where no flows are followed nobody looks at them, so they are not
    /// brought into this process's memory: of 20,000 backends they are 35 MiB.
    ///
    /// # Errors
    /// [`DataplaneError`] when the kernel refuses.
    pub fn clear_signals(&self, id: BackendId) -> Result<(), DataplaneError> {
        fault::before(Write::Counters);
        self.signals
            .write(id.into(), &SignalCounters::default())
            .map_err(|error| DataplaneError::kernel("cannot clear signals", error))
    }

    /// Secret that chooses which flows are followed, of a host with this key.
    pub const fn signal_secret_of(key: HashKey) -> u64 {
        fold(key.k0, !key.k1)
    }

    /// It.
    pub fn signal_secret(&self) -> u64 {
        self.signal_secret
    }

    /// Looks at every flow that is followed and does with it what `rule` says: a new word, and what is counted. What a packet
    /// does meanwhile wins, and the next sweep looks again.
    pub fn sweep_signals(&self, mut rule: impl FnMut(&SignalFlow) -> Option<(u64, Event)>) {
        for index in 0..self.signal_flows.len() {
            let flows = self.signal_flows.at(index).cast::<SignalFlow>();
            for way in 0..SIGNAL_WAYS {
                // SAFETY: a mapped value; ways are below their number.
                let at = unsafe { flows.add(way) };
                // SAFETY: as above. The word first: the rest belongs to it if the exchange below succeeds.
                let word = unsafe { Host::load(&raw const (*at).word) };
                if word == FREE {
                    continue;
                }
                // SAFETY: as above.
                let flow = SignalFlow { word, ..unsafe { at.read_volatile() } };
                let Some((new, event)) = rule(&flow) else { continue };
                fault::before(Write::Followed);
                // SAFETY: as above.
                let done = unsafe { Host::cas(&raw mut (*at).word, word, new) };
                let id = (flow.rest >> 32) as u16;
                if done && event != Event::None && usize::from(id) < self.signals.len() {
                    // SAFETY: a mapped value; events are within its first field.
                    unsafe { Host::add(&raw mut (*self.signals.at(id.into())).events[event as usize], 1) };
                }
            }
        }
    }
}
