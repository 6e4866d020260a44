//! Sweeping the mappings of `snat`: each has the timeouts of its backend's service.

use std::collections::HashMap;
use std::time::Duration;

use zdd_common::entries::BackendId;
use zdd_common::reason::{REASONS, Reason};
use zdd_common::snat::mapping::{self, Fate, Timeouts};

use super::Reconciler;
use super::service::Service;
use crate::dataplane::MappingTotals;
use crate::report::SnatStatus;

/// How long either end may be in TIME_WAIT: Linux keeps it for 60 s (TCP_TIMEWAIT_LEN).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// What a handshake, or an unanswered UDP flow, gets while more than half of the ports are in use: a SYN and three copies fit.
const SCARCE: Duration = Duration::from_secs(10);
/// Mappings of removed backends that one sweep ends: their clients reconnect one after another.
const PACE: u32 = 1000;

/// New flows lately found no free port.
#[derive(Debug, Default)]
pub(super) struct Starved {
    /// Dropped for it when last looked; `None`: not looked yet, and what was before is no news.
    dropped: Option<u64>,
    /// Since boot; 0: never.
    last_ns: u64,
}

/// It is a trouble for so long after the last one.
const STARVED_NS: u64 = 60_000_000_000;

impl Starved {
    fn look(&mut self, dropped: u64, now: u64) {
        if self.dropped.is_some_and(|before| dropped > before) {
            self.last_ns = now;
        }
        self.dropped = Some(dropped);
    }

    fn still(&self, now: u64) -> bool {
        self.last_ns != 0 && now.saturating_sub(self.last_ns) < STARVED_NS
    }
}

/// Whether a packet that ended so can have mapped a flow: not one that is for no VIP, nor what is spoken with a backend's own address. These
/// are what an idle host sees, the agent's own probes among them.
fn may_map(reason: Reason) -> bool {
    !matches!(reason, Reason::PassNotIp | Reason::PassNotVip | Reason::PassLocal | Reason::PassDirect)
}

fn count(reasons: &[u64], of: impl Fn(Reason) -> bool) -> u64 {
    REASONS.iter().zip(reasons).filter(|(reason, _)| of(**reason)).map(|(_, packets)| packets).sum()
}

/// Nothing is mapped, and no packet has come that could have changed that: nobody needs to look.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Packets that may have mapped a flow, as counted before the table was last looked at. A packet is counted when it is done: one that
    /// maps a flow behind the sweep's back is counted later than this, and then there is a look again.
    packets: u64,
    /// The look found nothing.
    empty: bool,
    /// When that began (ns since boot).
    since: u64,
}

/// A table that nothing has been in for so long is not kept in the agent's memory.
const QUIET_NS: u64 = 10_000_000_000;

impl Quiet {
    /// Takes the present count; whether the table is still as it was found: empty.
    fn still(&mut self, packets: u64, now: u64) -> bool {
        if self.empty && packets == self.packets {
            return true;
        }
        *self = Quiet { packets, empty: false, since: now };
        false
    }

    fn swept(&mut self, empty: bool) {
        self.empty = empty;
    }

    fn long(&self, now: u64) -> bool {
        now.saturating_sub(self.since) > QUIET_NS
    }
}

impl Reconciler {
    /// What to say while new flows find no port.
    pub(super) fn starved(&self) -> Option<String> {
        let used: Vec<String> = self
            .snat_status()
            .iter()
            .map(|pool| {
                let used = pool.live + pool.finished;
                format!(
                    "{used} of {} in use, {} at most towards one backend",
                    pool.capacity, pool.per_backend
                )
            })
            .collect();
        self.starved.still(crate::clock::now_ns()).then(|| {
            format!(
                "no port was free for new flows within the last minute, they were dropped (drop_no_port; {}): \
                 widen agent.snat_ports, or add addresses to agent.snat_source",
                used.join(", ")
            )
        })
    }

