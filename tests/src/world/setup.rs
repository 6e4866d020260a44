//! What a test wants to be different from the usual world, and the configuration file that follows from it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::rig::{
    Families, Forward, LB_INTERFACES, PREVIEW, PREVIEW6, SNAT_SOURCE, SNAT_SOURCE6, VIP, VIP6,
    backend_address, backend_address6,
};

/// Port of the VIP for TCP.
pub const WEB_PORT: u16 = 80;
/// Port of the VIP for UDP, and of the backends that echo.
pub const ECHO_PORT: u16 = 5353;
/// Port on which backends answer `GET /health`.
pub const HEALTH_PORT: u16 = 8081;

/// Two services over the same backends: `web` (TCP) and `echo` (UDP), each with v1 at 100 % and v2 at 0 %.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Forwarding mode of both services.
    pub forward: Forward,
    /// Address families of both services: a VIP and backends of each.
    pub families: Families,
    /// Affinity of both services, as the file spells it.
    pub affinity: &'static str,
    /// Cells of each service.
    pub cells: u32,
    /// Cells of all services together, the spare rows included.
    pub all_cells: u32,
    /// Entries of the flow table.
    pub flows: u32,
    /// Backends in the rig; the file names only those in `v1` and `v2`.
    pub backends: u8,
    /// Numbers of v1's backends.
    pub v1: Vec<u8>,
    /// Numbers of v2's backends.
    pub v2: Vec<u8>,
    /// Weight of v2 in percent; v1 has the rest.
    pub v2_percent: u8,
    /// `idle_timeout` in milliseconds: how long a flow may be silent, and a drain takes at the least.
    pub idle_ms: u32,
    /// `udp` of `echo`, as the file spells it.
    pub udp: &'static str,
    /// The health check of `web`, as the file spells it; `None`: no check.
    pub health: Option<String>,
    /// The same for `echo`.
    pub echo_health: Option<String>,
    /// The text of `web`'s `[service.rollout]`, its header included; `None`: it has none.
    pub rollout: Option<String>,
    /// Both services have [`PREVIEW`] as their preview VIP; under `l2` and `ipip` `web` alone, because UDP servers answer from one address.
    pub preview: bool,
    /// More lines of `[agent]`, as the file spells them.
    pub agent_lines: String,
    /// The ports of `snat`.
    pub snat_ports: &'static str,
    /// Where the agent attaches.
    pub interfaces: String,
    /// Directory for maps, below the rig's directory unless absolute.
    pub pin_dir: String,
    /// Directory for the state, below the rig's.
    pub state_dir: &'static str,
    /// The agent's socket, below the rig's directory.
    pub socket: &'static str,
    /// The text of `[agent.api]`, its header included.
    pub api: String,
}

impl Default for Setup {
    fn default() -> Self {
        // Who is to be sick says so at once (503); nobody is sick because a busy machine is late.
        let health = format!(
            "{{ http = \"/health\", port = {HEALTH_PORT}, interval = \"150ms\", timeout = \"5s\", rise = 2, fall = 2 }}"
        );
        Self {
            forward: Forward::Nat,
            families: Families::V4,
            affinity: "client",
            cells: 4096,
            all_cells: 131_072,
            flows: 16384,
            backends: 4,
            v1: vec![1, 2],
            v2: vec![3, 4],
            v2_percent: 0,
            idle_ms: 3000,
            udp: "stick",
            health: Some(health.clone()),
            echo_health: Some(health),
            rollout: None,
            preview: false,
            agent_lines: String::new(),
            snat_ports: "20000-59999",
            interfaces: LB_INTERFACES.to_owned(),
            pin_dir: "bpf/zdd".to_owned(),
            state_dir: "state",
            socket: "zdd.sock",
            api: String::new(),
        }
    }
}

impl Setup {
    /// Port on which backends serve TCP: under `l2` and `ipip` ports are not rewritten.
    pub fn backend_port(&self) -> u16 {
        match self.forward {
            Forward::Nat | Forward::Snat => 8080,
            Forward::L2 | Forward::Ipip => WEB_PORT,
        }
    }

    /// The `[agent]` section for an agent whose things lie below `dir`. A SYN is remembered for a second, so that a change settles soon.
    pub fn agent(&self, dir: &Path) -> String {
        let shown = dir.display();
        let pin_dir = dir.join(&self.pin_dir);
        format!(
            "[agent]\n\
             interfaces = [\"{}\"]\n\
             pin_dir = \"{}\"\n\
             state_dir = \"{shown}/{}\"\n\
             socket = \"{shown}/{}\"\n\
             metrics = \"127.0.0.1:9177\"\n\
             syn_memory = \"1s\"\n\
             {}{}\n\
             [agent.limits]\n\
             services = 8\n\
             backends = 64\n\
             cells = {}\n\
             flows = {}\n\
             syn_filter = 1048576\n\
             {}",
            self.interfaces,
            pin_dir.display(),
            self.state_dir,
            self.socket,
            self.snat(),
            self.agent_lines,
            self.all_cells,
            self.flows,
            self.api
        )
    }

