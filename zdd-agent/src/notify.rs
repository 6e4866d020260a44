//! What a service manager wants to know: ready, alive, stopping (sd_notify(3)). Says nothing where nobody asked.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::control::Handle;

/// The manager's socket, if it gave one.
#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// Between two signs of life, at the most.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say. A socket that cannot be opened is told and does without.
    pub fn from_environment() -> Notify {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let socket = std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()).and_then(|path| {
            open(&path)
                .inspect_err(|error| tracing::warn!(path, %error, "the service manager cannot be told"))
                .ok()
        });
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| meant && *usec > 0).map(Duration::from_micros);
        Notify { socket, watchdog }
    }

    /// Tells one or more assignments, such as `READY=1`, one per line.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::warn!(%error, "the service manager cannot be told `{state}`");
        }
    }

    /// Gives signs of life for as long as the loop answers; one that hangs gets restarted, and traffic goes on meanwhile. Returns at once
    /// where no watchdog is asked for.
    pub async fn stay_alive(&self, handle: Handle) {
        let Some(period) = self.watchdog else { return };
        loop {
            match tokio::time::timeout(period / 2, handle.status()).await {
                Ok(Ok(_)) => self.tell("WATCHDOG=1"),
                Ok(Err(_)) => return,
                Err(_) => tracing::error!("the loop does not answer: no sign of life is given"),
            }
            tokio::time::sleep(period / 3).await;
        }
    }
}

fn open(path: &str) -> io::Result<UnixDatagram> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not stop the loop.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
