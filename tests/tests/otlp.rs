//! Rollouts as OpenTelemetry traces, and the log: what a collector gets, decoded, over a kill of the agent. Needs root.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::Value;
use zdd_tests::rig::{Error, Result, Rig, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, unharmed, whole_lines};

const COLLECTOR: &str = "127.0.0.1:4318";

/// What somebody sent: path, headers in lower case, body.
struct Got {
    path: String,
    head: String,
    body: Vec<u8>,
}

/// A collector, and whoever else is called over HTTP. It ends with the test's process.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Got>>>);

impl Collector {
    fn start(rig: &Rig) -> Result<Self> {
        let listener = rig.in_ns("lb", || TcpListener::bind(COLLECTOR))?.expect("the port is free");
        let collector = Self::default();
        let shared = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(got) = exchange(stream) {
                    shared.0.lock().unwrap_or_else(PoisonError::into_inner).push(got);
                }
            }
        });
        Ok(collector)
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for got in got.iter().filter(|got| got.path == "/v1/traces") {
            assert!(got.head.contains("content-type: application/x-protobuf"), "{}", got.head);
            let request = ExportTraceServiceRequest::decode(&got.body[..]).expect("a request");
            for resource in request.resource_spans {
                let name = &resource.resource.expect("a resource").attributes[0];
                assert_eq!((name.key.as_str(), text(name)), ("service.name", "zdd"));
                spans.extend(resource.scope_spans.into_iter().flat_map(|scoped| scoped.spans));
            }
        }
        spans
    }

    /// The header of the same name that came with calls of hooks.
    fn traceparents(&self) -> Vec<String> {
        let got = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hooks = got.iter().filter(|got| got.path == "/hook");
        hooks
            .filter_map(|got| got.head.lines().find_map(|line| line.strip_prefix("traceparent: ")))
            .map(str::to_owned)
            .collect()
    }
}

fn text(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> &str {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{other:?} is no text"),
    }
}

fn attribute<'s>(span: &'s Span, key: &str) -> &'s str {
    span.attributes.iter().find(|attribute| attribute.key == key).map_or("", text)
}

