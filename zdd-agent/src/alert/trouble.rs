//! What can be wrong.

use serde::{Deserialize, Serialize};

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A service has no healthy backend, or ignores health because too many fail.
    ServiceAlarm,
    /// Every backend of a version fails its checks.
    VersionUnhealthy,
    /// A backend fails its checks.
    BackendDown,
    /// A rollout went back.
    RolloutRolledBack,
    /// A rollout waits for somebody to decide.
    RolloutFrozen,
    /// A rollout cannot take its next step.
    RolloutStuck,
    /// A drain's deadline passed with flows left.
    DrainDeadlinePassed,
    /// The flow table, or a quota of it, is nearly used up.
    FlowTableFull,
    /// Flows could not be remembered.
    FlowsNotRemembered,
    /// New flows under `snat` found no free port.
    SnatPortsUsedUp,
    /// The program is not attached to an interface that it should be attached to.
    Detached,
    /// The agent cannot write its state.
    StateNotWritten,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 12] = [
        Kind::ServiceAlarm,
        Kind::VersionUnhealthy,
        Kind::BackendDown,
        Kind::RolloutRolledBack,
        Kind::RolloutFrozen,
        Kind::RolloutStuck,
        Kind::DrainDeadlinePassed,
        Kind::FlowTableFull,
        Kind::FlowsNotRemembered,
        Kind::SnatPortsUsedUp,
        Kind::Detached,
        Kind::StateNotWritten,
    ];

    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ServiceAlarm => "service-alarm",
            Kind::VersionUnhealthy => "version-unhealthy",
            Kind::BackendDown => "backend-down",
            Kind::RolloutRolledBack => "rollout-rolled-back",
            Kind::RolloutFrozen => "rollout-frozen",
            Kind::RolloutStuck => "rollout-stuck",
            Kind::DrainDeadlinePassed => "drain-deadline-passed",
            Kind::FlowTableFull => "flow-table-full",
            Kind::FlowsNotRemembered => "flows-not-remembered",
            Kind::SnatPortsUsedUp => "snat-ports-used-up",
            Kind::Detached => "detached",
            Kind::StateNotWritten => "state-not-written",
        }
    }

    /// As Alertmanager users spell names: `ZddServiceAlarm`.
    pub fn alert_name(self) -> String {
        let words = self.name().split('-').map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
        });
        format!("Zdd{}", words.collect::<String>())
    }

    /// `critical`: users are, or are about to be, affected; `warning`: somebody should look.
    pub fn severity(self) -> &'static str {
        match self {
            Kind::ServiceAlarm
            | Kind::VersionUnhealthy
            | Kind::SnatPortsUsedUp
            | Kind::Detached
            | Kind::StateNotWritten => "critical",
            _ => "warning",
        }
    }
}

/// Something that is wrong now. Kind and labels are its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub kind: Kind,
    /// Where, in the order in which people read it.
    pub labels: Vec<(&'static str, String)>,
    /// A sentence; it may change while the trouble lasts.
    pub summary: String,
}

impl Trouble {
    /// A trouble of this kind.
    pub fn new(
        kind: Kind,
        labels: impl IntoIterator<Item = (&'static str, String)>,
        summary: impl Into<String>,
    ) -> Trouble {
        Trouble { kind, labels: labels.into_iter().collect(), summary: summary.into() }
    }

    /// Equal for the same trouble at another time.
    pub fn id(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {}", self.kind.name(), labels.join(" "))
    }
}
