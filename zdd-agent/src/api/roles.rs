//! What each rpc needs, in one table, and who has it.

use std::ffi::CString;

use super::caller::Caller;
use crate::desired::{Access, ApiSpec};

/// What an rpc needs, by service and name. What is not here nobody may call: a test compares it with the proto file.
const NEEDED: &[(&str, &str, Access)] = &[
    (CONTROL, "GetStatus", Access::Viewer),
    (CONTROL, "WatchStatus", Access::Viewer),
    (CONTROL, "WatchEvents", Access::Viewer),
    (CONTROL, "WaitDrained", Access::Viewer),
    (CONTROL, "Explain", Access::Viewer),
    (CONTROL, "WhoMoves", Access::Viewer),
    (CONTROL, "PlanRollout", Access::Viewer),
    (CONTROL, "GetRollout", Access::Viewer),
    (CONTROL, "WatchRollout", Access::Viewer),
    (CONTROL, "GetRolloutHistory", Access::Viewer),
    (CONTROL, "GetLogLevel", Access::Viewer),
    (CONTROL, "Shift", Access::Operator),
    (CONTROL, "Rollback", Access::Operator),
    (CONTROL, "AddBackend", Access::Operator),
    (CONTROL, "RemoveBackend", Access::Operator),
    (CONTROL, "Drain", Access::Operator),
    (CONTROL, "Undrain", Access::Operator),
    (CONTROL, "DrainNode", Access::Operator),
    (CONTROL, "UndrainNode", Access::Operator),
    (CONTROL, "StartRollout", Access::Operator),
    (CONTROL, "MoveRollout", Access::Operator),
    (CONTROL, "SetGate", Access::Operator),
    (CONTROL, "SetLine", Access::Operator),
    // Packets have what people say to each other in them.
    (CONTROL, "Trace", Access::Operator),
    (CONTROL, "SetLogLevel", Access::Operator),
    (CONTROL, "StartTrain", Access::Operator),
    (CONTROL, "AbortTrain", Access::Operator),
    (CONTROL, "GetTrain", Access::Viewer),
    (CONTROL, "Apply", Access::Admin),
    (CONTROL, "Detach", Access::Admin),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Access::Viewer),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", Access::Viewer),
    ("grpc.health.v1.Health", "Check", Access::Viewer),
    ("grpc.health.v1.Health", "List", Access::Viewer),
    ("grpc.health.v1.Health", "Watch", Access::Viewer),
];

const CONTROL: &str = "zdd.v1.Control";

/// What calling `path` (`/package.Service/Method`) needs. `None`: nobody may.
pub(super) fn needed(path: &str) -> Option<Access> {
    let (service, rpc) = path.strip_prefix('/')?.split_once('/')?;
    NEEDED.iter().find(|row| row.0 == service && row.1 == rpc).map(|row| row.2)
}

/// Who has which role.
#[derive(Clone, Debug)]
pub struct Policy {
    own: u32,
    socket_gid: Option<u32>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    access: Access,
    uids: Vec<u32>,
    gids: Vec<u32>,
    certificates: Vec<String>,
}

/// A user or a group that this host does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} `{name}` on this host\nhelp: correct [agent.api], or make it: {way_out}")]
pub struct UnknownAccount {
    kind: &'static str,
    name: String,
    way_out: String,
}

impl Policy {
    /// Of the configuration; names of users and groups are looked up now, once.
    ///
    /// # Errors
    /// The first name that this host does not know.
    pub fn new(spec: &ApiSpec) -> Result<Policy, UnknownAccount> {
        let socket_gid = spec.socket_group.as_deref().map(gid).transpose()?;
        let rules = spec.rules.iter().map(|rule| {
            Ok(Rule {
                access: rule.access,
                uids: rule.users.iter().map(|name| uid(name)).collect::<Result<_, _>>()?,
                gids: rule.groups.iter().map(|name| gid(name)).collect::<Result<_, _>>()?,
                certificates: rule.certificates.clone(),
            })
        });
        // SAFETY: geteuid has no preconditions and cannot fail.
        let own = unsafe { libc::geteuid() };
        Ok(Policy { own, socket_gid, rules: rules.collect::<Result<_, _>>()? })
    }

    /// Group that may open the unix socket.
    pub fn socket_gid(&self) -> Option<u32> {
        self.socket_gid
    }

    /// The highest role that a caller has. Root and the agent's own user, who could stop it or write its state anyway, have all.
    pub fn of(&self, caller: &Caller) -> Option<Access> {
        let fits = |rule: &&Rule| match caller {
            Caller::Local { uid, gids, .. } => {
                rule.uids.contains(uid) || rule.gids.iter().any(|gid| gids.contains(gid))
            }
            Caller::Remote { names, .. } => rule.certificates.iter().any(|name| names.contains(name)),
        };
        let by_rule = self.rules.iter().filter(fits).map(|rule| rule.access).max();
        let by_socket = match caller {
            Caller::Local { uid, .. } if *uid == 0 || *uid == self.own => Some(Access::Admin),
            Caller::Local { gids, .. } => {
                self.socket_gid.filter(|gid| gids.contains(gid)).map(|_| Access::Viewer)
            }
            Caller::Remote { .. } => None,
        };
        by_rule.max(by_socket)
    }
}