    /// What `snat` gives out.
    fn snat(&self) -> String {
        let maps = self.preview && self.forward == Forward::Nat;
        if self.forward != Forward::Snat && !maps {
            return String::new();
        }
        format!(
            "snat_source = \"{SNAT_SOURCE}\"\nsnat_source6 = \"{SNAT_SOURCE6}\"\nsnat_ports = \"{}\"\n",
            self.snat_ports
        )
    }

    /// The whole file.
    pub fn toml(&self, dir: &Path) -> String {
        self.agent(dir)
            + &self.service_of(self.families, "web", &self.vips(WEB_PORT, "tcp"), self.backend_port())
            + &self.service_of(self.families, "echo", &self.vips(ECHO_PORT, "udp"), ECHO_PORT)
    }

    /// What clients dial, as the file spells it.
    fn vips(&self, port: u16, protocol: &str) -> String {
        self.at(VIP, VIP6, port, protocol)
    }

    /// The addresses of its families, with a port.
    fn at(&self, four: Ipv4Addr, six: Ipv6Addr, port: u16, protocol: &str) -> String {
        let (four, six) = (format!("\"{four}:{port}/{protocol}\""), format!("\"[{six}]:{port}/{protocol}\""));
        match self.families {
            Families::V4 => four,
            Families::V6 => six,
            Families::Both => format!("[{four}, {six}]"),
        }
    }

    /// One `[[service]]` with one VIP, IPv4.
    pub fn service(&self, name: &str, vip: &str, port: u16) -> String {
        self.service_of(Families::V4, name, &format!("\"{vip}\""), port)
    }

    /// One `[[service]]`; `vips` as the file spells them.
    fn service_of(&self, families: Families, name: &str, vips: &str, port: u16) -> String {
        let mut text = format!(
            "\n[[service]]\n\
             name = \"{name}\"\n\
             vip = {vips}\n\
             affinity = \"{}\"\n\
             forward = \"{}\"\n\
             cells = {}\n\
             {} = \"{}ms\"\n",
            self.affinity,
            self.forward.name(),
            self.cells,
            if vips.contains("/udp") { "udp_idle_timeout" } else { "idle_timeout" },
            self.idle_ms,
        );
        // Writing to a String cannot fail.
        if name == "echo" {
            let _ = writeln!(text, "udp = \"{}\"", self.udp);
        }
        if self.preview && (name == "web" || !self.forward.direct()) {
            let (port, protocol) = if name == "echo" { (ECHO_PORT, "udp") } else { (WEB_PORT, "tcp") };
            let _ = writeln!(text, "preview = {}", self.at(PREVIEW, PREVIEW6, port, protocol));
        }
        if let Some(health) = if name == "echo" { &self.echo_health } else { &self.health } {
            let _ = writeln!(text, "health = {health}");
        }
        if let Some(rollout) = self.rollout.as_ref().filter(|_| name == "web") {
            let _ = writeln!(text, "{rollout}");
        }
        for (version, weight, members) in
            [("v1", 100 - self.v2_percent, &self.v1), ("v2", self.v2_percent, &self.v2)]
        {
            let mut backends: Vec<String> = Vec::new();
            if families.v4() {
                backends.extend(members.iter().map(|i| format!("\"{}:{port}\"", backend_address(*i))));
            }
            if families.v6() {
                backends.extend(members.iter().map(|i| format!("\"[{}]:{port}\"", backend_address6(*i))));
            }
            let _ = write!(
                text,
                "[[service.version]]\nname = \"{version}\"\nweight = {weight}\nbackends = [{}]\n",
                backends.join(", ")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_pin_directory_stays_as_it_is() {
        let at = |pin_dir: &str| Setup { pin_dir: pin_dir.into(), ..Setup::default() }.agent(Path::new("/d"));
        assert!(at("bpf/zdd").contains("pin_dir = \"/d/bpf/zdd\"\n"));
        assert!(at("/elsewhere").contains("pin_dir = \"/elsewhere\"\n"));
    }

    #[test]
    fn both_families_name_two_vips_and_backends_of_each() {
        let text = Setup { families: Families::Both, v2: vec![3], ..Setup::default() }.toml(Path::new("/d"));
        assert!(text.contains("vip = [\"10.80.255.10:80/tcp\", \"[fd80:0:0:ff::10]:80/tcp\"]"), "{text}");
        assert!(text.contains("backends = [\"10.81.3.2:8080\", \"[fd81:0:0:3::2]:8080\"]"), "{text}");
    }

    #[test]
    fn each_service_names_its_backends() {
        let text = Setup { v2: vec![3], v2_percent: 10, ..Setup::default() }.toml(Path::new("/d"));
        assert!(text.contains("backends = [\"10.81.1.2:8080\", \"10.81.2.2:8080\"]"), "{text}");
        assert!(text.contains("weight = 10\nbackends = [\"10.81.3.2:5353\"]"), "{text}");
    }
}
