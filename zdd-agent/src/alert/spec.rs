//! Who is told of what: the validated form of `[[alert]]`. Plain data; `config` makes it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trouble::Kind;
use crate::redact::Url;
use crate::tls::TlsSpec;

/// One who is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertSpec {
    /// Unique; what was told is remembered by it.
    pub name: String,
    /// How.
    pub channel: Channel,
    /// Whom to trust, when the address is https.
    pub tls: TlsSpec,
    /// What lasts is told again after this. Default: 1 min to an Alertmanager, 4 h to a webhook.
    pub repeat: Duration,
    /// For one message. Default 10 s.
    pub timeout: Duration,
    /// What is told of; empty: everything.
    pub only: Vec<Kind>,
    /// Put on every alert.
    pub labels: BTreeMap<String, String>,
}

/// How somebody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// `POST` of JSON of our own shape.
    Webhook(Url),
    /// `POST` of `{"text": ...}`, as Slack, Mattermost and others take it.
    Slack(Url),
    /// `POST` to `/api/v2/alerts` of an Alertmanager; the address is without this path.
    Alertmanager(Url),
}

impl AlertSpec {
    /// Whether it is told of this kind.
    pub fn wants(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_by_its_host_only() {
        for (url, shown) in [
            ("https://hooks.slack.example/services/T0/B0/secret", "https://hooks.slack.example/..."),
            ("http://10.0.0.9:9093/?token=secret", "http://10.0.0.9:9093/..."),
            ("http://me:secret@10.0.0.9/x", "http://10.0.0.9/..."),
            ("secret", "..."),
        ] {
            assert_eq!(Url(url.into()).to_string(), shown);
            assert!(!format!("{:?}", Channel::Webhook(Url(url.into()))).contains("secret"));
        }
    }
}
