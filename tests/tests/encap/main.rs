//! `ipip` and `zdd decap` as users meet them: backends behind a router, VIPs of both families, 1500 bytes everywhere. Needs root.

mod echo;
mod net;

use std::net::SocketAddr;
use std::time::Instant;

use echo::Talk;
use net::{Net, VIP6, balancer_source, vip};
use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE};

const MIB: u64 = 1 << 20;

/// Opens connections to a VIP until both backends have one; each with the backend that took it.
fn open(net: &Net, to: SocketAddr, n: usize) -> Result<Vec<(Talk, u8)>> {
    (0..n)
        .map(|_| {
            let mut talk = Talk::open(net.ns("c"), to)?;
            let who = talk.who()?;
            Ok((talk, who))
        })
        .collect()
}

fn all_on(talks: &[(Talk, u8)], who: u8) {
    let wrong: Vec<u8> = talks.iter().map(|(_, met)| *met).filter(|met| *met != who).collect();
    assert!(wrong.is_empty(), "all on b{who}, but {wrong:?}");
}

#[test]
fn connections_stay_through_shift_and_rollback_in_every_kind_of_tunnel() -> Result<()> {
    let net = Net::running(1500)?;
    for (service, to) in net::SERVICES.map(|(name, port, v6)| (name, vip(v6, port))) {
        let mut first = open(&net, to, 20)?;
        all_on(&first, 1);
        net.zdd().run(&["shift", service, "v2=100%"])?;
        let mut second = open(&net, to, 20)?;
        all_on(&second, 2);
        net.zdd().run(&["rollback", service])?;
        let mut third = open(&net, to, 20)?;
        all_on(&third, 1);
        for (talk, who) in first.iter_mut().chain(&mut second).chain(&mut third) {
            assert_eq!(talk.who()?, *who, "{service}: a live connection stays where it began");
        }
        let status = net.zdd().status()?;
        let shown = status["services"].as_array().into_iter().flatten().find(|s| s["name"] == service);
        assert_eq!(shown.and_then(|s| s["forward"].as_str()), Some("ipip"), "{status}");
    }
    // Every packet came by a tunnel, and none that did was refused.
    for b in ["b1", "b2"] {
        let counts = net.counts(b)?;
        assert!(counts("unwrapped") > 100, "{b}");
        for drop in ["drop_foreign", "drop_not_vip", "drop_malformed", "drop_fragment", "drop_congested"] {
            assert_eq!(counts(drop), 0, "{b}: {drop}");
        }
    }
    Ok(())
}

#[test]
fn testers_meet_the_candidate_through_every_kind_of_tunnel_and_nobody_else_does() -> Result<()> {
    let net = Net::running(1500)?;
    for (service, port, v6) in net::SERVICES {
        let mut testers = open(&net, net::preview(v6, port), 10)?;
        all_on(&testers, 2);
        all_on(&open(&net, vip(v6, port), 10)?, 1);
        net.zdd().run(&["drain", &format!("{service}/v2")])?;
        all_on(&open(&net, net::preview(v6, port), 10)?, 1);
        for (talk, who) in &mut testers {
            assert_eq!(talk.who()?, *who, "{service}: a live connection stays where it began");
        }
    }
    assert_eq!(net.counts("b2")?("drop_not_vip"), 0);
    Ok(())
}

#[test]
fn much_goes_up_and_down_over_1500_bytes() -> Result<()> {
    let net = Net::running(1500)?;
    for (service, to) in net::SERVICES.map(|(name, port, v6)| (name, vip(v6, port))) {
        let before = net.reason("too_big")?;
        let mut talk = Talk::open(net.ns("c"), to)?;
        let begin = Instant::now();
        assert_eq!(talk.upload(echo::bulk())?, 1, "{service}");
        let up = begin.elapsed();
        assert_eq!(talk.download(echo::bulk())?, 1, "{service}");
        let down = begin.elapsed() - up;
        let told = net.reason("too_big")? - before;
        println!(
            "{service}: {} MiB up in {up:.1?}, down in {down:.1?}; the client was told {told} times",
            echo::bulk() / MIB
        );
        // What stalls, or is lost because it is too big, is sent again.
        for role in ["c", "b1"] {
            let (again, sent) = echo::retransmitted(net.ns(role))?;
            assert!(again * 50 < sent, "{service}, {role}: {again} of {sent} segments were sent again");
        }
        assert!(told > 0, "{service}: nothing was too big, so nothing was shown");
        assert_eq!(net.reason("drop_too_big")?, 0, "{service}");
    }
    Ok(())
}

