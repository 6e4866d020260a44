//! Configuration files of the balancers and of the server.

use std::path::Path;

use super::scene::{BULK_PORT, WEB_PORT, Way};
use crate::bench::frame;
use crate::rig::{LB_INTERFACES, VIP, backend_address};

/// Address of the backend under `ipip`: on its loopback, where `zdd decap` delivers.
pub(super) const TUNNEL_END: &str = "10.99.1.1";
/// Backend of the generator's frames under `ipip`: behind the clients' wire, so that they end at a program that drops them.
pub(super) const TUNNEL_SINK: &str = "10.98.0.1";

/// The agent's, one service for HTTP, one for iperf3, one for the generator.
pub(super) fn zdd(way: Way, dir: &Path) -> String {
    let dir = dir.display();
    let backend = backend_address(1).to_string();
    let (mode, server, sink) = match way {
        Way::Ipip => ("ipip", TUNNEL_END, TUNNEL_SINK),
        Way::L2 => ("l2", backend.as_str(), backend.as_str()),
        _ => ("nat", backend.as_str(), backend.as_str()),
    };
    let mut text = format!(
        "[agent]\ninterfaces = [\"{LB_INTERFACES}\"]\npin_dir = \"{dir}/bpf/zdd\"\nstate_dir = \"{dir}/state\"\n\
         socket = \"{dir}/zdd.sock\"\nmetrics = \"off\"\n"
    );
    let generator = frame::vip(0, false).to_string();
    for (name, vip, port, protocol, to) in [
        ("web", VIP.to_string(), WEB_PORT, "tcp", server),
        ("bulk", VIP.to_string(), BULK_PORT, "tcp", server),
        ("frames", generator, frame::PORT, "udp", sink),
    ] {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}:{port}/{protocol}\"\nforward = \"{mode}\"\naffinity = \"flow\"\n\
             [[service.version]]\nname = \"v1\"\nweight = 100\nbackends = [\"{to}:{port}\"]\n"
        );
    }
    text
}

/// HAProxy as a TCP proxy, with its defaults (as many threads as CPUs).
pub(super) fn haproxy() -> String {
    let backend = backend_address(1);
    let mut text = "global\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        .to_owned();
    for port in [WEB_PORT, BULK_PORT] {
        text += &format!("listen port{port}\n  bind {VIP}:{port}\n  server b1 {backend}:{port}\n");
    }
    text
}

/// One rule of destination NAT for all that is sent to either VIP; connection tracking does the rest.
pub(super) fn nftables() -> String {
    format!(
        "table ip zdd_bench {{\nchain before {{\ntype nat hook prerouting priority dstnat;\n\
         ip daddr {{ {VIP}, {} }} dnat to {}\n}}\n}}\n",
        frame::vip(0, false),
        backend_address(1)
    )
}

/// nginx in one process, below `dir`, with a page of a few bytes.
pub(super) fn nginx(dir: &Path) -> String {
    let shown = dir.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds.iter().map(|kind| format!("{kind}_temp_path {shown}/{kind};\n")).collect();
    format!(
        "daemon off;\nmaster_process off;\npid {shown}/pid;\nerror_log {shown}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temporary}access_log off;\nkeepalive_requests 100000000;\n\
         server {{ listen {WEB_PORT} backlog=4096; location / {{ default_type text/plain; return 200 \"ok\\n\"; }} }} }}\n"
    )
}
