//! The agent's gRPC API, on its unix socket and, where the configuration says so, over TCP with certificates on both sides: the only
//! way in for commands. It knows who asks, what they may do, and puts changes on record; it translates between messages and
//! [`control`](crate::control), and decides nothing about traffic.

mod answers;
mod authorize;
pub mod caller;
mod changes;
pub mod client;
mod connection;
pub mod ledger;
pub mod roles;
pub mod server;
mod service;
mod socket;
pub mod tls;
mod wire;

/// Code generated from `proto/zdd/v1/zdd.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; which lints it meets changes with the generator"
)]
pub mod pb {
    tonic::include_proto!("zdd.v1");

    /// Descriptors of this package, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/zdd.v1.bin"));
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{DescriptorProto, EnumDescriptorProto};

    /// Paths of everything in a file that people read about, as descriptor.proto numbers them.
    fn paths(file: &prost_types::FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
        let mut all = Vec::new();
        fn choice(all: &mut Vec<(Vec<i32>, String)>, path: Vec<i32>, choice: &EnumDescriptorProto) {
            for (n, value) in (0..).zip(&choice.value) {
                all.push(([&path[..], &[2, n]].concat(), value.name().to_owned()));
            }
            all.push((path, choice.name().to_owned()));
        }
        fn message(all: &mut Vec<(Vec<i32>, String)>, path: Vec<i32>, message: &DescriptorProto) {
            for (n, field) in (0..).zip(&message.field) {
                all.push(([&path[..], &[2, n]].concat(), format!("{}.{}", message.name(), field.name())));
            }
            for (n, inner) in (0..).zip(&message.enum_type) {
                choice(all, [&path[..], &[4, n]].concat(), inner);
            }
            all.push((path, message.name().to_owned()));
        }
        for (n, one) in (0..).zip(&file.message_type) {
            message(&mut all, vec![4, n], one);
        }
        for (n, one) in (0..).zip(&file.enum_type) {
            choice(&mut all, vec![5, n], one);
        }
        for (n, service) in (0..).zip(&file.service) {
            all.push((vec![6, n], service.name().to_owned()));
            for (m, rpc) in (0..).zip(&service.method) {
                all.push((vec![6, n, 2, m], rpc.name().to_owned()));
            }
        }
        all
    }

    #[test]
    fn everything_in_the_proto_file_is_documented() {
        let files = prost_types::FileDescriptorSet::decode(super::pb::DESCRIPTORS).unwrap().file;
        let file = files.iter().find(|file| file.package() == "zdd.v1").unwrap();
        let comments = file.source_code_info.as_ref().unwrap();
        let told = |path: &[i32]| {
            let place = comments.location.iter().find(|place| place.path == path);
            place.is_some_and(|place| place.leading_comments().trim().len() > 3)
        };
        let all = paths(file);
        let bare: Vec<&String> = all.iter().filter(|(path, _)| !told(path)).map(|(_, name)| name).collect();
        assert!(all.len() > 250 && bare.is_empty(), "{} in all, without a comment: {bare:?}", all.len());
    }
}
