//! `zdd support-bundle`: everything that somebody else needs to find out what is wrong, in one file, without a secret in it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use serde::Serialize;

use super::Outcome;
use super::output::Output;
use crate::api::client::{At, Client};
use crate::config::Config;
use crate::dataplane;
use crate::desired::{AgentSpec, Desired};
use crate::doctor;
use crate::redact::Secrets;

/// The configuration of an installed agent.
pub const CONFIG: &str = "/etc/zdd/zdd.toml";
/// Of a log, the end: as much at most.
const LOG_MOST: u64 = 4 << 20;
/// Lines of the audit log.
const AUDIT_LINES: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was put in, and what could not be had.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    contents: Vec<String>,
    /// One line each: what, and why not.
    missing: Vec<String>,
}

/// The archive under way.
struct Bundle {
    tar: tar::Builder<GzEncoder<File>>,
    secrets: Secrets,
    report: Report,
}

impl Bundle {
    fn create(file: &Path) -> anyhow::Result<Bundle> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let made = made.with_context(|| unwritten(file))?;
        let report = Report { file: file.to_owned(), contents: Vec::new(), missing: Vec::new() };
        let tar = tar::Builder::new(GzEncoder::new(made, Compression::default()));
        Ok(Bundle { tar, secrets: environment(), report })
    }

    /// Puts a text in, without what is secret.
    fn add(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let text = self.secrets.text(text);
        self.put(name, &text)
    }

    fn put(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(crate::clock::unix_ms() / 1000);
        header.set_cksum();
        self.tar.append_data(&mut header, format!("zdd-support/{name}"), text.as_bytes())?;
        self.report.contents.push(name.to_owned());
        Ok(())
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.add(name, &text)
    }

    /// Puts in what could be had, and says what could not.
    fn maybe(&mut self, name: &str, text: Result<String, String>) -> anyhow::Result<()> {
        match text {
            Ok(text) => self.add(name, &text),
            Err(why) => {
                let why = self.secrets.text(&why);
                self.report.missing.push(format!("{name}: {}", why.lines().next().unwrap_or_default()));
                Ok(())
            }
        }
    }

    fn finish(mut self) -> anyhow::Result<Report> {
        let missing = self.report.missing.join("\n");
        self.put("missing.txt", &(missing + "\n"))?;
        self.tar.into_inner()?.finish()?.sync_all()?;
        Ok(self.report)
    }
}

/// Values of the environment whose names say that they are secret.
fn environment() -> Secrets {
    let mut secrets = Secrets::default();
    for (name, value) in std::env::vars() {
        // Only what it remembers counts here.
        secrets.text(&format!("{name}={value}"));
    }
    secrets
}

/// Collects everything. An agent that does not answer is no reason to give up: then the rest is all the more wanted.
///
/// # Errors
/// The file cannot be written.
pub async fn run(
    file: Option<PathBuf>,
    config: Option<PathBuf>,
    logs: &[PathBuf],
    at: &At,
    out: &mut Output,
) -> anyhow::Result<Outcome> {
    let file =
        file.unwrap_or_else(|| format!("zdd-support-{}.tar.gz", crate::clock::unix_ms() / 1000).into());
    let bundle = Bundle::create(&file)?;
    let report = match collect(bundle, config, logs, at).await {
        Ok(report) => report,
        Err(error) => {
            // Half an archive helps nobody, and takes the room that was missing.
            drop(std::fs::remove_file(&file));
            return Err(error.context(unwritten(&file)));
        }
    };
    out.print(&report, |report| {
        let missing: String = report.missing.iter().map(|line| format!("  not there: {line}\n")).collect();
        format!(
            "{}: {} files, without secrets as far as zdd knows them; look through it before you pass it on\n{missing}",
            report.file.display(),
            report.contents.len()
        )
    })?;
    Ok(Outcome::Done)
}

fn unwritten(file: &Path) -> String {
    format!("cannot write {}\nhelp: name another file: zdd support-bundle FILE", file.display())
}

