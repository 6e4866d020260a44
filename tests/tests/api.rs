//! The API as others meet it: from a second machine, by role, on record, once for each key, and not over somebody else's change. Needs
//! root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use prost::Message;
use serde_json::Value;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_prost::ProstCodec;
use zdd_tests::certs::Authority;
use zdd_tests::rig::{Error, LB_ADDRESS, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed, whole_lines};

/// Certificates of a world, and the configuration that goes with them.
struct Certs {
    agents: Authority,
    callers: Authority,
}

/// A world whose agent listens on TCP too; the network is the balancer's towards its clients.
fn world() -> Result<(World, Certs)> {
    let agent_lines = "page = \"127.0.0.1:9178\"\npage_actions = true".to_owned();
    let mut world = World::new(Setup { agent_lines, idle_ms: 600_000, ..Setup::default() })?;
    let dir = world.rig.scratch().dir().to_owned();
    let certs = Certs { agents: Authority::new(&dir, "agents"), callers: Authority::new(&dir, "callers") };
    let (cert, key) = certs.agents.sign("agent", &["10.80.0.1", "lb.example.com"]);
    for (name, names) in [
        ("watcher", &["watcher.example.com"][..]),
        ("deployer", &["ci.example.com"]),
        ("boss", &[]),
        ("stranger", &["stranger.example.com"]),
    ] {
        certs.callers.sign(name, names);
    }
    world.setup.api = format!(
        "[agent.api]\nlisten = \"{LB_ADDRESS}:9443\"\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n\
         socket_group = \"60001\"\n\
         [[agent.api.role]]\nrole = \"viewer\"\ncertificates = \"dns:watcher.example.com\"\n\
         [[agent.api.role]]\nrole = \"operator\"\ncertificates = [\"dns:ci.example.com\"]\ngroups = [\"60002\"]\n\
         [[agent.api.role]]\nrole = \"admin\"\ncertificates = \"cn:boss\"\n",
        cert.display(),
        key.display(),
        certs.callers.ca.display()
    );
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    Ok((world, certs))
}

