//! Cohorts: clients by their addresses, who get a new version before any percentage of all clients does.
//!
//! Each cohort of a service has a row of cells of its own at each VIP, with the VIP's own number in the keys of flows. While the
//! cohort leads, its row names the candidate; else it is what the VIP's row is. See `reconcile`'s cohorts for how a client
//! gets from one row to another without an effect on its live connections.

mod members;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maxminddb::{PathElement, Reader};
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::prefix::Prefix;

pub use members::Members;

/// Prefixes of one cohort at the most: the kernel holds a list twice while it changes.
pub const PREFIXES_MAX: usize = 262_144;
/// Bytes of a list at the most.
const LIST_MAX: u64 = 64 << 20;
/// Bytes of a database at the most: those of cities have about 60 MiB.
const MMDB_MAX: u64 = 512 << 20;

/// All prefixes of a cohort, or what is wrong with which file.
type Read = Result<Arc<[Prefix]>, String>;

/// Who belongs to a cohort: whoever one of these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortSpec {
    /// Unique name, `[a-z0-9-]{1,63}`.
    pub name: String,
    /// Named in the configuration.
    pub cidrs: Vec<Prefix>,
    /// A file of prefixes, one a line.
    pub list: Option<PathBuf>,
    /// ISO 3166-1 codes of two letters, looked up in `mmdb`.
    pub countries: Vec<String>,
    /// A database of countries in the format of MaxMind DB 2.
    pub mmdb: Option<PathBuf>,
    /// All of its prefixes. Not persisted: `None` until they were read, and in what was in force before the agent began.
    #[serde(skip)]
    pub prefixes: Option<Arc<[Prefix]>>,
}

impl CohortSpec {
    /// Reads list and database.
    ///
    /// # Errors
    /// What is wrong with which file, and the way out.
    pub fn read(&self) -> Read {
        let mut all: BTreeSet<Prefix> = self.cidrs.iter().copied().collect();
        if let Some(path) = &self.list {
            let text = String::from_utf8(contents(path, LIST_MAX)?)
                .map_err(|_| format!("{} is no text\nhelp: write one prefix a line", path.display()))?;
            all.extend(list(&text).map_err(|why| format!("{}:{why}", path.display()))?);
        }
        if let Some(path) = &self.mmdb {
            all.extend(countries(path, &self.countries)?);
        }
        let all = outermost(all);
        match all.len() {
            0 => Err(format!("cohort {} names nobody\nhelp: write a prefix into its list", self.name)),
            many if many > PREFIXES_MAX => Err(format!(
                "cohort {} has {many} prefixes, {PREFIXES_MAX} are the most\nhelp: name fewer countries, or shorter prefixes",
                self.name
            )),
            _ => Ok(all.into()),
        }
    }
}

impl Desired {
    /// Reads what cohorts name: files. Each is read once, however many services use it.
    ///
    /// # Errors
    /// One line for each cohort that could not be read; it has no prefixes then, the others have.
    pub fn read_cohorts(&mut self) -> Result<(), String> {
        let mut done: Vec<(CohortSpec, Read)> = Vec::new();
        for cohort in self.services.iter_mut().flat_map(|service| &mut service.cohorts) {
            let known = done.iter().find(|(spec, _)| spec == cohort).map(|(_, read)| read.clone());
            let read = known.unwrap_or_else(|| {
                let read = cohort.read();
                done.push((cohort.clone(), read.clone()));
                read
            });
            cohort.prefixes = read.ok();
        }
        let failed: Vec<String> = done.into_iter().filter_map(|(_, read)| read.err()).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
    }
}

/// A file's bytes, if it is a file and not too large: a device or a pipe might have no end.
fn contents(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        format!(
            "{shown} cannot be read: {error}\nhelp: the agent itself reads it; check path and permissions"
        )
    };
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() || about.len() > most {
        let most = most >> 20;
        return Err(format!("{shown} is no file of {most} MiB or less\nhelp: name another one"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// One prefix a line; what follows a `#` is a remark. An error begins with the line's number.
fn list(text: &str) -> Result<Vec<Prefix>, String> {
    let lines = text.lines().enumerate().filter_map(|(at, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then(|| line.parse().map_err(|error| format!("{}: {error}", at + 1)))
    });
    lines.collect()
}

/// The networks of these countries, by where they are said to be; by where they are registered if nothing else is said.
fn countries(path: &Path, codes: &[String]) -> Result<Vec<Prefix>, String> {
    let shown = path.display();
    let help = "help: name a database of countries or cities, as GeoLite2-Country.mmdb";
    let broken = |error: maxminddb::MaxMindDbError| format!("{shown} cannot be used: {error}\n{help}");
    let reader = Reader::from_source(contents(path, MMDB_MAX)?).map_err(broken)?;
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    for network in reader.networks(Default::default()).map_err(broken)? {
        let network = network.map_err(broken)?;
        let code = |key| network.decode_path::<&str>(&[PathElement::Key(key), PathElement::Key("iso_code")]);
        let code = match code("country").map_err(broken)? {
            Some(code) => Some(code),
            None => code("registered_country").map_err(broken)?,
        };
        if let Some(code) = code.and_then(|code| codes.iter().find(|wanted| *wanted == code)) {
            let network = network.network().map_err(broken)?;
            found.push(plain(network.network(), network.prefix()));
            known.insert(code);
        }
    }
    match codes.iter().find(|code| !known.contains(code)) {
        Some(code) => Err(format!("{shown} knows no network of country {code}\n{help}")),
        None => Ok(found),
    }
}

/// A database of both families has IPv4 in the lowest 32 bits of IPv6.
fn plain(addr: std::net::IpAddr, length: u8) -> Prefix {
    match addr {
        std::net::IpAddr::V6(v6) if length >= 96 && u128::from(v6) >> 32 == 0 => {
            Prefix::of(std::net::Ipv4Addr::from(u128::from(v6) as u32).into(), length - 96)
        }
        addr => Prefix::of(addr, length),
    }
}

/// Without those that lie in another one. In their order, one that lies in another comes after it.
fn outermost(all: BTreeSet<Prefix>) -> Vec<Prefix> {
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in all {
        if kept.last().is_none_or(|outer| !outer.contains(prefix.addr)) {
            kept.push(prefix);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
