//! `signals = { ... }` and `compare = { ... }`.

use super::rollout::{ROLLOUT, analysis, rollout};
use super::*;
use crate::desired::SignalSpec;
use crate::rollout::spec::Provider;
use crate::signals::Metric;

#[test]
fn a_service_with_a_rollout_follows_some_of_its_flows_unless_it_says_otherwise() {
    let signals = |text: &str| valid(text).0.services[0].signals;
    assert_eq!(signals(BASE), None);
    assert_eq!(signals(&format!("{BASE}{ROLLOUT}")), Some(SignalSpec::default()));
    let with = |signals: &str| {
        let line = format!("signals = {signals}\n[[service.version]]");
        format!("{}{ROLLOUT}", BASE.replacen("[[service.version]]", &line, 1))
    };
    let shift = |text: &str| signals(&with(text)).map(|signals| signals.shift);
    assert_eq!(shift("{ sample = \"off\" }"), None);
    assert_eq!(shift("{ sample = 1 }"), Some(0));
    assert_eq!(shift("{ sample = \"1/16\" }"), Some(4));
    assert_eq!(shift("{ answer_timeout = \"30s\" }"), Some(2));
    let wrong = mistakes(&with("{ sample = \"1/10\" }"));
    assert!(wrong.contains("`1/10` is no sample\nhelp: write 1, \"off\", or \"1/N\""), "{wrong}");
    let wrong = mistakes(&with("{ sample = 2.5, handshake_timeout = \"0s\" }"));
    assert!(wrong.contains("`sample` is of type float") && wrong.contains("is 0s, out of range"), "{wrong}");
}

#[test]
fn a_comparison_and_its_defaults() {
    let compare = |inside: &str| {
        let text =
            format!("{ROLLOUT}[[service.rollout.analysis]]\nname = \"signals\"\ncompare = {{ {inside} }}\n");
        let spec = valid(&format!("{BASE}{text}")).0.services[0].rollout.clone().unwrap();
        match spec.analyses[1].provider.clone() {
            Provider::Compare(compare) => compare,
            other => panic!("{other:?}"),
        }
    };
    let usual = compare("");
    assert_eq!(
        (usual.metrics.len(), usual.margin.absolute, usual.margin.ratio, usual.alpha),
        (7, 0.005, 1.5, 1e-4)
    );
    let own =
        compare("metrics = [\"reset-rate\", \"first-byte-time\"], margin = 1, ratio = 2, alpha = 0.001");
    assert_eq!(own.metrics, [Metric::ResetRate, Metric::FirstByteTime]);
    assert_eq!((own.margin.absolute, own.margin.ratio, own.alpha), (0.01, 2.0, 0.001));
    let wrong = |inside: &str| {
        analysis(&format!("[[service.rollout.analysis]]\nname = \"signals\"\ncompare = {{ {inside} }}"))
    };
    let luck = wrong("metrics = [\"luck\"]");
    assert!(luck.contains("`luck` is no signal\nhelp: write some of handshake-failure-rate, "), "{luck}");
    let both = wrong("ratio = 0.5, alpha = 1");
    assert!(both.contains("`ratio` is no number") && both.contains("`alpha` is no number"), "{both}");
    let blue_green = ROLLOUT
        .replace("\"canary\"", "\"blue-green\"")
        .replace("steps = [{ weight = 1 }, { pause = \"2m\" }, { weight = \"10%\" }, { pause = \"until-promoted\" }]\n", "");
    let text = format!("{blue_green}[[service.rollout.analysis]]\nname = \"signals\"\ncompare = {{}}\n");
    let wrong = rollout(&text);
    assert!(wrong.contains("`compare` needs both versions to get new flows at the same time"), "{wrong}");
}
