//! Asking the world: one measurement or one call, with its time limit. What the answer means for a rollout is not known here.

mod judge;

use serde_json::Value;

use super::runs::Outcome;
use super::spec::{HookCall, HookSpec, Provider};
use crate::tls::TlsSpec;
use crate::{http_client, program};
pub use judge::{judge, named};

/// Who and what a measurement or a call is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct About {
    /// Service.
    pub service: String,
    /// The version that had everything.
    pub stable: String,
    /// The version that is to have it.
    pub candidate: String,
    /// The candidate's share of new flows in percent.
    pub weight: String,
    /// Where the rollout stands.
    pub phase: String,
    /// Number of the rollout in its service: the same for every attempt at a step, so that it can be made once.
    pub rollout: String,
    /// Rolling: the backends that it is about.
    pub backends: Vec<String>,
    /// Why the call is made: the hook's time, or what happened.
    pub what: String,
    /// The trace that the call belongs to (W3C Trace Context), for its header and its environment.
    #[serde(skip)]
    pub traceparent: Option<String>,
}

impl About {
    /// Names in double braces stand for what is being rolled out.
    fn fill(&self, text: &str) -> String {
        self.filled(text, str::to_owned)
    }

    /// [`About::fill`], each name written as `written` writes it.
    fn filled(&self, text: &str, written: impl Fn(&str) -> String) -> String {
        let names = [
            ("{{service}}", &self.service),
            ("{{stable}}", &self.stable),
            ("{{candidate}}", &self.candidate),
        ];
        names.iter().fold(text.to_owned(), |text, (braced, name)| text.replace(braced, &written(name)))
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let text = String::clone;
        let mut all = vec![
            ("ZDD_SERVICE", text(&self.service)),
            ("ZDD_STABLE", text(&self.stable)),
            ("ZDD_CANDIDATE", text(&self.candidate)),
            ("ZDD_WEIGHT", text(&self.weight)),
            ("ZDD_ROLLOUT", text(&self.rollout)),
            ("ZDD_BACKENDS", self.backends.join(" ")),
        ];
        all.extend(self.traceparent.clone().map(|value| ("TRACEPARENT", value)));
        all
    }

    fn headers(&self) -> Vec<(&'static str, &str)> {
        let mut all = vec![("content-type", "application/json")];
        all.extend(self.traceparent.as_deref().map(|value| ("traceparent", value)));
        all
    }
}

/// One measurement. A builtin or a comparison is the agent's own to answer and is an error here.
pub async fn measure(provider: &Provider, about: &About) -> Outcome {
    match provider {
        Provider::Web { url, json, success, timeout } => {
            let url = about.filled(url, encoded);
            match http_client::get(&url, &about.headers(), &TlsSpec::default(), *timeout).await {
                Ok(body) => judge::from_json(&body, &about.fill(json), success),
                Err(why) => Outcome::Error(why),
            }
        }
        Provider::Prometheus { address, query, success, timeout } => {
            let query = encoded(&about.fill(query));
            let url = format!("{}/api/v1/query?query={query}", address.trim_end_matches('/'));
            match http_client::get(&url, &about.headers(), &TlsSpec::default(), *timeout).await {
                Ok(body) => judge::from_prometheus(&body, success),
                Err(why) => Outcome::Error(why),
            }
        }
        Provider::Exec { argv, timeout } => {
            let argv: Vec<String> = argv.iter().map(|word| about.fill(word)).collect();
            match program::run(&argv, &about.variables(), "", *timeout).await {
                Ok((Some(0), said)) => Outcome::Success(said),
                Ok((Some(2), said)) => Outcome::Inconclusive(said),
                Ok((Some(code), said)) => {
                    Outcome::Failure(format!("exit {code} {said}").trim_end().to_owned())
                }
                Ok((None, _)) => Outcome::Error(format!("{} was killed", argv[0])),
                Err(why) => Outcome::Error(why),
            }
        }
        Provider::Builtin { .. } | Provider::Compare(_) => {
            Outcome::Error("a builtin metric is answered by the agent".to_owned())
        }
    }
}

/// One call of a hook.
///
/// # Errors
/// Why it was no success.
pub async fn call(hook: &HookSpec, about: &About) -> Result<(), String> {
    let body = serde_json::to_string(about).unwrap_or_default();
    match &hook.call {
        HookCall::Webhook { url } => {
            http_client::post(url, &about.headers(), &TlsSpec::default(), body.into_bytes(), hook.timeout)
                .await
        }
        HookCall::Exec { argv } => match program::run(argv, &about.variables(), &body, hook.timeout).await? {
            (Some(0), _) => Ok(()),
            (Some(code), said) => Err(format!("exit {code} {said}").trim_end().to_owned()),
            (None, _) => Err(format!("{} was killed", argv[0])),
        },
    }
}

/// Percent-encoding of a part of an address (RFC 3986): everything but unreserved letters.
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(letter).collect()
}

/// A value in a few letters.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(80).chain("...".chars()).collect() } else { text }
}

#[cfg(test)]
mod tests;