    /// Ends mappings whose time has come, frees ports, and counts each backend's live flows, which under `snat` are all known.
    pub(super) fn sweep_mappings(&mut self, now: u64) {
        let capacity = self.dataplane.mapping_capacity();
        if capacity == [0, 0] {
            return;
        }
        match self.dataplane.reasons() {
            Ok(reasons) => {
                self.starved.look(count(&reasons, |reason| reason == Reason::DropNoPort), now);
                if self.quiet.still(count(&reasons, may_map), now) {
                    if self.quiet.long(now) {
                        self.dataplane.let_mappings_go();
                    }
                    return;
                }
            }
            // Then it is looked at.
            Err(error) => tracing::error!("{error}"),
        }
        let mut known: HashMap<BackendId, (usize, Timeouts, bool)> = HashMap::new();
        for (index, service) in self.services.iter().enumerate() {
            let times = timeouts(service);
            for backend in &service.saved.backends {
                let gone = self.let_go(index, backend) || service.given_up.contains(&backend.id);
                known.insert(backend.id, (index, times, gone));
            }
        }
        let used = |family: usize| {
            let MappingTotals { live, finished, resting } = self.mapped[family];
            live + finished + resting
        };
        let scarce = (0..2).any(|family| used(family) > capacity[family] / 2);
        let mut flows: HashMap<BackendId, u64> = HashMap::new();
        let mut paced = 0;
        let mapped = self.dataplane.sweep_mappings(|mapping| {
            let Some((_, times, gone)) = known.get(&mapping.backend()) else {
                // Of a backend that is gone: nobody can answer.
                return match mapping::over(mapping, now) {
                    Fate::Keep => mapping::sweep(mapping, &ANY, scarce, now),
                    over => over,
                };
            };
            if *gone
                && paced < PACE
                && let over @ Fate::Over(_) = mapping::over(mapping, now)
            {
                paced += 1;
                return over;
            }
            let fate = mapping::sweep(mapping, times, scarce, now);
            if fate == Fate::Keep && mapping.is(mapping::State::Live) && !mapping.finished() {
                *flows.entry(mapping.backend()).or_default() += 1;
            }
            fate
        });
        self.mapped = mapped;
        self.quiet.swept(mapped == [MappingTotals::default(); 2]);
        for (id, flows) in flows {
            let (index, ..) = known[&id];
            let seen = self.services[index].flows.entry(id).or_default();
            // Some of them have an entry of the flow table as well.
            *seen = flows.max(*seen);
        }
    }

    /// What `snat` gives out and has given out.
    pub(super) fn snat_status(&self) -> Vec<SnatStatus> {
        let pool = self.dataplane.pool();
        let capacity = self.dataplane.mapping_capacity();
        let of = |v6: bool| {
            let family = usize::from(v6);
            let MappingTotals { live, finished, resting } = self.mapped[family];
            SnatStatus {
                sources: self.dataplane.snat_sources(v6).iter().map(ToString::to_string).collect(),
                ports: format!("{}-{}", pool.first, u32::from(pool.first) + u32::from(pool.ports) - 1),
                capacity: capacity[family],
                per_backend: capacity[family] / u64::from(pool.planes.max(1)),
                live,
                finished: finished + resting,
            }
        };
        [false, true].into_iter().filter(|v6| capacity[usize::from(*v6)] > 0).map(of).collect()
    }
}

/// For what nobody has timeouts for.
const ANY: Timeouts =
    Timeouts { idle: 0, udp_idle: 0, half_life: 0, scarce: 0, time_wait: 0, grace: 1_000_000_000 };

fn timeouts(service: &Service) -> Timeouts {
    let times = service.times;
    let ns = |duration: Duration| duration.as_nanos() as u64;
    Timeouts {
        idle: times.idle,
        udp_idle: times.udp_idle,
        half_life: times.half_life,
        scarce: ns(SCARCE).min(times.half_life),
        time_wait: ns(TIME_WAIT),
        grace: times.grace,
    }
}

#[cfg(test)]
mod tests {
    use zdd_common::reason::Reason;

    use super::{QUIET_NS, Quiet, REASONS, STARVED_NS, Starved, count, may_map};

    #[test]
    fn an_empty_table_is_looked_at_again_when_a_packet_may_have_mapped_a_flow() {
        let mut quiet = Quiet::default();
        assert!(!quiet.still(0, 1), "nobody has looked yet");
        quiet.swept(false);
        assert!(!quiet.still(0, 2), "something was there");
        quiet.swept(true);
        assert!(quiet.still(0, 3) && quiet.still(0, 4));
        assert!(!quiet.long(2 + QUIET_NS) && quiet.long(3 + QUIET_NS), "since the look that found nothing");
        assert!(!quiet.still(1, 5), "a packet came");
        quiet.swept(true);
        assert!(quiet.still(1, 6) && !quiet.still(2, 7));
        // A look that failed proves nothing.
        assert!(!quiet.still(2, 8));
    }

    #[test]
    fn what_an_idle_host_sees_maps_nothing_and_what_is_for_a_vip_may() {
        let each: Vec<u64> = (0..REASONS.len() as u32).map(|n| 1 << n.min(63)).collect();
        let idle = [Reason::PassNotIp, Reason::PassNotVip, Reason::PassLocal, Reason::PassDirect];
        let all: u64 = each.iter().sum();
        let without = count(&each, |reason| idle.contains(&reason));
        assert_eq!(count(&each, may_map) + without, all);
        assert!(REASONS.iter().filter(|reason| reason.forwarded()).all(|reason| may_map(*reason)));
        // What drops or leaves to the stack a packet whose flow has just been mapped.
        for reason in [
            Reason::DropNoNextHop,
            Reason::StackRouted,
            Reason::DropTtl,
            Reason::TooBig,
            Reason::DropMalformed,
        ] {
            assert!(may_map(reason), "{}", reason.name());
        }
    }

    #[test]
    fn only_drops_that_are_seen_to_come_are_news_and_for_a_minute() {
        let mut starved = Starved::default();
        // Those of before this agent.
        starved.look(7, 1);
        assert!(!starved.still(2));
        starved.look(8, 3);
        starved.look(8, 4);
        assert!(starved.still(3 + STARVED_NS - 1) && !starved.still(3 + STARVED_NS));
    }
}
