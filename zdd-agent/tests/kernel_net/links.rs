//! The watcher follows interfaces and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use zdd_agent::links::{Link, LinkEvent, LinkWatcher};

use crate::namespace::{LONG, Namespace};

/// The next event that `pick` takes.
async fn until<T>(events: &mut Receiver<LinkEvent>, what: &str, pick: impl Fn(&LinkEvent) -> Option<T>) -> T {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let event = events.recv().await.expect("the watcher runs");
            if let Some(picked) = pick(&event) {
                return picked;
            }
            seen.push(event);
        }
    };
    match timeout(LONG, wait).await {
        Ok(picked) => picked,
        Err(_) => panic!("never saw {what}, only {seen:?}"),
    }
}

fn appeared(name: &str) -> impl Fn(&LinkEvent) -> Option<Link> + use<'_> {
    move |event| match event {
        LinkEvent::Appeared(link) if link.name == name => Some(link.clone()),
        _ => None,
    }
}

fn changed(is: impl Fn(&Link) -> bool) -> impl Fn(&LinkEvent) -> Option<(Link, Link)> {
    move |event| match event {
        LinkEvent::Changed { before, after } if is(after) => Some((before.clone(), after.clone())),
        _ => None,
    }
}

fn gone(name: &str) -> impl Fn(&LinkEvent) -> Option<Link> + use<'_> {
    move |event| match event {
        LinkEvent::Gone(link) if link.name == name => Some(link.clone()),
        _ => None,
    }
}

#[test]
fn interfaces_are_followed_from_the_first_to_the_last() {
    let (here, there) = (Namespace::new(), Namespace::new());
    here.enter(|| async {
        let (watcher, mut events) = LinkWatcher::start().await.expect("netlink");
        let lo = until(&mut events, "lo", appeared("lo")).await;
        assert!(lo.up && !lo.ethernet && lo.kind.is_none(), "{lo:?}");
        assert_eq!(watcher.links()[&lo.index], lo);

        here.wire("veth7", "02:00:00:00:00:07", &there, "02:00:00:00:00:08");
        let veth = until(&mut events, "veth7", appeared("veth7")).await;
        assert!(veth.ethernet);
        assert_eq!(veth.mac.map(|mac| mac.to_string()).as_deref(), Some("02:00:00:00:00:07"));
        assert_eq!((veth.kind.as_deref(), veth.mtu), (Some("veth"), 1500));
        if !(veth.up && veth.carrier) {
            until(&mut events, "veth7 up", changed(|link| link.up && link.carrier)).await;
        }

        here.ip("link set veth7 mtu 1400");
        let (before, after) = until(&mut events, "the mtu", changed(|link| link.mtu == 1400)).await;
        assert_eq!((before.index, before.mtu, after.index), (veth.index, 1500, veth.index));
        there.ip("link set eth0 down");
        until(&mut events, "no carrier", changed(|link| link.up && !link.carrier)).await;
        here.ip("link set veth7 down");
        until(&mut events, "down", changed(|link| !link.up)).await;
        here.ip("link set veth7 name uplink");
        let (before, after) = until(&mut events, "the name", changed(|link| link.name == "uplink")).await;
        assert_eq!((before.name.as_str(), after.index), ("veth7", veth.index));

        here.ip("link del uplink");
        assert_eq!(until(&mut events, "its end", gone("uplink")).await.index, veth.index);
        assert!(!watcher.links().contains_key(&veth.index));
        here.wire("veth7", "02:00:00:00:00:07", &there, "02:00:00:00:00:08");
        assert_ne!(until(&mut events, "veth7 again", appeared("veth7")).await.index, veth.index);
    });
}

#[test]
fn a_link_that_leaves_a_bridge_is_not_gone() {
    let (here, there) = (Namespace::new(), Namespace::new());
    here.wire("veth7", "02:00:00:00:00:07", &there, "02:00:00:00:00:08");
    here.ip("link add br0 type bridge");
    here.ip("link set veth7 master br0");
    here.enter(|| async {
        let (_watcher, mut events) = LinkWatcher::start().await.expect("netlink");
        until(&mut events, "br0", appeared("br0")).await;
        here.ip("link set veth7 nomaster");
        here.ip("link set veth7 mtu 1400");
        let told = until(&mut events, "anything of veth7", |event| match event {
            LinkEvent::Changed { after, .. } if after.name == "veth7" && after.mtu == 1400 => Some("changed"),
            LinkEvent::Gone(link) if link.name == "veth7" => Some("gone"),
            _ => None,
        })
        .await;
        assert_eq!(told, "changed");
    });
}

#[test]
fn the_hosts_own_addresses_are_followed() {
    let here = Namespace::new();
    here.enter(|| async {
        let (watcher, _events) = LinkWatcher::start().await.expect("netlink");
        let mut locals = watcher.locals();
        let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
        let first = locals.borrow_and_update().clone();
        assert!(first.contains(&addr("127.0.0.1")) && first.contains(&addr("::1")), "{first:?}");
        here.ip("addr add 10.9.0.1/32 dev lo");
        here.ip("addr add fd09::1/128 dev lo");
        // The peer of a point-to-point address is not ours.
        here.ip("addr add 10.9.1.1 peer 10.9.1.2 dev lo");
        let all = ["10.9.0.1", "fd09::1", "10.9.1.1"].map(addr);
        let wait = locals.wait_for(|known| all.iter().all(|own| known.contains(own)));
        let known = timeout(LONG, wait).await.expect("in time").expect("the watcher runs").clone();
        assert!(!known.contains(&addr("10.9.1.2")), "{known:?}");
        here.ip("addr del 10.9.0.1/32 dev lo");
        let wait = locals.wait_for(|known| !known.contains(&addr("10.9.0.1")));
        timeout(LONG, wait).await.expect("in time").expect("the watcher runs");
    });
}

#[test]
fn a_crowd_that_comes_and_goes_is_told_without_a_gap() {
    const PAIRS: u32 = 100;
    let here = Namespace::new();
    here.enter(|| async {
        let (watcher, mut events) = LinkWatcher::start().await.expect("netlink");
        let batch = |line: &dyn Fn(u32) -> String| (0..PAIRS).map(line).collect::<Vec<_>>().join("\n");
        here.ip_all(&batch(&|n| format!("link add a{n} type veth peer name b{n}")));
        here.ip_all(&batch(&|n| format!("link set a{n} up")));
        here.ip_all(&batch(&|n| format!("link del b{n}")));
        here.ip("link add last type veth peer name end");
        // Whoever keeps a table by the events alone has what the watcher has.
        let mut kept = BTreeMap::new();
        let wait = async {
            while !kept.values().any(|link: &Link| link.name == "last") {
                match events.recv().await.expect("the watcher runs") {
                    LinkEvent::Appeared(link) => assert_eq!(kept.insert(link.index, link), None),
                    LinkEvent::Changed { before, after } => {
                        assert_eq!(kept.insert(after.index, after), Some(before));
                    }
                    LinkEvent::Gone(link) => assert_eq!(kept.remove(&link.index), Some(link)),
                }
            }
        };
        timeout(LONG, wait).await.expect("in time");
        let mut names: Vec<_> = kept.values().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        assert!(names.starts_with(&["last", "lo"]) || names.starts_with(&["end", "last", "lo"]), "{names:?}");
        assert!(names.len() <= 3 && watcher.links().len() == 3, "{names:?}");
    });
}
