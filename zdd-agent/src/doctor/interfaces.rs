//! The interfaces that the configuration names: there, able, and free.

use std::collections::BTreeMap;

use super::netns::{self, Offload};
use super::{Finding, Level};
use crate::dataplane::probe::{self, Pinned};
use crate::desired::{AttachMode, Desired, Forward};
use crate::links::xdp::MTU_OF_ONE_PAGE;
use crate::links::{Link, matches, xdp};

/// The interfaces that the agent would attach to.
fn wanted<'a>(desired: &Desired, links: &'a BTreeMap<u32, Link>) -> Vec<&'a Link> {
    let named = |link: &&Link| desired.agent.interfaces.iter().any(|pattern| matches(pattern, &link.name));
    links.values().filter(named).collect()
}

/// Whether some version is forwarded so.
pub(super) fn some(desired: &Desired, forward: Forward) -> bool {
    let versions =
        desired.services.iter().flat_map(|s| s.versions.iter().map(|v| v.forward.unwrap_or(s.forward)));
    versions.into_iter().any(|mode| mode == forward)
}

/// Everything about interfaces but their peers.
pub(super) async fn look(desired: &Desired, links: &BTreeMap<u32, Link>, pinned: &Pinned) -> Vec<Finding> {
    let mut findings = vec![named(desired, links)];
    findings.extend(wanted(desired, links).into_iter().filter_map(|link| able(desired, link)));
    for link in wanted(desired, links) {
        findings.extend(foreign(desired, link, pinned).await);
    }
    findings.extend(mtu(desired, links));
    findings.extend(redirects(desired, links));
    for (check, well) in [
        ("xdp", "the driver of every interface runs XDP programs"),
        ("foreign", "no interface has somebody else's XDP program"),
        ("mtu", "the interfaces agree, and their drivers give XDP frames of that size"),
        ("redirect", "every interface takes frames that XDP sends to it"),
    ] {
        if !wanted(desired, links).is_empty() && findings.iter().all(|f| f.check != check) {
            findings.push(Finding::ok(check, well));
        }
    }
    findings
}

fn named(desired: &Desired, links: &BTreeMap<u32, Link>) -> Finding {
    let there: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
    for name in &desired.agent.interfaces {
        if links.values().any(|link| matches(name, &link.name)) {
            continue;
        }
        let (what, fix) = (
            format!("{name} (there are: {})", there.join(", ")),
            "correct agent.interfaces, or bring the interface",
        );
        return if name.contains(['*', '?']) {
            let what = format!("no interface matches {what}: zdd waits for one");
            Finding::warning("interfaces", what, fix)
        } else {
            Finding::problem("interfaces", format!("there is no interface {what}: zdd does not start"), fix)
        };
    }
    for link in wanted(desired, links) {
        if !link.up || !link.carrier {
            let state = if link.up { "has no carrier" } else { "is down" };
            return Finding::warning(
                "interfaces",
                format!("{} {state}", link.name),
                format!("ip link set {} up, and look at what it is connected to", link.name),
            );
        }
    }
    let names: Vec<&str> = wanted(desired, links).iter().map(|link| link.name.as_str()).collect();
    Finding::ok("interfaces", names.join(", "))
}

fn able(desired: &Desired, link: &Link) -> Option<Finding> {
    let name = &link.name;
    if !link.ethernet {
        return Some(Finding::problem(
            "xdp",
            format!("{name} is not Ethernet: zdd reads Ethernet frames only"),
            format!("leave {name} out of agent.interfaces"),
        ));
    }
    (desired.agent.mode == AttachMode::Native && xdp::native(link.index) == Some(false)).then(|| {
        Finding::problem(
            "xdp",
            format!("the driver of {name} does not run XDP programs"),
            "set agent.mode = \"generic\" (slower, works everywhere), or choose another interface",
        )
    })
}

async fn foreign(desired: &Desired, link: &Link, pinned: &Pinned) -> Option<Finding> {
    if pinned.links.contains(&link.index) {
        return None;
    }
    let id = xdp::attached(link.index).await.ok()??.program;
    let what =
        format!("{} has an XDP program that is not zdd's: {} (id {id})", link.name, probe::program_name(id));
    let fix = format!(
        "stop its owner, or `ip link set dev {0} xdp off`, or leave {0} out of agent.interfaces",
        link.name
    );
    Some(if desired.agent.interfaces.contains(&link.name) {
        Finding::problem("foreign", format!("{what}; zdd does not start"), fix)
    } else {
        Finding::warning("foreign", format!("{what}; zdd leaves {} alone", link.name), fix)
    })
}

