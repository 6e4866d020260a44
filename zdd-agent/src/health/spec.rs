//! What a health check shall do: the validated form of `health` of a service. Plain data; `config` makes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rollout::spec::Condition;
use crate::tls::TlsSpec;

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is asked.
    pub probe: Probe,
    /// From the end of one probe to the start of the next. Default 1 s.
    pub interval: Duration,
    /// The same while the backend is not steadily healthy: unknown, unhealthy, or with a last result that says otherwise than
    /// its state. `None` (the default): the same interval.
    #[serde(default)]
    pub fast_interval: Option<Duration>,
    /// A probe that takes longer has failed. Default 500 ms.
    pub timeout: Duration,
    /// Successes in a row that make a backend healthy. Default 2.
    pub rise: u32,
    /// Failures in a row that make it unhealthy. Default 3.
    pub fall: u32,
    /// Each interval is varied by up to this fraction, so that probes spread. Default 0.2.
    pub jitter: f64,
    /// Port to probe instead of the backend's own.
    pub port: Option<u16>,
    /// Fields of the answer that say how the things are that the backend needs.
    #[serde(default)]
    pub depends: Vec<Dependency>,
    /// The share of a version's backends, 0 to 1, that health may take out; when more fail, the version keeps all of them.
    /// `None`: no bound but the last one.
    #[serde(default)]
    pub panic_threshold: Option<f64>,
}

impl HealthSpec {
    /// Its kind and pace, for people. Not what it asks or expects: both may be secret.
    pub fn summary(&self) -> String {
        let kind = match &self.probe {
            Probe::Tcp => "tcp",
            Probe::Http(check) if check.tls.is_some() => "https",
            Probe::Http(_) => "http",
            Probe::Grpc(_) => "grpc",
            Probe::Udp(_) => "udp",
            Probe::Dns(_) => "dns",
            Probe::Exec { .. } => "exec",
        };
        let time = |time: Duration| humantime::format_duration(time);
        let fast =
            self.fast_interval.map_or(String::new(), |fast| format!(" ({} while unsteady)", time(fast)));
        let (every, within) = (time(self.interval), time(self.timeout));
        format!("{kind} every {every}{fast} within {within}, rise {}, fall {}", self.rise, self.fall)
    }
}

/// Something that a backend needs, as its answer tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    /// What people call it.
    pub name: String,
    /// JSONPath (RFC 9535) to its one value in the answer.
    pub path: String,
    /// Several backends need the same one: when it fails for all at once, taking them out helps nobody.
    pub shared: bool,
    /// When it is well; `None`: see [`super::depends::well`].
    pub success: Option<Condition>,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// `GET path`, in clear or with TLS.
    Http(HttpCheck),
    /// The health service of gRPC, version 1.
    Grpc(GrpcCheck),
    /// A datagram is answered.
    Udp(UdpCheck),
    /// A name is resolved, over UDP.
    Dns(DnsCheck),
    /// A program says so: exit 0 is success.
    Exec {
        /// Program and arguments; no shell.
        argv: Vec<String>,
    },
}

/// What is asked over HTTP/1.1, and what the answer must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Absolute path with query.
    pub path: String,
    /// Expected status codes; empty means 200 to 399.
    pub status: Vec<u16>,
    /// Host header, and the name in the server's certificate; default is the backend's address.
    pub host: Option<String>,
    /// Headers that the answer must have, name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Text that must be in the body.
    #[serde(default)]
    pub contains: Option<String>,
    /// Regular expression that must be found in the body.
    #[serde(default)]
    pub matches: Option<String>,
    /// What values of a JSON body must be.
    #[serde(default)]
    pub json: Vec<JsonAssertion>,
    /// With TLS.
    #[serde(default)]
    pub tls: Option<TlsSpec>,
}

/// One value of a document, and what it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JsonAssertion {
    /// JSONPath (RFC 9535) to one value.
    pub path: String,
    /// What the value must be.
    pub is: Condition,
}

/// What is asked of `grpc.health.v1.Health`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrpcCheck {
    /// Name of the service; empty: the server as a whole.
    pub service: String,
    /// `Watch` instead of `Check`: one stream stays open, and a change is known when it happens.
    pub watch: bool,
    /// The `:authority`, and the name in the server's certificate; default is the backend's address.
    pub host: Option<String>,
    /// With TLS.
    pub tls: Option<TlsSpec>,
}

/// One datagram, and what the first one that comes back must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UdpCheck {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer begins with.
    pub answer: Vec<u8>,
    /// Regular expression that must be found in the answer.
    pub matches: Option<String>,
}

/// One question, and what the answer must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsCheck {
    /// Name to resolve, without the last dot.
    pub name: String,
    /// Type of the records, by its mnemonic: `A`, `AAAA`, `TXT` and so on.
    pub kind: String,
    /// Response code of RFC 6895, 0 (NOERROR) to 15.
    pub rcode: u16,
    /// A record that must be among the answers, as text.
    pub answer: Option<String>,
}
