//! nginx, redis, curl and redis-cli inside the rig.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use zdd_tests::rig::{Error, Proc, Result, VIP, client_address, wait_for};
use zdd_tests::world::{LOOK_EVERY, PATIENCE, World, curl};

fn directory(world: &World, name: &str) -> Result<std::path::PathBuf> {
    let dir = world.rig.scratch().path(name);
    std::fs::create_dir_all(&dir).map_err(Error::io(format!("make {}", dir.display())))?;
    Ok(dir)
}

/// Waits until something listens on `port` of backend `i`; a program that ends instead is an error with its log.
fn listens(world: &World, proc: &mut Proc, i: u8, port: u16) -> Result<()> {
    let address = zdd_tests::rig::v4(zdd_tests::rig::backend_address(i), port);
    wait_for(&format!("{address} to listen"), PATIENCE, LOOK_EVERY, || {
        proc.must_run()?;
        let connect = || std::net::TcpStream::connect_timeout(&address, PATIENCE);
        Ok(world.rig.in_ns(&format!("b{i}"), connect)?.is_ok().then_some(()))
    })
}

/// nginx on backend `i`: every page is `<version> b<i> <the client's address as nginx sees it>`. A single process that writes only below
/// the rig's directory.
pub fn nginx(world: &World, i: u8, version: &str) -> Result<Proc> {
    let dir = directory(world, &format!("nginx-{i}"))?;
    let (shown, port) = (dir.display(), world.setup.backend_port());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {shown}/pid;\nerror_log {shown}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n{temporary}access_log {shown}/access.log;\n\
         server {{ listen {port}; location / {{ default_type text/plain; return 200 \"{version} b{i} $remote_addr\\n\"; }} }} }}\n"
    );
    let config = world.write(&format!("nginx-{i}/nginx.conf"), &text)?;
    let mut command = Command::new("nginx");
    // The default error log is opened before the configuration is read.
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(&dir).arg("-c").arg(&config);
    let mut proc = world.rig.ns(&format!("b{i}")).spawn_logged(command, &dir.join("log"))?;
    listens(world, &mut proc, i, port)?;
    Ok(proc)
}

/// redis-server with one key, `version`.
pub struct Redis;

impl Redis {
    /// On backend `i`, as version `v<i>`; it keeps nothing.
    pub fn start(world: &World, i: u8) -> Result<Proc> {
        let dir = directory(world, &format!("redis-{i}"))?;
        let mut command = Command::new("redis-server");
        command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
        command.args(["--appendonly", "no", "--daemonize", "no", "--dir"]).arg(&dir);
        let ns = world.rig.ns(&format!("b{i}"));
        let mut proc = ns.spawn_logged(command, &dir.join("log"))?;
        listens(world, &mut proc, i, 6379)?;
        ns.run(&["redis-cli", "SET", "version", &format!("v{i}")])?;
        Ok(proc)
    }

    /// Connections that the server on backend `i` has, one line each.
    pub fn connections(world: &World, i: u8) -> Result<String> {
        world.rig.ns(&format!("b{i}")).run(&["redis-cli", "CLIENT", "LIST"])
    }

    /// One command through the VIP, on a connection of its own.
    pub fn ask(world: &World, command: &str) -> Result<String> {
        let vip = VIP.to_string();
        let mut argv = vec!["redis-cli", "-h", &vip];
        argv.extend(command.split(' '));
        Ok(world.rig.ns("c").run(&argv)?.trim().to_owned())
    }
}

/// A redis-cli that is fed line by line and keeps its one connection.
pub struct Session {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// Starts it; the first command connects.
    pub fn open(world: &World) -> Result<Self> {
        let mut child = world
            .rig
            .ns("c")
            .command("redis-cli")
            .args(["-h", &VIP.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(Error::io("start redis-cli"))?;
        let (commands, answers) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Ok(Self { child, commands, answers: BufReader::new(answers) })
    }

    /// One command whose answer is one line.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        let commands = self.commands.as_mut().expect("not quit yet");
        commands.write_all(format!("{command}\n").as_bytes()).map_err(Error::io("feed redis-cli"))?;
        assert!(self.answers_within(60_000), "no answer to {command:?} within a minute");
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(Error::io("read redis-cli"))?;
        assert!(line.ends_with('\n'), "redis-cli ended instead of answering {command:?}");
        Ok(line.trim_end().to_owned())
    }

    /// Whether there is something to read within so many milliseconds: a connection that is stuck must not hang the test.
    fn answers_within(&self, ms: i32) -> bool {
        if !self.answers.buffer().is_empty() {
            return true;
        }
        let mut poll =
            libc::pollfd { fd: self.answers.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, as the count says.
        unsafe { libc::poll(&raw mut poll, 1, ms) == 1 }
    }

    /// Ends its input; its exit status.
    pub fn quit(mut self) -> Result<i32> {
        drop(self.commands.take());
        let status = self.child.wait().map_err(Error::io("wait for redis-cli"))?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // After `quit` both do nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// curl after curl, from one client after the other.
pub struct Loop<'scope> {
    thread: ScopedJoinHandle<'scope, (usize, Vec<String>)>,
}

impl<'scope> Loop<'scope> {
    /// Runs until `stop`.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        world: &'env World,
        stop: &'env AtomicBool,
    ) -> Self {
        let thread = scope.spawn(move || {
            let (mut done, mut failures) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                if let Err(e) =
                    curl(world.rig.ns("c"), Some(client_address(done % 100)), &format!("http://{VIP}/"))
                {
                    failures.push(e.to_string());
                }
                done += 1;
            }
            (done, failures)
        });
        Self { thread }
    }

    /// How many were made, and what each failed one said. After `stop`.
    pub fn finish(self) -> (usize, Vec<String>) {
        self.thread.join().expect("the loop does not panic")
    }
}
