//! What must survive the agent: the operator's intent, and the numbers under which it stands in the maps.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zdd_common::hash::HashKey;

use crate::desired::ServiceSpec;
use crate::rollout::saved::SavedRollouts;

/// Everything in `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Key of all hashes: k0, k1. Whoever changes it moves every client.
    pub key: (u64, u64),
    /// The services as the configuration file last said, so that an edited file can be told from a changed intent.
    pub file: Vec<ServiceSpec>,
    /// The services as they are in force.
    pub services: Vec<SavedService>,
}

impl State {
    /// The key as the maps hold it.
    pub fn hash_key(&self) -> HashKey {
        HashKey { k0: self.key.0, k1: self.key.1 }
    }
}

/// One service and its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// What is in force: weights as shifted, backends as added and removed.
    pub spec: ServiceSpec,
    /// Number of the service in the maps.
    pub id: u16,
    /// Number of its VIP.
    pub vip_id: u16,
    /// First cell of its two rows.
    pub row: u32,
    /// Names of versions by their number in `groups`. A removed version keeps its place until another takes it.
    pub slots: Vec<String>,
    /// Which version each group belongs to.
    #[serde(serialize_with = "pack", deserialize_with = "unpack")]
    pub groups: Vec<u8>,
    /// All backends that have an id, those on their way out included.
    pub backends: Vec<SavedBackend>,
    /// Versions that drain.
    pub draining: Vec<VersionDrain>,
    /// Its rollouts. A file from before there were any has none.
    #[serde(default)]
    pub rollouts: SavedRollouts,
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
