//! From the kernel's facts to a next hop: pure.

use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::read::{Entry, Way};
use super::{NextHop, NextHopState};
use crate::links::Link;

/// What follows from the facts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: NextHopState,
    /// Whom the kernel is to resolve: interface and address on it.
    pub(super) nudge: Option<(u32, IpAddr)>,
}

impl Verdict {
    fn unresolved(why: String) -> Verdict {
        Verdict { state: NextHopState::Unresolved { why }, nudge: None }
    }
}

/// The state of `addr`, given the way to it, the interface of that way, the neighbour entry of its next hop there, and
/// what was known before.
///
/// A next hop that was resolved stays so while the kernel asks again: entries are collected and flushed without the
/// neighbour being gone. Only an answer that does not come ends it.
pub(super) fn judge(
    addr: IpAddr,
    way: &Way,
    link: Option<&Link>,
    entry: Option<&Entry>,
    before: Option<&NextHopState>,
) -> Verdict {
    let (ifindex, via) = match way {
        Way::Out { ifindex, via } => (*ifindex, *via),
        Way::Local => return Verdict::unresolved(format!("{addr} is an address of this host")),
        Way::None(why) => return Verdict::unresolved(format!("no route to {addr}: {why}")),
    };
    let Some(link) = link else {
        return Verdict::unresolved(format!("the interface {ifindex} of the route to {addr} is gone"));
    };
    let name = &link.name;
    let (true, Some(source_mac)) = (link.ethernet, link.mac) else {
        return Verdict::unresolved(format!("{name}, the way to {addr}, is not Ethernet"));
    };
    if !link.up {
        return Verdict::unresolved(format!("{name}, the way to {addr}, is down"));
    }
    if !link.carrier {
        return Verdict::unresolved(format!("{name}, the way to {addr}, has no carrier"));
    }

    let hop = via.unwrap_or(addr);
    let asking = if hop.is_ipv4() { "ARP" } else { "neighbour discovery" };
    let silent = NextHopState::Unresolved { why: format!("no answer to {asking} from {hop} on {name}") };
    let waiting = NextHopState::Unresolved { why: format!("waiting for {hop} to answer {asking} on {name}") };
    let known = entry.filter(|entry| {
        !matches!(entry.state, NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed)
    });
    if let Some(mac) = known.and_then(|entry| entry.mac) {
        let state =
            NextHopState::Resolved(NextHop { ifindex, interface: name.clone(), mac, source_mac, via });
        // Stale is what an entry becomes that the kernel itself does not use; it is right until proved wrong.
        let stale = known.is_some_and(|entry| entry.state == NeighbourState::Stale);
        return Verdict { state, nudge: stale.then_some((ifindex, hop)) };
    }
    let nudge = Some((ifindex, hop));
    match entry.map(|entry| entry.state) {
        Some(NeighbourState::Failed) => Verdict { state: silent, nudge },
        entry => {
            let nudge = nudge.filter(|_| entry != Some(NeighbourState::Incomplete));
            let state = match before {
                Some(NextHopState::Resolved(old)) if old.ifindex == ifindex && old.via == via => {
                    NextHopState::Resolved(NextHop { interface: name.clone(), source_mac, ..old.clone() })
                }
                Some(old) if *old == silent => silent,
                _ => waiting,
            };
            Verdict { state, nudge }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Mac;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn addr() -> IpAddr {
        "10.1.0.2".parse().expect("an address")
    }

    fn gateway() -> IpAddr {
        "10.0.0.254".parse().expect("an address")
    }

    fn eth0() -> Link {
        Link {
            index: 7,
            name: "eth0".into(),
            mac: Some(OWN),
            ethernet: true,
            up: true,
            carrier: true,
            mtu: 1500,
            kind: None,
            vlan: None,
        }
    }

    fn entry(state: NeighbourState, mac: Option<Mac>) -> Option<Entry> {
        Some(Entry { state, mac })
    }

    fn resolved(mac: Mac, via: Option<IpAddr>) -> NextHopState {
        NextHopState::Resolved(NextHop { ifindex: 7, interface: "eth0".into(), mac, source_mac: OWN, via })
    }

    fn on_link(entry: Option<Entry>, before: Option<&NextHopState>) -> (String, Option<(u32, IpAddr)>) {
        let way = Way::Out { ifindex: 7, via: None };
        let verdict = judge(addr(), &way, Some(&eth0()), entry.as_ref(), before);
        (verdict.state.to_string(), verdict.nudge)
    }

    const NUDGE: fn() -> Option<(u32, IpAddr)> = || Some((7, addr()));
    const SENT: &str = "02:00:00:00:00:02%eth0";
    const WAITING: &str = "unresolved: waiting for 10.1.0.2 to answer ARP on eth0";
    const SILENT: &str = "unresolved: no answer to ARP from 10.1.0.2 on eth0";

    #[test]
    fn every_state_of_an_entry_means_one_thing() {
        use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
        for state in [Reachable, Delay, Probe, Permanent, Noarp] {
            assert_eq!(on_link(entry(state, Some(PEER)), None), (SENT.into(), None), "{state:?}");
        }
        assert_eq!(on_link(entry(Stale, Some(PEER)), None), (SENT.into(), NUDGE()));
        assert_eq!(on_link(entry(Incomplete, None), None), (WAITING.into(), None));
        assert_eq!(on_link(None, None), (WAITING.into(), NUDGE()));
        assert_eq!(on_link(entry(Failed, None), None), (SILENT.into(), NUDGE()));
        // The kernel keeps a failed entry's old address for a while.
        assert_eq!(on_link(entry(Failed, Some(PEER)), None), (SILENT.into(), NUDGE()));
    }

    #[test]
    fn a_next_hop_stays_while_the_kernel_asks_again_and_goes_when_nobody_answers() {
        let before = resolved(PEER, None);
        assert_eq!(on_link(None, Some(&before)), (SENT.into(), NUDGE()));
        assert_eq!(on_link(entry(NeighbourState::Incomplete, None), Some(&before)), (SENT.into(), None));
        assert_eq!(on_link(entry(NeighbourState::Failed, None), Some(&before)), (SILENT.into(), NUDGE()));
        // Another way is another next hop: what was known of the old one says nothing.
        assert_eq!(on_link(None, Some(&resolved(PEER, Some(gateway())))), (WAITING.into(), NUDGE()));
    }

    #[test]
    fn a_silent_neighbour_stays_silent_while_it_is_asked_again() {
        let before = NextHopState::Unresolved { why: SILENT.trim_start_matches("unresolved: ").into() };
        assert_eq!(on_link(entry(NeighbourState::Incomplete, None), Some(&before)).0, SILENT);
        assert_eq!(on_link(None, Some(&before)), (SILENT.into(), NUDGE()));
    }

    #[test]
    fn behind_a_gateway_the_gateway_is_resolved() {
        let way = Way::Out { ifindex: 7, via: Some(gateway()) };
        let verdict = judge(addr(), &way, Some(&eth0()), None, None);
        assert_eq!(verdict.nudge, Some((7, gateway())));
        assert_eq!(verdict.state.to_string(), "unresolved: waiting for 10.0.0.254 to answer ARP on eth0");
        let found = entry(NeighbourState::Reachable, Some(PEER));
        let verdict = judge(addr(), &way, Some(&eth0()), found.as_ref(), None);
        assert_eq!(verdict, Verdict { state: resolved(PEER, Some(gateway())), nudge: None });
        assert_eq!(verdict.state.to_string(), "02:00:00:00:00:02%eth0 via 10.0.0.254");
    }

    #[test]
    fn ways_that_no_frame_can_take_say_why_and_nudge_nobody() {
        let out = Way::Out { ifindex: 7, via: None };
        let link = |change: fn(&mut Link)| {
            let mut link = eth0();
            change(&mut link);
            Some(link)
        };
        for (way, link, why) in [
            (Way::Local, link(|_| ()), "10.1.0.2 is an address of this host"),
            (
                Way::None("network is unreachable".into()),
                None,
                "no route to 10.1.0.2: network is unreachable",
            ),
            (out.clone(), None, "the interface 7 of the route to 10.1.0.2 is gone"),
            (out.clone(), link(|l| l.ethernet = false), "eth0, the way to 10.1.0.2, is not Ethernet"),
            (out.clone(), link(|l| l.mac = None), "eth0, the way to 10.1.0.2, is not Ethernet"),
            (out.clone(), link(|l| l.up = false), "eth0, the way to 10.1.0.2, is down"),
            (out, link(|l| l.carrier = false), "eth0, the way to 10.1.0.2, has no carrier"),
        ] {
            let entry = entry(NeighbourState::Reachable, Some(PEER));
            let before = resolved(PEER, None);
            let verdict = judge(addr(), &way, link.as_ref(), entry.as_ref(), Some(&before));
            assert_eq!(verdict, Verdict::unresolved(why.into()));
        }
    }

    #[test]
    fn ipv6_is_asked_by_neighbour_discovery() {
        let addr = "fd00::2".parse().expect("an address");
        let verdict = judge(addr, &Way::Out { ifindex: 7, via: None }, Some(&eth0()), None, None);
        assert_eq!(
            verdict.state.to_string(),
            "unresolved: waiting for fd00::2 to answer neighbour discovery on eth0"
        );
    }
}
