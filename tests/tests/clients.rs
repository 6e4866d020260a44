//! Clients of other languages: the README's commands for `grpcurl`, made by `scripts/clients/call.py` (and by grpcurl itself where it is
//! installed), from a second machine with certificates and on the socket. Needs root.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use zdd_tests::certs::Authority;
use zdd_tests::rig::{Error, LB_ADDRESS, Result};
use zdd_tests::world::{Setup, World};

const README: &str = include_str!("../../README.md");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A world whose agent listens on TCP too, for an operator and a viewer.
fn world() -> Result<(World, PathBuf)> {
    let mut world = World::new(Setup::default())?;
    let dir = world.rig.scratch().dir().to_owned();
    let (agents, callers) = (Authority::new(&dir, "agents"), Authority::new(&dir, "callers"));
    let (cert, key) = agents.sign("agent", &["10.80.0.1"]);
    callers.sign("ci", &["ci.example.com"]);
    callers.sign("look", &["look.example.com"]);
    world.setup.api = format!(
        "[agent.api]\nlisten = \"{LB_ADDRESS}:9443\"\ncert = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n\
         [[agent.api.role]]\nrole = \"operator\"\ncertificates = \"dns:ci.example.com\"\n\
         [[agent.api.role]]\nrole = \"viewer\"\ncertificates = \"dns:look.example.com\"\n",
        cert.display(),
        key.display(),
        callers.ca.display()
    );
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    Ok((world, agents.ca))
}

/// The README's lines that begin with `grpcurl`, as words; nothing in them is quoted but with `'`.
fn readme_lines() -> Vec<Vec<String>> {
    let lines = README.lines().filter_map(|line| line.strip_prefix("grpcurl "));
    lines
        .map(|line| {
            let words = line.split('\'').enumerate().flat_map(|(n, part)| match n % 2 {
                1 => vec![part.to_owned()],
                _ => part.split_whitespace().map(str::to_owned).collect(),
            });
            words.collect()
        })
        .collect()
}

/// Programs that take these words: ours always, the other one where it is there.
fn programs() -> Vec<Vec<PathBuf>> {
    let root = repository();
    let mut all = vec![vec![root.join(".tools/python/bin/python"), root.join("scripts/clients/call.py")]];
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let grpcurl = std::env::split_paths(&paths).map(|dir| dir.join("grpcurl")).find(|file| file.exists());
    match grpcurl {
        Some(grpcurl) => all.push(vec![grpcurl]),
        None => println!("grpcurl is not installed: its commands are made by call.py alone"),
    }
    all
}

struct Caller<'a> {
    world: &'a World,
    program: &'a [PathBuf],
    ca: &'a Path,
}

impl Caller<'_> {
    /// The words of a README line with this world's names, and where they are said.
    fn command(&self, words: &[String]) -> (&'static str, Command) {
        let scratch = self.world.rig.scratch();
        let place = |word: &str| match word {
            "agents-ca.crt" => self.ca.display().to_string(),
            word if word.ends_with(".crt") => {
                scratch.path(&format!("{}.pem", word.trim_end_matches(".crt"))).display().to_string()
            }
            word if word.ends_with(".key") => scratch.path(word).display().to_string(),
            "10.0.0.1:9443" => format!("{LB_ADDRESS}:9443"),
            "/run/zdd/zdd.sock" => self.world.zdd().socket().display().to_string(),
            word => word.replace("\"after_seq\": 17", "\"after_seq\": 0"),
        };
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args(words.iter().map(|word| place(word))).stdin(Stdio::null());
        // The clients' machine has nothing but the network; the socket is the balancer's.
        (if words.iter().any(|word| word == "-unix") { "lb" } else { "c" }, command)
    }

    fn run(&self, words: &[String]) -> Result<Output> {
        let (ns, mut command) = self.command(words);
        self.world.rig.in_ns(ns, || command.output())?.map_err(Error::io("run a client"))
    }

    /// What it prints until it has printed one whole JSON object, as a stream that does not end.
    fn first(&self, words: &[String]) -> Result<Value> {
        let (ns, mut command) = self.command(words);
        command.stdout(Stdio::piped());
        let mut child = self.world.rig.in_ns(ns, || command.spawn())?.map_err(Error::io("start a client"))?;
        let mut text = String::new();
        for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
            let line = line.map_err(Error::io("read a client's answer"))?;
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        child.kill().and_then(|()| child.wait()).map_err(Error::io("end a client"))?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }
}

