//! The agent as the DaemonSet's pod: the manifest's own mounts, rights, probes and hooks, made into a container by runc, with live traffic.
//! With `ZDD_IMAGE` (an OCI archive of `cargo xtask image`) the image's file system and entry point, otherwise those of the build. Needs
//! root.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use zdd_tests::rig::{Error, Proc, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, as_before, unharmed};

/// What container engines allow unless asked otherwise, as Debian packages it.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The pod's template in the DaemonSet.
fn pod_spec() -> Value {
    let read = "import json, sys, yaml\nprint(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let root = repository();
    let mut python = Command::new(root.join(".tools/python/bin/python"));
    let out = python.args(["-c", read]).arg(root.join("scripts/kubernetes/zdd.yaml")).output();
    let out = out.expect("scripts/setup.sh --tests makes this environment");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let all: Vec<Value> = serde_json::from_slice(&out.stdout).expect("JSON");
    let set = all.into_iter().find(|one| one["kind"] == "DaemonSet").expect("a DaemonSet");
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 0, "two agents need two sockets");
    set["spec"]["template"]["spec"].clone()
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A duration of the command line in seconds: `10m`, `90s`.
fn seconds(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("a number");
    number * if unit == "m" { 60 } else { 1 }
}

/// What the image holds: its file system below `root`, and the words that start it.
fn image(archive: &Path, root: &Path) -> Vec<String> {
    let unpacked = root.with_file_name("image");
    let open = |path: &Path| std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    tar::Archive::new(open(archive)).unpack(&unpacked).expect("an OCI archive");
    let read = |path: &Path| -> Value { serde_json::from_reader(open(path)).expect("JSON") };
    let blob = |of: &Value| {
        let (kind, digest) = of["digest"].as_str().and_then(|d| d.split_once(':')).expect("a digest");
        unpacked.join("blobs").join(kind).join(digest)
    };
    let manifest = read(&blob(&read(&unpacked.join("index.json"))["manifests"][0]));
    for layer in manifest["layers"].as_array().expect("layers") {
        let bytes: Box<dyn Read> = if layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with("gzip")) {
            Box::new(flate2::read::GzDecoder::new(open(&blob(layer))))
        } else {
            Box::new(open(&blob(layer)))
        };
        tar::Archive::new(bytes).unpack(root).expect("a layer");
    }
    let config = &read(&blob(&manifest["config"]))["config"];
    assert_eq!(config["User"], "0:0", "{config}");
    // The arguments of a pod replace the image's `CMD`.
    assert_eq!(words(&config["Cmd"]), ["agent", "--config", "/etc/zdd/zdd.toml"], "{config}");
    words(&config["Entrypoint"])
}

/// The binary of this build and the libraries that it asks for, as mounts: where, and from where.
fn build(binary: &Path) -> Vec<(String, PathBuf)> {
    let said = Command::new("ldd").arg(binary).output().expect("ldd");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let paths = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let libraries = paths.map(|path| (path.to_owned(), PathBuf::from(path)));
    libraries.chain([("/zdd".to_owned(), binary.to_owned())]).collect()
}

/// The profile for these capabilities, as an engine would resolve it.
fn seccomp(capabilities: &[String]) -> Value {
    let text = std::fs::read_to_string(SECCOMP).expect("golang-github-containers-common is installed");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    let has = |list: &Value| words(list).iter().any(|one| capabilities.contains(one));
    let here = |list: &Value| words(list).is_empty() || words(list).contains(&"amd64".to_owned());
    let mut rules: Vec<Value> = Vec::new();
    for rule in profile["syscalls"].as_array().expect("rules") {
        let (with, without) = (&rule["includes"], &rule["excludes"]);
        let wanted = words(&with["caps"]).is_empty() || has(&with["caps"]);
        if wanted && !has(&without["caps"]) && here(&with["arches"]) {
            let mut kept = json!({ "names": rule["names"], "action": rule["action"] });
            for (key, value) in [("args", &rule["args"]), ("errnoRet", &rule["errnoRet"])] {
                if !value.is_null() {
                    kept[key] = value.clone();
                }
            }
            rules.push(kept);
        }
    }
    // This profile is older than those that the manifest asks for, which allow each of the two to its own capability.
    for (capability, call) in [("CAP_BPF", "bpf"), ("CAP_PERFMON", "perf_event_open")] {
        if capabilities.iter().any(|one| one == capability) {
            for rule in rules.iter_mut().filter(|rule| rule["action"] == "SCMP_ACT_ERRNO") {
                let names = words(&rule["names"]).into_iter().filter(|name| name != call);
                rule["names"] = names.collect();
            }
            rules.push(json!({ "names": [call], "action": "SCMP_ACT_ALLOW" }));
        }
    }
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules })
}

