//! What `zdd top` shows and does, without a terminal, a clock or an agent: reports and keys in, effects out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::desired::BasisPoints;
use crate::report::{ServiceStatus, SignalsStatus, Status, TimesStatus, VersionStatus};
use crate::rollout::report::RolloutReport;
use crate::text::{parse_percent, percent};

/// Over how many reports rates and the observed split are taken.
const WINDOW: usize = 10;
/// How many points the histories of new flows and of times have.
const HISTORY: usize = 24;

/// A key, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Up,
    Down,
    Enter,
    Escape,
    Backspace,
}

/// Something that the operator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Shift { service: String, version: String, points: BasisPoints },
    Rollback { service: String },
    Drain { service: String, version: String },
    Undrain { service: String, version: String },
}

impl Action {
    /// As the command that does the same.
    pub fn command(&self) -> String {
        match self {
            Action::Shift { service, version, points } => {
                format!("zdd shift {service} {version}={}", percent(*points))
            }
            Action::Rollback { service } => format!("zdd rollback {service}"),
            Action::Drain { service, version } => format!("zdd drain {service}/{version}"),
            Action::Undrain { service, version } => format!("zdd undrain {service}/{version}"),
        }
    }
}

/// What a key leads to outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    Quit,
    /// Find out what this would move, and tell by [`Model::prospect`].
    Ask(Action),
    Do(Action),
}

/// What is in front of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialog {
    /// A weight is being typed.
    Weight {
        service: String,
        version: String,
        input: String,
        wrong: Option<String>,
    },
    /// Is this meant? With what it would move, once that is known.
    Confirm {
        action: Action,
        prospect: Option<String>,
    },
    Help,
}

/// One report of the window.
#[derive(Clone, Debug)]
struct Sample {
    at: Duration,
    status: Status,
}

/// A line of the main table: a service, or one of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Service(usize),
    Version(usize, usize),
}

/// Everything that is on the screen.
#[derive(Debug, Default)]
pub struct Model {
    samples: VecDeque<Sample>,
    history: BTreeMap<String, VecDeque<f64>>,
    /// Of the service that was chosen when it was asked for.
    rollout: Option<RolloutReport>,
    pub selected: usize,
    pub dialog: Option<Dialog>,
    /// What the last action led to, or why a key did nothing.
    pub message: Option<String>,
    /// Why there is no agent at the moment.
    pub lost: Option<String>,
}

impl Model {
    /// A report came, at this time since the start.
    pub fn report(&mut self, status: Status, at: Duration) {
        // Totals are the kernel's and outlive the agent; other numbers of them than before mean another kernel state.
        if self.lost.take().is_some() {
            self.samples.clear();
        }
        self.samples.push_back(Sample { at, status });
        while self.samples.len() > HISTORY + 1 {
            self.samples.pop_front();
        }
        let Some(status) = self.status() else { return };
        let names: Vec<String> = status.services.iter().map(|s| s.name.clone()).collect();
        self.history.retain(|name, _| names.contains(name));
        for name in names {
            let rate = self.last_rate(|status| service(status, &name).map_or(0, |s| s.counters.new_flows));
            let points = self.history.entry(name).or_default();
            points.push_back(rate);
            while points.len() > HISTORY {
                points.pop_front();
            }
        }
        self.selected = self.selected.min(self.rows().len().saturating_sub(1));
    }

    /// The agent does not answer.
    pub fn lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// What an action would move.
    pub fn prospect(&mut self, of: &Action, text: String) {
        if let Some(Dialog::Confirm { action, prospect }) = &mut self.dialog
            && action == of
        {
            *prospect = Some(text);
        }
    }

    /// The rollout of a service, under way or over; `None`: it never had one.
    pub fn rollout_of(&mut self, service: &str, rollout: Option<RolloutReport>) {
        if self.chosen().is_some_and(|chosen| chosen.name == service) {
            self.rollout = rollout;
        }
    }

    /// The rollout of the chosen service, as far as it is known.
    pub fn rollout(&self) -> Option<&RolloutReport> {
        let chosen = self.chosen()?;
        self.rollout.as_ref().filter(|rollout| rollout.service == chosen.name)
    }

    /// The service that is chosen, or whose version is.
    pub fn chosen(&self) -> Option<&ServiceStatus> {
        let (Row::Service(at) | Row::Version(at, _)) = *self.rows().get(self.selected)?;
        self.status()?.services.get(at)
    }

    /// The last report.
    pub fn status(&self) -> Option<&Status> {
        self.samples.back().map(|sample| &sample.status)
    }

    /// The lines of the main table.
    pub fn rows(&self) -> Vec<Row> {
        let services = self.status().map_or(&[][..], |status| &status.services);
        let of = |(at, service): (usize, &ServiceStatus)| {
            let versions = (0..service.versions.len()).map(move |version| Row::Version(at, version));
            std::iter::once(Row::Service(at)).chain(versions)
        };
        services.iter().enumerate().flat_map(of).collect()
    }

    /// Growth of a total per second over the window; 0 while there is one report only, and when it fell.
    pub fn rate(&self, total: impl Fn(&Status) -> u64) -> f64 {
        match (self.first(), self.samples.back()) {
            (Some(first), Some(last)) => rate_between(first, last, total),
            _ => 0.0,
        }
    }

    /// Where the window begins.
    fn first(&self) -> Option<&Sample> {
        self.samples.get(self.samples.len().saturating_sub(WINDOW + 1))
    }

    fn last_rate(&self, total: impl Fn(&Status) -> u64) -> f64 {
        let [.., before, last] = self.samples.iter().collect::<Vec<_>>()[..] else { return 0.0 };
        rate_between(before, last, total)
    }