/// Frames that XDP forwards are neither fragmented nor answered by a "too big".
pub(super) fn mtu(desired: &Desired, links: &BTreeMap<u32, Link>) -> Vec<Finding> {
    let wanted = wanted(desired, links);
    let mut findings: Vec<Finding> = wanted
        .iter()
        .filter(|link| desired.agent.mode == AttachMode::Native && link.mtu > MTU_OF_ONE_PAGE)
        .filter_map(|link| {
            let (name, mtu) = (&link.name, link.mtu);
            let why = match xdp::receives_frags(link.index) {
                Some(true) => return None,
                Some(false) => "its driver gives XDP no frames in several buffers, and refuses it",
                None => "before Linux 6.3 XDP redirects no frames in several buffers, and zdd takes none: drivers refuse it",
            };
            Some(Finding::warning(
                "mtu",
                format!("{name} has an MTU of {mtu}: {why} above about {MTU_OF_ONE_PAGE}"),
                format!("ip link set {} mtu {MTU_OF_ONE_PAGE}, or agent.mode = \"generic\"", link.name),
            ))
        })
        .collect();
    let jumbo = |link: &&&Link| link.mtu > MTU_OF_ONE_PAGE && xdp::receives_frags(link.index) == Some(true);
    if desired.agent.mode == AttachMode::Native
        && let Some(link) = wanted.iter().find(jumbo)
        && probe::takes_jumbo(&desired.agent.pin_dir) == Some(false)
    {
        findings.push(Finding::warning(
            "mtu",
            format!(
                "{} has an MTU of {}, and the maps in {} were made when no interface had jumbo frames: XDP does not attach to it in its driver",
                link.name,
                link.mtu,
                desired.agent.pin_dir.display()
            ),
            "`zdd detach` in a quiet moment and start again: connections break once",
        ));
    }
    let (least, most) =
        (wanted.iter().min_by_key(|link| link.mtu), wanted.iter().max_by_key(|link| link.mtu));
    if let (Some(least), Some(most)) = (least, most)
        && least.mtu < most.mtu
    {
        findings.push(Finding::warning(
            "mtu",
            format!(
                "{} has an MTU of {}, {} of {}: a large packet that is forwarded from one to the other is lost without a word",
                least.name, least.mtu, most.name, most.mtu
            ),
            format!("ip link set {} mtu {}, at both of its ends, or clamp the MSS", most.name, least.mtu),
        ));
    }
    findings
}

/// A veth sends what XDP redirects to it only when its other end has GRO on or an XDP program.
pub(super) fn redirects(desired: &Desired, links: &BTreeMap<u32, Link>) -> Vec<Finding> {
    let generic = desired.agent.mode == AttachMode::Generic;
    let l2 = some(desired, Forward::L2);
    wanted(desired, links)
        .into_iter()
        .filter(|link| !xdp::takes_redirects(link.index, link.kind.as_deref(), generic))
        .map(|link| {
            let what = format!("{} takes no frames that XDP sends to it", link.name);
            let fix = "ethtool -K eth0 gro on, at its other end (inside the container), while it is up";
            if l2 {
                Finding::problem("redirect", format!("{what}: an l2 service drops them"), fix)
            } else {
                Finding::warning(
                    "redirect",
                    format!("{what}: they go through the stack, slowly, and only with accept_local"),
                    fix,
                )
            }
        })
        .collect()
}

/// Checksums that the other end of a veth leaves to its device are never computed when XDP takes the frame.
pub(super) fn peers(desired: &Desired, links: &BTreeMap<u32, Link>) -> Vec<Finding> {
    if desired.agent.mode == AttachMode::Generic {
        return vec![Finding::ok(
            "offload",
            "generic mode: the stack computes checksums before zdd sees a frame",
        )];
    }
    let veths: Vec<&Link> =
        wanted(desired, links).into_iter().filter(|link| link.kind.as_deref() == Some("veth")).collect();
    if veths.is_empty() {
        return Vec::new();
    }
    let offloads = netns::peers(&veths.iter().map(|link| link.index).collect::<Vec<_>>());
    let mut findings: Vec<Finding> = veths
        .iter()
        .filter_map(|link| match offloads.get(&link.index)? {
            Offload { tx: true, enter, device } => Some(Finding::problem(
                "offload",
                format!("{device}, the other end of {}, leaves checksums to its device: packets that XDP forwards from it arrive broken", link.name),
                format!("{enter}ethtool -K {device} tx off"),
            )),
            Offload { tx: false, .. } => None,
        })
        .collect();
    let unseen: Vec<&str> = veths
        .iter()
        .filter(|link| !offloads.contains_key(&link.index))
        .map(|link| link.name.as_str())
        .collect();
    if !unseen.is_empty() {
        findings.push(Finding::warning(
            "offload",
            format!("the other ends of {} cannot be seen from here", unseen.join(", ")),
            "inside the container: ethtool -k eth0 | grep tx-checksumming must say off; ethtool -K eth0 tx off",
        ));
    }
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings
            .push(Finding::ok("offload", "the other ends of the veths compute their checksums themselves"));
    }
    findings
}
