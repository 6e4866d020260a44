//! Every command line that the README shows is run: here, against an agent with the README's services, or where [`ELSEWHERE`] says.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use zdd_tests::rig::{Error, Proc, Result, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World};

use super::blocks;

/// Lines that are not run here (`*`: and all that begin so): who runs them, or why nobody does.
const ELSEWHERE: [(&str, &str); 23] = [
    ("scripts/setup.sh", "scripts/test.sh begins with it"),
    ("PATH=$PWD/.tools/bin:*", "scripts/test.sh builds so, for its demo"),
    ("install target/release/zdd*", "cargo xtask vm --systemd puts the binary there"),
    ("ip addr add 10.0.0.10/32 dev lo", "the five minutes: main.rs"),
    ("sysctl -w net.ipv4.ip_forward=1", "the five minutes: main.rs"),
    ("sysctl -w net.ipv4.conf.all.accept_local=1", "the five minutes: main.rs"),
    ("sysctl -w net.ipv4.conf.all.rp_filter=2", "the five minutes: main.rs"),
    ("sysctl -w net.ipv4.conf.all.arp_ignore=1*", "every backend of a rig under l2: tests/src/rig"),
    ("zdd decap --interface eth0*", "tests/tests/encap, with its own names"),
    ("zdd check zdd.toml", "the five minutes: main.rs"),
    ("zdd doctor --config zdd.toml", "the five minutes: main.rs"),
    ("zdd agent --config zdd.toml", "the five minutes: main.rs"),
    ("zdd status", "the five minutes: main.rs"),
    ("install -*", "cargo xtask vm --systemd, as it is written"),
    ("systemctl *", "cargo xtask vm --systemd, as it is written"),
    ("kubectl *", "nobody: there is no cluster; its `zdd` is run here"),
    ("for pod in $(kubectl*", "nobody: there is no cluster; its `zdd` is run here"),
    ("zdd --server https://*", "tests/tests/api.rs, with its own names"),
    ("curl http://10.0.0.11/", "tests/tests/rollout/preview.rs, with its own clients"),
    ("grpcurl *", "tests/tests/clients.rs"),
    ("cargo xtask bench*", "tests/tests/bench.rs, tests/tests/live.rs"),
    ("rm -r /var/lib/zdd", "cargo xtask vm --systemd, as it is written"),
    ("ip addr del 10.0.0.10/32*", "cargo xtask vm --systemd, as it is written"),
];

/// A rollout that nobody needs to promote.
const QUICK: &str = "steps = [{ weight = 10 }]";

/// Command lines of shell blocks, without their remarks.
fn shown() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for block in blocks().iter().filter(|block| ["sh", "console"].contains(&block.language.as_str())) {
        for line in block.text.lines() {
            let line = match (block.language.as_str(), line.strip_prefix("$ ")) {
                ("console", None) => continue,
                (_, Some(line)) => line,
                (_, None) => line,
            };
            let line = line.split(" #").next().unwrap_or(line).trim();
            if !line.is_empty() && !line.starts_with('#') && line != "done" {
                all.insert(line.to_owned());
            }
        }
    }
    all
}

/// Three services, and a rollout of `web`.
fn setup() -> Setup {
    let node = "[[node]]\nname = \"worker-1\"\naddresses = [\"10.81.2.0/30\", \"10.81.4.0/30\"]\n";
    let analysis = "[[service.rollout.analysis]]\nname = \"health\"\ninterval = \"200ms\"\n\
                    builtin = { metric = \"healthy-share\", success = \">= 1\" }\n";
    let rollout = format!("[service.rollout]\nstrategy = \"canary\"\n{QUICK}\n{analysis}");
    Setup { idle_ms: 1000, api: node.to_owned(), rollout: Some(rollout), ..Setup::default() }
}

/// The service `api` beside `web`, with versions v6 and v7.
fn with_api(world: &World, train: &str) -> String {
    let text = world.setup.toml(world.rig.scratch().dir());
    let api = "\n[[service]]\nname = \"api\"\nvip = \"10.80.255.10:8443/tcp\"\nforward = \"nat\"\ncells = 4096\nidle_timeout = \"1s\"\n\
         health = { http = \"/health\", port = 8081 }\n\
         [[service.version]]\nname = \"v6\"\nweight = 100\nbackends = [\"10.81.1.2:8443\"]\n\
         [[service.version]]\nname = \"v7\"\nweight = 0\nbackends = [\"10.81.3.2:8443\"]\n\
         [service.rollout]\nstrategy = \"canary\"\nsteps = [{ weight = 10 }, { pause = \"until-promoted\" }, { weight = 50 }, { pause = \"until-promoted\" }]\n";
    text + api + train
}

