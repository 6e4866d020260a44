//! The texts: JSON of three shapes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::book::Entry;
use super::spec::{AlertSpec, Channel};

/// An Alertmanager takes an alert as over when it has not heard of it for so many repeats: the agent may be gone for good.
const MISSED: u32 = 4;

/// One message about these troubles.
pub(super) fn message(receiver: &AlertSpec, entries: &[&Entry], now_ms: u64) -> String {
    let all = entries.iter();
    let value = match receiver.channel {
        Channel::Webhook(_) => json!({
            "source": "zdd",
            "alerts": all.map(|entry| generic(receiver, entry)).collect::<Vec<_>>(),
        }),
        Channel::Slack(_) => json!({ "text": all.map(|entry| line(entry)).collect::<Vec<_>>().join("\n") }),
        Channel::Alertmanager(_) => all.map(|entry| alertmanager(receiver, entry, now_ms)).collect(),
    };
    value.to_string()
}

fn generic(receiver: &AlertSpec, entry: &Entry) -> Value {
    json!({
        "status": if entry.ended_ms.is_some() { "resolved" } else { "firing" },
        "kind": entry.kind.name(),
        "severity": entry.kind.severity(),
        "labels": labels(receiver, entry),
        "summary": entry.summary,
        "since": rfc3339(entry.since_ms),
        "ended": entry.ended_ms.map(rfc3339),
    })
}

/// In Slack's markup `&`, `<` and `>` are control characters.
fn line(entry: &Entry) -> String {
    let place: Vec<&str> = entry.labels.iter().map(|(_, value)| value.as_str()).collect();
    let (sign, word) = match (entry.ended_ms, entry.kind.severity()) {
        (Some(_), _) => (":white_check_mark:", "over"),
        (None, "critical") => (":red_circle:", "critical"),
        (None, _) => (":warning:", "warning"),
    };
    let text = format!("{word}: {} {}: {}", entry.kind.name(), place.join(" "), entry.summary);
    format!("{sign} {}", text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// As `/api/v2/alerts` takes it. Its identity there is its labels, so the summary is no label.
fn alertmanager(receiver: &AlertSpec, entry: &Entry, now_ms: u64) -> Value {
    let mut labels = labels(receiver, entry);
    labels.insert("alertname".to_owned(), entry.kind.alert_name());
    labels.insert("severity".to_owned(), entry.kind.severity().to_owned());
    let missed = receiver.repeat.saturating_mul(MISSED).as_millis() as u64;
    json!({
        "labels": labels,
        "annotations": { "summary": entry.summary },
        "startsAt": rfc3339(entry.since_ms),
        "endsAt": rfc3339(entry.ended_ms.unwrap_or(now_ms.saturating_add(missed))),
    })
}

fn labels(receiver: &AlertSpec, entry: &Entry) -> BTreeMap<String, String> {
    receiver
        .labels
        .iter()
        .chain(entry.labels.iter().map(|(name, value)| (name, value)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn rfc3339(unix_ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
    // Beyond the year 9999 the format has no words.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.unwrap_or(last).min(last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::trouble::Kind;
    use super::*;
    use crate::redact::Url;

    fn entry(ended_ms: Option<u64>) -> Entry {
        Entry {
            kind: Kind::BackendDown,
            labels: vec![("service".into(), "web".into()), ("backend".into(), "10.1.0.1:80".into())],
            summary: "status 503 <busy>".into(),
            since_ms: 1_700_000_000_000,
            seen_ms: 1_700_000_001_000,
            ended_ms,
            told: BTreeMap::new(),
        }
    }

    fn said(channel: fn(Url) -> Channel, ended_ms: Option<u64>) -> Value {
        let receiver = AlertSpec {
            name: "ops".into(),
            channel: channel(Url("http://10.0.0.9/".into())),
            tls: Default::default(),
            repeat: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            only: Vec::new(),
            labels: [("cluster".to_owned(), "a".to_owned())].into(),
        };
        serde_json::from_str(&message(&receiver, &[&entry(ended_ms)], 1_700_000_010_000)).unwrap()
    }

    #[test]
    fn an_alertmanager_hears_labels_that_stay_and_an_end() {
        let alert = &said(Channel::Alertmanager, None)[0];
        assert_eq!(
            alert["labels"],
            json!({ "alertname": "ZddBackendDown", "severity": "warning", "cluster": "a", "service": "web", "backend": "10.1.0.1:80" })
        );
        assert_eq!(alert["startsAt"], "2023-11-14T22:13:20.000Z");
        assert_eq!(alert["endsAt"], "2023-11-14T22:17:30.000Z", "four repeats from now");
        assert_eq!(
            said(Channel::Alertmanager, Some(1_700_000_005_000))[0]["endsAt"],
            "2023-11-14T22:13:25.000Z"
        );
    }

    #[test]
    fn a_webhook_hears_everything_and_slack_a_line() {
        let alert = &said(Channel::Webhook, Some(1_700_000_005_000))["alerts"][0];
        assert_eq!((&alert["status"], &alert["kind"]), (&json!("resolved"), &json!("backend-down")));
        assert_eq!(alert["labels"]["cluster"], "a");
        assert_eq!(
            said(Channel::Slack, None)["text"],
            ":warning: warning: backend-down web 10.1.0.1:80: status 503 &lt;busy&gt;"
        );
    }
}
