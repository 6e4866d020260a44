//! `[cohort.NAME]` sections, and what services name of them.

use std::path::PathBuf;

use super::problems::Sink;
use super::reader::{At, Table};
use super::service::ServiceRead;
use super::value;
use crate::cohort::CohortSpec;
use crate::prefix::Prefix;
use crate::text::Unreadable;

/// Cohorts of a file.
const MOST: usize = 64;

/// All cohorts of the file. The files that they name are not looked at.
pub(super) fn read(top: &mut Table<'_, '_>, sink: &mut Sink<'_>) -> Vec<At<CohortSpec>> {
    let mut cohorts = Vec::new();
    for (name, mut table) in top.named_tables("cohort", sink) {
        let fits = (1..=63).contains(&name.value.len())
            && name.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            let message = format!("`{}` cannot name a cohort", name.value);
            sink.error(Some(name.span.clone()), message, "use 1 to 63 of a-z, 0-9 and -");
        }
        let cidrs: Vec<At<Prefix>> = table.parsed_all("cidrs", sink, str::parse);
        let list = table.parsed("list", sink, path);
        let countries: Vec<At<String>> = table.parsed_all("countries", sink, country);
        let mmdb = table.parsed("mmdb", sink, path);
        if !["cidrs", "list", "countries", "mmdb"].iter().any(|key| table.has(key)) {
            let help = "write cidrs = [\"10.1.0.0/16\"], list = \"/etc/zdd/staff\", or countries = [\"IS\"] and mmdb = \"/path\"";
            sink.error(Some(table.span.clone()), format!("{} names nobody", table.name), help);
        }
        for (key, other, help) in [
            (
                "countries",
                "mmdb",
                "write mmdb = \"/usr/share/GeoIP/GeoLite2-Country.mmdb\": it tells where an address is",
            ),
            ("mmdb", "countries", "write countries = [\"IS\"], or remove mmdb"),
        ] {
            if table.has(key) && !table.has(other) {
                sink.error(
                    Some(table.span.clone()),
                    format!("`{key}` means nothing without `{other}`"),
                    help,
                );
            }
        }
        let At { value: name, span } = name;
        table.finish(sink);
        let cohort = CohortSpec {
            name,
            cidrs: cidrs.into_iter().map(|at| at.value).collect(),
            list: value(list),
            countries: countries.into_iter().map(|at| at.value).collect(),
            mmdb: value(mmdb),
            prefixes: None,
        };
        cohorts.push(At::new(cohort, span));
    }
    if let Some(one_too_many) = cohorts.get(MOST) {
        let message = format!("there are {} cohorts", cohorts.len());
        sink.error(Some(one_too_many.span.clone()), message, format!("keep {MOST} at the most"));
    }
    cohorts
}

/// Tells of steps that name nobody, and of cohorts that no step names.
pub(super) fn check(cohorts: &[At<CohortSpec>], services: &[ServiceRead], sink: &mut Sink<'_>) {
    let named = |service: &ServiceRead| -> Vec<String> {
        service.rollout.iter().flat_map(|rollout| rollout.cohorts()).map(str::to_owned).collect()
    };
    for service in services {
        for name in named(service).iter().filter(|name| cohorts.iter().all(|at| at.value.name != **name)) {
            let message =
                format!("a step of service `{}` names cohort `{name}`, which is not there", service.label());
            let help = format!("write [cohort.{name}] with cidrs = [\"10.1.0.0/16\"]");
            sink.error(Some(service.span.clone()), message, help);
        }
    }
    for At { value: cohort, span } in cohorts {
        if !services.iter().any(|service| named(service).contains(&cohort.name)) {
            sink.warning(Some(span.clone()), format!("no step of a rollout names cohort `{}`", cohort.name));
        }
    }
}

/// Those that a service names, in the order of its steps.
pub(super) fn of(
    rollout: Option<&crate::rollout::RolloutSpec>,
    cohorts: &[At<CohortSpec>],
) -> Vec<CohortSpec> {
    let find = |name| cohorts.iter().find(|at| at.value.name == name).map(|at| at.value.clone());
    rollout.into_iter().flat_map(|rollout| rollout.cohorts()).filter_map(find).collect()
}

/// The agent reads the file, wherever the command that names it was given.
fn path(text: &str) -> Result<PathBuf, Unreadable> {
    let fits = text.starts_with('/') && !text.contains('\0');
    fits.then(|| text.into()).ok_or_else(|| {
        Unreadable(format!("`{text}` is no absolute path; begin with /: the agent reads the file, from wherever it was started"))
    })
}

fn country(text: &str) -> Result<String, Unreadable> {
    let fits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Unreadable(format!("`{text}` is no country; write its two capital letters, as \"IS\" (ISO 3166-1)"))
    })
}