    /// The share of the new flows of the window that a version got; `None` while there were none.
    pub fn observed(&self, of: &ServiceStatus, version: &VersionStatus) -> Option<f64> {
        let first = service(&self.first()?.status, &of.name)?;
        let grown = |now: &VersionStatus| {
            let before =
                first.versions.iter().find(|v| v.name == now.name).map_or(now.new_flows, |v| v.new_flows);
            now.new_flows.saturating_sub(before)
        };
        let all: u64 = of.versions.iter().map(grown).sum();
        (all > 0).then(|| grown(version) as f64 / all as f64)
    }

    /// The mean of a version's times between each two reports that are kept, oldest first, in seconds; `None` where none was measured.
    pub fn times(
        &self,
        of: &str,
        version: &str,
        which: impl Fn(&SignalsStatus) -> &TimesStatus,
    ) -> Vec<Option<f64>> {
        let find = |sample: &Sample| {
            let versions = &service(&sample.status, of)?.versions;
            let times = which(versions.iter().find(|v| v.name == version)?.signals.as_ref()?);
            Some((times.count, times.sum_s))
        };
        let read: Vec<Option<(u64, f64)>> = self.samples.iter().map(find).collect();
        let mean = |pair: &[Option<(u64, f64)>]| {
            let ((before, sum), (now, grown)) = (pair[0]?, pair[1]?);
            (now > before).then(|| (grown - sum).max(0.0) / (now - before) as f64)
        };
        read.windows(2).map(mean).collect()
    }

    /// New flows per second of a service, oldest first.
    pub fn history(&self, service: &str) -> Vec<f64> {
        self.history.get(service).map_or(Vec::new(), |points| points.iter().copied().collect())
    }

    /// A key was pressed.
    pub fn key(&mut self, key: Key) -> Effect {
        match self.dialog.take() {
            Some(Dialog::Weight { service, version, input, .. }) => {
                self.weight_key(service, version, input, key)
            }
            Some(Dialog::Confirm { action, .. }) if key == Key::Char('y') => {
                self.message = Some(format!("{} ...", action.command()));
                Effect::Do(action)
            }
            Some(Dialog::Confirm { action, .. }) if matches!(key, Key::Char('n') | Key::Escape) => {
                self.message = Some(format!("not done: {}", action.command()));
                Effect::None
            }
            // Any other key is most likely a slip: the question stays.
            Some(dialog @ Dialog::Confirm { .. }) => {
                self.dialog = Some(dialog);
                Effect::None
            }
            Some(Dialog::Help) => Effect::None,
            None => self.table_key(key),
        }
    }

    fn weight_key(&mut self, service: String, version: String, mut input: String, key: Key) -> Effect {
        let mut wrong = None;
        match key {
            Key::Escape => return Effect::None,
            Key::Char(c) if (c.is_ascii_digit() || c == '.') && input.len() < 6 => input.push(c),
            Key::Backspace => drop(input.pop()),
            Key::Enter => match parse_percent(&format!("{input}%")) {
                Ok(points) => return self.confirm(Action::Shift { service, version, points }),
                Err(error) => wrong = Some(error.to_string()),
            },
            _ => {}
        }
        self.dialog = Some(Dialog::Weight { service, version, input, wrong });
        Effect::None
    }

    fn confirm(&mut self, action: Action) -> Effect {
        self.dialog = Some(Dialog::Confirm { action: action.clone(), prospect: None });
        Effect::Ask(action)
    }

    fn table_key(&mut self, key: Key) -> Effect {
        self.message = None;
        let rows = self.rows();
        match key {
            Key::Char('q') | Key::Escape => return Effect::Quit,
            Key::Char('?' | 'h') => self.dialog = Some(Dialog::Help),
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => {
                self.selected = (self.selected + 1).min(rows.len().saturating_sub(1));
            }
            Key::Char(what @ ('s' | 'd' | 'u' | 'r')) => {
                return self.wish(what, rows.get(self.selected).copied());
            }
            _ => {}
        }
        Effect::None
    }

    fn wish(&mut self, what: char, row: Option<Row>) -> Effect {
        if self.lost.is_some() {
            self.message = Some("there is no agent to ask".to_owned());
            return Effect::None;
        }
        let names = self.status().zip(row).and_then(|(status, row)| {
            let (at, version) = match row {
                Row::Service(at) => (at, None),
                Row::Version(at, version) => (at, Some(version)),
            };
            let service = status.services.get(at)?;
            let version = version.and_then(|version| service.versions.get(version)).map(|v| v.name.clone());
            Some((service.name.clone(), version))
        });
        match (what, names) {
            ('r', Some((service, _))) => self.confirm(Action::Rollback { service }),
            ('d', Some((service, Some(version)))) => self.confirm(Action::Drain { service, version }),
            ('u', Some((service, Some(version)))) => self.confirm(Action::Undrain { service, version }),
            ('s', Some((service, Some(version)))) => {
                self.dialog = Some(Dialog::Weight { service, version, input: String::new(), wrong: None });
                Effect::None
            }
            (_, Some((service, None))) => {
                self.message = Some(format!("choose a version of {service} first"));
                Effect::None
            }
            _ => Effect::None,
        }
    }
}

fn rate_between(before: &Sample, after: &Sample, total: impl Fn(&Status) -> u64) -> f64 {
    let seconds = after.at.saturating_sub(before.at).as_secs_f64();
    let grown = total(&after.status).saturating_sub(total(&before.status));
    if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
}

/// A service of a report, by name.
pub fn service<'a>(status: &'a Status, name: &str) -> Option<&'a ServiceStatus> {
    status.services.iter().find(|service| service.name == name)
}
