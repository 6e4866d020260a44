//! One program: no shell, a time limit, and nothing left of it afterwards.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdout, Command};

/// Bytes of output that are kept; the first line of them is shown.
const OUTPUT_LIMIT: usize = 4 * 1024;

/// Kills a program and all it started, when the answer is there or nobody waits for it any more.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        // SAFETY: a plain system call. The group is the program's own: it was made its leader when it was started, and
        // as long as one process of it lives the number is nobody else's; if none does, there is no such group.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Reads all that a program prints, so that it never waits for a reader, and keeps the beginning.
async fn beginning(stdout: Option<ChildStdout>, kept: &mut Vec<u8>) {
    let (Some(mut stdout), mut part) = (stdout, [0; 4096]) else { return };
    while let Ok(read @ 1..) = stdout.read(&mut part).await {
        let room = OUTPUT_LIMIT - kept.len();
        kept.extend_from_slice(&part[..read.min(room)]);
    }
}

/// Runs `argv`: exit code (`None`: killed) and the first line that it printed.
///
/// # Errors
/// It cannot be started, or takes longer than `timeout`.
pub async fn run(
    argv: &[String],
    variables: &[(&str, impl AsRef<std::ffi::OsStr>)],
    input: &str,
    timeout: Duration,
) -> Result<(Option<i32>, String), String> {
    let [program, arguments @ ..] = argv else { return Err("no program is named".to_owned()) };
    let mut command = Command::new(program);
    crate::privileges::none_for(&mut command);
    let mut child = command
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let _group = Group(child.id());
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut output = Vec::new();
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input may still be right.
                drop(stdin.write_all(input.as_bytes()).await);
            }
        };
        let (mut closed, mut read) = (false, std::pin::pin!(beginning(stdout, &mut output)));
        let mut end = std::pin::pin!(async { tokio::join!(write, child.wait()).1 });
        let status = loop {
            tokio::select! {
                status = &mut end => break status,
                () = &mut read, if !closed => closed = true,
            }
        };
        // Not to the end of its output: a child that it left behind may hold that for ever.
        if !closed {
            drop(tokio::time::timeout(Duration::from_millis(100), read).await);
        }
        status
    };
    let status = tokio::time::timeout(timeout, talk)
        .await
        .map_err(|_| format!("no answer within {}", humantime::format_duration(timeout)))?;
    let status = status.map_err(|error| format!("cannot wait for {program}: {error}"))?;
    let text = String::from_utf8_lossy(&output);
    let said = text.lines().next().unwrap_or_default().trim().chars().take(200).collect();
    Ok((status.code(), said))
}
