//! The grammar of the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::rollout_args::{GateCommand, RolloutCommand, TrainCommand};
use crate::api::client::{At, Server};
use crate::api::pb::ChangeOptions;
use crate::control::Target;
use crate::desired::BasisPoints;
use crate::prefix::Prefix;
use crate::text::{Unreadable, parse_backend, parse_duration, parse_percent, parse_socket};
use crate::trace::{RATE, RATE_MAX, SNAP, SNAP_MAX};

/// Shifts live traffic between versions in the kernel, and breaks no connection.
#[derive(Debug, Parser)]
#[command(name = "zdd", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Args {
    /// Unix socket of the agent.
    #[arg(long, global = true, env = "ZDD_SOCKET", value_name = "PATH", default_value = SOCKET, help_heading = WHICH)]
    pub socket: PathBuf,
    /// An agent elsewhere, as https://HOST:PORT; needs --cert, --key and --ca.
    #[arg(long, global = true, env = "ZDD_SERVER", value_name = "URL", value_parser = parse_url, requires_all = ["cert", "key", "ca"], help_heading = WHICH)]
    pub server: Option<String>,
    /// Your certificate for --server (PEM).
    #[arg(long, global = true, env = "ZDD_CERT", value_name = "FILE", help_heading = WHICH)]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, env = "ZDD_KEY", value_name = "FILE", help_heading = WHICH)]
    pub key: Option<PathBuf>,
    /// The authority of the agent's certificate (PEM).
    #[arg(long, global = true, env = "ZDD_CA", value_name = "FILE", help_heading = WHICH)]
    pub ca: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// Where the agent is.
    pub fn at(&self) -> At {
        match (&self.server, &self.cert, &self.key, &self.ca) {
            (Some(url), Some(cert), Some(key), Some(ca)) => {
                let (cert, key, ca) = (cert.clone(), key.clone(), ca.clone());
                At::Server(Server { url: url.clone(), cert, key, ca })
            }
            _ => At::Socket(self.socket.clone()),
        }
    }
}

fn parse_url(text: &str) -> Result<String, Unreadable> {
    let host = text.strip_prefix("https://").unwrap_or_default();
    let port = host.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(text.to_owned()),
        None => Err(Unreadable(format!(
            "`{text}` is not https://HOST:PORT; the port is that of agent.api.listen"
        ))),
    }
}

/// A machine, by its name in the configuration.
#[derive(Clone, Debug, clap::Args)]
pub struct Node {
    /// All backends on this [[node]] of the configuration, in all services; without a name, the node that this is: ZDD_NODE, or the host's
    /// name.
    #[arg(id = "node", long = "node", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub name: Option<String>,
}

impl Node {
    /// Its name, if one was asked for.
    pub fn named(self) -> Option<String> {
        let host =
            || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        self.name.map(|name| match name.as_str() {
            "" => std::env::var("ZDD_NODE").unwrap_or_else(|_| host()),
            _ => name,
        })
    }
}

/// What goes with a change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Safely {
    /// Only if nobody has changed the service since generation N, which `zdd status` showed.
    #[arg(long, value_name = "N", help_heading = SAFELY)]
    pub if_generation: Option<u64>,
    /// Made once for each key within 24 hours; again with the same key, the first answer comes back.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true, help_heading = SAFELY)]
    pub idempotency_key: String,
    /// Why; kept in the audit log.
    #[arg(long = "reason", value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = SAFELY)]
    pub because: String,
}

impl From<Safely> for ChangeOptions {
    fn from(safely: Safely) -> Self {
        let Safely { if_generation, idempotency_key, because } = safely;
        ChangeOptions { idempotency_key, expected_generation: if_generation, reason: because }
    }
}

/// Where an agent listens unless its configuration says otherwise.
pub const SOCKET: &str = "/run/zdd/zdd.sock";

/// Headings in the help, so that a command's own options stand apart from those that all commands have.
const WHICH: &str = "Which agent";
const SAFELY: &str = "Changing safely";

