//! The cases: what arrives, how many flows, in which state of the cells, and how it is forwarded.

use zdd_common::entries::Mode;
use zdd_common::limits::FLOWS_DEFAULT;

/// Forwarding modes and their names. A new mode is one more line.
pub(super) const FORWARDS: &[(&str, Mode)] =
    &[("l2", Mode::L2), ("nat", Mode::Nat), ("ipip", Mode::Ipip), ("snat", Mode::Snat)];

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP with ACK alone.
    Ack,
    /// TCP with SYN alone, another sequence number every time.
    Syn,
    /// UDP.
    Udp,
}

/// How many flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flows {
    /// So many, in turn; a power of two.
    Some(u32),
    /// Every packet is a new one.
    New,
}

/// Whose the packet is, and how its cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Base is current, and nothing is looked up.
    Settled,
    /// Every cell is dirty; the program made the flows' entries before.
    Transition,
    /// Not for a VIP.
    NotVip,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// IPv6.
    pub(super) v6: bool,
    /// What arrives.
    pub(super) kind: Kind,
    /// How many flows.
    pub(super) flows: Flows,
    /// In which state.
    pub(super) state: State,
    /// Index into [`FORWARDS`].
    pub(super) forward: usize,
    /// Services that the flows spread over.
    pub(super) services: u32,
}

/// Services of the many-services cases.
pub(super) const MANY: u32 = 1000;

/// How the many services' packets are forwarded: over IPv4 as the floor does it. Their backends have IPv4 addresses, so IPv6 takes a
/// mode that does not look at them.
pub(super) const fn many_forward(v6: bool) -> Mode {
    if v6 { Mode::L2 } else { Mode::Ipip }
}

impl Case {
    /// Everything but the number of flows.
    #[must_use]
    pub fn name(&self) -> String {
        let family = if self.v6 { "v6" } else { "v4" };
        let kind = match self.kind {
            Kind::Ack => "ACK",
            Kind::Syn => "SYN",
            Kind::Udp => "UDP",
        };
        let state = match self.state {
            State::NotVip => return format!("{family} {kind} not-a-VIP"),
            State::Settled => "settled",
            State::Transition => "transition",
        };
        let many = if self.services > 1 { " 1000-services" } else { "" };
        format!("{family} {kind} {state} {}{many}", FORWARDS[self.forward].0)
    }

    /// Number of flows, as people say it.
    #[must_use]
    pub fn flows(&self) -> String {
        match self.flows {
            Flows::Some(n) if n >= 1 << 20 => format!("{}M", n >> 20),
            Flows::Some(n) if n >= 1 << 10 => format!("{}k", n >> 10),
            Flows::Some(n) => n.to_string(),
            Flows::New => "new".into(),
        }
    }

    /// Whether our program keeps something for each flow: an entry or a mapping.
    pub(super) fn per_flow(&self) -> bool {
        self.state == State::Transition || FORWARDS[self.forward].1 == Mode::Snat
    }

    /// Entries that the flow table is made for: the agent's default, which a million do not fit into.
    pub(super) const fn entries(&self) -> u32 {
        match (self.flows, self.state) {
            (Flows::Some(flows), State::Transition) if 2 * flows > FLOWS_DEFAULT => 2 * flows,
            _ => FLOWS_DEFAULT,
        }
    }

    /// The case that this one's price is compared with: IPv6 with IPv4, many services with one.
    pub(super) fn peer(&self) -> Option<Self> {
        match (self.services > 1, self.v6, self.state) {
            (true, ..) => Some(Self { services: 1, ..self.clone() }),
            // Two million entries would compare a full table with an empty one.
            (_, true, State::Transition) if self.flows == Flows::Some(1 << 20) => None,
            (_, true, _) => Some(Self { v6: false, ..self.clone() }),
            _ => None,
        }
    }
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = vec![];
    for v6 in [false, true] {
        let plain = Case {
            v6,
            kind: Kind::Ack,
            flows: Flows::Some(1 << 16),
            state: State::NotVip,
            forward: 0,
            services: 1,
        };
        cases.push(plain.clone());
        for (forward, mode) in FORWARDS.iter().enumerate() {
            let settled = Case { state: State::Settled, forward, ..plain.clone() };
            for state in [State::Settled, State::Transition] {
                for kind in [Kind::Ack, Kind::Syn, Kind::Udp] {
                    for flows in [Flows::Some(1), Flows::Some(1 << 16), Flows::Some(1 << 20), Flows::New] {
                        // Each flow of snat takes a port of the half million that there are.
                        let ports = mode.1 != Mode::Snat || matches!(flows, Flows::Some(n) if n <= 1 << 16);
                        // A new UDP flow or ACK in a transition is what fills the table before the other rows.
                        if ports && (flows != Flows::New || state == State::Settled || kind == Kind::Syn) {
                            cases.push(Case { state, kind, flows, ..settled.clone() });
                        }
                    }
                }
            }
            // One mode for each family: what many services cost is looking them up, and every mode's rows are memory.
            if mode.1 == many_forward(v6) {
                cases.push(Case { services: MANY, ..settled });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cases_have_one_name() {
        let mut names: Vec<_> = all().iter().map(|case| (case.name(), case.flows())).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_peer_is_a_case_of_its_own_price() {
        let cases = all();
        for case in &cases {
            if let Some(peer) = case.peer() {
                assert!(cases.contains(&peer) && peer.services == 1, "{case:?}");
            }
        }
    }
}
