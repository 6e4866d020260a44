//! What the agent keeps of root's rights, and that everything works with it; what leaves the host has no secrets. Needs root.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use zdd_tests::rig::{Error, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, status, unharmed};

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF of linux/capability.h.
const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;

fn number(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of /proc/PID/status");
    u64::from_str_radix(line.trim(), 16).expect("a number")
}

/// Looks at every thread: capabilities are a thread's own.
fn keeps_exactly(pid: u64) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    for task in tasks.flatten() {
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        for (field, expected) in [
            ("CapEff:", KEPT),
            ("CapPrm:", KEPT),
            ("CapBnd:", KEPT),
            ("CapInh:", 0),
            ("CapAmb:", 0),
            ("NoNewPrivs:", 1),
            ("Seccomp:", 2),
        ] {
            assert_eq!(number(&status, field), expected, "{field} {status}");
        }
    }
}

#[test]
fn an_agent_started_as_root_keeps_three_capabilities_and_everything_works() -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("zdd-hook-{}", std::process::id()));
    // A hook tells which rights it has: none.
    let rollout = format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{{ weight = 20 }}, {{ pause = \"until-promoted\" }}]\n\
         [[service.rollout.hook]]\non = \"pre-rollout\"\nexec = [\"/bin/cp\", \"/proc/self/status\", \"{}\"]\n",
        scratch.display()
    );
    let setup = Setup { rollout: Some(rollout), ..Setup::default() };
    let mut world = World::running(setup)?;
    let pid = world.status()?["pid"].as_u64().expect("a number");
    keeps_exactly(pid);
    let load = world.load(10)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    as_before(&load)?;
    world.zdd().run(&["shift", "web", "v2=0%"])?;
    // An interface that comes later, its next hops, and what veths take.
    world.rig.wire(("lb", "zlnew"), ("b1", "bnew"))?;
    world.wait_status("zlnew to be attached", |status| {
        (status::interface(status, "zlnew")?["attached"] == true).then_some(())
    })?;
    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    wait_for("the hook", PATIENCE, LOOK_EVERY, || Ok::<_, Error>(scratch.exists().then_some(())))?;
    wait_for("the hook's words", PATIENCE, LOOK_EVERY, || {
        let text = std::fs::read_to_string(&scratch).unwrap_or_default();
        Ok::<_, Error>((text.contains("CapEff:") && text.contains("NoNewPrivs:")).then_some(()))
    })?;
    let hook = std::fs::read_to_string(&scratch).expect("its words");
    drop(std::fs::remove_file(&scratch));
    assert_eq!((number(&hook, "CapEff:"), number(&hook, "CapPrm:")), (0, 0), "{hook}");
    world.zdd().run(&["rollout", "abort", "web"])?;
    // The next build takes over what is pinned, with no more.
    world.stop_agent()?;
    world.start_agent()?;
    world.wait_healthy()?;
    keeps_exactly(world.status()?["pid"].as_u64().expect("a number"));
    as_before(&load)?;
    unharmed(&load.finish());
    world.zdd().run(&["detach"])?;
    world.agent_ends()?;
    Ok(())
}

/// Names and texts of a bundle.
fn unpack(file: &std::path::Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(file).expect("the bundle");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut all = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        all.insert(name.trim_start_matches("zdd-support/").to_owned(), text);
    }
    all
}

/// Tries calls that need no rights, so that only the filter can refuse them, and tells what the kernel said.
const TRIES: &str = r#"
import ctypes, errno, os, pathlib, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def told(call, *args):
    return "done" if call(*args) >= 0 else errno.errorcode[ctypes.get_errno()]
said = [f"unshare {told(libc.unshare, 0)}", f"ptrace {told(libc.ptrace, 0, 0, 0, 0)}",
        f"process_vm_readv {told(libc.process_vm_readv, os.getpid(), None, 0, None, 0, 0)}"]
# What hooks are made of: other programs, threads, files, sockets.
import threading, socket
thread = threading.Thread(target=lambda: said.append("thread done")); thread.start(); thread.join()
said.append("child " + subprocess.run(["/bin/sh", "-c", "echo done | cat"], capture_output=True, text=True).stdout.strip())
socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
part = pathlib.Path(sys.argv[1] + ".part")
part.write_text("\n".join(said) + "\n"); part.rename(sys.argv[1])
"#;

