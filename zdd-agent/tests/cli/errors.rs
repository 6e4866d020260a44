//! Errors that a script can rely on: exit code, `error:` and `help:` on stderr or one JSON object there, nothing on stdout.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zdd_agent::control::Refused;

use crate::answers::{Asked, CONFIG, agreeing, refusing};
use crate::rig::{Agent, Dir, Said, run};

#[tokio::test]
async fn without_an_agent_every_command_exits_with_4_and_says_the_way_out() {
    let dir = Dir::new();
    let socket = dir.0.join("zdd.sock");
    let file = dir.file("zdd.toml", CONFIG);
    let commands: &[&[&str]] = &[
        &["status"],
        &["status", "--watch"],
        &["shift", "web", "v2=10%"],
        &["rollback", "web"],
        &["backend", "add", "web", "v1", "10.1.0.1:80"],
        &["backend", "remove", "web", "10.1.0.1:80"],
        &["backend", "list"],
        &["drain", "v1", "--wait"],
        &["undrain", "v1"],
        &["apply", file.to_str().unwrap()],
        &["explain", "web", "--from", "192.0.2.7:5555"],
        &["detach"],
    ];
    for command in commands {
        let said = run(&dir, &socket, command).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(4), ""), "{command:?}");
        assert!(
            said.stderr.starts_with("error: no agent answers on DIR/zdd.sock"),
            "{command:?}: {}",
            said.stderr
        );
    }
    insta::assert_snapshot!(run(&dir, &socket, &["status"]).await.all(), @"
    exit 4
    error: no agent answers on DIR/zdd.sock: No such file or directory (os error 2)
    help: start one with `zdd agent --config FILE`, or name another socket with --socket PATH or ZDD_SOCKET
    ");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_not_reachable() {
    let dir = Dir::new();
    let socket = dir.0.join("zdd.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    insta::assert_snapshot!(run(&dir, &socket, &["status"]).await.all(), @"
    exit 4
    error: no agent answers on DIR/zdd.sock: Connection refused (os error 111)
    help: start one with `zdd agent --config FILE`, or name another socket with --socket PATH or ZDD_SOCKET
    ");
}

#[tokio::test]
async fn a_refusal_exits_with_1_and_keeps_the_agents_words() {
    let message = "version v2 of web has no healthy backend\nhelp: repair it, or use --force: its share then goes to v1";
    let agent = Agent::start(refusing(Refused::refused(message)));
    insta::assert_snapshot!(agent.run(&["shift", "web", "v2=10%"]).await.all(), @"
    exit 1
    error: version v2 of web has no healthy backend
    help: repair it, or use --force: its share then goes to v1
    ");
    for refused in
        [Refused::not_found("x"), Refused::invalid("x"), Refused::conflict("x"), Refused::internal("x")]
    {
        let agent = Agent::start(refusing(refused));
        assert_eq!(agent.run(&["rollback", "web"]).await.all(), "exit 1\nerror: x\n");
    }
}

#[tokio::test]
async fn an_agent_that_drops_a_request_is_an_error() {
    let agent = Agent::start(drop);
    insta::assert_snapshot!(agent.run(&["status"]).await.all(), @"
    exit 1
    error: the agent is stopping; the traffic goes on as it was. Start it again and repeat
    ");
}

#[tokio::test]
async fn a_wrong_command_line_exits_with_2() {
    let agent = Agent::start(agreeing(Asked::default()));
    let wrong: &[&[&str]] = &[
        &[],
        &["shfit"],
        &["shift", "web"],
        &["shift", "web", "v2"],
        &["shift", "web", "v2=101%"],
        &["shift", "web", "v2=0.001%"],
        &["backend", "add", "web", "v1", "10.1.0.1"],
        &["backend", "add", "web", "v1", "10.1.0.1:80", "--weight", "0"],
        &["drain", "web/"],
        &["drain", "v1", "--deadline", "soon"],
        &["explain", "web"],
        &["explain", "web", "--from", "192.0.2.7"],
        &["status", "--interval", "1s"],
        &["detach", "--pin-dir", "/x", "--config", "y"],
    ];
    for command in wrong {
        let said = agent.run(command).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{command:?}");
        assert!(!said.stderr.is_empty(), "{command:?} says nothing");
    }
    insta::assert_snapshot!(agent.run(&["shift", "web", "v2=101%"]).await.all(), @r#"
    exit 2
    error: invalid value 'v2=101%' for '<VERSION=WEIGHT%>...': `101%` is not a weight: it is above 100; write a percentage from 0 to 100, as 10, 12.5 or "0.25%"

    For more information, try '--help'.
    "#);
    insta::assert_snapshot!(agent.run(&["drain", "10.1.0.1:http"]).await.all(), @r#"
    exit 2
    error: invalid value '10.1.0.1:http' for '[BACKEND|VERSION]': `10.1.0.1:http` is not an address; write address:port, as "10.1.0.1:8080" or "[2001:db8::2]:8080"

    For more information, try '--help'.
    "#);
}

#[tokio::test]
async fn every_mistake_of_a_file_is_told_at_once() {
    let asked = Asked::default();
    let agent = Agent::start(agreeing(asked.clone()));
    let text = CONFIG.replace("weight = 90", "wieght = 90").replace("10.2.0.1:8080", "10.1.0.1:8080");
    let file = agent.dir.file("bad.toml", &text);
    let file = file.to_str().unwrap();
    insta::assert_snapshot!(agent.run(&["check", file]).await.all(), @"
    exit 1
    error: DIR/bad.toml:11:1: unknown key `wieght` in version `v1`
    help: did you mean `weight`?
    error: DIR/bad.toml:15:10: the weights of service `web` sum to 10% (v1 0%, v2 10%)
    help: make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all
    error: DIR/bad.toml:16:13: backend 10.1.0.1:8080 is in version `v1` of service `web` already
    help: an address and port runs one version; start the other one on a port of its own
    ");
    insta::assert_snapshot!(agent.run(&["check", file, "--json"]).await.all(), @r#"
    exit 1
    {"valid":false,"services":0,"versions":0,"backends":0,"errors":[{"line":11,"column":1,"message":"unknown key `wieght` in version `v1`","help":"did you mean `weight`?"},{"line":15,"column":10,"message":"the weights of service `web` sum to 10% (v1 0%, v2 10%)","help":"make them sum to 100%; a version without a weight has 0%, and if none has one the first gets all"},{"line":16,"column":13,"message":"backend 10.1.0.1:8080 is in version `v1` of service `web` already","help":"an address and port runs one version; start the other one on a port of its own"}],"warnings":[]}
    "#);
    let checked = agent.run(&["check", file]).await.all();
    assert_eq!(agent.run(&["apply", file]).await.all(), checked);
    assert_eq!(agent.run(&["agent", "--config", file]).await.all(), checked);
    assert!(asked.lock().unwrap().is_empty(), "the agent was asked to apply a wrong file");
    insta::assert_snapshot!(agent.run(&["check", "/none.toml"]).await.all(), @"
    exit 1
    error: /none.toml: cannot read the configuration: No such file or directory (os error 2)
    help: check the path and its permissions; the file is UTF-8 text
    ");
}

#[tokio::test]
async fn warnings_do_not_spoil_the_result() {
    let agent = Agent::start(agreeing(Asked::default()));
    let file = agent.dir.file("zdd.toml", &CONFIG.replace("health = { http = \"/health\" }", ""));
    insta::assert_snapshot!(agent.run(&["check", file.to_str().unwrap()]).await.all(), @"
    exit 0
    DIR/zdd.toml: valid: services 1, versions 2, backends 3
    warning: DIR/zdd.toml:4:1: service `web` has no health check: every backend counts as healthy
    ");
    insta::assert_snapshot!(agent.run(&["apply", file.to_str().unwrap(), "--dry-run"]).await.all(), @"
    exit 0
    + web/v2 backend 10.2.0.2:8080: weight 2
    ~ web/v1 weight: 100% -> 90%
    - web/v1 backend 10.1.0.9:8080
    3 to apply (dry run, nothing was changed)
    warning: DIR/zdd.toml:4:1: service `web` has no health check: every backend counts as healthy
    ");
}

#[tokio::test]
async fn detach_without_an_agent_needs_a_pin_directory() {
    let dir = Dir::new();
    let socket = dir.0.join("zdd.sock");
    insta::assert_snapshot!(run(&dir, &socket, &["detach"]).await.all(), @"
    exit 4
    error: no agent answers on DIR/zdd.sock: No such file or directory (os error 2)
    help: without one, name what it pinned: --config FILE, or --pin-dir DIR as /sys/fs/bpf/zdd
    ");
    let none = dir.0.join("none");
    let said = run(&dir, &socket, &["detach", "--pin-dir", none.to_str().unwrap()]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "nothing was attached or pinned\n"));
}

#[tokio::test]
async fn an_agent_that_goes_away_before_it_answers_is_not_a_refusal() {
    // Nothing at all; and HTTP/2 that gives up: empty settings, then GOAWAY with an internal error.
    const GIVES_UP: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    for last_words in [&[], GIVES_UP] {
        let dir = Dir::new();
        let socket = dir.0.join("zdd.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let hang_up = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(last_words).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        });
        let said = run(&dir, &socket, &["shift", "web", "v2=10%"]).await;
        hang_up.abort();
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
        assert!(said.stderr.starts_with("error: the agent went away before it answered"), "{}", said.stderr);
        assert!(said.stderr.contains("\nhelp: look at `zdd status`"), "{}", said.stderr);
    }
}

/// The build directory may be closed to other users; a copy of the program beside the socket is not.
async fn copy_for_others(agent: &Agent) -> std::path::PathBuf {
    let copy = agent.dir.0.join("zdd");
    // By another process: a child that this one starts meanwhile would inherit the open file, and it could not be executed.
    let copied =
        tokio::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_zdd")).arg(&copy).status().await.unwrap();
    assert!(copied.success());
    copy
}

#[tokio::test]
async fn another_user_is_refused_even_if_somebody_opened_the_sockets_mode() {
    // SAFETY: getuid has no preconditions and cannot fail.
    if unsafe { libc::getuid() } != 0 {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let agent = Agent::start(agreeing(Asked::default()));
    let copy = copy_for_others(&agent).await;
    let command = || {
        let mut command = tokio::process::Command::new(&copy);
        command.env_clear().env("ZDD_SOCKET", &agent.socket).args(["backend", "list"]).kill_on_drop(true);
        command
    };
    let output = command().uid(65_534).output().await.unwrap();
    assert_eq!(output.status.code(), Some(4), "the mode of the socket lets others in");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("only root, the agent's own user and members of"), "{stderr}");

    std::fs::set_permissions(&agent.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = command().uid(65_534).output().await.unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "another user got an answer");
    assert_eq!(command().output().await.unwrap().status.code(), Some(0), "the owner was refused too");
}

#[tokio::test]
async fn a_second_agent_on_the_same_socket_is_refused() {
    let agent = Agent::start(agreeing(Asked::default()));
    // Were it not refused, it would find neither an interface nor a BPF file system to touch.
    let dir = agent.dir.0.display();
    let own = format!(
        "socket = \"{}\"\npin_dir = \"{dir}/pins\"\nstate_dir = \"{dir}/state\"",
        agent.socket.display()
    );
    let text = CONFIG.replace("[agent]", &format!("[agent]\n{own}")).replace("\"eth0\"", "\"zdd-none0\"");
    let file = agent.dir.file("zdd.toml", &text);
    let said = agent.run(&["agent", "--config", file.to_str().unwrap()]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert!(said.stderr.contains("error: another agent answers on DIR/zdd.sock\nhelp: "), "{}", said.stderr);
    assert_eq!(agent.run(&["backend", "list"]).await.code, Some(0));
}

/// Whoever reads standard output as JSON meets results only; what went wrong is one JSON object on standard error.
#[tokio::test]
async fn with_json_every_error_is_one_object_on_standard_error() {
    let told = |said: &Said| -> serde_json::Value {
        assert_eq!(said.stdout, "", "{}", said.all());
        assert!(said.stderr.ends_with('\n') && said.stderr.lines().count() == 1, "{}", said.all());
        let error = serde_json::from_str::<serde_json::Value>(&said.stderr).unwrap()["error"].take();
        assert_eq!(error["exit"], said.code.unwrap(), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(!error["message"].as_str().unwrap().contains("help: "), "{error}");
        error
    };
    let kind = |said: &Said| (told(said)["kind"].as_str().unwrap().to_owned(), said.code.unwrap());
    let dir = Dir::new();
    let nowhere = dir.0.join("zdd.sock");
    insta::assert_snapshot!(run(&dir, &nowhere, &["--json", "status"]).await.all(), @r#"
    exit 4
    {"error":{"kind":"unreachable","exit":4,"message":"no agent answers on DIR/zdd.sock: No such file or directory (os error 2)","help":"start one with `zdd agent --config FILE`, or name another socket with --socket PATH or ZDD_SOCKET"}}
    "#);
    for command in [&["top", "--json"][..], &["trace", "--json"], &["doctor", "--json", "--config"]] {
        told(&run(&dir, &nowhere, command).await);
    }
    let bundle = dir.0.join("none/bundle.tar.gz");
    let said = run(&dir, &nowhere, &["support-bundle", bundle.to_str().unwrap(), "--json"]).await;
    assert_eq!((kind(&said), told(&said)["help"].is_string()), (("failed".to_owned(), 1), true));

    let message = "version v2 of web has no healthy backend\nhelp: repair it, or use --force: its share then goes to v1";
    let agent = Agent::start(refusing(Refused::refused(message)));
    insta::assert_snapshot!(agent.run(&["shift", "web", "v2=10%", "--json"]).await.all(), @r#"
    exit 1
    {"error":{"kind":"failed_precondition","exit":1,"message":"version v2 of web has no healthy backend","help":"repair it, or use --force: its share then goes to v1"}}
    "#);
    let refusals = [
        (Refused::not_found("x"), "not_found"),
        (Refused::invalid("x"), "invalid_argument"),
        (Refused::conflict("x"), "already_exists"),
        (Refused::internal("x"), "internal"),
    ];
    for (refused, word) in refusals {
        let agent = Agent::start(refusing(refused));
        assert_eq!(kind(&agent.run(&["rollback", "web", "--json"]).await), (word.to_owned(), 1));
    }
    for command in [&["shfit", "--json"][..], &["shift", "web", "v2=101%", "--json"], &["--json"]] {
        assert_eq!(kind(&agent.run(command).await), ("usage".to_owned(), 2), "{command:?}");
    }
    assert_eq!(
        kind(&agent.run(&["trace", "--reason", "lost", "--json"]).await),
        ("invalid_argument".to_owned(), 1)
    );

    let bad = agent.dir.file("bad.toml", &CONFIG.replace("weight = 90", "wieght = 90"));
    let said = agent.run(&["apply", bad.to_str().unwrap(), "--json"]).await;
    let error = told(&said);
    assert_eq!((&error["kind"], &error["file"]), (&"configuration".into(), &"DIR/bad.toml".into()));
    let mistakes = error["mistakes"].as_array().unwrap();
    assert_eq!((mistakes.len(), &mistakes[0]["line"]), (2, &11.into()), "{error}");
    assert!(mistakes.iter().all(|mistake| mistake["help"].is_string()), "{error}");
    // Asked for, so no error; and not JSON.
    let help = agent.run(&["shift", "--help", "--json"]).await;
    assert!(
        help.code == Some(0) && help.stderr.is_empty() && help.stdout.contains("Usage:"),
        "{}",
        help.all()
    );
    let file = agent.dir.0.join("leaving");
    let said = agent.run(&["drain", "--node", "n1", "--if-file", file.to_str().unwrap(), "--json"]).await;
    assert_eq!(said.all(), "exit 0\n{\"skipped\":\"DIR/leaving is not there: nothing is drained\"}\n");
}

#[tokio::test]
async fn a_doctor_without_rights_says_that_it_cannot_look() {
    // SAFETY: getuid has no preconditions and cannot fail.
    if unsafe { libc::getuid() } != 0 {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let agent = Agent::start(agreeing(Asked::default()));
    let copy = copy_for_others(&agent).await;
    let closed = agent.dir.0.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let text = format!("[agent]\ninterfaces = [\"lo\"]\npin_dir = \"{}/zdd\"\n", closed.display());
    let file = agent.dir.file("zdd.toml", &text);
    let mut command = tokio::process::Command::new(&copy);
    command.env_clear().env("ZDD_SOCKET", &agent.socket).args(["doctor", "--json", "--config"]).arg(file);
    let output = command.uid(65_534).kill_on_drop(true).output().await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: &str| {
        let findings = report["findings"].as_array().unwrap().iter();
        let found: Vec<_> = findings.filter(|finding| finding["check"] == check).collect();
        assert_eq!(found.len(), 1, "{report:#}");
        format!("{} {} {}", found[0]["level"], found[0]["what"], found[0]["fix"])
    };
    for check in ["agent", "pins"] {
        let said = of(check);
        assert!(said.contains("warning") && said.contains("not known") && said.contains("as root"), "{said}");
    }
}
