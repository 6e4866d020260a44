//! What must survive the agent: the operator's intent, and the numbers under which it stands in the maps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zdd_common::hash::HashKey;
use zdd_common::maps::Counters;

use crate::clock::Moment;
use crate::control::SpentKey;
use crate::desired::{Forward, ServiceSpec, Vip};
use crate::rollout::saved::SavedRollouts;
use crate::signals::Reading;

/// Everything in `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Key of all hashes: k0, k1. Whoever changes it moves every client.
    pub key: (u64, u64),
    /// The services as the configuration file last said, so that an edited file can be told from a changed intent.
    pub file: Vec<ServiceSpec>,
    /// The services as they are in force.
    pub services: Vec<SavedService>,
    /// Idempotency keys of changes that this state holds.
    #[serde(default)]
    pub keys: Vec<SpentKey>,
    /// Why no rollout of any service takes a step up; `None`: they do.
    #[serde(default)]
    pub line_stopped: Option<String>,
}

/// [`State`] for writing: what it borrows may be 16 MiB of groups, which nobody needs twice.
#[derive(Debug, Serialize)]
pub struct StateRef<'a> {
    /// [`State::key`].
    pub key: (u64, u64),
    /// [`State::file`].
    pub file: &'a [ServiceSpec],
    /// [`State::services`].
    pub services: Vec<&'a SavedService>,
    /// [`State::keys`].
    pub keys: &'a [SpentKey],
    /// [`State::line_stopped`].
    pub line_stopped: Option<&'a str>,
}

impl State {
    /// The key as the maps hold it.
    pub fn hash_key(&self) -> HashKey {
        HashKey { k0: self.key.0, k1: self.key.1 }
    }
}

/// Reads a key file: 32 hexadecimal digits and white space, readable by its owner alone, because whoever knows the key can choose
/// addresses and ports that all fall on one backend.
///
/// # Errors
/// What is wrong with the file, and how to make a good one.
pub fn read_key(path: &Path) -> anyhow::Result<(u64, u64)> {
    use std::os::unix::fs::PermissionsExt;
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("the key file {shown} cannot be read"))?;
    let mode =
        std::fs::metadata(path).with_context(|| format!("the key file {shown} cannot be looked at"))?;
    anyhow::ensure!(
        mode.permissions().mode() & 0o077 == 0,
        "the key file {shown} can be read by others\nhelp: chmod 600 {shown}"
    );
    let digits: String = text.split_whitespace().collect();
    let key = Some(&digits)
        .filter(|d| d.len() == 32 && d.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|d| u128::from_str_radix(d, 16).ok());
    let key = key.with_context(|| {
        format!(
            "the key file {shown} does not hold 32 hexadecimal digits\nhelp: (umask 077; openssl rand -hex 16 > {shown}), and copy it to the other hosts"
        )
    })?;
    Ok(((key >> 64) as u64, key as u64))
}

/// One service and its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// What is in force: weights as shifted, backends as added and removed.
    pub spec: ServiceSpec,
    /// One for each VIP, each preview VIP, and each cohort at each VIP.
    pub faces: Vec<SavedFace>,
    /// Names of versions by their number in `groups`. A removed version keeps its place until another takes it.
    pub slots: Vec<String>,
    /// Which version each group belongs to.
    #[serde(serialize_with = "pack", deserialize_with = "unpack")]
    pub groups: Vec<u8>,
    /// All backends that have an id, those on their way out included.
    pub backends: Vec<SavedBackend>,
    /// Versions that drain.
    pub draining: Vec<VersionDrain>,
    /// What backends that are forgotten had counted, by version, so that a version's counters never go back.
    #[serde(default)]
    pub retired: BTreeMap<String, Retired>,
    /// What the flows of these backends had told, by version.
    #[serde(default)]
    pub retired_signals: BTreeMap<String, Reading>,
    /// Its rollouts. A file from before there were any has none.
    #[serde(default)]
    pub rollouts: SavedRollouts,
}

/// Counters of forgotten backends, as in [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    packets: u64,
    bytes: u64,
    new_flows: u64,
    learned: u64,
    fallback: u64,
    alt: u64,
}

impl Retired {
    /// Adds a backend's counters.
    pub fn add(&mut self, of: &Counters) {
        let Counters { packets, bytes, new_flows, learned, fallback, alt } =
            Counters::sum([self.counters(), *of]);
        *self = Self { packets, bytes, new_flows, learned, fallback, alt };
    }

    /// As the maps count.
    pub fn counters(&self) -> Counters {
        let Self { packets, bytes, new_flows, learned, fallback, alt } = *self;
        Counters { packets, bytes, new_flows, learned, fallback, alt }
    }
}

/// A VIP of a service and its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedFace {
    /// What clients dial.
    pub vip: Vip,
    /// Its number among the services of the maps.
    pub id: u16,
    /// Its number in the keys of flows, which its cohorts share.
    pub vip_id: u16,
    /// The cohort whose flows its row steers; `None`: those of all others.
    #[serde(default)]
    pub cohort: Option<String>,
    /// It is a preview VIP: all its new flows go to one version.
    #[serde(default)]
    pub preview: bool,
}

