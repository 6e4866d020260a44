//! `[[alert]]`: what it can say, and that no message repeats an address.

use std::time::Duration;

use super::*;
use crate::alert::{AlertSpec, Channel, Kind};

fn read(alert: &str) -> AlertSpec {
    valid(&format!("{BASE}\n[[alert]]\n{alert}\n")).0.agent.alerts.remove(0)
}

fn refused(alert: &str) -> String {
    mistakes(&format!("{BASE}\n[[alert]]\n{alert}\n"))
}

#[test]
fn every_kind_of_receiver_can_be_said() {
    let slack = read(
        "name = 'ops'\nwebhook = 'https://hooks.example/T0/hush'\nformat = 'slack'\nonly = ['detached']",
    );
    assert!(matches!(&slack.channel, Channel::Slack(url) if url.0.ends_with("/T0/hush")));
    assert_eq!((slack.repeat, slack.only), (Duration::from_secs(4 * 3600), vec![Kind::Detached]));
    let manager = read(
        "name = 'am'\nalertmanager = 'http://10.0.0.9:9093'\nlabels = { cluster = 'a' }\nrepeat = '30s'",
    );
    assert!(matches!(manager.channel, Channel::Alertmanager(_)));
    assert_eq!((manager.repeat, manager.labels["cluster"].as_str()), (Duration::from_secs(30), "a"));
    assert!(matches!(read("name = 'x'\nwebhook = 'http://10.0.0.9/'").channel, Channel::Webhook(_)));
    let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(read(&format!("name = 'x'\nwebhook = 'http://a/'\nonly = {all:?}")).only, Kind::ALL);
}

#[test]
fn what_makes_no_sense_is_told_and_no_address_with_it() {
    for (alert, said) in [
        ("name = 'x'", "names either a `webhook` or an `alertmanager`"),
        ("name = 'x'\nwebhook = 'http://a/hush'\nalertmanager = 'http://b/hush'", "names either"),
        ("name = 'x'\nwebhook = 'hooks.example/hush'", "it is no address"),
        ("name = 'x'\nwebhook = 'https://me:hush@hooks.example/'", "names and passwords are not sent"),
        ("name = 'x'\nalertmanager = 'http://b/hush'\nformat = 'slack'", "`format` means nothing"),
        ("name = 'x'\nwebhook = 'http://a/hush'\nonly = ['everything']", "`everything` is no kind of alert"),
        ("name = 'x'\nwebhook = 'http://a/hush'\nca = '/ca.pem'", "`ca` means nothing without TLS"),
        ("name = 'x'\nwebhook = 'http://a/hush'\nlabels = { 'a-b' = 'c' }", "`a-b` is no name of a label"),
        ("webhook = 'http://a/hush'", "`name` is missing"),
    ] {
        let told = refused(alert);
        assert!(told.contains(said), "{alert}:\n{told}");
        assert!(!told.contains("hush"), "{told}");
    }
    let twice = "name = 'x'\nwebhook = 'http://a/'\n[[alert]]\nname = 'x'\nwebhook = 'http://b/'";
    assert!(refused(twice).contains("alert `x` is there already"));
}
