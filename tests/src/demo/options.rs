//! The demo's command line.

use std::path::PathBuf;

use crate::rig::Forward;

/// Which hash chooses version and backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Affinity {
    /// Each connection by itself.
    Flow,
    /// A client sticks to a backend.
    #[default]
    Client,
    /// A client sticks to a version.
    ClientVersion,
}

impl Affinity {
    /// As the configuration file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Client => "client",
            Self::ClientVersion => "client-version",
        }
    }

    /// All connections of a client meet the same version.
    pub fn by_client(self) -> bool {
        self != Self::Flow
    }
}

/// Watch live TCP and UDP traffic move between two versions in the kernel, and nothing break.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "zdd-demo", version)]
pub struct Options {
    /// How packets reach the backends and come back
    #[arg(long, value_enum, default_value_t = Forward::Nat)]
    pub forward: Forward,
    /// Which hash chooses version and backend
    #[arg(long, value_enum, default_value_t = Affinity::Client)]
    pub affinity: Affinity,
    /// End with one JSON object on the last line
    #[arg(long)]
    pub json: bool,
    /// Where to write the chart
    #[arg(long, value_name = "PATH", default_value = "zdd-demo.svg")]
    pub svg: PathBuf,
    /// The zdd binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub zdd: Option<PathBuf>,
    /// The build that replaces it in the upgrade [default: a copy of the first]
    #[arg(long, value_name = "PATH")]
    pub zdd_next: Option<PathBuf>,
    /// Shorter acts and fewer repetitions
    #[arg(long)]
    pub quick: bool,
    /// Go on with the next act after something went wrong
    #[arg(long)]
    pub keep_going: bool,
    /// No zdd at all: clients dial the backends; shows what the machine can do by itself
    #[arg(long)]
    pub direct: bool,
    /// Long-lived connections, opened in several acts
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub long_lived: usize,
    /// New connections per second
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub rate: u32,
    /// UDP flows, opened in several acts
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub udp: usize,
    /// Client addresses
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u8).range(1..=250))]
    pub clients: u8,
}
