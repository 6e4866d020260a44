//! One socket with a fake loop behind it, and the binary to talk to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zdd_agent::api::ledger::Ledger;
use zdd_agent::api::roles::Policy;
use zdd_agent::api::server::{Serving, Socket, serve};
use zdd_agent::control::{self, Request};
use zdd_agent::desired::ApiSpec;
use zdd_agent::events::EventLog;

/// A directory of its own, gone with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("zdd-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    /// A file with this text.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What a command said.
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// All of it as one text, for snapshots.
    pub fn all(&self) -> String {
        format!(
            "exit {}\n{}{}",
            self.code.map_or("none".to_owned(), |code| code.to_string()),
            self.stdout,
            self.stderr
        )
    }
}

/// Far longer than anything here takes: a test that would hang fails instead.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), future).await.expect("nothing came in 90 s")
}

/// The command, without colours and without the caller's environment.
pub fn zdd(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zdd"));
    command.env_clear().env("ZDD_SOCKET", socket).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the command to its end; paths of the directory are shown as DIR.
pub async fn run(dir: &Dir, socket: &Path, args: &[&str]) -> Said {
    let output = within(zdd(socket).args(args).output()).await.unwrap();
    let text =
        |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&dir.0.display().to_string(), "DIR");
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A server whose loop is `answer`.
pub struct Agent {
    pub dir: Dir,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Agent {
    pub fn start(mut answer: impl FnMut(Request) + Send + 'static) -> Agent {
        let dir = Dir::new();
        let socket = dir.0.join("zdd.sock");
        let (handle, mut requests): (_, mpsc::Receiver<Request>) = control::channel(4);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                // What goes with a change is the loop's own business; these fakes look at the request itself.
                answer(match request {
                    Request::Change { then, .. } => *then,
                    other => other,
                });
            }
        });
        let bound = Socket::bind(&socket, None).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let policy = Policy::new(&ApiSpec::default()).unwrap();
            let ledger = Ledger::open(None, Vec::new()).unwrap();
            let serving = Serving { handle, policy, ledger, events: EventLog::default() };
            serve(bound, None, serving, async { drop(stopped.await) }).await.unwrap();
        });
        Agent { dir, socket, stop: Some(stop), server }
    }

    pub async fn run(&self, args: &[&str]) -> Said {
        run(&self.dir, &self.socket, args).await
    }

    /// Tells the server to end and waits until it has.
    pub async fn stop(mut self) -> Dir {
        drop(self.stop.take());
        within(self.server).await.unwrap();
        self.dir
    }
}