/// The balancer's own link has room; the one behind the next router has not, and only its errors tell.
#[test]
fn a_narrower_link_behind_a_router_is_told_to_the_client() -> Result<()> {
    const NARROW: u32 = 1400;
    let net = Net::running_behind(1540, Some(NARROW))?;
    for (service, port, v6) in net::SERVICES {
        let to = vip(v6, port);
        let before = net.reason("too_big_path")?;
        let mut talk = Talk::open(net.ns("c"), to)?;
        assert_eq!(talk.upload(echo::bulk_or(20))?, 1, "{service}");
        assert_eq!(talk.download(echo::bulk_or(20))?, 1, "{service}");
        let told = net.reason("too_big_path")? - before;
        assert!(told > 0, "{service}: nothing was too big, so nothing was shown");
        for role in ["c", "b1"] {
            let (again, sent) = echo::retransmitted(net.ns(role))?;
            assert!(again * 50 < sent, "{service}, {role}: {again} of {sent} segments were sent again");
        }
        let room = NARROW - if service == "four" { 20 } else { 40 };
        let way = net.ns("c").run(&["ip", "route", "get", &to.ip().to_string()])?;
        assert!(way.contains(&format!("mtu {room}")), "{service}: {way}");
        println!("{service}: the client was told {told} times");
    }
    for reason in ["too_big", "drop_too_big", "pass_too_big"] {
        assert_eq!(net.reason(reason)?, 0, "{reason}");
    }
    Ok(())
}

#[test]
fn a_wider_way_to_the_backends_has_room_and_nobody_is_told_anything() -> Result<()> {
    let net = Net::running(1540)?;
    for (service, to) in net::SERVICES.map(|(name, port, v6)| (name, vip(v6, port))) {
        let mut talk = Talk::open(net.ns("c"), to)?;
        assert_eq!(talk.upload(5 * MIB)?, 1, "{service}");
    }
    assert_eq!(net.reason("too_big")?, 0);
    // The MTU is followed while traffic runs.
    for i in 1..=2 {
        net.ns("lb").run(&["ip", "link", "set", &format!("zlb{i}"), "mtu", "1500"])?;
    }
    let to = vip(false, 80);
    wait_for("packets that are too big", PATIENCE, LOOK_EVERY, || {
        Talk::open(net.ns("c"), to)?.upload(64 * 1024)?;
        Ok::<_, Error>((net.reason("too_big")? > 0).then_some(()))
    })
}

#[test]
fn a_strangers_tunnel_is_dropped_and_counted() -> Result<()> {
    let net = Net::running(1500)?;
    let to = net::backend(1);
    let inner = net::datagram();
    // The balancer's own address is not what its tunnels come from.
    net.ns("lb").enter(|| net::send_tunnelled(None, to, &inner))?.map_err(Error::io("send"))?;
    wait_for("the drop to be counted", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>((net.counts("b1")?("drop_foreign") == 1).then_some(()))
    })?;
    // The same packet from the prefix is taken: it is the source that counts.
    let unwrapped = net.counts("b1")?("unwrapped");
    net.ns("lb").run(&["ip", "addr", "add", &format!("{}/32", balancer_source()), "dev", "lo"])?;
    net.ns("lb")
        .enter(|| net::send_tunnelled(Some(balancer_source()), to, &inner))?
        .map_err(Error::io("send"))?;
    wait_for("the packet to be unwrapped", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>((net.counts("b1")?("unwrapped") > unwrapped).then_some(()))
    })?;
    assert_eq!(net.counts("b1")?("drop_foreign"), 1);
    Ok(())
}

#[test]
fn decap_survives_a_kill_is_taken_over_and_leaves_nothing_when_told_to_end() -> Result<()> {
    let mut net = Net::running(1500)?;
    let to = vip(false, 80);
    let mut talk = Talk::open(net.ns("c"), to)?;
    assert_eq!(talk.who()?, 1);
    let pid = net.decap("b1").pid();
    net.kill_decap("b1");
    assert_eq!(talk.who()?, 1, "a kill leaves the program at work");
    let status = net.decap_status("b1")?;
    assert_eq!(status["running"], false, "{status}");
    let unwrapped = net.counts("b1")?("unwrapped");
    net.start_decap("b1")?;
    assert_ne!(net.decap("b1").pid(), pid);
    assert_eq!(talk.who()?, 1);
    let status = net.decap_status("b1")?;
    assert_eq!(status["running"], true, "{status}");
    assert!(net.counts("b1")?("unwrapped") > unwrapped, "counters go on");
    // A second one beside it is refused, and so is one on an interface with somebody else's program.
    let second = net.refused_decap("b1", "b0", &net.pin_dir("b1"))?;
    assert!(second.contains("another zdd agent uses"), "{second}");
    let foreign = net.refused_decap("b1", "b0", &net.pin_dir("other"))?;
    assert!(foreign.contains("b0 already has an XDP program") && foreign.contains("zdd_decap"), "{foreign}");
    let absent = net.refused_decap("b1", "nowhere0", &net.pin_dir("other"))?;
    assert!(absent.contains("interface nowhere0 is not there"), "{absent}");
    let log = net.end_decap("b1", PATIENCE)?;
    assert!(log.contains("unwrapped"), "the counters are told at the end: {log}");
    let link = net.ns("b1").run(&["ip", "link", "show", "dev", "b0"])?;
    assert!(!link.contains("xdp"), "{link}");
    assert!(!net.pin_dir("b1").join("b0").exists());
    Ok(())
}

#[test]
fn a_backend_sees_the_clients_own_address() -> Result<()> {
    let net = Net::running(1500)?;
    let mut talk = Talk::open(net.ns("c"), vip(true, 80))?;
    talk.who()?;
    assert_eq!(talk.peer()?.ip(), std::net::IpAddr::from(VIP6));
    assert_eq!(
        talk.seen_from()?,
        talk.local()?.ip().to_string(),
        "the backend sees the client's own address"
    );
    Ok(())
}