fn exchange(mut stream: TcpStream) -> Option<Got> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut whole = Vec::new();
    let mut bytes = [0; 4096];
    let (head, from) = loop {
        let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
        whole.extend(&bytes[..read]);
        if let Some(end) = whole.windows(4).position(|four| four == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&whole[..end]).to_lowercase(), end + 4);
        }
    };
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |text| text.parse().unwrap_or(0));
    while whole.len() < from + length {
        let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
        whole.extend(&bytes[..read]);
    }
    // Answered before it counts: the sender must not send it again.
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    let path = head.split_whitespace().nth(1)?.to_owned();
    Some(Got { path, head, body: whole.split_off(from) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each line of the agent's log, which is JSON here.
fn log(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.rig.scratch().path("agent.log")).expect("a log");
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole_lines(&text).map(parse).collect()
}

#[test]
fn a_rollout_is_one_trace_also_over_a_kill_of_the_agent() -> Result<()> {
    let rollout = format!(
        "[service.rollout]\nstrategy = \"canary\"\n\
         steps = [{{ weight = 10 }}, {{ pause = \"until-promoted\" }}, {{ weight = 50 }}]\n\
         [[service.rollout.analysis]]\nname = \"health\"\ninterval = \"200ms\"\n\
         builtin = {{ metric = \"healthy-share\", success = \">= 1\" }}\n\
         [[service.rollout.hook]]\non = \"pre-rollout\"\nwebhook = \"http://{COLLECTOR}/hook\"\n\
         [[service.rollout.hook]]\non = \"post-rollout\"\n\
         exec = [\"/bin/sh\", \"-c\", \"echo $TRACEPARENT > TOLD\"]\n"
    );
    let lines = format!("otlp = \"http://{COLLECTOR}\"\nlog = \"json\"");
    let mut world = World::new(Setup { agent_lines: lines, ..Setup::default() })?;
    let told = world.rig.scratch().path("traceparent");
    world.setup.rollout = Some(rollout.replace("TOLD", &told.display().to_string()));
    world.write_config()?;
    let collector = Collector::start(&world.rig)?;
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(5)?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    let waits = |world: &World, what: &str, enough: &dyn Fn(&Value) -> bool| {
        wait_for(what, PATIENCE, LOOK_EVERY, || {
            let report = world.zdd().json(&["rollout", "status", "web"])?;
            Ok::<_, Error>(enough(&report).then_some(()))
        })
    };
    waits(&world, "the pause", &|report| {
        report["weight"] == 0.1 && report["waits_for"].to_string().contains("promote")
    })?;
    wait_for("its first spans", PATIENCE, LOOK_EVERY, || {
        Ok::<_, Error>(collector.spans().iter().any(|span| span.name.starts_with("measure: ")).then_some(()))
    })?;
    world.kill_agent();
    world.start_agent()?;
    world.zdd().run(&["gate", "close", "web", "--reason", "lunch"])?;
    world.zdd().run(&["rollout", "promote", "web"])?;
    world.zdd().run(&["gate", "open", "web"])?;
    waits(&world, "the end", &|report| report["phase"] == "promoted")?;
    wait_for("the outermost span", PATIENCE, LOOK_EVERY, || {
        let spans = collector.spans();
        Ok::<_, Error>(spans.iter().any(|span| span.parent_span_id.is_empty()).then_some(()))
    })?;
    // Whatever else was on its way is sent at the end.
    world.stop_agent()?;

    let spans = collector.spans();
    let traces: BTreeSet<_> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces.len(), 1, "{traces:?}");
    let trace = traces.first().expect("one");
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "every span has an id of its own: {spans:#?}");
    let roots: Vec<_> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let [root] = roots[..] else { panic!("{roots:#?}") };
    assert_eq!(root.name, "rollout web v1 to v2");
    assert_eq!((attribute(root, "zdd.outcome"), attribute(root, "zdd.rollout")), ("promoted", "1"));
    assert!(root.events.iter().any(|event| event.name.contains("50%")), "{:#?}", root.events);
    let steps: Vec<_> = spans.iter().filter(|span| span.name.starts_with("step: ")).collect();
    let names: Vec<_> = steps.iter().map(|span| span.name.as_str()).collect();
    for wanted in ["10% of new flows to v2", "wait for", "50% of new flows to v2", "100% of new flows to v2"]
    {
        assert!(names.iter().any(|name| name.contains(wanted)), "{wanted} is not in {names:?}");
    }
    assert!(steps.iter().all(|span| span.parent_span_id == root.span_id));
    assert!(
        spans.iter().any(|span| span.name == "gate closed" && span.parent_span_id == root.span_id),
        "{names:?}"
    );
    let pause = steps.iter().find(|span| span.name.contains("wait for")).expect("seen above");
    for span in &spans {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano + PATIENCE.as_nanos() as u64, "{span:?}");
    }
    // What was measured before the kill belongs to a step that was told after it.
    let measured = spans.iter().filter(|span| span.name == "measure: health");
    let in_pause = measured.filter(|span| span.parent_span_id == pause.span_id).count();
    assert!(in_pause >= 1, "{in_pause} of {spans:#?}");

    // Those who are called know where they belong.
    let called: Vec<_> = spans.iter().filter(|span| span.name.starts_with("hook: ")).collect();
    let known = |told: &str| {
        let parts: Vec<_> = told.trim().split('-').collect();
        let [version, of, id, flags] = parts[..] else { panic!("{told}") };
        assert_eq!((version, of, flags), ("00", trace.as_str(), "01"));
        assert!(called.iter().any(|span| hex(&span.span_id) == id), "{told} is none of {called:#?}");
    };
    let traceparents = collector.traceparents();
    assert_eq!(traceparents.len(), 1, "{traceparents:?}");
    known(&traceparents[0]);
    known(&std::fs::read_to_string(told).expect("the hook ran"));

    // The log says the same, in fields.
    let lines = log(&world);
    let of_rollout: Vec<_> = lines.iter().filter(|line| line["trace_id"].is_string()).collect();
    assert!(of_rollout.len() > 4, "{lines:#?}");
    for line in of_rollout {
        assert_eq!(line["trace_id"], trace.as_str(), "{line}");
        assert_eq!(
            (&line["service"], &line["version"], &line["rollout"]),
            (&"web".into(), &"v2".into(), &1.into())
        );
        assert!(line["generation"].as_u64().is_some_and(|generation| generation > 0), "{line}");
    }
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn what_is_logged_changes_while_the_agent_runs() -> Result<()> {
    let world =
        World::running_unchecked(Setup { agent_lines: "log = \"json\"".to_owned(), ..Setup::default() })?;
    let debug = |world: &World| log(world).iter().filter(|line| line["level"] == "DEBUG").count();
    assert_eq!(debug(&world), 0);
    assert_eq!(world.zdd().run(&["log"])?, "the agent logs info\n");
    let said = world.zdd().run(&["log", "debug"])?;
    assert!(said.contains("the agent logs debug, before: info"), "{said}");
    wait_for("a line of the new level", PATIENCE, LOOK_EVERY, || {
        world.status()?;
        Ok::<_, Error>((debug(&world) > 0).then_some(()))
    })?;
    world.refused(&["log", "loud"])?.says(1, &["`loud` is no log level", "help: write info"]);
    let now = world.zdd().json(&["log"])?;
    assert!(now["level"].as_str().is_some_and(|now| now.contains("zdd_agent=debug")), "{now}");
    assert!(now.get("before").is_none(), "nothing was changed: {now}");
    let said = world.zdd().json(&["log", "warn"])?;
    assert_eq!(said["level"], "warn");
    // zdd's own; its libraries' frames would bury it.
    assert!(said["before"].as_str().is_some_and(|was| was.contains("zdd_agent=debug")), "{said}");
    let told = log(&world);
    let debug = told.iter().filter(|line| line["level"] == "DEBUG");
    assert!(
        debug.clone().all(|line| line["target"].as_str().is_some_and(|of| of.starts_with("zdd_"))),
        "{told:#?}"
    );
    let before = log(&world).len();
    world.zdd().run(&["shift", "web", "v2=10%"])?;
    world.status()?;
    let after = log(&world);
    assert!(
        after[before..].iter().all(|line| line["level"] == "WARN" || line["level"] == "ERROR"),
        "{after:#?}"
    );
    Ok(())
}