const KEYS: &str = "Keys: up, down choose a version; s shifts to it, d drains it, u undrains it, r rolls its service back, each after a question that says what \
    would move; ? shows the keys, q quits.";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 deadline passed, 4 agent not reachable, 5 rolled back, 6 frozen.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent.
    Agent {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Validate a configuration file; touches nothing.
    Check {
        /// Configuration file (TOML).
        file: PathBuf,
    },
    /// Look in a configuration file for what is allowed and unwise, with fixes; touches nothing.
    Lint {
        /// Configuration file (TOML).
        file: PathBuf,
    },
    /// Show services, versions, backends and the flow table.
    Status {
        /// Show it again and again, until interrupted.
        #[arg(long)]
        watch: bool,
        /// How often.
        #[arg(long, value_name = "D", default_value = "1s", value_parser = parse_duration, requires = "watch")]
        interval: Duration,
    },
    /// Change the versions' shares of new flows; the remainder goes to versions not named, in proportion.
    #[command(
        after_help = "Examples:\n  zdd shift web v2=10%                a tenth of new connections; live ones stay where they are\n  zdd shift web v2=100% --reason 1.2.3\n  zdd who-moves web v2=10%            what it would move, before it is made"
    )]
    Shift {
        /// Service.
        service: String,
        /// Shares in percent, with up to two decimals: v2=10% or v2=0.25%.
        #[arg(required = true, value_name = "VERSION=WEIGHT%", value_parser = parse_weight)]
        weights: Vec<(String, BasisPoints)>,
        /// Also to a version that has no healthy backend.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        safely: Safely,
    },
    /// Give all new flows to the stable version.
    #[command(after_help = "Examples:\n  zdd rollback web")]
    Rollback {
        /// Service.
        service: String,
        /// Also when the stable version has no healthy backend.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        safely: Safely,
    },
    /// Bring a version in step by step, watched, with a way back.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Roll several services out together, or not at all.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Hold the rollouts of a service, or let them go on.
    #[command(subcommand)]
    Gate(GateCommand),
    /// Add, remove and list backends.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Give a version, a backend or a whole node no new flows, and leave it those it has.
    #[command(
        after_help = "Examples:\n  zdd drain web/v1 --wait --deadline 1h    returns when nobody is left on v1\n  zdd drain 10.1.0.1:8080\n  zdd drain --node worker-1 --wait --deadline 10m"
    )]
    #[command(
        override_usage = "zdd drain [OPTIONS] <BACKEND|VERSION>\n       zdd drain [OPTIONS] --node [<NAME>]"
    )]
    Drain {
        /// VERSION, SERVICE/VERSION, ADDR:PORT or SERVICE/ADDR:PORT.
        #[arg(value_name = "BACKEND|VERSION", required_unless_present = "node", conflicts_with = "node")]
        target: Option<Target>,
        #[command(flatten)]
        node: Node,
        /// Give up what is left after this time.
        #[arg(long, value_name = "D", value_parser = parse_duration)]
        deadline: Option<Duration>,
        /// Return when drained (0) or when the deadline has passed with flows left (3).
        #[arg(long)]
        wait: bool,
        /// A node: also when a version is left without a healthy backend.
        #[arg(long, requires = "node")]
        force: bool,
        /// Do nothing unless this file is there; for a hook that runs at every stop.
        #[arg(long, value_name = "FILE")]
        if_file: Option<PathBuf>,
        #[command(flatten)]
        safely: Safely,
    },
    /// Let a version, a backend or a whole node take new flows again.
    #[command(
        override_usage = "zdd undrain [OPTIONS] <BACKEND|VERSION>\n       zdd undrain [OPTIONS] --node [<NAME>]"
    )]
    Undrain {
        /// VERSION, SERVICE/VERSION, ADDR:PORT or SERVICE/ADDR:PORT.
        #[arg(value_name = "BACKEND|VERSION", required_unless_present = "node", conflicts_with = "node")]
        target: Option<Target>,
        #[command(flatten)]
        node: Node,
        #[command(flatten)]
        safely: Safely,
    },
    /// Go from what is to what a configuration file says; shows the changes.
    #[command(
        after_help = "Examples:\n  zdd apply /etc/zdd/zdd.toml --dry-run    shows what would change\n  zdd apply /etc/zdd/zdd.toml"
    )]
    Apply {
        /// Configuration file (TOML).
        file: PathBuf,
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        safely: Safely,
    },
    /// Say which version and backend a client gets now, and why.
    #[command(
        after_help = "Examples:\n  zdd explain web --from 192.0.2.2:40000\n  zdd explain web --from 192.0.2.2:40000 --preview"
    )]
    Explain {
        /// Service.
        service: String,
        /// The client's address and port.
        #[arg(long, value_name = "ADDR:PORT", value_parser = parse_socket)]
        from: SocketAddr,
        /// The port that it dials, of a VIP of many ports. Without it: the first one.
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// It dials the preview VIP.
        #[arg(long)]
        preview: bool,
    },
    /// Detach the XDP program and remove everything that is pinned. Flows break.
    Detach {
        /// Where maps and links are pinned: needed if no agent runs; one that has its own elsewhere refuses.
        #[arg(long, value_name = "DIR", conflicts_with = "config")]
        pin_dir: Option<PathBuf>,
        /// The configuration that names the pin directory.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// On a backend under ipip: take off what balancers put in front of packets for the VIPs.
    ///
    /// Stays in the foreground and detaches when told to end (SIGTERM, Ctrl-C). Killed outright it leaves the program at work;
    /// the next start takes over without a gap.
    #[command(after_help = "Examples:\n  zdd decap --interface eth0 --vip 10.0.0.10")]
    Decap(DecapArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Look at everything that zdd needs of this host; each finding comes with its fix.
    #[command(after_help = "Exit codes: 0 nothing to do, 1 warnings only, 2 at least one problem.")]
    Doctor {
        /// Also look at what this configuration needs: interfaces, settings, pins, backends.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Say how many clients and flows a shift would move, before it is made.
    #[command(after_help = "Examples:\n  zdd who-moves web v2=10% --from 192.0.2.2:40000")]
    WhoMoves {
        /// Service.
        service: String,
        /// Shares as for `shift`.
        #[arg(required = true, value_name = "VERSION=WEIGHT%", value_parser = parse_weight)]
        weights: Vec<(String, BasisPoints)>,
        /// Also say what happens to this client; may be given again.
        #[arg(long, value_name = "ADDR:PORT", value_parser = parse_socket)]
        from: Vec<SocketAddr>,
        /// The port that these clients dial, of a VIP of many ports. Without it: the first one.
        #[arg(long, value_name = "PORT", requires = "from")]
        port: Option<u16>,
    },
    /// Show what the agent logs, or change it until the agent ends.
    #[command(
        after_help = "Examples:\n  zdd log                                  what it is now\n  zdd log debug                            what zdd itself does; its libraries stay at info\n  zdd log info,zdd_agent::health=debug\n  zdd log info                             as it is without ZDD_LOG"
    )]
    Log {
        /// off, error, warn, info, debug or trace; or by module, as info,zdd_agent::health=debug. Without it nothing changes.
        level: Option<String>,
        /// Why; kept in the audit log.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = SAFELY, requires = "level")]
        reason: String,
    },
    /// Look at packets live: a sample of them, each with what became of it and why.
    #[command(
        after_help = "Examples:\n  zdd trace web --from 10.0.3.7\n  zdd trace --reason drop\n  zdd trace web --count 100 --write web.pcapng\n  zdd trace web --write - | tshark -r -"
    )]
    Trace(TraceArgs),
    /// Show what has happened: changes and who made them, health, rollouts, drains, interfaces.
    #[command(after_help = "Examples:\n  zdd events --service web\n  zdd events --after 17 --follow")]
    Events {
        /// Only after this number, the last that was seen.
        #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true, value_parser = parse_seq)]
        after: u64,
        /// Only of this service.
        #[arg(long, value_name = "SERVICE", default_value = "", hide_default_value = true)]
        service: String,
        /// Go on with every new one, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Write everything that helps to find out what is wrong into one file, without secrets.
    #[command(
        after_help = "Examples:\n  zdd support-bundle                       look through it before you pass it on"
    )]
    SupportBundle {
        /// Where to (tar.gz, mode 0600); default: zdd-support-TIME.tar.gz here.
        file: Option<PathBuf>,
        /// The agent's configuration; default: /etc/zdd/zdd.toml.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Also the end of this log, where the agent does not log to the journal; may be given again.
        #[arg(long, value_name = "FILE")]
        log: Vec<PathBuf>,
    },
    /// Write the manual pages, one for each command.
    #[command(hide = true)]
    Man {
        /// A directory that is there.
        dir: PathBuf,
    },
    /// Show everything on a whole screen, with keys for shift, drain and rollback.
    #[command(after_help = KEYS)]
    Top,
}

