//! The grammar of `zdd rollout` and `zdd gate`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::text::{Unreadable, parse_duration, parse_socket};

fn pair(text: &str) -> Result<(SocketAddr, SocketAddr), Unreadable> {
    let wrong = || Unreadable(format!("`{text}` is no pair; write OLD=NEW, as 10.1.0.1:8080=10.1.0.9:8080"));
    let (old, new) = text.split_once('=').ok_or_else(wrong)?;
    Ok((parse_socket(old)?, parse_socket(new)?))
}

fn rollout_number(text: &str) -> Result<u64, Unreadable> {
    let wrong = |_| {
        Unreadable(format!("`{text}` is no rollout; write its number, as `zdd rollout history` shows it"))
    };
    text.parse().map_err(wrong)
}

/// What to do with a rollout.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Show what a rollout would do: each step and what takes it back. Changes nothing.
    Plan {
        /// Service.
        service: String,
        /// The version that is to have all new flows.
        version: String,
    },
    /// Begin a rollout.
    Start {
        /// Service.
        service: String,
        /// The version that is to have all new flows.
        version: String,
        /// Rolling: put the backend NEW in the place of OLD, instead of restarting backends where they are; may be repeated.
        #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
        replace: Vec<(SocketAddr, SocketAddr)>,
        /// Why; kept in the history.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Pass what holds it now: the gate, a stopped line, a freeze window. Needs --reason.
        #[arg(long, requires = "reason")]
        break_glass: bool,
        #[command(flatten)]
        wait: Wait,
        /// Made once for each key within 24 hours.
        #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
        idempotency_key: String,
    },
    /// Show the rollout under way, or the last one.
    Status {
        /// Service.
        service: String,
        /// Show it again and again, until it is over.
        #[arg(long)]
        watch: bool,
        /// How often.
        #[arg(long, value_name = "D", default_value = "1s", value_parser = parse_duration, requires = "watch")]
        interval: Duration,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take no step until `resume`; analysis goes on.
    Pause(Move),
    /// End a pause; the plan's weights are put back.
    Resume(Move),
    /// End the present waiting of the plan.
    Promote {
        #[command(flatten)]
        to: Move,
        /// Leave out all steps before 100 %; analyses must still succeed.
        #[arg(long)]
        full: bool,
    },
    /// Give all new flows back to the stable version. Always wins.
    Abort(Move),
    /// Go on after a freeze, or begin again after a rollback.
    Retry(Move),
    /// Give all new flows to the version before, at once.
    Undo {
        #[command(flatten)]
        to: Move,
        /// To what rollout N of the history left instead.
        #[arg(long = "to", value_name = "N", value_parser = rollout_number, allow_hyphen_values = true)]
        number: Option<u64>,
    },
    /// Let no rollout of any service take a step up; analysis and rollback go on.
    StopTheLine {
        /// Why; shown while it is stopped.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let the rollouts of all services take steps again.
    ReleaseTheLine,
    /// List rollouts that are over.
    History {
        /// Service.
        service: String,
    },
}

/// What moves a rollout.
#[derive(Debug, Args)]
pub struct Move {
    /// Service.
    pub service: String,
    /// Why; kept in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Only if the rollout is still at this revision, as `status` showed it.
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
    /// Pass what holds it now: the gate, a stopped line, a freeze window; `undo`: also after contract. Needs --reason.
    #[arg(long, requires = "reason")]
    pub break_glass: bool,
    #[command(flatten)]
    pub wait: Wait,
}

/// For pipelines.
#[derive(Clone, Copy, Debug, Args)]
pub struct Wait {
    /// Return when promoted (0), rolled back (5) or frozen (6).
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this time (3).
    #[arg(long, value_name = "D", value_parser = parse_duration, requires = "wait")]
    pub timeout: Option<Duration>,
}

/// What to do with a release train.
#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Begin the rollouts of all services of a train, or of none.
    Start {
        /// Train: what `train` says in the [service.rollout] of its services.
        train: String,
        /// Each service of the train and the version that is to have all its new flows.
        #[arg(value_name = "SERVICE=VERSION", required = true, value_parser = passenger)]
        services: Vec<(String, String)>,
        /// Why.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show the rollouts of a train's last run.
    Status {
        /// Train.
        train: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give everything of a train back.
    Abort {
        /// Train.
        train: String,
        /// Why; kept in the history.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
}

fn passenger(text: &str) -> Result<(String, String), Unreadable> {
    match text.split_once('=') {
        Some((service, version)) if !service.is_empty() && !version.is_empty() => {
            Ok((service.to_owned(), version.to_owned()))
        }
        _ => Err(Unreadable(format!("`{text}` is no pair; write SERVICE=VERSION, as web=v2"))),
    }
}

/// What to do with a gate.
#[derive(Debug, Subcommand)]
pub enum GateCommand {
    /// Let rollouts of the service take steps again.
    Open {
        /// Service.
        service: String,
    },
    /// Let no rollout of the service take a step up; analysis and rollback go on.
    Close {
        /// Service.
        service: String,
        /// Why; shown while it is closed.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
}