struct Shell<'w> {
    world: &'w World,
    run: BTreeSet<String>,
}

impl Shell<'_> {
    fn command(&self, line: &str) -> Result<Command> {
        let bin = self.world.binary().parent().expect("a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(self.world.rig.scratch().dir()).stdin(Stdio::null());
        command.env("PATH", format!("{bin}:{path}")).env("ZDD_SOCKET", self.world.zdd().socket());
        Ok(command)
    }

    /// A line of ours.
    fn own(&self, line: &str) -> Result<String> {
        let mut command = self.command(line)?;
        let done = self.world.rig.in_ns("lb", || command.output())?.map_err(Error::io("run a line"))?;
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "`{line}` ended with {}:\n{out}{err}", done.status);
        Ok(out.into_owned())
    }

    /// A line of the README, which must end well and say `word`.
    fn shown(&mut self, line: &str, word: &str) -> Result<()> {
        self.run.insert(line.to_owned());
        let said = self.own(line)?;
        assert!(said.contains(word), "`{line}` does not say {word:?}:\n{said}");
        Ok(())
    }

    /// A line of the README that goes on until somebody ends it; before, it says `word`.
    fn endless(&mut self, line: &str, word: &str) -> Result<()> {
        self.run.insert(line.to_owned());
        let log = self.world.rig.scratch().path("endless.log");
        drop(std::fs::remove_file(&log));
        let mut going: Proc =
            self.world.rig.ns("lb").spawn_logged(self.command(&format!("exec {line}"))?, &log)?;
        wait_for(line, PATIENCE, LOOK_EVERY, || {
            going.must_run()?;
            Ok::<_, Error>(std::fs::read_to_string(&log).is_ok_and(|said| said.contains(word)).then_some(()))
        })?;
        going.signal(libc::SIGINT);
        going.wait(PATIENCE)?;
        Ok(())
    }

    /// Waits until no rollout goes on and v1 has everything.
    fn given_back(&self) -> Result<()> {
        self.rollout("the end of the rollout", |report| {
            report["phase"].as_str().is_some_and(|phase| !["running", "rolling-back"].contains(&phase))
        })?;
        wait_for("v1 to have everything", PATIENCE, LOOK_EVERY, || {
            let status = self.world.status()?;
            let web = zdd_tests::world::status::service(&status, "web");
            Ok::<_, Error>((web["versions"][0]["asked"] == 1.0).then_some(()))
        })
    }

    fn rollout(&self, what: &str, enough: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let mut last = serde_json::Value::Null;
        let there = wait_for(what, PATIENCE, LOOK_EVERY, || {
            last = self.world.zdd().json(&["rollout", "status", "web"])?;
            Ok::<_, Error>(enough(&last).then_some(()))
        });
        there.unwrap_or_else(|error| panic!("{error}: {last}"));
        Ok(())
    }
}