/// `zdd trace`.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// Only packets of this service.
    pub service: Option<String>,
    /// Only from or to this address or network.
    #[arg(long, value_name = "PREFIX")]
    pub from: Option<Prefix>,
    /// Only with this reason; `pass` and `drop` stand for all that begin so; may be given again.
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Packets per second at the most.
    #[arg(long, value_name = "N", default_value_t = RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    pub rate: u32,
    /// Bytes of each frame at the most.
    #[arg(long, value_name = "BYTES", default_value_t = SNAP, value_parser = clap::value_parser!(u32).range(14..=i64::from(SNAP_MAX)))]
    pub snap: u32,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Write pcapng to a file, or with - to standard output, as for `tshark -r -`.
    #[arg(long, value_name = "FILE|-")]
    pub write: Option<PathBuf>,
}

/// `zdd decap`.
#[derive(Debug, clap::Args)]
pub struct DecapArgs {
    /// Interface on which packets of balancers come in.
    #[arg(long, value_name = "DEV")]
    pub interface: String,
    /// Prefix that balancers' outer headers come from (agent.encap_source there); default: the agent's defaults.
    #[arg(long, value_name = "PREFIX")]
    pub from: Vec<Prefix>,
    /// VIP address of this backend; inner packets for others are dropped.
    #[arg(long, value_name = "ADDR", required_unless_present_any = ["status", "detach"])]
    pub vip: Vec<IpAddr>,
    /// Run in the stack instead of the driver: slower, works everywhere.
    #[arg(long)]
    pub generic: bool,
    /// Directory below a BPF file system; one below it for each interface.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/zdd-decap")]
    pub pin_dir: PathBuf,
    /// Only print what was counted.
    #[arg(long, conflicts_with_all = ["from", "vip", "generic"])]
    pub status: bool,
    /// Only take away what a killed process left.
    #[arg(long, conflicts_with_all = ["from", "vip", "generic", "status"])]
    pub detach: bool,
}

