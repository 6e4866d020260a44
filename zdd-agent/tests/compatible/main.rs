//! What the README promises to stay: files, calls and commands of earlier releases, kept as they were, against this build.
//!
//! `v0.1/` is what 0.1 read, wrote and offered. Nothing in it is ever edited; what is new is added by a later directory:
//! `ZDD_RECORD=1 cargo test -p zdd-agent --test compatible` writes the lists that are missing.

use std::fs;
use std::path::PathBuf;

use clap::Command;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::Value;
use zdd_agent::api::pb;
use zdd_agent::config::Config;
use zdd_agent::state::State;
use zdd_agent::store::Store;

fn kept(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/compatible/v0.1").join(name)
}

/// What was kept, or `now` if nothing was and somebody wants it to be.
fn text(name: &str, now: impl FnOnce() -> String) -> String {
    let path = kept(name);
    if !path.exists() && std::env::var_os("ZDD_RECORD").is_some() {
        fs::write(&path, now()).expect("write what is to be kept");
    }
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Panics unless every line that was kept is there.
fn all_there(name: &str, mut now: Vec<String>) {
    now.sort();
    now.dedup();
    let kept = text(name, || now.join("\n") + "\n");
    let gone: Vec<&str> = kept.lines().filter(|line| !now.iter().any(|one| one == line)).collect();
    assert!(kept.lines().count() > 50 && gone.is_empty(), "gone, or no longer what it was: {gone:#?}");
}

/// Where `now` does not say what `then` said. What is new in `now` may be there.
fn differences(at: &str, then: &Value, now: &Value, found: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (key, value) in then {
                differences(&format!("{at}.{key}"), value, now.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            for (n, (then, now)) in then.iter().zip(now).enumerate() {
                differences(&format!("{at}[{n}]"), then, now, found);
            }
        }
        _ if then == now => {}
        _ => found.push(format!("{at}: was {then}, is {now}")),
    }
}

fn means_the_same(then: &str, now: &Value) {
    let then: Value = serde_json::from_str(then).expect("JSON was kept");
    let mut found = Vec::new();
    differences("", &then, now, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn an_old_configuration_is_valid_and_means_the_same() {
    let (desired, _) =
        Config::parse(&text("zdd.toml", String::new), "zdd.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let now = serde_json::to_value(&desired).expect("JSON");
    means_the_same(&text("desired.json", || serde_json::to_string_pretty(&now).expect("JSON") + "\n"), &now);
}

#[test]
fn an_old_state_is_read_and_means_the_same() {
    let dir = std::env::temp_dir().join(format!("zdd-compatible-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    fs::copy(kept("state.json"), dir.join("state.json")).expect("a state was kept");
    let state: State = Store::open(&dir).expect("a store").load().expect("it can be read").expect("a state");
    drop(fs::remove_dir_all(&dir));
    let kept = fs::read_to_string(kept("state.json")).expect("a state");
    let (_, then) = kept.split_once('\n').expect("a header");
    for word in ["\"staff\"", "\"lunch\"", "\"INC\"", "10.1.0.9"] {
        assert!(then.contains(word), "{word} is what it is kept for");
    }
    means_the_same(then, &serde_json::to_value(&state).expect("JSON"));
}

/// `message.field = number: type, label` of a message and those inside.
fn fields(of: &DescriptorProto, above: &str, lines: &mut Vec<String>) {
    let name = format!("{above}.{}", of.name());
    for field in &of.field {
        let presence = if field.proto3_optional() { ", optional" } else { "" };
        lines.push(format!(
            "{name}.{} = {}: {:?}{} {:?}{presence}",
            field.name(),
            field.number(),
            field.r#type(),
            field.type_name(),
            field.label()
        ));
    }
    of.nested_type.iter().for_each(|inner| fields(inner, &name, lines));
    of.enum_type.iter().for_each(|inner| values(inner, &name, lines));
}

fn values(of: &EnumDescriptorProto, above: &str, lines: &mut Vec<String>) {
    let name = format!("{above}.{}", of.name());
    lines.extend(of.value.iter().map(|value| format!("{name}.{} = {}", value.name(), value.number())));
}

#[test]
fn the_api_keeps_its_calls_fields_and_numbers() {
    let set = FileDescriptorSet::decode(pb::DESCRIPTORS).expect("descriptors");
    let mut lines = Vec::new();
    let ours = |file: &&FileDescriptorProto| file.package() == "zdd.v1";
    for file in set.file.iter().filter(ours) {
        file.message_type.iter().for_each(|message| fields(message, "", &mut lines));
        file.enum_type.iter().for_each(|one| values(one, "", &mut lines));
        for service in &file.service {
            for call in &service.method {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                lines.push(format!(
                    "{}.{}({}{}) -> {}{}",
                    service.name(),
                    call.name(),
                    stream(call.client_streaming()),
                    call.input_type(),
                    stream(call.server_streaming()),
                    call.output_type()
                ));
            }
        }
    }
    all_there("api.txt", lines);
}

fn arguments(of: &Command, above: &str, lines: &mut Vec<String>) {
    let name = format!("{above} {}", of.get_name()).trim().to_owned();
    lines.push(name.clone());
    for argument in of.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let value = if argument.get_action().takes_values() { " VALUE" } else { "" };
        let what =
            argument.get_long().map_or_else(|| argument.get_id().to_string(), |long| format!("--{long}"));
        lines.push(format!("{name} {what}{value}"));
        lines.extend(argument.get_short().map(|short| format!("{name} -{short}{value}")));
    }
    for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
        arguments(command, &name, lines);
    }
}

#[test]
fn the_command_line_keeps_its_commands_and_flags() {
    let mut lines = Vec::new();
    arguments(&zdd_agent::cli::grammar(), "", &mut lines);
    all_there("commands.txt", lines);
}