/// Runs `zdd` on the clients' machine, as `name`.
fn from_afar(world: &World, certs: &Certs, name: &str, args: &[&str]) -> Result<Output> {
    let at = |suffix: &str| world.rig.scratch().path(&format!("{name}.{suffix}"));
    let mut command = Command::new(world.binary());
    command.args(["--server", &format!("https://{LB_ADDRESS}:9443")]);
    command.arg("--cert").arg(at("pem")).arg("--key").arg(at("key")).arg("--ca").arg(&certs.agents.ca);
    command.args(args).stdin(Stdio::null());
    let done = world.rig.in_ns("c", || command.output())?;
    done.map_err(Error::io("run zdd on the clients' machine"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn audit(world: &World) -> Vec<Value> {
    let path = world.rig.scratch().path("state/audit.jsonl");
    let text = std::fs::read_to_string(path).expect("audit.jsonl");
    whole_lines(&text).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_second_machine_works_within_its_role_and_is_on_record() -> Result<()> {
    let (world, certs) = world()?;
    let load = world.load(10)?;
    let seen = from_afar(&world, &certs, "watcher", &["status", "--json"])?;
    assert!(seen.status.success(), "{}", stderr(&seen));
    let status: Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    assert_eq!(status["services"][0]["name"], "web");
    let refused = from_afar(&world, &certs, "watcher", &["shift", "web", "v2=50%"])?;
    assert_eq!(refused.status.code(), Some(1));
    for word in
        ["Shift needs the role operator", "dns:watcher.example.com", "has viewer", "[[agent.api.role]]"]
    {
        assert!(stderr(&refused).contains(word), "{word}: {}", stderr(&refused));
    }
    let done = from_afar(
        &world,
        &certs,
        "deployer",
        &["shift", "web", "v2=50%", "--reason", "ticket 17", "--json"],
    )?;
    assert!(done.status.success(), "{}", stderr(&done));
    let after: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    as_before(&load)?;
    let nobody = from_afar(&world, &certs, "stranger", &["status"])?;
    assert!(stderr(&nobody).contains("has no role"), "{}", stderr(&nobody));
    let detach = from_afar(&world, &certs, "deployer", &["detach"])?;
    assert!(stderr(&detach).contains("Detach needs the role admin"), "{}", stderr(&detach));

    let records = audit(&world);
    let [begun, ended] = records.as_slice() else { panic!("one change was made: {records:?}") };
    assert_eq!((&begun["outcome"], &ended["outcome"]), (&"begun".into(), &"done".into()));
    for record in [begun, ended] {
        assert_eq!(record["who"], "certificate CN=deployer from 10.80.0.2");
        assert_eq!(record["what"], "shift web v2=50%");
        assert_eq!(record["reason"], "ticket 17");
    }
    assert_eq!(ended["generations"][0]["after"], after["generation"]);
    assert!(ended["generations"][0]["before"].as_u64() < after["generation"].as_u64(), "{ended}");
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn looks_at_packets_the_log_level_and_the_page_are_on_record() -> Result<()> {
    let (world, certs) = world()?;
    let load = world.load(10)?;
    let done =
        from_afar(&world, &certs, "deployer", &["trace", "web", "--reason", "settled", "--count", "3"])?;
    assert!(done.status.success(), "{}", stderr(&done));
    let refused = from_afar(&world, &certs, "deployer", &["trace", "nope"])?;
    assert_eq!(refused.status.code(), Some(1));
    let done = from_afar(&world, &certs, "deployer", &["log", "debug", "--reason", "ticket 18"])?;
    assert!(done.status.success(), "{}", stderr(&done));
    let token = std::fs::read_to_string(world.rig.scratch().path("state/page-token")).expect("a token");
    let act = |body: &str| {
        let auth = format!("Authorization: Bearer {}", token.trim());
        world.rig.ns("lb").run(&[
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "-H",
            "Origin: http://127.0.0.1:9178",
            "-H",
            "Content-Type: application/json",
            "-H",
            &auth,
            "-d",
            body,
            "http://127.0.0.1:9178/api/v1/actions",
        ])
    };
    let report = act(r#"{"act":"shift","service":"web","weights":[["v2",3000]]}"#)?;
    assert!(report.contains("\"generation\""), "{report}");
    // A look is no change.
    act(r#"{"act":"who-moves","service":"web","weights":[["v2",9000]]}"#)?;
    let report = act(r#"{"act":"abort","service":"web","revision":7}"#)?;
    assert!(report.contains("has had no rollout"), "{report}");
    as_before(&load)?;
    unharmed(&load.finish());

    let ended = |what: &str| {
        wait_for("the record to be ended", PATIENCE, LOOK_EVERY, || {
            let both: Vec<Value> =
                audit(&world).into_iter().filter(|record| record["what"] == what).collect();
            Ok::<_, Error>((both.len() == 2).then(|| both[1].clone()))
        })
    };
    let ci = "certificate CN=deployer from 10.80.0.2";
    let looked = ended("trace web --reason settled --snap 96")?;
    assert_eq!((&looked["who"], &looked["outcome"]), (&ci.into(), &"done".into()), "{looked}");
    assert!(looked["message"].as_str().is_some_and(|told| told.ends_with(" packets")), "{looked}");
    assert_eq!(ended("trace nope --snap 96")?["outcome"], "not_found");
    let logged = ended("log debug")?;
    assert_eq!((&logged["who"], &logged["reason"]), (&ci.into(), &"ticket 18".into()), "{logged}");
    let shifted = ended("shift web v2=30%")?;
    let who = shifted["who"].as_str().expect("who");
    assert!(who.starts_with("page token ") && who.contains(" from 127.0.0.1:"), "{shifted}");
    assert!(!who.contains(token.trim()), "the token itself is in the record");
    assert_eq!((&shifted["outcome"], &shifted["generations"][0]["service"]), (&"done".into(), &"web".into()));
    assert_eq!(ended("rollout abort web --revision 7")?["outcome"], "not_found");
    assert_eq!(audit(&world).len(), 10, "and nothing else: {:?}", audit(&world));
    // Events and refusals of others name them as the record does.
    let events = world.zdd().run(&["events", "--service", "web"])?;
    assert!(events.contains("shift web v2=30%") && events.contains("[page token "), "{events}");
    Ok(())
}

#[test]
fn whoever_shows_no_known_certificate_gets_nowhere() -> Result<()> {
    let (world, certs) = world()?;
    let dir = world.rig.scratch().dir().to_owned();
    let foreign = Authority::new(&dir, "foreign");
    foreign.sign("forger", &["ci.example.com"]);
    let forged = from_afar(&world, &certs, "forger", &["status"])?;
    assert!(!forged.status.success() && forged.stdout.is_empty(), "{}", stderr(&forged));
    // The agent must be who it says, too.
    let elsewhere = Certs { agents: foreign, callers: Authority::new(&dir, "other") };
    let doubted = from_afar(&world, &elsewhere, "deployer", &["status"])?;
    assert_eq!(doubted.status.code(), Some(4), "{}", stderr(&doubted));
    assert!(stderr(&doubted).contains("--ca must be the authority"), "{}", stderr(&doubted));
    // The right name by the right authority, in the past and in the future.
    for (name, years) in [("deployer", (2001, 2002)), ("deployer", (2970, 2980))] {
        certs.callers.sign_for(name, &["ci.example.com"], years);
        let late = from_afar(&world, &certs, name, &["shift", "web", "v2=50%"])?;
        assert!(!late.status.success() && late.stdout.is_empty(), "{years:?}: {}", stderr(&late));
        // The agent's alert may be lost with the connection.
        let told = ["refuses the certificate (received fatal alert", "went away before it answered"];
        assert!(told.iter().any(|told| stderr(&late).contains(told)), "{years:?}: {}", stderr(&late));
    }
    let log = std::fs::read_to_string(world.rig.scratch().path("agent.log")).expect("the log");
    for why in ["UnknownIssuer", "expired", "not valid yet"] {
        assert!(log.contains(why), "{why} is not in {log}");
    }
    assert_eq!(audit(&world), [] as [Value; 0], "nobody got as far as a change");
    // Plain text, and TLS without a certificate.
    let script = format!(
        "printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/{LB_ADDRESS}/9443; cat >&3; head -c 20 <&3 | wc -c'"
    );
    let plain = world.rig.in_ns("c", || Command::new("bash").args(["-c", &script]).output())?;
    let plain = plain.map_err(Error::io("run bash"))?;
    assert!(String::from_utf8_lossy(&plain.stdout).trim().parse::<u32>().unwrap_or(0) < 20);
    assert!(world.status().is_ok());
    Ok(())
}

#[test]
fn certificates_are_taken_in_when_they_change_and_bad_ones_are_not() -> Result<()> {
    let (world, mut certs) = world()?;
    let ask = |world: &World, certs: &Certs| from_afar(world, certs, "deployer", &["status"]);
    assert!(ask(&world, &certs)?.status.success());
    // Half a file: what was there before goes on.
    let cert = world.rig.scratch().path("agent.pem");
    let good = std::fs::read(&cert).expect("the certificate");
    std::fs::write(&cert, &good[..good.len() / 2]).expect("half of it");
    assert!(ask(&world, &certs)?.status.success(), "a broken file ended the service");
    // A new authority and a new certificate of it.
    certs.agents = Authority::new(world.rig.scratch().dir(), "renewed");
    certs.agents.sign("agent", &["10.80.0.1"]);
    let renewed = ask(&world, &certs)?;
    assert!(renewed.status.success(), "the new certificate is not used: {}", stderr(&renewed));
    Ok(())
}

/// What the header of the proto file says, stated again: the table in the agent must agree.
fn needs(rpc: &str) -> u8 {
    let looks = ["Get", "Watch", "Wait", "Explain", "WhoMoves", "Plan"];
    match rpc {
        "Apply" | "Detach" => 3,
        rpc if looks.iter().any(|word| rpc.starts_with(word)) => 1,
        _ => 2,
    }
}

async fn channel(dir: &Path, name: &str, ca: &Path) -> Channel {
    let read = |path: PathBuf| std::fs::read(path).expect("a file");
    let identity =
        Identity::from_pem(read(dir.join(format!("{name}.pem"))), read(dir.join(format!("{name}.key"))));
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca.to_owned()))).identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://{LB_ADDRESS}:9443")).expect("a URL");
    endpoint.tls_config(tls).expect("TLS").connect().await.expect("a connection")
}

/// The rpcs that the agent itself describes, by reflection: what grpcurl does.
async fn described(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("zdd.v1.Control".to_owned())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answer = client.server_reflection_info(futures_of(request)).await.expect("reflection");
    let answer = answer.into_inner().message().await.expect("an answer").expect("an answer").message_response;
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("no description") };
    let files = files.file_descriptor_proto.iter();
    let files = files.map(|file| prost_types::FileDescriptorProto::decode(file.as_slice()).expect("a file"));
    files.flat_map(|file| file.service).flat_map(|s| s.method).map(|rpc| rpc.name().to_owned()).collect()
}

/// A stream of one.
fn futures_of<T: Send + 'static>(one: T) -> impl tonic::IntoStreamingRequest<Message = T> {
    tonic::codegen::tokio_stream::once(one)
}

#[test]
fn every_rpc_asks_for_its_role_and_no_more() -> Result<()> {
    let (world, certs) = world()?;
    let dir = world.rig.scratch().dir().to_owned();
    let tried = world.rig.in_ns("c", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let ca = &certs.agents.ca;
            let rpcs = described(channel(&dir, "watcher", ca).await).await;
            assert!(rpcs.len() > 15, "{rpcs:?}");
            let mut tried = 0;
            for (has, name) in [(0, "stranger"), (1, "watcher"), (2, "deployer"), (3, "boss")] {
                let channel = channel(&dir, name, ca).await;
                for rpc in &rpcs {
                    // An admin's empty Detach would be done.
                    if rpc == "Detach" && has == 3 {
                        continue;
                    }
                    let mut client = tonic::client::Grpc::new(channel.clone());
                    client.ready().await.expect("a connection");
                    let path = PathAndQuery::try_from(format!("/zdd.v1.Control/{rpc}")).expect("a path");
                    let request = tonic::Request::new(());
                    let answer: std::result::Result<tonic::Response<tonic::Streaming<()>>, tonic::Status> =
                        client.server_streaming(request, path, ProstCodec::default()).await;
                    let denied = answer.is_err_and(|status| status.code() == tonic::Code::PermissionDenied);
                    assert_eq!(denied, has < needs(rpc), "{name} calls {rpc}");
                    tried += 1;
                }
            }
            tried
        })
    })?;
    println!("{tried} calls");
    assert!(tried > 4 * 15);
    Ok(())
}

