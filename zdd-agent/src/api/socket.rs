//! The unix socket: who may take its path, and who may talk.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;

use super::caller::Caller;
use super::connection::Connection;
use super::roles::Policy;

/// How long whoever answers on the socket may take to go. A process that was killed answers until the kernel has torn it down, and
/// whoever starts the next agent at once, by hand or from a script, has done nothing wrong.
const GOING: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another agent answers on {}\nhelp: stop it first, or give this one a socket, pin_dir and state_dir of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// The path is something else.
    #[error("{} is there and is not a socket\nhelp: move it away, or set agent.socket to another path", .0.display())]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("cannot {what} {}: {source}\nhelp: check agent.socket and the permissions of its directory; to give it a group, the agent needs CAP_CHOWN or that group among its own (systemd: SupplementaryGroups=)", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket that only its owner can reach. Its file goes when this is dropped, unless somebody else took the path.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to know our own file again.
    identity: (u64, u64),
}

impl Socket {
    /// [`bind`](Self::bind), with patience for an agent that is about to be gone.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub async fn bind_when_free(path: &Path, group: Option<u32>) -> Result<Socket, BindError> {
        let end = tokio::time::Instant::now() + GOING;
        loop {
            match Self::bind(path, group) {
                Err(BindError::InUse(_)) if tokio::time::Instant::now() < end => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                other => return other,
            }
        }
    }

    /// Listens on `path` with mode 0600, or 0660 for a group. Its directory is created (0755); a socket on which nobody answers is replaced. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// When somebody answers there, something else is there, or the file system refuses.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Socket, BindError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { what, path, source }
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
            made.map_err(failed("create the directory", dir))?;
        }
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) => match Probe::connect(path) {
                Ok(_) => return Err(BindError::InUse(path.to_owned())),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
                Err(error) => return Err(failed("ask who listens on", path)(error)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path)(error)),
        }
        // Under another name until its mode is right: at no instant could somebody else connect.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", &hidden)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&hidden).map_err(failed("listen on", &hidden))?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        // The group first: at no instant could another one connect.
        let owned = group.map_or(Ok(()), |group| std::os::unix::fs::chown(&hidden, None, Some(group)));
        let ready = owned
            .and_then(|()| fs::set_permissions(&hidden, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::symlink_metadata(&hidden))
            .and_then(|there| fs::rename(&hidden, path).map(|()| (there.dev(), there.ino())));
        match ready {
            Ok(identity) => Ok(Socket { listener, path: path.to_owned(), identity }),
            Err(error) => {
                drop(fs::remove_file(&hidden));
                Err(failed("put the socket at", path)(error))
            }
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of somebody who has a role; others are closed and logged.
    pub(super) async fn accept(&self, policy: &Policy) -> io::Result<Connection> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match Caller::local(&stream) {
                Ok(caller) if policy.of(&caller).is_some() => return Ok(Connection::new(stream, caller)),
                Ok(caller) => tracing::warn!(%caller, "refused a connection: no role in [agent.api]"),
                Err(error) => {
                    tracing::warn!(%error, "refused a connection: the kernel does not say whose it is")
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.identity);
        if ours {
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("zdd-socket-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        dir
    }

    #[tokio::test]
    async fn only_the_owner_can_reach_it_and_it_goes_with_the_agent() {
        let dir = dir("mode");
        let path = dir.join("zdd.sock");
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_group_may_open_it_where_the_configuration_says_so() {
        let dir = dir("group");
        let path = dir.join("zdd.sock");
        // SAFETY: getegid has no preconditions and cannot fail.
        let group = unsafe { libc::getegid() };
        let _socket = Socket::bind(&path, Some(group)).unwrap();
        let there = fs::metadata(&path).unwrap();
        assert_eq!((there.mode() & 0o777, there.gid()), (0o660, group));
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_left_alone_and_a_stale_one_is_replaced() {
        let dir = dir("stale");
        let path = dir.join("zdd.sock");
        let first = Socket::bind(&path, None).unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(BindError::InUse(_))));
        // What a SIGKILL leaves: the file without a listener.
        fs::rename(&path, dir.join("kept")).unwrap();
        drop(first);
        fs::rename(dir.join("kept"), &path).unwrap();
        let second = Socket::bind(&path, None).unwrap();
        Probe::connect(second.path()).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_is_about_to_be_gone_is_waited_for() {
        let dir = dir("going");
        let path = dir.join("zdd.sock");
        let first = Socket::bind(&path, None).unwrap();
        let leaves = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(first);
        });
        let second = Socket::bind_when_free(&path, None).await.unwrap();
        leaves.await.unwrap();
        // One that stays is told of in the end.
        assert!(matches!(Socket::bind_when_free(&path, None).await, Err(BindError::InUse(_))));
        drop(second);
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn something_else_at_the_path_is_never_replaced() {
        let dir = dir("else");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("zdd.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_successors_socket_survives_our_end() {
        let dir = dir("successor");
        let path = dir.join("zdd.sock");
        let first = Socket::bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path, None).unwrap();
        drop(first);
        assert!(path.exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
