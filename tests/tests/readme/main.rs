//! What the README shows is true: every `zdd` command is one, every configuration is valid, and its five minutes work as written. Needs
//! root.

mod run;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use zdd_agent::config::Config;
use zdd_tests::rig::{Error, Result, Rig, RigSpec, built};

const README: &str = include_str!("../../../README.md");

/// A block of code: its language and text.
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn blocks() -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let mut open = false;
    for (n, line) in README.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                all.push(Block { language: language.to_owned(), text: String::new(), line: n + 1 });
            }
            None if open => {
                let block = all.last_mut().expect("an open block");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    all
}

/// Words of a shell line: quotes are taken off, a comment ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every `zdd ...` command of shell blocks, with its line.
fn commands() -> Vec<(usize, Vec<String>)> {
    let mut all = Vec::new();
    let mut take = |at: usize, line: &str| {
        // What is piped or chained after it is another program's.
        for part in line.split(" | ").flat_map(|part| part.split(" && ")).flat_map(|part| part.split("; ")) {
            let words = words(part.trim_start_matches("$ ").trim_start_matches("sudo "));
            if words.first().is_some_and(|word| word == "zdd" || word.ends_with("/zdd")) && words.len() > 1 {
                all.push((at, words));
            }
        }
    };
    for block in blocks().iter().filter(|block| ["sh", "console"].contains(&block.language.as_str())) {
        let joined = block.text.replace("\\\n", " ");
        for line in joined.lines() {
            if block.language == "sh" || line.starts_with("$ ") {
                take(block.line, line);
            }
        }
    }
    all
}

#[test]
fn every_command_of_the_readme_is_one() {
    let commands = commands();
    let mut wrong = Vec::new();
    for (line, words) in &commands {
        // Placeholders of a description, as SERVICE, are words too.
        if let Err(error) = zdd_agent::cli::grammar().try_get_matches_from(words)
            && error.exit_code() != 0
        {
            wrong.push(format!("line {line}: {}: {error}", words.join(" ")));
        }
    }
    assert!(commands.len() > 30, "{} commands", commands.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `zdd ...` in the running text, tables included: words between backquotes.
fn mentioned() -> Vec<String> {
    let mut fenced = false;
    let mut all = Vec::new();
    for line in README.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let code = line.split('`').skip(1).step_by(2);
            all.extend(code.filter_map(|code| code.strip_prefix("zdd ")).map(str::to_owned));
        }
    }
    all
}