#[test]
fn groups_of_the_socket_have_their_roles() -> Result<()> {
    let (world, _certs) = world()?;
    // The rig's directory is root's alone; what is in it has modes of its own.
    let dir = world.rig.scratch().dir();
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    let binary = dir.join("zdd-for-all");
    std::fs::copy(world.binary(), &binary).expect("a copy that everybody may run");
    std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    let run = |groups: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "60000", "--regid", "60000", "--groups", groups, "--"]).arg(&binary);
        command.arg("--socket").arg(world.zdd().socket()).args(args).output().expect("setpriv runs")
    };
    let nobody = run("60003", &["status"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", stderr(&nobody));
    assert!(stderr(&nobody).contains("agent.api.socket_group"), "{}", stderr(&nobody));
    let viewer = run("60001", &["status"]);
    assert!(viewer.status.success(), "{}", stderr(&viewer));
    let refused = run("60001", &["shift", "web", "v2=10%"]);
    assert!(stderr(&refused).contains("uid 60000 has viewer"), "{}", stderr(&refused));
    let operator = run("60001,60002", &["shift", "web", "v2=10%"]);
    assert!(operator.status.success(), "{}", stderr(&operator));
    let last = audit(&world).pop().expect("a record");
    assert!(last["who"].as_str().is_some_and(|who| who.starts_with("uid 60000, pid ")), "{last}");
    Ok(())
}

#[test]
fn the_same_key_is_the_same_change_even_after_a_kill() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let shift = ["shift", "web", "v2=30%", "--idempotency-key", "deploy-1"];
    let first = world.zdd().json(&shift)?;
    world.zdd().run(&["shift", "web", "v2=60%"])?;
    assert_eq!(world.zdd().json(&shift)?, first, "the first answer again");
    let other = world.refused(&["shift", "web", "v2=31%", "--idempotency-key", "deploy-1"])?;
    other.says(1, &["went with another request", "choose a new key"]);
    world.kill_agent();
    world.start_agent()?;
    assert_eq!(world.zdd().json(&shift)?, first, "the first answer again, after a kill");
    let asked =
        |world: &World| Ok::<_, Error>(world.status()?["services"][0]["versions"][1]["asked"].clone());
    assert_eq!(asked(&world)?, 0.6, "nothing was made twice");
    // A kill that swallowed the answer: the state knows that the change was made.
    world.kill_agent();
    std::fs::remove_file(world.rig.scratch().path("state/answers.jsonl")).expect("the answers");
    world.start_agent()?;
    let again = world.zdd().json(&shift)?;
    assert!(again["notes"][0].as_str().is_some_and(|note| note.contains("done before")), "{again}");
    assert_eq!(asked(&world)?, 0.6, "it was not made again");
    // A refused one has spent no key that would claim to be made.
    let refused = ["backend", "remove", "web", "10.9.9.9:80", "--idempotency-key", "deploy-2"];
    world.refused(&refused)?.says(1, &["10.9.9.9:80"]);
    world.kill_agent();
    std::fs::remove_file(world.rig.scratch().path("state/answers.jsonl")).expect("the answers");
    world.start_agent()?;
    world.refused(&refused)?.says(1, &["10.9.9.9:80"]);
    let outcomes: Vec<String> =
        audit(&world).iter().map(|r| r["outcome"].as_str().unwrap_or_default().to_owned()).collect();
    for outcome in ["done", "repeated", "invalid_argument", "not_found"] {
        assert!(outcomes.iter().any(|o| o == outcome), "{outcome}: {outcomes:?}");
    }
    Ok(())
}