#[test]
fn the_commands_of_the_readme_work_from_a_second_machine_and_on_the_socket() -> Result<()> {
    let (world, ca) = world()?;
    let lines = readme_lines();
    assert!(lines.len() >= 4, "{lines:?}");
    for program in programs() {
        let caller = Caller { world: &world, program: &program, ca: &ca };
        let mut seen = Vec::new();
        for words in &lines {
            let last = words.last().expect("a method");
            if last.ends_with("/WatchEvents") {
                assert_eq!(caller.first(words)?["seq"], "1", "{words:?}");
                seen.push("WatchEvents");
                continue;
            }
            let done = caller.run(words)?;
            let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            assert!(done.status.success(), "{program:?} {words:?}: {err}");
            if last == "zdd.v1.Control" {
                assert!(out.lines().any(|line| line == "zdd.v1.Control.Shift"), "{out}");
                seen.push("list");
                continue;
            }
            let answer: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
            match last.as_str() {
                "zdd.v1.Control/Shift" => {
                    assert_eq!(answer["versions"][1]["name"], "v2", "{answer}");
                    assert!((answer["versions"][1]["asked"].as_f64().expect("a share") - 0.1).abs() < 1e-9);
                    seen.push("Shift");
                }
                "zdd.v1.Control/GetStatus" => {
                    assert_eq!(answer["services"][0]["name"], "web", "{answer}");
                    seen.push("GetStatus");
                }
                other => panic!("what shall {other} answer?"),
            }
        }
        for wanted in ["list", "Shift", "WatchEvents", "GetStatus"] {
            assert!(seen.contains(&wanted), "no {wanted} in the README: {seen:?}");
        }
    }
    // What was shifted is on record, with the certificate that asked for it.
    let audit = std::fs::read_to_string(world.rig.scratch().path("state/audit.jsonl")).expect("audit.jsonl");
    assert!(
        audit.contains("certificate CN=ci from 10.80.0.2") && audit.contains("shift web v2=10%"),
        "{audit}"
    );
    Ok(())
}

#[test]
fn a_refusal_reaches_a_script_with_its_code_and_the_way_out() -> Result<()> {
    let (world, ca) = world()?;
    let program = programs().remove(0);
    let caller = Caller { world: &world, program: &program, ca: &ca };
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let tls = "-cacert agents-ca.crt -cert look.crt -key look.key";
    let refused = caller
        .run(&words(&format!("{tls} -d {{\"service\":\"web\"}} 10.0.0.1:9443 zdd.v1.Control/Rollback")))?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    // PERMISSION_DENIED is 7.
    assert_eq!(refused.status.code(), Some(71), "{told}");
    assert!(told.contains("needs the role operator") && told.contains("dns:look.example.com"), "{told}");
    for (line, word) in [
        (format!("{tls} 10.0.0.1:9443 zdd.v1.Control/Shft"), "`list zdd.v1.Control` shows them"),
        (format!("{tls} -d {{\"servic\":1}} 10.0.0.1:9443 zdd.v1.Control/Rollback"), "is no RollbackRequest"),
        ("-plaintext 10.0.0.1:9443 list".to_owned(), "TLS only"),
        ("10.0.0.1:9443 list".to_owned(), "both sides show a certificate"),
    ] {
        let done = caller.run(&words(&line))?;
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && told.contains(word), "{line}: {told}");
    }
    Ok(())
}
