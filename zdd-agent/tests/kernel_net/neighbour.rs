//! The resolver follows what the kernel knows, and makes it find out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use zdd_agent::neighbour::{NextHopChange, NextHopState, Resolver, ResolverOptions};

use crate::namespace::{LONG, Namespace};

const LB: &str = "02:00:00:00:00:01";
const B1: &str = "02:00:00:00:01:01";
const B2: &str = "02:00:00:00:02:01";

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn set(addrs: &[&str]) -> BTreeSet<IpAddr> {
    addrs.iter().map(|text| addr(text)).collect()
}

/// Reads changes of `of` until one shows as `wanted`; returns those on the way, as text.
async fn until(changes: &mut Receiver<NextHopChange>, of: &str, wanted: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let wait = async {
        while let Some(change) = changes.recv().await {
            if change.addr == addr(of) {
                let state = change.state.to_string();
                if state == wanted {
                    return;
                }
                seen.push(state);
            }
        }
        panic!("the resolver ended");
    };
    if timeout(LONG, wait).await.is_err() {
        panic!("{of} never became {wanted:?}, only {seen:?}");
    }
    seen
}

/// Nothing is found by looking again from time to time: only by what the kernel tells.
fn only_told() -> ResolverOptions {
    ResolverOptions { refresh: Duration::from_secs(3600), ..ResolverOptions::default() }
}

/// `lb` with eth0 10.9.0.1/24 and its first backend 10.9.0.2 on it.
fn pair() -> (Namespace, Namespace) {
    let (lb, backend) = (Namespace::new(), Namespace::new());
    lb.wire("eth0", LB, &backend, B1);
    lb.ip("addr add 10.9.0.1/24 dev eth0");
    backend.ip("addr add 10.9.0.2/24 dev eth0");
    (lb, backend)
}

#[test]
fn a_backend_on_the_link_is_resolved_and_its_new_mac_is_followed() {
    let (lb, backend) = pair();
    // It tells everybody when its address changes, as failover software does.
    backend.set("net/ipv4/conf/eth0/arp_notify", "1");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(only_told()).expect("netlink");
        resolver.set(set(&["10.9.0.2"]));
        until(&mut changes, "10.9.0.2", "02:00:00:00:01:01%eth0").await;
        let states = resolver.states();
        let hop = states[&addr("10.9.0.2")].next_hop().expect("resolved");
        assert_eq!(
            (hop.interface.as_str(), hop.source_mac.to_string(), hop.via),
            ("eth0", LB.to_string(), None)
        );

        backend.ip("link set eth0 address 02:00:00:00:01:99");
        let between = until(&mut changes, "10.9.0.2", "02:00:00:00:01:99%eth0").await;
        assert!(between.is_empty(), "unresolved in between: {between:?}");

        // Our own address belongs to the frame as well.
        lb.ip("link set eth0 address 02:00:00:00:00:77");
        let own = async {
            loop {
                let change = changes.recv().await.expect("open");
                if change
                    .state
                    .next_hop()
                    .is_some_and(|hop| hop.source_mac.to_string() == "02:00:00:00:00:77")
                {
                    return;
                }
            }
        };
        timeout(LONG, own).await.expect("the own address is followed");
    });
}

#[test]
fn a_mac_that_changes_in_silence_is_found_by_refreshing_stale_entries() {
    let (lb, backend) = pair();
    lb.hurry("eth0");
    lb.enter(|| async {
        let options = ResolverOptions { refresh: Duration::from_millis(300), ..ResolverOptions::default() };
        let (resolver, mut changes) = Resolver::start(options).expect("netlink");
        resolver.set(set(&["10.9.0.2"]));
        until(&mut changes, "10.9.0.2", "02:00:00:00:01:01%eth0").await;
        backend.ip("link set eth0 address 02:00:00:00:01:99");
        // As if half a minute had passed.
        lb.ip("neigh change 10.9.0.2 dev eth0 lladdr 02:00:00:00:01:01 nud stale");
        until(&mut changes, "10.9.0.2", "02:00:00:00:01:99%eth0").await;
    });
}

#[test]
fn a_flushed_neighbour_table_leaves_the_next_hop_and_is_filled_again() {
    let (lb, _backend) = pair();
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(only_told()).expect("netlink");
        resolver.set(set(&["10.9.0.2"]));
        until(&mut changes, "10.9.0.2", "02:00:00:00:01:01%eth0").await;
        let reachable = async || {
            let deadline = Instant::now() + LONG;
            while !lb.ip("neigh show 10.9.0.2 dev eth0").contains("REACHABLE") {
                assert!(Instant::now() < deadline, "not asked again");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        reachable().await;
        lb.ip("neigh del 10.9.0.2 dev eth0");
        reachable().await;
        assert!(changes.try_recv().is_err(), "told {:?}", resolver.states());
        assert_eq!(resolver.states()[&addr("10.9.0.2")].to_string(), "02:00:00:00:01:01%eth0");
    });
}

#[test]
fn behind_a_gateway_the_route_is_followed() {
    let (lb, gateway) = pair();
    let other = Namespace::new();
    lb.wire("eth1", "02:00:00:00:00:02", &other, B2);
    lb.ip("addr add 10.8.0.1/24 dev eth1");
    other.ip("addr add 10.8.0.2/24 dev eth0");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(only_told()).expect("netlink");
        resolver.set(set(&["10.50.0.9"]));
        let none = "unresolved: no route to 10.50.0.9: network is unreachable";
        until(&mut changes, "10.50.0.9", none).await;
        lb.ip("route add 10.50.0.0/24 via 10.9.0.2");
        until(&mut changes, "10.50.0.9", "02:00:00:00:01:01%eth0 via 10.9.0.2").await;
        lb.ip("route replace 10.50.0.0/24 via 10.8.0.2");
        until(&mut changes, "10.50.0.9", "02:00:00:00:02:01%eth1 via 10.8.0.2").await;
        lb.ip("link set eth1 down");
        until(&mut changes, "10.50.0.9", none).await;
        lb.ip("route add blackhole 10.50.0.0/16");
        let nothing = "unresolved: no route to 10.50.0.9: the kernel sends nothing there";
        until(&mut changes, "10.50.0.9", nothing).await;
    });
    drop(gateway);
}