fn uid(name: &str) -> Result<u32, UnknownAccount> {
    let way_out = format!("useradd --system {name}");
    number(name, |name| {
        // SAFETY: the name ends with NUL; the answer is read before anything else could overwrite it, as nothing else here asks
        // while the agent starts.
        unsafe { libc::getpwnam(name.as_ptr()).as_ref().map(|entry| entry.pw_uid) }
    })
    .ok_or_else(|| UnknownAccount { kind: "user", name: name.to_owned(), way_out })
}

fn gid(name: &str) -> Result<u32, UnknownAccount> {
    let way_out = format!("groupadd --system {name}");
    number(name, |name| {
        // SAFETY: as above.
        unsafe { libc::getgrnam(name.as_ptr()).as_ref().map(|entry| entry.gr_gid) }
    })
    .ok_or_else(|| UnknownAccount { kind: "group", name: name.to_owned(), way_out })
}

fn number(name: &str, look_up: impl FnOnce(CString) -> Option<u32>) -> Option<u32> {
    name.parse().ok().or_else(|| look_up(CString::new(name).ok()?))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::pb;
    use crate::desired::RoleRule;

    fn local(uid: u32, gids: &[u32]) -> Caller {
        Caller::Local { uid, gids: gids.to_vec(), pid: Some(1) }
    }

    #[test]
    fn every_rpc_of_the_proto_file_has_a_role_and_no_other_is_named() {
        let files = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap().file;
        let described: Vec<(String, String)> = files
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
            .flat_map(|(package, service)| {
                let name = format!("{package}.{}", service.name());
                service.method.iter().map(move |rpc| (name.clone(), rpc.name().to_owned()))
            })
            .collect();
        let ours = NEEDED.iter().filter(|row| row.0.starts_with("zdd."));
        let tabled: Vec<_> = ours.map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
        assert!(described.len() > 15);
        let missing: Vec<_> = described.iter().filter(|rpc| !tabled.contains(rpc)).collect();
        let unknown: Vec<_> = tabled.iter().filter(|rpc| !described.contains(rpc)).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
        // Whatever needs more than a viewer changes something, and is made as a change: on record, and once for each key. But for
        // what shows people's packets: that is on record, and can be looked at again.
        let looks = ["Trace"];
        let mut more: Vec<_> = NEEDED.iter().filter(|row| row.2 > Access::Viewer).map(|row| row.1).collect();
        more.retain(|rpc| !looks.contains(rpc));
        let mut changing = crate::api::changes::ALL.to_vec();
        more.sort_unstable();
        changing.sort_unstable();
        assert_eq!(more, changing);
        assert_eq!(needed("/zdd.v1.Control/Shift"), Some(Access::Operator));
        for other in ["/zdd.v1.Control/Other", "/zdd.v1/Shift", "zdd.v1.Control/Shift", "/", ""] {
            assert_eq!(needed(other), None, "{other}");
        }
    }

    #[test]
    fn the_highest_role_that_fits_counts() {
        let rule = |access, users: &[&str], groups: &[&str], certificates: &[&str]| {
            let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            RoleRule { access, users: all(users), groups: all(groups), certificates: all(certificates) }
        };
        let spec = ApiSpec {
            socket_group: Some("4000".to_owned()),
            remote: None,
            rules: vec![
                rule(Access::Viewer, &["2000"], &["4001"], &["dns:look.example.com"]),
                rule(Access::Operator, &["2000"], &["4002"], &["cn:deploy"]),
            ],
        };
        let policy = Policy { own: 1000, ..Policy::new(&spec).unwrap() };
        assert_eq!(policy.of(&local(0, &[])), Some(Access::Admin));
        assert_eq!(policy.of(&local(1000, &[])), Some(Access::Admin));
        assert_eq!(policy.of(&local(1001, &[])), None);
        assert_eq!(policy.of(&local(1001, &[4000])), Some(Access::Viewer));
        assert_eq!(policy.of(&local(1001, &[4001, 4002])), Some(Access::Operator));
        assert_eq!(policy.of(&local(2000, &[4000])), Some(Access::Operator));
        let remote = |names: &[&str]| Caller::Remote {
            address: "10.0.0.9:5".parse().unwrap(),
            subject: String::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(policy.of(&remote(&["dns:look.example.com"])), Some(Access::Viewer));
        assert_eq!(policy.of(&remote(&["dns:deploy"])), None, "a DNS name is no common name");
        assert_eq!(policy.of(&remote(&["cn:deploy", "dns:look.example.com"])), Some(Access::Operator));
        assert_eq!(policy.of(&remote(&["cn:root"])), None);
    }

    #[test]
    fn a_name_that_this_host_does_not_know_is_told_with_the_way_out() {
        assert_eq!((uid("root"), gid("root"), uid("17")), (Ok(0), Ok(0), Ok(17)));
        insta::assert_snapshot!(gid("zdd-no-such").unwrap_err(), @r"
        there is no group `zdd-no-such` on this host
        help: correct [agent.api], or make it: groupadd --system zdd-no-such
        ");
    }
}