/// Commands that are only described have placeholders; their names and flags are real all the same.
#[test]
fn every_command_that_the_text_mentions_has_its_names_and_flags() {
    let mut grammar = zdd_agent::cli::grammar();
    grammar.build();
    let mentioned = mentioned();
    let mut wrong = Vec::new();
    for text in &mentioned {
        // More than one where the text gives a choice: `open\|close`.
        let mut commands = vec![&grammar];
        for word in text.split([' ', '[', ']']).filter(|word| !word.is_empty()) {
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split('=').next().unwrap_or(flag);
                let knows = |command: &&clap::Command| {
                    command.get_arguments().any(|argument| argument.get_long() == Some(flag))
                };
                if !commands.iter().all(knows) {
                    wrong.push(format!("`zdd {text}`: not all of it have --{flag}"));
                }
            } else if commands[0].has_subcommands() && !word.starts_with('\\') {
                let names = word.split("\\|");
                match names.map(|name| commands[0].find_subcommand(name)).collect::<Option<Vec<_>>>() {
                    Some(found) => commands = found,
                    None => {
                        wrong.push(format!("`zdd {text}`: {} has no {word}", commands[0].get_name()));
                        break;
                    }
                }
            }
        }
    }
    assert!(mentioned.len() > 60, "{}", mentioned.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Texts of all files below a directory.
fn sources(dir: &Path, all: &mut String) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Somebody who searches this page for what stands on the screen must find it: what the first column quotes is what the program says.
#[test]
fn the_troubleshooting_quotes_what_the_program_says() {
    let table = README.split("| you see | it is | do |\n").nth(1).expect("the table");
    let rows: Vec<&str> =
        table.lines().skip(1).take_while(|line| line.starts_with('|')).map(|line| &line[1..]).collect();
    let mut program = String::new();
    for of in ["../zdd-agent/src", "../zdd-common/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(of), &mut program);
    }
    let counters: Vec<&str> = zdd_common::reason::REASONS.iter().map(|reason| reason.name()).collect();
    let modes = ["nat", "snat", "l2", "ipip", "new"];
    let mut wrong = Vec::new();
    for row in &rows {
        let seen = row.split(" | ").next().unwrap_or_default();
        for quoted in seen.split('`').skip(1).step_by(2) {
            let quoted = quoted.trim_matches(['.', ' ']).trim_end_matches("...");
            let known = modes.contains(&quoted) || quoted.starts_with("zdd ") || counters.contains(&quoted);
            // Addresses are filled in.
            let said = quoted.trim_end_matches("https://").trim();
            if !known && !program.contains(said) {
                wrong.push(format!("{quoted:?}: no such message or counter"));
            }
        }
    }
    assert!(rows.len() >= 20, "{} rows", rows.len());
    assert!(rows.last().is_some_and(|row| row.contains("nothing of this")), "the way out stands at the end");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_command_of_the_program_is_in_the_readme() {
    let table = README.split("### Commands").nth(1).expect("the table of commands");
    let missing: Vec<String> = zdd_agent::cli::grammar()
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .filter(|command| !table.contains(&format!("| `zdd {}", command.get_name())))
        .map(|command| command.get_name().to_owned())
        .collect();
    assert!(missing.is_empty(), "not in the table of commands: {missing:?}");
}

#[test]
fn every_configuration_of_the_readme_is_valid() {
    let agent = "[agent]\ninterfaces = [\"eth0\"]\n";
    let service = "[[service]]\nname = \"web\"\nvip = \"10.0.0.10:80/tcp\"\nforward = \"nat\"\n";
    let versions = "[[service.version]]\nname = \"v1\"\nweight = 100\nbackends = [\"10.1.0.1:8080\"]\n\
                    [[service.version]]\nname = \"v2\"\nweight = 0\nbackends = [\"10.1.0.2:8080\"]\n";
    let mut seen = 0;
    for block in blocks().iter().filter(|block| block.language == "toml") {
        let mut text = block.text.clone();
        // A part of a file is completed by what stands around it.
        if !text.contains("[[service]]") && text.contains("[service.") | text.contains("[[service.") {
            let own = if text.contains("[[service.version]]") { "" } else { versions };
            text = format!("{service}{text}\n{own}");
        }
        if !text.contains("[agent]") {
            text =
                if text.contains("[agent.") { format!("{agent}{text}") } else { format!("{agent}\n{text}") };
        }
        if let Err(errors) = Config::parse(&text, &format!("README.md, line {}", block.line)) {
            panic!("{errors}\n{text}");
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen} configurations");
}

/// A server as the README's backends are: it answers every request, and says who it is.
fn serve(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).expect("a backend's address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut stream, mut request) = (stream, [0; 1024]);
                while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        name.len()
                    );
                    if stream.write_all((head + name).as_bytes()).is_err() {
                        break;
                    }
                    drop(stream.shutdown(std::net::Shutdown::Write));
                }
            });
        }
    });
}

/// The text of the first block of a language after a heading.
fn block_after(heading: &str, language: &str) -> String {
    let at = README.find(heading).unwrap_or_else(|| panic!("no {heading:?}"));
    let line = README[..at].lines().count();
    let block = blocks().into_iter().find(|block| block.line > line && block.language == language);
    block.unwrap_or_else(|| panic!("no {language} after {heading:?}")).text
}