#[test]
fn nobody_overwrites_a_change_that_they_have_not_seen() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let generation = |status: &Value| status["services"][0]["generation"].as_u64().expect("a number");
    let seen = generation(&world.status()?);
    world.zdd().run(&["shift", "web", "v2=10%", "--if-generation", &seen.to_string(), "--reason", "mine"])?;
    let late = world.refused(&["shift", "web", "v2=90%", "--if-generation", &seen.to_string()])?;
    late.says(1, &["was changed since generation", "shift web v2=10% (mine)", "by uid 0, pid", "zdd status"]);
    // What nobody asked for is no reason to refuse: health and settling raise the generation too.
    let seen = generation(&world.status()?);
    world.set_health(&[3], false)?;
    world.wait_status("the generation to grow by itself", |status| {
        (generation(status) > seen).then_some(())
    })?;
    world.zdd().run(&["shift", "web", "v2=20%", "--if-generation", &seen.to_string()])?;
    // It is remembered across a restart what came between.
    world.kill_agent();
    world.start_agent()?;
    world.refused(&["rollback", "web", "--if-generation", &seen.to_string()])?.says(1, &["v2=20%"]);
    world.refused(&["rollback", "web", "--if-generation", "999999"])?.says(1, &["was never at 999999"]);
    Ok(())
}