/// A node, and the containers that its kubelet starts.
struct Node<'w> {
    world: &'w World,
    spec: Value,
    bundle: PathBuf,
    state: PathBuf,
    started: u32,
    pod: Option<Proc>,
}

impl<'w> Node<'w> {
    fn new(world: &'w World) -> Result<Self> {
        let spec = pod_spec();
        let bundle = world.rig.scratch().path("bundle");
        let root = bundle.join("rootfs");
        std::fs::create_dir_all(&root).map_err(Error::io("a bundle"))?;
        let node =
            Self { world, spec, bundle, state: world.rig.scratch().path("runc"), started: 0, pod: None };
        let entry = match std::env::var_os("ZDD_IMAGE") {
            Some(archive) => (image(Path::new(&archive), &root), Vec::new()),
            None => (vec!["/zdd".to_owned()], build(world.binary())),
        };
        node.configure(entry.0, &entry.1)?;
        Ok(node)
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    /// Where a volume of the manifest is on this node.
    fn volume(&self, name: &Value) -> PathBuf {
        let scratch = self.world.rig.scratch();
        let volumes = self.spec["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == *name).expect("a volume of the pod");
        match volume["hostPath"]["path"].as_str() {
            Some("/sys/fs/bpf") => scratch.bpffs(),
            Some("/var/lib/zdd") => scratch.path("state"),
            Some("/run/zdd") => scratch.path("run"),
            None if volume["configMap"]["name"] == "zdd" => scratch.path("etc"),
            other => panic!("what is {other:?}?"),
        }
    }

    /// Writes the container's description: runc's own defaults, which are Kubernetes' too, and what the manifest says.
    fn configure(&self, entry: Vec<String>, files: &[(String, PathBuf)]) -> Result<()> {
        let ran = Command::new("runc").args(["spec", "--bundle"]).arg(&self.bundle).output();
        assert!(ran.expect("runc is installed").status.success());
        let path = self.bundle.join("config.json");
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(&path).expect("a description")).expect("JSON");
        let (pod, container) = (&self.spec, self.container());
        let rights = &container["securityContext"];
        assert_eq!((&pod["hostNetwork"], &rights["privileged"]), (&Value::Bool(true), &Value::Null));
        let capabilities: Vec<String> =
            words(&rights["capabilities"]["add"]).iter().map(|name| format!("CAP_{name}")).collect();
        assert_eq!(words(&rights["capabilities"]["drop"]), ["ALL"]);
        assert_eq!(rights["seccompProfile"]["type"], "RuntimeDefault");
        let process = &mut config["process"];
        process["terminal"] = false.into();
        process["user"] = json!({ "uid": rights["runAsUser"], "gid": rights["runAsUser"] });
        process["args"] = entry.into_iter().chain(words(&container["args"])).collect();
        process["env"] = container["env"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                assert_eq!(one["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName", "{one}");
                format!("{}=n1", one["name"].as_str().expect("a name"))
            })
            .collect();
        // Those of a process of root's in a container: no ambient ones.
        process["capabilities"] =
            json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities });
        process["noNewPrivileges"] = (rights["allowPrivilegeEscalation"] == false).into();
        config["root"]["readonly"] = rights["readOnlyRootFilesystem"].clone();
        config["linux"]["seccomp"] = seccomp(&capabilities);
        for space in config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
            if space["type"] == "network" {
                space["path"] = self.world.rig.ns("lb").path().display().to_string().into();
            }
        }
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        for one in container["volumeMounts"].as_array().expect("mounts") {
            let (from, mode) = (self.volume(&one["name"]), if one["readOnly"] == true { "ro" } else { "rw" });
            std::fs::create_dir_all(&from).map_err(Error::io("a host path"))?;
            mounts.push(json!({ "destination": one["mountPath"], "type": "bind", "source": from, "options": ["rbind", mode] }));
        }
        for (to, from) in files {
            mounts.push(
                json!({ "destination": to, "type": "bind", "source": from, "options": ["bind", "ro"] }),
            );
        }
        std::fs::write(&path, config.to_string()).map_err(Error::io("write the description"))
    }

    fn name(&self) -> String {
        let id = self.world.rig.ns("lb").name();
        format!("{id}-pod-{}", self.started)
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state).args(arguments);
        command
    }

    /// Runs a command of the manifest in the container.
    fn exec(&self, argv: &[String]) -> Output {
        let mut command = self.runc(&["exec", &self.name()]);
        command.args(argv).output().expect("runc is installed")
    }

    /// Starts a container, and lets the startup and readiness probes say when it is there.
    fn start(&mut self) -> Result<()> {
        self.started += 1;
        let mut command = self.runc(&["run", "--bundle"]);
        command.arg(&self.bundle).arg(self.name());
        self.pod = Some(Proc::start_logged(command, &self.world.agent_log())?);
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let argv = words(&self.container()[probe]["exec"]["command"]);
            assert!(!argv.is_empty(), "no {probe}");
            let mut last = String::new();
            let there = wait_for(probe, PATIENCE, LOOK_EVERY, || {
                self.pod.as_mut().expect("started").must_run()?;
                let done = self.exec(&argv);
                last = String::from_utf8_lossy(&done.stderr).into_owned();
                Ok::<_, Error>(done.status.success().then_some(()))
            });
            there.unwrap_or_else(|error| panic!("{error}: {last}"));
        }
        Ok(())
    }

    /// The preStop hook, as the kubelet runs it before it sends SIGTERM.
    fn pre_stop(&self) -> Output {
        let argv = words(&self.container()["lifecycle"]["preStop"]["exec"]["command"]);
        assert!(!argv.is_empty(), "no preStop");
        self.exec(&argv)
    }

    fn end(&mut self, signal: &str) -> Result<std::process::ExitStatus> {
        let sent = self.runc(&["kill", &self.name(), signal]).status().expect("runc is installed");
        assert!(sent.success());
        let status = self.pod.as_mut().expect("a container").wait(PATIENCE)?;
        self.remove();
        Ok(status)
    }

    fn remove(&mut self) {
        if let Some(pod) = self.pod.take() {
            drop(self.runc(&["delete", "--force", &self.name()]).output());
            drop(pod);
        }
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A world without an agent whose command line finds the pod's socket. Node n1 has the first backend of each version.
fn world() -> Result<World> {
    let nodes = "[[node]]\nname = \"n1\"\naddresses = [\"10.81.1.0/30\", \"10.81.3.2/32\"]\n";
    let setup = Setup { affinity: "flow", api: nodes.to_owned(), idle_ms: 2000, ..Setup::default() };
    let world = World::new(setup)?;
    // Everything where the manifest has it: at the defaults.
    let text = world.setup.toml(Path::new("/nowhere"));
    let ours = |line: &&str| !["pin_dir", "state_dir", "socket"].iter().any(|key| line.starts_with(key));
    let text: Vec<&str> = text.lines().filter(ours).collect();
    std::fs::create_dir_all(world.rig.scratch().path("etc")).map_err(Error::io("a directory"))?;
    world.write("etc/zdd.toml", &text.join("\n"))?;
    let socket = world.rig.scratch().path("run/zdd.sock");
    std::os::unix::fs::symlink(socket, world.zdd().socket()).map_err(Error::io("a link"))?;
    Ok(world)
}

fn healthy(world: &World) -> Result<()> {
    wait_for("healthy backends", PATIENCE, LOOK_EVERY, || {
        let status = world.status()?.to_string();
        let sick = ["\"unhealthy\"", "\"unknown\""].iter().any(|word| status.contains(word));
        Ok::<_, Error>((!sick).then_some(()))
    })
}

#[test]
fn a_pod_is_updated_crashes_and_leaves_and_no_connection_breaks() -> Result<()> {
    let world = world()?;
    let mut node = Node::new(&world)?;
    node.start()?;
    healthy(&world)?;
    let pid = world.status()?["pid"].clone();
    assert_eq!(pid, 1, "it is the first process of its container");
    // No more than the manifest grants, and one filter of the runtime's, one of its own.
    let about = node.exec(&["/zdd".to_owned(), "doctor".to_owned(), "--json".to_owned()]);
    assert!(about.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&about.stdout));

    let load = world.load(20)?;
    world.zdd().run(&["shift", "web", "v2=50%"])?;
    as_before(&load)?;

    // An update: the hook drains nothing, the agent ends in time, and the next one finds what was asked for.
    let hook = node.pre_stop();
    let told = String::from_utf8_lossy(&hook.stderr).into_owned();
    assert!(hook.status.success() && told.contains("nothing is drained"), "{told}");
    assert!(node.end("TERM")?.success());
    as_before(&load)?;
    node.start()?;
    let half = |world: &World| -> Result<()> {
        let status = world.status()?;
        let web = zdd_tests::world::status::service(&status, "web").clone();
        assert_eq!(web["versions"][1]["asked"], 0.5, "{web}");
        Ok(())
    };
    half(&world)?;
    as_before(&load)?;

    // A crash: the kubelet starts another container.
    assert!(!node.end("KILL")?.success());
    as_before(&load)?;
    node.start()?;
    healthy(&world)?;
    half(&world)?;
    as_before(&load)?;
    unharmed(&load.finish());

    // The node goes: the hook returns when its backends have nobody left, and within the pod's grace.
    let argv = words(&node.container()["lifecycle"]["preStop"]["exec"]["command"]);
    let deadline = argv.iter().skip_while(|word| *word != "--deadline").nth(1).expect("a deadline");
    let grace = node.spec["terminationGracePeriodSeconds"].as_u64().expect("a grace");
    assert!(seconds(deadline) + 10 < grace, "the agent needs time to end after {deadline} of {grace} s");
    std::fs::write(node.volume(&"run".into()).join("leaving"), "").map_err(Error::io("mark the node"))?;
    let hook = node.pre_stop();
    assert!(hook.status.success(), "{}", String::from_utf8_lossy(&hook.stderr));
    let states = world.zdd().json(&["backend", "list"])?.to_string();
    assert_eq!(states.matches("\"draining\"").count(), 4, "two backends of two services: {states}");
    assert!(node.end("TERM")?.success());
    Ok(())
}

#[test]
fn a_pod_with_less_says_what_is_missing() -> Result<()> {
    let world = world()?;
    let mut node = Node::new(&world)?;
    let path = node.bundle.join("config.json");
    let whole = std::fs::read_to_string(&path).expect("a description");
    let mut less: Value = serde_json::from_str(&whole).expect("JSON");
    for set in ["bounding", "effective", "permitted"] {
        less["process"]["capabilities"][set] = json!(["CAP_NET_ADMIN", "CAP_PERFMON"]);
    }
    std::fs::write(&path, less.to_string()).map_err(Error::io("write"))?;
    node.started += 1;
    let mut command = node.runc(&["run", "--bundle"]);
    command.arg(&node.bundle).arg(node.name());
    let mut pod = Proc::start_logged(command, &world.agent_log())?;
    let status = pod.wait(PATIENCE)?;
    let log = std::fs::read_to_string(world.agent_log()).unwrap_or_default();
    node.pod = Some(pod);
    assert!(
        !status.success() && log.contains("lacks CAP_BPF") && log.contains("in a container, add them"),
        "{log}"
    );
    Ok(())
}
