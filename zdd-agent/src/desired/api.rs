//! Who may talk to the agent, and where besides its socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a caller may do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Look.
    Viewer,
    /// Run deployments: weights, drains, rollouts, backends.
    Operator,
    /// Rewrite the configuration, take everything out.
    Admin,
}

/// `[agent.api]`. The default: the unix socket alone, for root and the agent's own user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ApiSpec {
    /// Group that may open the unix socket; its members are viewers unless a rule gives them more.
    pub socket_group: Option<String>,
    /// TCP, with TLS on both sides only.
    pub remote: Option<RemoteSpec>,
    /// Who gets which role. Of those that fit, the highest counts.
    pub rules: Vec<RoleRule>,
}

/// The TCP listener. The files are PEM, and are read again when they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteSpec {
    /// Address and port.
    pub listen: SocketAddr,
    /// The agent's certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key; not readable by everybody.
    pub key: PathBuf,
    /// Authorities whose certificates callers show.
    pub client_ca: PathBuf,
}

/// `[[agent.api.role]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleRule {
    /// What they may do.
    pub access: Access,
    /// Users of the unix socket, by name or number.
    pub users: Vec<String>,
    /// Groups of the unix socket's users, by name or number.
    pub groups: Vec<String>,
    /// Names in certificates: `cn:`, `dns:`, `uri:`, `email:` or `ip:` and the name.
    pub certificates: Vec<String>,
}