/// One backend and its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// Id in the maps.
    pub id: u16,
    /// Address and port.
    pub address: SocketAddr,
    /// Its version's name.
    pub version: String,
    /// Its own drain.
    pub drain: Option<Drain>,
    /// Taken out of the service: it is forgotten when it is drained.
    pub removed: bool,
    /// Why it failed its checks when that was last known, so that a restart does not trust it again before it is asked.
    #[serde(default)]
    pub unhealthy: Option<String>,
    /// How packets reach it, once the file has dropped its version: its live flows know no other way.
    #[serde(default)]
    pub forward: Option<Forward>,
}

/// A version's drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionDrain {
    /// The version's name.
    pub version: String,
    /// Its times.
    pub drain: Drain,
}

/// A drain. Times are milliseconds since 1970, because they outlive a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// When it began.
    pub since_ms: u64,
    /// When the flows that are left are let go; `None`: never.
    pub deadline_ms: Option<u64>,
    /// The deadline has passed.
    pub passed: bool,
    /// When it began on a clock that nobody sets: as long as the machine is up, this one decides. A wall clock that jumps would
    /// let go of live flows, or never of any.
    #[serde(default)]
    pub steady: Option<Steady>,
}

/// A moment on the clock of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    /// Which boot: [`crate::clock::boot`].
    pub boot: u64,
    /// Milliseconds since then, suspend included.
    pub ms: u64,
}

impl Drain {
    /// One that begins now.
    pub fn begin(deadline: Option<Duration>, now: Moment) -> Drain {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Drain {
            since_ms: now.unix_ms,
            deadline_ms: deadline.map(|time| now.unix_ms.saturating_add(ms(time))),
            passed: false,
            steady: (now.boot != 0).then_some(Steady { boot: now.boot, ms: now.boot_ms }),
        }
    }

    /// For how long it has gone on.
    pub fn waited_ms(&self, now: Moment) -> u64 {
        match self.steady {
            Some(began) if began.boot == now.boot => now.boot_ms.saturating_sub(began.ms),
            _ => now.unix_ms.saturating_sub(self.since_ms),
        }
    }

    /// Whether its time is up, and nothing was done about it yet.
    pub fn due(&self, now: Moment) -> bool {
        let up = |deadline: u64| self.waited_ms(now) >= deadline.saturating_sub(self.since_ms);
        !self.passed && self.deadline_ms.is_some_and(up)
    }
}

/// Most versions of a service, those on their way out included: one printable character each in the state file.
pub const SLOTS_MAX: usize = 64;

const FIRST: u8 = b'0';

#[expect(clippy::ptr_arg, reason = "serde hands out the field's own type")]
fn pack<S: Serializer>(groups: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
    let text: String = groups.iter().map(|slot| char::from(FIRST + slot)).collect();
    serializer.serialize_str(&text)
}

fn unpack<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.bytes()
        .map(|byte| {
            byte.checked_sub(FIRST)
                .filter(|slot| usize::from(*slot) < SLOTS_MAX)
                .ok_or_else(|| serde::de::Error::custom("groups hold a character that is no version"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_32_digits_and_nobody_elses_business() {
        let path = std::env::temp_dir().join(format!("zdd-{}-key", std::process::id()));
        let said = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_key(&path).map_err(|error| error.to_string())
        };
        assert_eq!(said("00000000000000010000000000000002\n", 0o600), Ok((1, 2)));
        assert!(said("00000000000000010000000000000002", 0o640).unwrap_err().contains("chmod 600"));
        for text in ["", "+0000000000000010000000000000002", "12", "zz000000000000010000000000000002"] {
            assert!(said(text, 0o600).unwrap_err().contains("openssl rand -hex 16"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_key(&path).is_err());
    }
}

#[cfg(test)]
mod drain_tests {
    use super::*;

    const BEGAN: Moment = Moment { unix_ms: 1_000_000, boot_ms: 5_000, boot: 7 };

    fn after(steps: i64, wall: i64) -> Moment {
        let add = |to: u64, ms: i64| to.saturating_add_signed(ms);
        Moment { unix_ms: add(BEGAN.unix_ms, wall), boot_ms: add(BEGAN.boot_ms, steps), boot: BEGAN.boot }
    }

    #[test]
    fn a_wall_clock_that_jumps_brings_no_deadline_nearer_and_puts_none_off() {
        let drain = Drain::begin(Some(Duration::from_secs(60)), BEGAN);
        assert!(!drain.due(after(59_999, 59_999)) && drain.due(after(60_000, 60_000)));
        assert!(!drain.due(after(1_000, 86_400_000)), "it jumped forwards");
        assert!(drain.due(after(60_000, -900_000)), "it was set back");
        assert_eq!(drain.waited_ms(after(2_000, -900_000)), 2_000);
        assert!(!Drain { passed: true, ..drain }.due(after(60_000, 60_000)));
        assert!(!Drain::begin(None, BEGAN).due(after(i64::MAX, i64::MAX)));
    }

    #[test]
    fn after_a_reboot_and_in_states_of_before_the_wall_clock_decides() {
        let drain = Drain::begin(Some(Duration::from_secs(60)), BEGAN);
        let booted = |wall| Moment { boot: 8, ..after(0, wall) };
        assert!(!drain.due(booted(59_999)) && drain.due(booted(60_000)));
        let before: Drain =
            serde_json::from_str(r#"{"since_ms":1000000,"deadline_ms":1060000,"passed":false}"#).unwrap();
        assert!(!before.due(after(90_000, 59_999)) && before.due(after(0, 60_000)));
    }
}