async fn collect(
    mut bundle: Bundle,
    config: Option<PathBuf>,
    logs: &[PathBuf],
    at: &At,
) -> anyhow::Result<Report> {
    let config = config.unwrap_or_else(|| CONFIG.into());
    let text = std::fs::read_to_string(&config).map_err(|error| format!("{}: {error}", config.display()));
    if let Ok(text) = &text {
        // First: what is secret here is secret in all that follows.
        let shown = bundle.secrets.config(text);
        bundle.put("zdd.toml", &shown)?;
    }
    let desired = text.as_ref().ok().and_then(|text| Config::parse(text, "zdd.toml").ok());
    if let Err(why) = text {
        bundle.maybe("zdd.toml", Err(format!("{why}; name the agent's with --config")))?;
    }
    bundle.add("host.txt", &host())?;
    agent(&mut bundle, at).await?;
    let findings = match &desired {
        Some((desired, _)) => [doctor::machine(), doctor::configured(desired).await].concat(),
        None => doctor::machine(),
    };
    bundle.json("doctor.json", &findings)?;
    if let Some((Desired { agent, .. }, _)) = &desired {
        local(&mut bundle, agent)?;
    }
    let journal = Command::new("journalctl")
        .args(["--unit", "zdd", "--lines", "5000", "--no-pager", "--output", "short-iso"])
        .stdin(Stdio::null())
        .output();
    let journal = match journal {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("journalctl: {error}; name a file with --log")),
    };
    bundle.maybe("journal.txt", journal)?;
    for (n, log) in (1..).zip(logs) {
        bundle.maybe(&format!("log-{n}.txt"), end_of(log))?;
    }
    bundle.finish()
}

/// What the agent says.
async fn agent(bundle: &mut Bundle, at: &At) -> anyhow::Result<()> {
    let mut client = match Client::connect_to(at).await {
        Ok(client) => client,
        Err(error) => return bundle.maybe("status.json", Err(error.to_string())),
    };
    let status = match tokio::time::timeout(PATIENCE, client.status()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return bundle.maybe("status.json", Err(error.to_string())),
        Err(_) => return bundle.maybe("status.json", Err("the agent does not answer in time".to_owned())),
    };
    bundle.json("status.json", &status)?;
    for service in &status.services {
        if let Ok(rollout) = client.rollout_status(&service.name).await {
            bundle.json(&format!("rollout-{}.json", service.name), &rollout)?;
        }
        if let Ok(history) = client.rollout_history(&service.name).await {
            bundle.json(&format!("rollouts-{}.json", service.name), &history)?;
        }
    }
    let mut lines = String::new();
    if let Ok(mut events) = client.watch_events(0, "", true).await {
        while let Some(Ok(event)) = events.next().await {
            lines += &serde_json::to_string(&event)?;
            lines.push('\n');
        }
    }
    bundle.add("events.jsonl", &lines)
}

/// What lies on this host.
fn local(bundle: &mut Bundle, agent: &AgentSpec) -> anyhow::Result<()> {
    let maps = dataplane::pinned_maps(&agent.pin_dir)
        .map_err(|error| format!("{}: {error}", agent.pin_dir.display()))
        .and_then(|maps| serde_json::to_string_pretty(&maps).map_err(|error| error.to_string()));
    bundle.maybe("maps.json", maps)?;
    if let Some(address) = agent.metrics {
        let metrics = fetch(address).map_err(|error| format!("http://{address}/metrics: {error}"));
        bundle.maybe("metrics.txt", metrics)?;
    }
    let audit = end_of(&agent.state_dir.join("audit.jsonl")).map(|text| {
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(AUDIT_LINES)..].join("\n") + "\n"
    });
    bundle.maybe("audit.jsonl", audit)?;
    let mut files = String::new();
    for dir in [&agent.state_dir, &agent.pin_dir] {
        files += &format!("{}:\n", dir.display());
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .map(|dir| {
                dir.flatten()
                    .map(|entry| {
                        let bytes = entry.metadata().map_or(0, |there| there.len());
                        format!("  {} {bytes}\n", entry.file_name().to_string_lossy())
                    })
                    .collect()
            })
            .unwrap_or_default();
        names.sort();
        files.extend(names);
    }
    bundle.add("files.txt", &files)
}

fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn end_of(path: &Path) -> Result<String, String> {
    use std::io::{Seek, SeekFrom};
    let read = || {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_MOST)))?;
        let mut text = Vec::new();
        file.take(LOG_MOST).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

/// Versions, and what kind of machine this is.
fn host() -> String {
    let mut text = format!("zdd {}\n", env!("CARGO_PKG_VERSION"));
    for path in ["/proc/version", "/etc/os-release", "/proc/loadavg", "/proc/uptime", "/proc/self/limits"] {
        text += &format!("\n# {path}\n{}", std::fs::read_to_string(path).unwrap_or_default());
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text += "\n# /proc/meminfo\n";
    text.extend(memory.lines().take(3).map(|line| format!("{line}\n")));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    text + &format!("\n# CPUs\n{cpus}\n")
}
