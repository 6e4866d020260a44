//! `[cohort.NAME]` and the steps that name them.

use super::*;
use crate::cohort::CohortSpec;

const ROLLOUT: &str = r#"[service.rollout]
strategy = "canary"
steps = [{ cohort = "staff" }, { pause = "10m" }, { cohort = "iceland" }, { weight = 1 }]
"#;

fn file(cohorts: &str) -> String {
    format!(
        "{cohorts}\n{}",
        BASE.replacen("[[service.version]]", &format!("{ROLLOUT}[[service.version]]"), 1)
    )
}

#[test]
fn a_service_has_the_cohorts_of_its_steps_in_their_order() {
    let text = file(
        r#"[cohort.iceland]
countries = ["IS"]
mmdb = "/var/lib/GeoIP/country.mmdb"
[cohort.staff]
cidrs = ["10.1.0.0/16", "2001:db8::/32"]
list = "/etc/zdd/staff"
[cohort.nobody]
cidrs = "192.0.2.1""#,
    )
    .replace("\"192.0.2.1\"", "\"192.0.2.1\"\n");
    let (desired, warnings) = Config::parse(&text, "zdd.toml").unwrap();
    let cohorts = &desired.services[0].cohorts;
    assert_eq!(cohorts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["staff", "iceland"]);
    let CohortSpec { cidrs, list, countries, mmdb, prefixes, .. } = &cohorts[0];
    assert_eq!(format!("{cidrs:?}"), "[10.1.0.0/16, 2001:db8::/32]");
    assert_eq!(list.as_deref(), Some("/etc/zdd/staff".as_ref()));
    assert!(countries.is_empty() && mmdb.is_none() && prefixes.is_none());
    assert_eq!((cohorts[1].countries.len(), cohorts[1].mmdb.is_some()), (1, true));
    let warned =
        warnings.iter().filter(|w| w.to_string().contains("no step of a rollout names cohort `nobody`"));
    assert_eq!(warned.count(), 1, "{warnings:?}");
}

#[test]
fn mistakes_of_cohorts() {
    insta::assert_snapshot!(mistakes(&file("[cohort.Staff]\ncidrs = [\"10.1.2.0/16\"]\n[cohort.staff]\n[cohort.iceland]\ncountries = [\"is\"]\nlist = \"staff\"\n")), @r#"
    zdd.toml:1:9: `Staff` cannot name a cohort
    help: use 1 to 63 of a-z, 0-9 and -
    zdd.toml:2:10: `cidrs`: `10.1.2.0/16` has bits behind its length
    help: write 10.1.0.0/16
    zdd.toml:3:1: [cohort.staff] names nobody
    help: write cidrs = ["10.1.0.0/16"], list = "/etc/zdd/staff", or countries = ["IS"] and mmdb = "/path"
    zdd.toml:4:1: `countries` means nothing without `mmdb`
    help: write mmdb = "/usr/share/GeoIP/GeoLite2-Country.mmdb": it tells where an address is
    zdd.toml:5:14: `countries`: `is` is no country
    help: write its two capital letters, as "IS" (ISO 3166-1)
    zdd.toml:6:8: `list`: `staff` is no absolute path
    help: begin with /: the agent reads the file, from wherever it was started
    "#);
    insta::assert_snapshot!(mistakes(&file("[cohort.staff]\nmmdb = \"/x\"\ncidr = \"10.0.0.0/8\"")), @r#"
    zdd.toml:1:1: `mmdb` means nothing without `countries`
    help: write countries = ["IS"], or remove mmdb
    zdd.toml:3:1: unknown key `cidr` in [cohort.staff]
    help: did you mean `cidrs`?
    zdd.toml:6:1: a step of service `web` names cohort `iceland`, which is not there
    help: write [cohort.iceland] with cidrs = ["10.1.0.0/16"]
    "#);
    let late = file("[cohort.staff]\ncidrs = \"10.0.0.0/8\"\n[cohort.iceland]\ncidrs = \"11.0.0.0/8\"");
    let late = late.replace(
        "{ cohort = \"iceland\" }, { weight = 1 }",
        "{ weight = 1 }, { cohort = \"iceland\" }, { cohort = \"staff\" }",
    );
    insta::assert_snapshot!(mistakes(&late), @"
    zdd.toml:13:67: cohort `iceland` comes after a weight
    help: name cohorts before the first weight: their clients go first, and then all others by their share
    zdd.toml:13:91: cohort `staff` comes after a weight
    help: name cohorts before the first weight: their clients go first, and then all others by their share
    zdd.toml:13:91: cohort `staff` is there already
    help: name it once
    ");
}