#[test]
fn every_line_that_is_shown_is_run() -> Result<()> {
    let mut world = World::new(setup())?;
    world.write("zdd.toml", &with_api(&world, ""))?;
    world.start_agent()?;
    world.wait_healthy()?;
    let load = world.load(0)?;
    let mut sh = Shell { world: &world, run: BTreeSet::new() };

    sh.shown("zdd backend list web", "healthy")?;
    sh.shown("zdd who-moves web v2=10% --from 192.0.2.2:40000", "192.0.2.2:40000:")?;
    sh.shown("zdd who-moves web v2=100%", "100.00% of new clients would get another version")?;
    sh.shown("zdd shift web v2=10%", "generation 2")?;
    sh.shown("zdd explain web --from 192.0.2.2:40000", "192.0.2.2:40000 -> web")?;
    sh.shown("zdd rollback web", "v1")?;
    sh.shown("zdd shift web v2=100% --reason \"1.2.3\"", "v2")?;
    sh.shown("zdd shift web v2=100%", "v2")?;
    sh.shown("zdd drain web/v1 --wait --deadline 1h", "drained")?;
    sh.own("zdd undrain web/v1 && zdd rollback web")?;

    sh.shown("zdd trace web --count 100 --write web.pcapng", "")?;
    assert!(world.rig.scratch().path("web.pcapng").metadata().is_ok_and(|file| file.len() > 1000));
    // Lines that name a client or a reason which nobody here has print nothing; their end is what is looked at.
    sh.endless("zdd trace --reason drop", "")?;
    sh.endless("zdd trace web --from 10.0.3.7", "")?;

    // What is unwise here is that no rate is looked at; a file to be proud of ends with 0.
    sh.run.insert("zdd lint zdd.toml".to_owned());
    sh.own("zdd lint zdd.toml || [ $? = 1 ]")?;
    sh.shown("zdd apply zdd.toml", "")?;
    sh.shown("zdd rollout plan web v2", "10%")?;
    sh.shown("zdd rollout start web v2 --reason \"1.2.3\" --wait", "promoted")?;
    sh.shown("zdd rollout undo web", "")?;
    sh.given_back()?;

    let slow = "steps = [{ weight = 10 }, { pause = \"until-promoted\" }, { weight = 50 }, { pause = \"until-promoted\" }]";
    let text = with_api(&world, "").replacen(QUICK, slow, 1);
    world.write("zdd.toml", &text)?;
    sh.own("zdd apply zdd.toml")?;
    sh.shown("zdd rollout start web v2 --reason \"1.2.3\"", "")?;
    let waits = |weight: f64| {
        move |report: &serde_json::Value| {
            report["weight"] == weight && report["waits_for"].to_string().contains("promote")
        }
    };
    sh.rollout("its first pause", waits(0.1))?;
    sh.endless("zdd rollout status web --watch", "promote")?;
    sh.shown("zdd rollout promote web", "")?;
    sh.rollout("its second pause", waits(0.5))?;
    sh.shown("zdd rollout pause web", "")?;
    sh.shown("zdd gate close web --reason \"holidays\"", "")?;
    sh.shown("zdd rollout stop-the-line --reason \"INC-42\"", "")?;
    sh.shown("zdd rollout resume web --break-glass --reason \"outage\"", "")?;
    sh.own("zdd gate open web && zdd rollout release-the-line")?;
    sh.shown("zdd rollout abort web --reason \"pages\"", "")?;
    sh.given_back()?;
    sh.shown("zdd rollout retry web", "")?;
    sh.own("zdd rollout abort web")?;
    sh.given_back()?;
    sh.shown("zdd rollout history web", "v2")?;
    sh.shown("zdd rollout start web v2", "")?;
    sh.own("zdd rollout abort web")?;
    sh.given_back()?;

    let train = "train = \"spring\"\n";
    let text = with_api(&world, train).replacen(QUICK, &format!("{slow}\n{train}"), 1);
    world.write("zdd.toml", &text)?;
    sh.own("zdd apply zdd.toml")?;
    sh.shown("zdd train start spring web=v2 api=v7", "spring")?;
    sh.own("zdd train abort spring")?;
    sh.given_back()?;

    // UDP flows that go on would keep it waiting, as they should.
    drop(load.finish());
    sh.shown("zdd drain --node worker-1 --wait --deadline 10m", "drained")?;
    sh.shown("zdd undrain --node worker-1", "")?;
    sh.shown("zdd detach", "")?;
    let mut run = sh.run;
    world.agent_ends()?;
    world.start_agent()?;
    world.kill_agent();
    let mut sh = Shell { world: &world, run: BTreeSet::new() };
    sh.shown("zdd detach --config zdd.toml", "")?;
    run.append(&mut sh.run);

    let shown = shown();
    let gone: Vec<&String> = run.iter().filter(|line| !shown.contains(*line)).collect();
    assert!(gone.is_empty(), "run, and no longer in the README: {gone:#?}");
    let is = |line: &str, kind: &str| match kind.strip_suffix('*') {
        Some(begin) => line.starts_with(begin),
        None => line == kind,
    };
    let elsewhere = |line: &str| ELSEWHERE.iter().any(|(kind, _)| is(line, kind));
    let inside = |line: &str| {
        line.starts_with("kubectl -n zdd exec") && run.iter().any(|one| line.ends_with(&one["zdd ".len()..]))
    };
    let left: Vec<&String> =
        shown.iter().filter(|line| !run.contains(*line) && !elsewhere(line) && !inside(line)).collect();
    assert!(left.is_empty(), "shown, and run by nobody: {left:#?}");
    let unused: Vec<_> =
        ELSEWHERE.iter().filter(|(kind, _)| !shown.iter().any(|line| is(line, kind))).collect();
    assert!(unused.is_empty(), "no line begins so any more: {unused:?}");
    Ok(())
}
