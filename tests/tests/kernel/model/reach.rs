//! What the random frames reached: every reason in every mode, family and protocol that has it. Agreement about what never came is
//! worth nothing.

use std::collections::{BTreeMap, HashMap};

use zdd_common::entries::{BackendId, Mode};
use zdd_common::reason::Reason;

use super::world::{SERVICES, backends, is_udp, is_v6, mode};

/// At least so many of the frames of a normal run: the rarest has two dozen, and what expires when is the clock's.
const LEAST: u64 = 5;

const MODES: [(Mode, &str); 4] =
    [(Mode::L2, "l2"), (Mode::Nat, "nat"), (Mode::Ipip, "ipip"), (Mode::Snat, "snat")];

/// Reasons of any packet that reaches a backend, and those of TCP alone.
const ANY: [Reason; 7] = [
    Reason::Settled,
    Reason::Entry,
    Reason::New,
    Reason::Learned,
    Reason::Fragment,
    Reason::IcmpError,
    Reason::Fallback,
];
const OF_TCP: [Reason; 3] = [Reason::Alt, Reason::Replayed, Reason::Base];

/// `nat-v4-tcp`: mode, and family and protocol of the VIP.
fn way(mode: Mode, v6: bool, udp: bool) -> String {
    let (_, mode) = MODES[MODES.iter().position(|(known, _)| *known == mode).expect("a mode")];
    format!("{mode}-{}-{}", if v6 { "v6" } else { "v4" }, if udp { "udp" } else { "tcp" })
}

/// Frames by reason and way.
pub fn reached(by_backend: &HashMap<(Reason, BackendId), u64>) -> BTreeMap<(&'static str, String), u64> {
    let mut reached = BTreeMap::new();
    for ((reason, backend), frames) in by_backend {
        let Some(id) = (1..=SERVICES).find(|id| backends(*id).contains(backend)) else { continue };
        *reached.entry((reason.name(), way(mode(id, *backend), is_v6(id), is_udp(id)))).or_default() +=
            frames;
    }
    reached
}

/// What came too seldom.
pub fn rare(reached: &BTreeMap<(&'static str, String), u64>) -> Vec<(&'static str, String)> {
    let mut wanted = vec![];
    for (mode, v6, udp) in MODES.iter().flat_map(|(mode, _)| {
        [(false, false), (false, true), (true, false), (true, true)].map(|(v6, udp)| (*mode, v6, udp))
    }) {
        let answers = matches!(mode, Mode::Nat | Mode::Snat).then_some(Reason::Reply);
        let of_tcp = OF_TCP.iter().copied().filter(|_| !udp);
        for reason in ANY.into_iter().chain(of_tcp).chain(answers) {
            wanted.push((reason.name(), way(mode, v6, udp)));
        }
    }
    wanted.retain(|one| reached.get(one).is_none_or(|frames| *frames < LEAST));
    wanted
}
