//! What a rollout shall do: the validated form of `[service.rollout]`. Plain data; `config` makes it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::windows::Windows;
use crate::desired::{BasisPoints, FULL};
use crate::signals::{CompareSpec, Metric};

/// How a candidate takes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// How.
    pub strategy: Strategy,
    /// What happens when an analysis or a hook says that the candidate is not good.
    pub on_failure: OnFailure,
    /// A step that cannot be taken (an unhealthy candidate) for this long counts as a failure. Default 10 min.
    pub progress_deadline: Duration,
    /// Drain the old version at the end, and give up what is left of it after this time; `None`: it is not drained
    /// (`canary`), or waited for without end (`blue-green`).
    pub drain_deadline: Option<Duration>,
    /// What is measured.
    pub analyses: Vec<AnalysisSpec>,
    /// Who is asked or told.
    pub hooks: Vec<HookSpec>,
    /// When no step up is taken.
    #[serde(default)]
    pub freeze: Windows,
    /// How long the new version has everything, and the old one nobody, before `contract`. Default none.
    #[serde(default)]
    pub soak: Duration,
    /// The release train that it is part of: it takes a step up when all of the train are ready.
    #[serde(default)]
    pub train: Option<String>,
}

impl RolloutSpec {
    /// Rolling: a batch; empty where there is none of that number.
    pub fn batch(&self, number: u16) -> &[Unit] {
        match &self.strategy {
            Strategy::Rolling { batches, .. } => batches.get(usize::from(number)).map_or(&[], Vec::as_slice),
            Strategy::Canary { .. } | Strategy::BlueGreen { .. } => &[],
        }
    }

    /// The cohorts that get the candidate before any percentage does, in their order.
    pub fn cohorts(&self) -> impl Iterator<Item = &str> {
        let steps = match &self.strategy {
            Strategy::Canary { steps } => steps.as_slice(),
            Strategy::BlueGreen { .. } | Strategy::Rolling { .. } => &[],
        };
        steps.iter().filter_map(|step| if let Step::Cohort(name) = step { Some(name.as_str()) } else { None })
    }

    /// Whether a hook of this kind is there.
    pub fn calls(&self, kind: HookKind) -> bool {
        self.hooks.iter().any(|hook| hook.on == kind)
    }
}

/// How the weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Step by step. Weights rise strictly; what follows the last step is 100 %.
    Canary {
        /// In their order; at least one weight.
        steps: Vec<Step>,
    },
    /// All at once, after it was looked at with no traffic; the old version stays until it is drained.
    BlueGreen {
        /// Go on without `promote` when the analyses before the switch have succeeded.
        auto_promote: bool,
        /// How long the analyses after the switch go on before the old version is drained.
        bake: Duration,
    },
    /// Backends of one version, a few at a time: restarted where they are, or replaced by others.
    Rolling {
        /// How many at a time.
        batch: Count,
        /// How many of the version may take no flows at a time, the sick ones included. `None`: as many as a batch has.
        max_unavailable: Option<Count>,
        /// How long a backend must have been healthy before it takes flows again.
        min_ready: Duration,
        /// What is done, in this order. Empty until a rollout begins.
        #[serde(default)]
        batches: Vec<Vec<Unit>>,
    },
}

/// A number of backends, or a share of those of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// So many.
    Number(u32),
    /// Rounded down, and one at the least.
    Share(BasisPoints),
}

impl Count {
    /// How many of `all`.
    pub fn of(self, all: usize) -> usize {
        match self {
            Count::Number(number) => number as usize,
            Count::Share(share) => (all as u64 * u64::from(share) / u64::from(FULL)).max(1) as usize,
        }
    }
}

/// One backend of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The address that it has.
    pub old: SocketAddr,
    /// The one that takes its place; `None`: it is restarted where it is.
    pub new: Option<SocketAddr>,
}

impl Strategy {
    /// As the configuration spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::Canary { .. } => "canary",
            Strategy::BlueGreen { .. } => "blue-green",
            Strategy::Rolling { .. } => "rolling",
        }
    }
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The candidate's share of new flows, 1 to 10_000.
    Weight(BasisPoints),
    /// All new flows of this cohort's clients. Before every weight.
    Cohort(String),
    /// Wait this long.
    Pause(Duration),
    /// Wait for `zdd rollout promote`.
    PauseUntilPromoted,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// All new flows back to the stable version.
    Rollback,
    /// The weights stay; somebody decides.
    Freeze,
}

/// When an analysis of a blue-green rollout runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// As soon as there is something to measure: for a canary from its first weight on.
    #[default]
    Always,
    /// Blue-green, before the switch.
    PrePromotion,
    /// Blue-green, after the switch.
    PostPromotion,
}

