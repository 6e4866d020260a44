//! The rig itself: what it connects, and that nothing of it is left behind. Needs root.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zdd_tests::rig::{self, Forward, Rig, RigSpec, XdpPass};
use zdd_tests::world::PATIENCE;

fn small(forward: Forward) -> RigSpec {
    RigSpec { forward, backends: 2, clients: 3, ..RigSpec::default() }
}

/// What exists of a rig outside its process: namespace files, mount, directory.
fn traces(rig: &Rig) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = rig.roles().iter().map(|role| rig.ns(role).path()).collect();
    paths.push(rig.scratch().dir().to_owned());
    paths
}

fn gone(paths: &[PathBuf]) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts are readable");
    paths.iter().all(|p| !p.exists() && !mounts.contains(&p.display().to_string()))
}

#[test]
fn a_dropped_rig_leaves_nothing_and_kills_what_ran_inside() {
    let rig = Rig::new(small(Forward::Nat)).expect("a rig");
    let traces = traces(&rig);
    assert!(traces.iter().all(|p| p.exists()), "{traces:?}");
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let owned = rig.ns("b1").spawn(sleep).expect("sleep starts");
    let owned_pid = owned.pid();
    // One that nobody owns: it lives in the namespace, so the namespace's end is its end.
    let mut stray = rig.ns("b2").command("sleep").arg("600").spawn().expect("sleep starts");
    drop(owned);
    drop(rig);
    let status = stray.wait().expect("the stray is our child");
    assert!(!status.success(), "it was killed: {status}");
    assert!(!Path::new(&format!("/proc/{owned_pid}")).exists());
    assert!(gone(&traces), "{traces:?}");
}

#[test]
fn a_panic_leaves_nothing() {
    let traces = std::sync::Mutex::new(Vec::new());
    let result = std::panic::catch_unwind(|| {
        let rig = Rig::new(small(Forward::Nat)).expect("a rig");
        *traces.lock().expect("nobody else holds it") = self::traces(&rig);
        panic!("on purpose");
    });
    assert!(result.is_err());
    let traces = traces.into_inner().expect("nobody panics while holding it");
    assert!(!traces.is_empty() && gone(&traces), "{traces:?}");
}

/// Not a test of its own: the process that the tests below send signals to.
#[test]
#[ignore = "started as a child by the tests about signals"]
fn a_process_that_holds_a_rig() {
    let rig = Rig::new(small(Forward::L2)).expect("a rig");
    let _sleep = rig.ns("lb").spawn({
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        sleep
    });
    for path in traces(&rig) {
        println!("trace {}", path.display());
    }
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

fn child_with_a_rig() -> (Child, Vec<PathBuf>) {
    let mut child = Command::new(std::env::current_exe().expect("this test has a path"))
        .args(["--ignored", "--exact", "a_process_that_holds_a_rig", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts again");
    let mut traces = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines() {
        let line = line.expect("the child writes text");
        if let Some((_, path)) = line.split_once("trace ") {
            traces.push(PathBuf::from(path));
        }
        if line.contains("ready") {
            break;
        }
    }
    assert_eq!(traces.len(), 5, "c, lb, b1, b2 and the directory: {traces:?}");
    assert!(!gone(&traces));
    (child, traces)
}

fn send(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a process id");
    // SAFETY: plain system call on our own child, which is not waited for yet.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn an_interrupted_process_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (mut child, traces) = child_with_a_rig();
        send(&child, signal);
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(128 + signal));
        assert!(gone(&traces), "{traces:?}");
    }
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_rig() {
    let (mut child, traces) = child_with_a_rig();
    send(&child, libc::SIGKILL);
    child.wait().expect("it ends");
    // Nothing could clean up after SIGKILL; a rig that another test makes right now may have been quicker than this.
    rig::remove_stale();
    assert!(gone(&traces), "{traces:?}");
}

#[test]
fn packets_find_every_backend_by_plain_routing() {
    for forward in [Forward::Nat, Forward::L2] {
        let rig = Rig::new(small(forward)).expect("a rig");
        for i in 1..=2 {
            let address = rig::backend_address(i);
            let listener = rig
                .in_ns(&format!("b{i}"), || std::net::TcpListener::bind((address, 8080)))
                .expect("entered")
                .expect("bound");
            rig.in_ns("c", || std::net::TcpStream::connect_timeout(&rig::v4(address, 8080), PATIENCE))
                .expect("entered")
                .expect("connected");
            let (_, peer) = listener.accept().expect("accepted");
            assert_eq!(peer.ip(), std::net::Ipv4Addr::new(10, 80, 0, 2));
        }
    }
}

#[test]
fn under_l2_a_backend_answers_for_the_vip_without_the_balancer() {
    let rig = Rig::new(small(Forward::L2)).expect("a rig");
    // Stands in for the XDP program: the balancer hands the VIP's packets to b1 unchanged, and knows no way back to the clients.
    let vip = rig::VIP;
    rig.ns("lb")
        .ip_batch(&[
            format!("addr del {vip}/32 dev lo"),
            format!("route add {vip}/32 via 10.81.1.2"),
            "route replace blackhole 10.80.1.0/24".to_owned(),
        ])
        .expect("routes");
    let listener = rig
        .in_ns("b1", || std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, 80)))
        .expect("entered")
        .expect("bound");
    let client = rig::client_address(2);
    let mut curl = rig.ns("c").command("curl");
    curl.args([
        "--silent",
        "--max-time",
        "60",
        "--interface",
        &client.to_string(),
        &format!("telnet://{vip}:80"),
    ]);
    let mut curl = curl.stdin(Stdio::null()).spawn().expect("curl starts");
    let (stream, peer) =
        listener.accept().expect("accepted: SYN by the balancer, SYN-ACK past it, ACK by the balancer");
    assert_eq!(peer.ip(), client);
    drop(stream);
    curl.wait().expect("curl ends");
}

#[test]
fn frames_that_xdp_redirects_arrive_with_good_checksums() {
    let rig = Rig::new(small(Forward::L2)).expect("a rig");
    let (c, lb, b1) = (rig.ns("c"), rig.ns("lb"), rig.ns("b1"));
    let shown = lb.run(&["ip", "-o", "link", "show", "zlc"]).expect("zlc exists");
    let mac =
        shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
    // The stub rewrites nothing, so b1 takes the balancer's MAC; and nobody is left to answer the clients' ARP.
    c.ip_batch(&[format!("neigh replace {} lladdr {mac} dev c0 nud permanent", rig::LB_ADDRESS)])
        .expect("a neighbour");
    b1.ip_batch(&[format!("link set b0 address {mac}")]).expect("a MAC address");
    let _stub = XdpPass::attach_redirect(lb, "zlc", "zlb1").expect("attached");
    let _listener = rig
        .in_ns("b1", || std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, 80)))
        .expect("entered")
        .expect("bound");
    rig.in_ns("c", || std::net::TcpStream::connect_timeout(&rig::v4(rig::VIP, 80), PATIENCE))
        .expect("entered")
        .expect("connected: the SYN went by XDP, the SYN-ACK past the balancer");
}

#[test]
fn a_passing_xdp_program_sits_on_a_veth_until_it_is_dropped() {
    let rig = Rig::new(small(Forward::Nat)).expect("a rig");
    let show = || rig.ns("b1").run(&["ip", "link", "show", "b0"]).expect("b0 exists");
    let pass = XdpPass::attach(rig.ns("b1"), "b0").expect("attached");
    assert!(show().contains("xdp"), "{}", show());
    drop(pass);
    assert!(!show().contains("xdp"), "{}", show());
}