#[test]
fn events_come_in_order_and_are_resumed_by_number() -> Result<()> {
    let mut world = World::running(Setup::default())?;
    let lines = |world: &World, args: &[&str]| -> Result<Vec<Value>> {
        let mut all = vec!["events", "--json"];
        all.extend(args);
        let text = world.zdd().run(&all)?;
        Ok(text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    };
    let seq = |event: &Value| event["seq"].as_u64().expect("a number");
    let first = lines(&world, &[])?;
    assert!(first.iter().any(|event| event["kind"] == "health"), "{first:?}");
    assert!(first.iter().any(|event| event["kind"] == "interface"), "{first:?}");
    let last = seq(first.last().expect("events"));
    world.zdd().run(&["shift", "web", "v2=10%", "--reason", "because"])?;
    // Somebody who was away while the agent was killed misses nothing and sees nothing twice.
    world.kill_agent();
    world.start_agent()?;
    let missed = lines(&world, &["--after", &last.to_string()])?;
    let numbers: Vec<u64> = missed.iter().map(seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers[0] == last + 1, "{numbers:?}");
    let shift = missed.iter().find(|event| event["kind"] == "change").expect("the shift");
    assert_eq!((&shift["text"], &shift["service"]), (&"shift web v2=10% (because)".into(), &"web".into()));
    assert!(missed.iter().all(|event| event["missed"] == false));
    // Whoever follows hears at once.
    let log = world.rig.scratch().path("follow.log");
    let follow = world.zdd().command(&["events", "--follow", "--service", "web", "--json"]);
    let follow = world.rig.ns("lb").spawn_logged(follow, &log)?;
    world.zdd().run(&["rollback", "web"])?;
    wait_for("the rollback to be told", PATIENCE, LOOK_EVERY, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok::<_, Error>((text.contains("rollback web") && !text.contains("interface")).then_some(()))
    })?;
    follow.terminate(PATIENCE)?;
    // A number that there is not, and a state directory that has begun anew: a person is told, a program gets what there is.
    let last = |events: &[Value]| seq(events.last().expect("events"));
    let before = last(&lines(&world, &[])?);
    let beyond = world.zdd().output(&["events", "--after", "99999"])?;
    assert!(
        beyond.status.success() && beyond.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&beyond.stdout)
    );
    let told = stderr(&beyond);
    let number =
        told.strip_prefix("note: there is no event after 99999: the last one is ").unwrap_or_default();
    let number = number.trim_end().parse::<u64>().unwrap_or(0);
    let all = lines(&world, &["--after", "99999"])?;
    assert!((before..=last(&all)).contains(&number), "{told}");
    assert!(all[0]["missed"] == true && all.len() > 1, "{all:?}");
    // One line each, whatever somebody gave as a reason, and bounded.
    let reason = format!("two\nlines, \x1b[31mred {}", "x".repeat(5000));
    world.zdd().run(&["shift", "web", "v2=15%", "--reason", &reason])?;
    let text = world.zdd().run(&["events", "--service", "web"])?;
    let told = text.lines().find(|line| line.contains("two lines,  [31mred")).expect("the shift");
    assert!(told.contains("uid 0") && told.len() < 1200, "{told}");
    assert!(text.lines().all(|line| line.starts_with(|first: char| first.is_ascii_digit())), "{text}");
    Ok(())
}
