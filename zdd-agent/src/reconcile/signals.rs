//! Signals as the loop sees them: silence is told from the flows that are followed, and what was counted is added up per version.

use std::collections::HashMap;
use std::time::Duration;

use zdd_common::entries::BackendId;
use zdd_common::net::Addr;
use zdd_common::signals::expire::{Patience, expire};
use zdd_common::signals::stage::{self, FREE};
use zdd_common::signals::{Event, Rate, SignalKey};

use super::Reconciler;
use super::service::Service;
use crate::clock;
use crate::desired::Forward;
use crate::report::SignalsStatus;
use crate::signals::{Reading, metric};

impl Reconciler {
    /// Looks for handshakes, replies and flows that have taken too long.
    pub(super) fn sweep_signals(&mut self) {
        let any = self.services.iter().any(|service| service.rate() != Rate::OFF);
        // Once more after the last service has switched them off, to let go what was followed.
        if !any && !std::mem::replace(&mut self.signals_swept, any) {
            return;
        }
        self.signals_swept = any;
        let mut of: HashMap<BackendId, (Rate, Patience)> = HashMap::new();
        for service in &self.services {
            let Some(signals) = &service.saved.spec.signals else { continue };
            let ns = |time: Duration| time.as_nanos() as u64;
            let patience = Patience {
                handshake: ns(signals.handshake_timeout),
                answer: ns(signals.answer_timeout),
                idle: ns(service.saved.spec.idle_timeout),
            };
            let rate = service.rate();
            of.extend(service.saved.backends.iter().map(|b| (b.id, (rate, patience))));
        }
        let (secret, now) = (self.dataplane.signal_secret(), clock::now_ns());
        self.dataplane.sweep_signals(|flow| {
            let client = Addr { hi: flow.client_hi, lo: flow.client_lo };
            let key = SignalKey { client, rest: flow.rest };
            match of.get(&key.backend()) {
                Some((rate, patience)) if rate.takes(key.hash(secret)) => expire(flow, patience, now),
                _ if stage::is_live(flow.word) => Some((FREE, Event::Evicted)),
                _ => None,
            }
        });
    }

    /// Everything that the flows of a version have told since the maps were made.
    pub(super) fn reading(&self, service: &Service, version: &str) -> Reading {
        let mut all = service.saved.retired_signals.get(version).cloned().unwrap_or_default();
        for backend in service.saved.backends.iter().filter(|b| b.version == version) {
            all.add(&Reading::of_backend(&self.dataplane.signals(backend.id)));
        }
        all
    }

    /// The forwarding mode of a version.
    pub(super) fn forward_of(service: &Service, version: &str) -> Forward {
        let spec = &service.saved.spec;
        let own = spec.versions.iter().find(|v| v.name == version).and_then(|v| v.forward);
        own.unwrap_or(spec.forward)
    }

    /// A version's signals for a report; `None`: none of its flows are followed.
    pub(super) fn signals_status(&self, service: &Service, version: &str) -> Option<SignalsStatus> {
        let signals = service.saved.spec.signals?;
        if service.rate() == Rate::OFF {
            return None;
        }
        let both_ways = metric::both_ways(Self::forward_of(service, version));
        Some(SignalsStatus::new(&self.reading(service, version), 1 << signals.shift, both_ways))
    }
}