#[test]
fn the_five_minutes_work_as_they_are_written() -> Result<()> {
    let zdd = built("zdd").expect("zdd is built: cargo build -p zdd-agent");
    let mut rig = Rig::new(RigSpec { backends: 1, clients: 1, ..RigSpec::default() })?;
    for role in ["host", "client", "servers"] {
        rig.add_namespace(role)?;
    }
    // The host of the README, with its interfaces; clients before it, backends behind it.
    rig.wire(("host", "eth0"), ("client", "c0"))?;
    rig.wire(("host", "eth1"), ("servers", "s0"))?;
    rig.ns("host")
        .ip_batch(&["addr add 192.0.2.1/24 dev eth0", "addr add 10.1.0.254/24 dev eth1"].map(String::from))?;
    rig.ns("client").ip_batch(
        &["addr add 192.0.2.2/24 dev c0", "route add 10.0.0.10/32 via 192.0.2.1"].map(String::from),
    )?;
    let mut lines: Vec<String> = (1..=3).map(|n| format!("addr add 10.1.0.{n}/24 dev s0")).collect();
    lines.push("route add default via 10.1.0.254".to_owned());
    rig.ns("servers").ip_batch(&lines)?;
    rig.in_ns("servers", || {
        for (n, name) in [(1, "b1 of v1"), (2, "b2 of v1"), (3, "b3 of v2")] {
            serve((Ipv4Addr::new(10, 1, 0, n), 8080).into(), name);
        }
    })?;
    let host = block_after("**2. Choose how packets reach", "sh");
    let host = host.split("\n\n").next().expect("what nat needs on this host");
    assert!(host.contains("ip addr add 10.0.0.10/32 dev lo") && !host.contains("arp_ignore"), "{host}");
    let config = block_after("**3. Write `zdd.toml`.** For `nat`:", "toml");
    let run = block_after("**4. Run it**", "sh");
    let shift = block_after("**5. Shift.**", "console");
    let before: Vec<&str> = run.lines().take_while(|line| !line.contains("zdd agent")).collect();
    let agent = run.lines().find(|line| line.starts_with("zdd agent")).expect("the agent's line");
    let agent = agent.split('#').next().unwrap_or_default();
    let status = run.lines().find(|line| line.starts_with("zdd status")).expect("the status line");
    // The last line would wait for as long as the README says: minutes. It is asked for less, and says that flows may be left.
    let shifts: Vec<String> = shift
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.split("  #").next().unwrap_or(line).replace("1h", "3s"))
        .collect();
    let (last, shifts) = shifts.split_last().expect("commands");
    let ours = format!("{}\n{status}\n", shifts.join("\n"));
    let script = format!(
        "set -e\nmount -t bpf bpf /sys/fs/bpf\nmount -t tmpfs tmpfs /run\nmount -t tmpfs tmpfs /var/lib\n{host}\n\
         {}\n{agent} 2>agent.log &\nagent=$!\ntrap 'kill $agent 2>/dev/null || true' EXIT\n\
         for n in $(seq 3000); do zdd status >/dev/null 2>&1 && break; sleep 0.1; done\n\
         for n in $(seq 3000); do zdd status --json | grep -qE '\"(unhealthy|unknown)\"' || break; sleep 0.1; done\n\
         touch ready\nfor n in $(seq 3000); do [ -e asked ] && break; sleep 0.1; done\n\
         {ours}touch shifted\nfor n in $(seq 3000); do [ -e met ] && break; sleep 0.1; done\n\
         code=0; {last} || code=$?; [ $code = 0 ] || [ $code = 3 ]\nzdd detach\nwait $agent\n",
        before
            .join("\n")
            .replace("zdd doctor --config zdd.toml", "zdd doctor --config zdd.toml || [ $? = 1 ]"),
    );
    let dir = rig.scratch().dir().join("five-minutes");
    std::fs::create_dir_all(&dir).map_err(Error::io("a directory"))?;
    std::fs::write(dir.join("zdd.toml"), config).map_err(Error::io("write zdd.toml"))?;
    std::fs::write(dir.join("steps.sh"), &script).map_err(Error::io("write steps.sh"))?;
    let path = format!(
        "{}:{}",
        zdd.parent().unwrap_or(Path::new("/")).display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "steps.sh"]).current_dir(&dir).env("PATH", path);
    let mut steps = rig.ns("host").spawn_logged(command, &dir.join("steps.log"))?;
    let told = |what: &str| {
        let log = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        format!("{what}\n{}\n{}\n{script}", log("steps.log"), log("agent.log"))
    };
    let wait = |steps: &mut zdd_tests::rig::Proc, name: &str| {
        let file = dir.join(name);
        let found = zdd_tests::rig::wait_for(
            name,
            std::time::Duration::from_secs(300),
            std::time::Duration::from_millis(50),
            || {
                if let Err(error) = steps.must_run() {
                    panic!("{}", told(&error.to_string()));
                }
                Ok::<_, Error>(file.exists().then_some(()))
            },
        );
        found.unwrap_or_else(|error| panic!("{}", told(&error.to_string())));
    };
    let ask = || -> Result<BTreeSet<String>> {
        let mut met = BTreeSet::new();
        for _ in 0..10 {
            met.insert(zdd_tests::world::curl(rig.ns("client"), None, "http://10.0.0.10/")?);
        }
        Ok(met)
    };
    wait(&mut steps, "ready");
    let v1: BTreeSet<String> = ask()?;
    assert!(v1.iter().all(|name| name.ends_with("of v1")), "{v1:?}");
    std::fs::write(dir.join("asked"), "").map_err(Error::io("go on"))?;
    wait(&mut steps, "shifted");
    assert_eq!(ask()?, BTreeSet::from(["b3 of v2".to_owned()]), "shifted");
    std::fs::write(dir.join("met"), "").map_err(Error::io("go on"))?;
    let ended = steps.wait(std::time::Duration::from_secs(300))?;
    assert!(ended.success(), "{}", told(&ended.to_string()));
    let log = std::fs::read_to_string(dir.join("steps.log")).unwrap_or_default();
    for word in ["zdd.toml: valid", "web: generation 2", "192.0.2.2:40000 -> web", "maps in /sys/fs/bpf/zdd"]
    {
        assert!(log.contains(word), "{}", told(word));
    }
    Ok(())
}