/// What to do with backends.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Add a backend to a version.
    Add {
        /// Service.
        service: String,
        /// Version.
        version: String,
        /// Address and port.
        #[arg(value_name = "ADDR:PORT", value_parser = parse_backend)]
        address: SocketAddr,
        /// Weight relative to the version's other backends.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: u32,
        #[command(flatten)]
        safely: Safely,
    },
    /// Drain a backend and remove it when drained or at the deadline.
    Remove {
        /// Service.
        service: String,
        /// Address and port.
        #[arg(value_name = "ADDR:PORT", value_parser = parse_backend)]
        address: SocketAddr,
        /// Remove it after this time even if flows are left.
        #[arg(long, value_name = "D", value_parser = parse_duration)]
        deadline: Option<Duration>,
        #[command(flatten)]
        safely: Safely,
    },
    /// List backends.
    List {
        /// Only of this service.
        service: Option<String>,
    },
}

fn parse_seq(text: &str) -> Result<u64, Unreadable> {
    text.parse().map_err(|_| {
        Unreadable(format!("`{text}` is no event's number; `zdd events` has them in front of each line"))
    })
}

fn parse_weight(text: &str) -> Result<(String, BasisPoints), Unreadable> {
    let (version, weight) = text
        .rsplit_once('=')
        .filter(|(version, _)| !version.is_empty())
        .ok_or_else(|| Unreadable(format!("`{text}` is not VERSION=WEIGHT%; write v2=10%")))?;
    Ok((version.to_owned(), parse_percent(weight)?))
}
