//! Namespaces that go away with the test, and a runtime inside of one.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longer than anything here may take; the end of a wait that would be in vain.
pub const LONG: Duration = Duration::from_secs(90);

/// A network namespace, removed when dropped, also by a failing test.
pub struct Namespace(String);

impl Namespace {
    /// Made with the loopback up. Without IPv6's own traffic: duplicate detection and router solicitations only make
    /// the order of events a matter of luck.
    pub fn new() -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let namespace = Namespace(format!("zdd-n{}-{number}", std::process::id()));
        run("ip", &["netns", "add", &namespace.0]);
        namespace.ip("link set lo up");
        namespace.set("net/ipv6/conf/default/accept_dad", "0");
        namespace.set("net/ipv6/conf/default/router_solicitations", "0");
        namespace
    }

    /// A veth pair, `name` here and `eth0` in `other`, both up, with these hardware addresses.
    pub fn wire(&self, name: &str, mac: &str, other: &Namespace, other_mac: &str) {
        self.ip(&format!(
            "link add {name} address {mac} type veth peer name eth0 address {other_mac} netns {}",
            other.0
        ));
        self.ip(&format!("link set {name} up"));
        other.ip("link set eth0 up");
    }

    /// `ip` in the namespace; it has to succeed.
    pub fn ip(&self, command: &str) -> String {
        let mut all = vec!["-n", &self.0];
        all.extend(command.split_whitespace());
        run("ip", &all)
    }

    /// Many `ip` commands at once, one per line; all have to succeed.
    pub fn ip_all(&self, commands: &str) {
        let script = format!("ip -n {} -batch - <<'END'\n{commands}\nEND\n", self.0);
        run("sh", &["-c", &script]);
    }

    /// Sets `/proc/sys/{key}` of the namespace.
    pub fn set(&self, key: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/{key}");
        run("nsenter", &[&format!("--net=/run/netns/{}", self.0), "sh", "-c", &script]);
    }

    /// Neighbour requests of `device` come and give up quickly.
    pub fn hurry(&self, device: &str) {
        self.set(&format!("net/ipv4/neigh/{device}/retrans_time_ms"), "50");
        self.set(&format!("net/ipv4/neigh/{device}/delay_first_probe_time"), "1");
    }

    /// Runs `test` to its end on a thread that is in the namespace.
    pub fn enter<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        let path = format!("/run/netns/{}", self.0);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let namespace = File::open(path).expect("the namespace");
                // SAFETY: changes the namespace of this thread alone, which ends with the test.
                let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(test());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {} failed (needs root): {told}", args.join(" "));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