#[test]
fn forbidden_calls_fail_while_rollouts_hooks_kills_and_restarts_go_on() -> Result<()> {
    let mut world = World::new(Setup::default())?;
    let (script, told) = (world.rig.scratch().path("tries.py"), world.rig.scratch().path("told"));
    std::fs::write(&script, TRIES).map_err(Error::io("write tries.py"))?;
    world.setup.rollout = Some(format!(
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{{ weight = 20 }}, {{ pause = \"until-promoted\" }}]\n\
         [[service.rollout.analysis]]\nname = \"program\"\ninterval = \"200ms\"\nexec = {{ argv = [\"/bin/true\"] }}\n\
         [[service.rollout.hook]]\non = \"pre-rollout\"\nexec = [\"/usr/bin/python3\", \"{}\", \"{}\"]\n",
        script.display(),
        told.display()
    ));
    world.write_config()?;
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(10)?;
    for round in 0..2 {
        keeps_exactly(world.status()?["pid"].as_u64().expect("a number"));
        world.zdd().run(&["rollout", "start", "web", "v2"])?;
        wait_for("what the hook was told", PATIENCE, LOOK_EVERY, || {
            Ok::<_, Error>(told.exists().then_some(()))
        })?;
        let said = std::fs::read_to_string(&told).expect("its words");
        assert_eq!(
            said, "unshare EPERM\nptrace EPERM\nprocess_vm_readv EPERM\nthread done\nchild done\n",
            "round {round}"
        );
        std::fs::remove_file(&told).map_err(Error::io("forget it"))?;
        world.wait_status("the canary's first step", |status| {
            (status::version(status, "web", "v2")["asked"] == 0.2).then_some(())
        })?;
        as_before(&load)?;
        world.zdd().run(&["rollout", "abort", "web"])?;
        if round == 0 {
            world.kill_agent();
            as_before(&load)?;
            world.start_agent()?;
            world.wait_healthy()?;
        }
    }
    let doctor = world.zdd().output(&["doctor", "--json"])?;
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("findings");
    let findings = doctor["findings"].as_array().expect("a list");
    let sandbox = findings.iter().find(|finding| finding["check"] == "sandbox").expect("it is looked at");
    assert_eq!(sandbox["level"], "ok", "{sandbox}");
    unharmed(&load.finish());
    // Whoever needs it can do without, and is told.
    world.setup.agent_lines = "seccomp = \"off\"".to_owned();
    world.write_config()?;
    world.stop_agent()?;
    world.start_agent()?;
    let doctor = world.zdd().output(&["doctor"])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("has no seccomp filter: agent.seccomp is off"), "{doctor}");
    Ok(())
}

#[test]
fn no_secret_is_in_bundle_log_or_status() -> Result<()> {
    // Whoever answers there, nobody does: errors tend to tell the whole URL.
    let rollout =
        "[service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 20 }, { pause = \"until-promoted\" }]\n\
         [[service.rollout.analysis]]\nname = \"errors\"\ninterval = \"200ms\"\nfailure_limit = 100\n\
         consecutive_error_limit = 1000\n\
         prometheus = { address = \"http://127.0.0.1:9/planted-1\", query = \"up\", success = \"<= 0\" }\n\
         [[service.rollout.analysis]]\nname = \"page\"\ninterval = \"200ms\"\nfailure_limit = 100\n\
         consecutive_error_limit = 1000\n\
         web = { url = \"http://127.0.0.1:9/x?token=planted-2\", json = \"$.x\", success = \"== 1\" }\n\
         [[service.rollout.hook]]\non = \"event\"\nexec = [\"/bin/false\", \"--password\", \"planted-3\"]\n\
         [[service.rollout.hook]]\non = \"event\"\nwebhook = \"http://127.0.0.1:9/services/planted-6\"\n\
         [[service.rollout.analysis]]\nname = \"stats\"\ninterval = \"200ms\"\nfailure_limit = 100\n\
         consecutive_error_limit = 1000\n\
         web = { url = \"http://127.0.0.1:9/x?k=planted-7\", json = \"$.x\", success = \"== 1\" }\n"
            .to_owned();
    let setup = Setup {
        rollout: Some(rollout),
        agent_lines: "otlp = \"http://127.0.0.1:9/planted-8\"".to_owned(),
        api: "[[alert]]\nname = \"ops\"\nwebhook = \"http://127.0.0.1:9/services/T0/planted-9\"\n".to_owned(),
        ..Setup::default()
    };
    let mut world = World::new(setup)?;
    world.environment.push(("ZDD_LOG".to_owned(), "trace".to_owned()));
    world.start_agent()?;
    world.wait_healthy()?;
    world.zdd().run(&["rollout", "start", "web", "v2", "--reason", "see https://u:planted-4@wiki/x"])?;
    // Health checks that ask for, expect and hand over secrets, and fail; then others in their place.
    let checks = |n: u8| {
        [
            format!(
                "{{ http = \"/health?token=planted-1{n}\", expect_headers = [\"X-Auth-Token: planted-2{n}\"] }}"
            ),
            format!("{{ exec = [\"/bin/false\", \"planted-3{n}\"] }}"),
            format!("{{ udp = \"planted-4{n}\" }}"),
        ]
    };
    let plain = world.setup.api.clone();
    let mut applied = String::new();
    for n in 1..=2 {
        world.setup.api.clone_from(&plain);
        for (at, check) in checks(n).iter().enumerate() {
            world.setup.api += &format!(
                "[[service]]\nname = \"hidden{at}\"\nvip = \"10.80.255.10:{}/tcp\"\nforward = \"nat\"\nhealth = {check}\n\
                 [[service.version]]\nname = \"v1\"\nbackends = [\"{}:{}\"]\n",
                9000 + at,
                zdd_tests::rig::backend_address(1),
                zdd_tests::world::HEALTH_PORT + if at == 0 { 0 } else { 100 + at as u16 },
            );
        }
        world.write_config()?;
        let config = world.config().display().to_string();
        applied += &world.zdd().run(&["apply", &config, "--dry-run"])?;
        applied += &world.zdd().run(&["apply", &config])?;
        world.wait_status("the checks to fail", |status| {
            let hidden =
                |name: &str| &status::version(status, name, "v1")["backends"][0]["health"] == "unhealthy";
            (0..3).all(|at| hidden(&format!("hidden{at}"))).then_some(())
        })?;
    }
    assert!(applied.contains("hidden1 health: exec every 1s"), "{applied}");
    // Measured more than once, so that what went wrong is told.
    wait_for("measurements", PATIENCE, LOOK_EVERY, || {
        let report = world.zdd().json(&["rollout", "status", "web"])?;
        let told = report["analyses"].as_array().is_some_and(|all| all.iter().all(|a| !a["last"].is_null()));
        Ok::<_, Error>(told.then_some(()))
    })?;
    let file = world.rig.scratch().path("bundle.tar.gz");
    let log = world.rig.scratch().path("agent.log");
    let mut command = world.zdd().command(&["support-bundle"]);
    command
        .arg(&file)
        .arg("--config")
        .arg(world.config())
        .arg("--log")
        .arg(&log)
        .env("BACKUP_TOKEN", "planted-5");
    let done = world.rig.in_ns("lb", || command.output())?.map_err(Error::io("run zdd"))?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(std::fs::metadata(&file).expect("the bundle").permissions().mode() & 0o777, 0o600);
    let bundle = unpack(&file);
    for name in [
        "zdd.toml",
        "host.txt",
        "status.json",
        "rollout-web.json",
        "events.jsonl",
        "doctor.json",
        "maps.json",
        "metrics.txt",
        "audit.jsonl",
        "files.txt",
        "log-1.txt",
        "missing.txt",
    ] {
        assert!(bundle.get(name).is_some_and(|text| !text.is_empty()), "{name}: {:?}", bundle.keys());
    }
    assert!(bundle["maps.json"].contains("entries_max") && bundle["metrics.txt"].contains("zdd_build_info"));
    assert!(bundle["zdd.toml"].contains("[redacted]") && bundle["zdd.toml"].contains("10.80.255.10:80/tcp"));
    for (name, text) in &bundle {
        assert!(!text.contains("planted"), "a secret is in {name}: {text}");
    }
    // Nor where everybody looks: the agent's own log, status and rollout.
    let seen = [
        ("the log", std::fs::read_to_string(&log).expect("the log")),
        ("status", world.zdd().run(&["status", "--json"])?),
        ("what apply says", applied),
        ("doctor", world.zdd().run(&["doctor", "--json"]).unwrap_or_default()),
        ("events", world.zdd().run(&["events", "--json"])?.replace("planted-4@", "")),
        (
            "audit",
            std::fs::read_to_string(world.rig.scratch().path("state/audit.jsonl"))
                .expect("it")
                .replace("planted-4@", ""),
        ),
        (
            "rollout status",
            world.zdd().run(&["rollout", "status", "web", "--json"])?.replace("planted-4", ""),
        ),
    ];
    for (what, text) in seen {
        assert!(!text.contains("planted"), "a secret is in {what}: {text}");
    }
    // A second one does not overwrite the first; without an agent there is still something to say.
    let again = world.refused(&["support-bundle", &file.display().to_string()])?;
    again.says(1, &["name another file"]);
    world.kill_agent();
    let alone = world.rig.scratch().path("alone.tar.gz");
    world.zdd().run(&[
        "support-bundle",
        &alone.display().to_string(),
        "--config",
        &world.config().display().to_string(),
    ])?;
    let bundle = unpack(&alone);
    assert!(
        bundle.contains_key("doctor.json") && bundle["missing.txt"].contains("status.json: no agent answers")
    );
    Ok(())
}

#[test]
fn an_agent_without_rights_says_which_and_what_to_do() -> Result<()> {
    let world = World::new(Setup::default())?;
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-bpf,-perfmon,-sys_admin", "--inh-caps", "-all", "--"]);
    command.arg(world.binary()).arg("agent").arg("--config").arg(world.config());
    let done = world.rig.in_ns("lb", || command.output())?.map_err(Error::io("run zdd"))?;
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{told}");
    assert!(
        told.contains("error: this user lacks CAP_BPF, CAP_PERFMON\nhelp: run the agent as root"),
        "{told}"
    );
    Ok(())
}

/// The systemd unit grants what the agent keeps, and nothing else.
#[test]
fn the_unit_and_the_manifest_name_the_same_rights() {
    let unit = include_str!("../../scripts/zdd.service");
    assert!(unit.contains("CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN CAP_PERFMON\n"));
    let manifest = include_str!("../../scripts/kubernetes/zdd.yaml");
    assert!(
        manifest.contains("drop: [\"ALL\"]")
            && manifest.contains("add: [\"BPF\", \"NET_ADMIN\", \"PERFMON\"]")
    );
}