#[test]
fn nobody_who_answers_is_told_and_found_once_there_is_somebody() {
    let (lb, backend) = pair();
    lb.hurry("eth0");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(ResolverOptions::default()).expect("netlink");
        resolver.set(set(&["10.9.0.77"]));
        let silent = "unresolved: no answer to ARP from 10.9.0.77 on eth0";
        let first = until(&mut changes, "10.9.0.77", silent).await;
        assert_eq!(first, ["unresolved: waiting for 10.9.0.77 to answer ARP on eth0"]);
        backend.ip("addr add 10.9.0.77/24 dev eth0");
        let between = until(&mut changes, "10.9.0.77", "02:00:00:00:01:01%eth0").await;
        assert!(between.is_empty(), "{between:?}");

        backend.ip("addr del 10.9.0.77/24 dev eth0");
        lb.ip("neigh change 10.9.0.77 dev eth0 lladdr 02:00:00:00:01:01 nud stale");
        until(&mut changes, "10.9.0.77", silent).await;
    });
}

#[test]
fn what_no_frame_reaches_says_why() {
    let (lb, _backend) = pair();
    lb.ip("tuntap add tun0 mode tun");
    lb.ip("addr add 10.7.0.1/24 dev tun0");
    lb.ip("link set tun0 up");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(ResolverOptions::default()).expect("netlink");
        resolver.set(set(&["10.9.0.1", "127.0.0.9", "10.7.0.2", "10.9.0.255"]));
        until(&mut changes, "10.9.0.1", "unresolved: 10.9.0.1 is an address of this host").await;
        // In the order of addresses, of which one look reports all.
        until(&mut changes, "10.9.0.255", "unresolved: no route to 10.9.0.255: it is a broadcast address")
            .await;
        until(&mut changes, "127.0.0.9", "unresolved: 127.0.0.9 is an address of this host").await;
        let tun = resolver.states()[&addr("10.7.0.2")].to_string();
        assert_eq!(tun, "unresolved: tun0, the way to 10.7.0.2, is not Ethernet");
    });
}

#[test]
fn ipv6_is_resolved_too() {
    let (lb, backend) = pair();
    lb.ip("addr add fd09::1/64 dev eth0 nodad");
    backend.ip("addr add fd09::2/64 dev eth0 nodad");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(ResolverOptions::default()).expect("netlink");
        resolver.set(set(&["fd09::2", "fd0a::1"]));
        until(&mut changes, "fd09::2", "02:00:00:00:01:01%eth0").await;
        let none = resolver.states()[&addr("fd0a::1")].to_string();
        assert_eq!(none, "unresolved: no route to fd0a::1: network is unreachable");
    });
}

#[test]
fn the_set_of_destinations_is_followed() {
    let (lb, backend) = pair();
    backend.ip("addr add 10.9.0.3/24 dev eth0");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(ResolverOptions::default()).expect("netlink");
        resolver.set(set(&["10.9.0.2"]));
        until(&mut changes, "10.9.0.2", "02:00:00:00:01:01%eth0").await;
        resolver.set(set(&["10.9.0.3"]));
        until(&mut changes, "10.9.0.3", "02:00:00:00:01:01%eth0").await;
        assert_eq!(resolver.states().keys().copied().collect::<Vec<_>>(), [addr("10.9.0.3")]);
        // One that comes back is told again.
        resolver.set(set(&["10.9.0.2", "10.9.0.3"]));
        let change = timeout(LONG, changes.recv()).await.expect("in time").expect("open");
        assert_eq!(change.addr, addr("10.9.0.2"));
        assert!(matches!(change.state, NextHopState::Resolved(_)), "{}", change.state);
    });
}

#[test]
fn thousands_of_destinations_cost_one_neighbour_and_little_time() {
    let (lb, backend) = pair();
    lb.ip("route add 10.50.0.0/16 via 10.9.0.2");
    lb.enter(|| async {
        let (resolver, mut changes) = Resolver::start(ResolverOptions::default()).expect("netlink");
        let many: BTreeSet<IpAddr> =
            (0..4096u16).map(|n| IpAddr::from([10, 50, (n >> 8) as u8, n as u8])).collect();
        let started = Instant::now();
        resolver.set(many.clone());
        let all = async |changes: &mut Receiver<NextHopChange>, mac: &str| {
            let mut left = many.clone();
            while !left.is_empty() {
                let change = timeout(LONG, changes.recv()).await.expect("in time").expect("open");
                if change.state.next_hop().is_some_and(|hop| hop.mac.to_string() == mac) {
                    left.remove(&change.addr);
                }
            }
        };
        all(&mut changes, B1).await;
        let first = started.elapsed();
        lb.ip("neigh replace 10.9.0.2 dev eth0 lladdr 02:00:00:00:01:99 nud reachable");
        let started = Instant::now();
        all(&mut changes, "02:00:00:00:01:99").await;
        let second = started.elapsed();
        println!("first {first:?}, then {second:?}");
        // One notice for all; were it thousands, or each looked at all, it would take a hundred times as long.
        assert!(second < 10 * first.max(Duration::from_secs(1)), "took {second:?}");
    });
    drop(backend);
}
