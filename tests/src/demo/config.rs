//! The agent's configuration file for the demo.

use std::fmt::Write;
use std::path::Path;

use super::Options;
use super::plan::Pace;
use super::scene::{ECHO_PORT, HEALTH_PORT, WEB_PORT};
use crate::rig::{LB_INTERFACES, VIP, backend_address};

/// Two services, `web` (TCP) and `echo` (UDP), over the same four backends; everything of the agent lies below `dir`.
pub fn toml(options: &Options, pace: &Pace, dir: &Path, backend_port: u16) -> String {
    let dir = dir.display();
    let mut text = format!(
        "# Written by the demo. Timeouts are scaled down: see idle_timeout, udp_idle_timeout and syn_memory.\n\
         [agent]\n\
         interfaces = [\"{LB_INTERFACES}\"]\n\
         pin_dir = \"{dir}/bpf/zdd\"\n\
         state_dir = \"{dir}/state\"\n\
         socket = \"{dir}/zdd.sock\"\n\
         metrics = \"127.0.0.1:9177\"\n\
         syn_memory = \"{}s\"\n",
        pace.syn_memory_s
    );
    let idle = [
        format!("idle_timeout = \"{}s\"", pace.idle_timeout_s),
        format!("udp_idle_timeout = \"{}s\"", pace.udp_idle_timeout_s),
    ];
    for (name, vip_port, protocol, port, idle) in
        [("web", WEB_PORT, "tcp", backend_port, &idle[0]), ("echo", ECHO_PORT, "udp", ECHO_PORT, &idle[1])]
    {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[service]]\n\
             name = \"{name}\"\n\
             vip = \"{VIP}:{vip_port}/{protocol}\"\n\
             affinity = \"{}\"\n\
             forward = \"{}\"\n\
             {idle}\n\
             health = {{ http = \"/health\", port = {HEALTH_PORT}, interval = \"500ms\", timeout = \"500ms\", rise = 2, fall = 3 }}\n",
            options.affinity.name(),
            options.forward.name(),
        );
        for (version, weight, members) in [("v1", 100, [1, 2]), ("v2", 0, [3, 4])] {
            let [a, b] = members.map(|i| format!("\"{}:{port}\"", backend_address(i)));
            let _ = write!(
                text,
                "[[service.version]]\n\
                 name = \"{version}\"\n\
                 weight = {weight}\n\
                 backends = [{a}, {b}]\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_file_names_every_backend_once_per_service() {
        let options = Options::parse_from(["zdd-demo", "--affinity", "client-version"]);
        let text = toml(&options, &Pace::new(&options), Path::new("/d"), 8080);
        for backend in ["10.81.1.2:8080", "10.81.4.2:8080", "10.81.1.2:5353", "10.81.4.2:5353"] {
            assert_eq!(text.matches(backend).count(), 1, "{backend} in\n{text}");
        }
        assert!(text.contains("affinity = \"client-version\""));
        assert!(text.contains("pin_dir = \"/d/bpf/zdd\""));
    }
}
