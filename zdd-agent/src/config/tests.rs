//! Every mistake and its message; what is valid, and its defaults.

mod across;
mod admission;
mod alert;
mod cohort;
mod fuzz;
mod health;
mod preview;
mod ranges;
mod rollout;
mod shape;
mod signals;
mod valid;

use super::*;

/// One service without weights, health and limits; nothing to complain about but the health check.
const BASE: &str = r#"[agent]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "10.0.0.10:80/tcp"
forward = "nat"
[[service.version]]
name = "v1"
backends = ["10.1.0.1:8080"]
[[service.version]]
name = "v2"
backends = ["10.2.0.1:8080"]
"#;

/// A second service, after [`BASE`].
const SECOND: &str = r#"[[service]]
name = "dns"
vip = "10.0.0.10:53/udp"
forward = "nat"
[[service.version]]
name = "v1"
backends = ["10.1.0.53:53"]
"#;

fn mistakes(text: &str) -> String {
    Config::parse(text, "zdd.toml").unwrap_err().to_string()
}

/// The mistakes of [`BASE`] with one place changed.
fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from} is not in the text");
    mistakes(&BASE.replacen(from, to, 1))
}

/// The mistakes of [`BASE`] with a line added to its service.
fn with(line: &str) -> String {
    changed("forward = \"nat\"\n", &format!("forward = \"nat\"\n{line}\n"))
}

/// The mistakes of [`BASE`] with a line added to its agent.
fn with_agent(line: &str) -> String {
    changed("[\"eth0\"]\n", &format!("[\"eth0\"]\n{line}\n"))
}

fn valid(text: &str) -> (Desired, Vec<String>) {
    let (desired, warnings) = Config::parse(text, "zdd.toml").unwrap_or_else(|errors| panic!("{errors}"));
    (desired, warnings.iter().map(ToString::to_string).collect())
}