/// One measurement that is repeated, and how it is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalysisSpec {
    /// Unique within the rollout.
    pub name: String,
    /// When it runs.
    pub when: When,
    /// From one measurement to the next; the first comes one interval after the weight was set. Default 1 min.
    pub interval: Duration,
    /// Before the first measurement, instead of an interval.
    pub initial_delay: Option<Duration>,
    /// Successes that are needed at each weight before the next. Default 1.
    pub count: u32,
    /// Failures in the whole rollout that are tolerated. Default 0.
    pub failure_limit: u32,
    /// Inconclusive measurements that are tolerated. Default 3.
    pub inconclusive_limit: u32,
    /// Errors in a row (nobody answers) that are tolerated. Default 4.
    pub consecutive_error_limit: u32,
    /// New flows of the candidate since the measurement before; with fewer a success is inconclusive. Default 0.
    pub min_samples: u32,
    /// Measure and show, and never decide by it.
    pub dry_run: bool,
    /// Where the value comes from.
    pub provider: Provider,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// A JSON document over HTTP.
    Web {
        /// `http://...`.
        url: String,
        /// JSONPath (RFC 9535) to one value.
        json: String,
        /// What the value must be.
        success: Condition,
        /// For the whole exchange. Default 5 s.
        timeout: Duration,
    },
    /// An instant query.
    Prometheus {
        /// `http://host:port`, without `/api/v1/query`.
        address: String,
        /// PromQL that gives one number.
        query: String,
        /// What the number must be.
        success: Condition,
        /// For the whole exchange. Default 5 s.
        timeout: Duration,
    },
    /// A program: exit 0 is success, 2 inconclusive, anything else failure.
    Exec {
        /// Program and arguments; no shell.
        argv: Vec<String>,
        /// It is killed with its children after this. Default 10 s.
        timeout: Duration,
    },
    /// What the agent knows by itself.
    Builtin {
        /// Which.
        metric: Builtin,
        /// What it must be.
        success: Condition,
    },
    /// The signals of the candidate's flows against the stable version's.
    Compare(CompareSpec),
}

/// What the agent knows by itself of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Builtin {
    /// Share of the candidate's backends that pass their health check, 0 to 1. Inconclusive while one was not asked yet.
    HealthyShare,
    /// A rate of the sampled flows, 0 to 1.
    Rate(Metric),
    /// A time that 99 % of the sampled flows are below, in seconds.
    P99(Metric),
}

/// A comparison with a number: `<= 0.01`, `== 1`, or with a text: `== "ok"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// How.
    pub op: Comparison,
    /// With what.
    pub with: Operand,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.op {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::More => ">",
            Comparison::AtLeast => ">=",
            Comparison::Equal => "==",
            Comparison::Differs => "!=",
        };
        match &self.with {
            Operand::Number(number) => write!(f, "{sign} {number}"),
            Operand::Bool(truth) => write!(f, "{sign} {truth}"),
            Operand::Text(text) => write!(f, "{sign} {text:?}"),
        }
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// At most.
    #[serde(rename = "<=")]
    AtMost,
    /// More.
    #[serde(rename = ">")]
    More,
    /// At least.
    #[serde(rename = ">=")]
    AtLeast,
    /// The same.
    #[serde(rename = "==")]
    Equal,
    /// Not the same.
    #[serde(rename = "!=")]
    Differs,
}

/// The right side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Operand {
    /// A finite number.
    Number(f64),
    /// A truth value; only with `==` and `!=`.
    Bool(bool),
    /// A text; only with `==` and `!=`.
    Text(String),
}

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// Before anything: asked again and again until it agrees.
    ConfirmRollout,
    /// Once before the first weight; must succeed.
    PreRollout,
    /// Once before the first weight: the database takes in what the new version needs; must succeed.
    Expand,
    /// Before each weight that rises; must succeed.
    Rollout,
    /// Before 100 %: asked again and again until it agrees.
    ConfirmPromotion,
    /// Once at 100 %; its failure is told and changes nothing.
    PostRollout,
    /// Rolling: the drained backends of a batch are restarted; must succeed.
    Restart,
    /// Once the old version is drained and the soak is over: the database lets go of what only the old version needed.
    Contract,
    /// Asked at every interval: its success rolls back.
    Rollback,
    /// Told of everything that happens.
    Event,
}

impl HookKind {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            HookKind::ConfirmRollout => "confirm-rollout",
            HookKind::PreRollout => "pre-rollout",
            HookKind::Expand => "expand",
            HookKind::Rollout => "rollout",
            HookKind::ConfirmPromotion => "confirm-promotion",
            HookKind::PostRollout => "post-rollout",
            HookKind::Restart => "restart",
            HookKind::Contract => "contract",
            HookKind::Rollback => "rollback",
            HookKind::Event => "event",
        }
    }

    /// Asked until it agrees, never failing.
    pub fn confirms(self) -> bool {
        matches!(self, HookKind::ConfirmRollout | HookKind::ConfirmPromotion)
    }
}

/// Somebody who is asked or told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookSpec {
    /// When.
    pub on: HookKind,
    /// How.
    pub call: HookCall,
    /// For one attempt. Default 10 s.
    pub timeout: Duration,
    /// Attempts after the first that failed; means nothing to those that are asked again anyway. Default 0.
    pub retries: u32,
    /// Between two attempts or questions. Default 10 s.
    pub interval: Duration,
}

/// How a hook is called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookCall {
    /// `POST` with a JSON body; a status of 200 to 299 is success.
    Webhook {
        /// `http://...`.
        url: String,
    },
    /// A program with the same JSON on its standard input; exit 0 is success.
    Exec {
        /// Program and arguments; no shell.
        argv: Vec<String>,
    },
}
