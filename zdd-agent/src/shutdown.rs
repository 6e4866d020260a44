//! One word that everything waits for: stop.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Awaited by everything that runs for as long as the agent does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts the shutdown. Dropping it starts it too: without its owner nobody could ever stop the rest.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// A shutdown and what starts it.
    pub fn new() -> (Trigger, Shutdown) {
        let (send, receive) = watch::channel(false);
        (Trigger(send), Shutdown(receive))
    }

    /// A shutdown that SIGTERM and SIGINT start, and SIGHUP if the terminal is gone. Needs a tokio runtime.
    ///
    /// Without a terminal SIGHUP is somebody's wish for the file to be read again. It changes nothing, and must not end the agent: a service
    /// manager takes that for an end in order, and starts nobody.
    ///
    /// # Errors
    /// The kernel refused a signal handler.
    pub fn on_signals() -> io::Result<Shutdown> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let terminal = io::stderr().is_terminal();
        let (trigger, shutdown) = Shutdown::new();
        tokio::spawn(async move {
            let name = loop {
                tokio::select! {
                    _ = terminate.recv() => break "SIGTERM",
                    _ = interrupt.recv() => break "SIGINT",
                    _ = hang_up.recv() => {
                        if terminal {
                            break "SIGHUP";
                        }
                        tracing::warn!("SIGHUP reads no file: run `zdd apply FILE`, or `systemctl reload zdd`");
                    }
                }
            };
            tracing::info!(signal = name, "stopping");
            trigger.start();
        });
        Ok(shutdown)
    }

    /// Returns when the shutdown has started, at once when it has already.
    pub async fn wait(&self) {
        // An error says that the trigger is gone, which means the same.
        let _ = self.0.clone().wait_for(|started| *started).await;
    }

    /// Whether it has started.
    pub fn started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Trigger {
    /// Starts the shutdown. Starting it again changes nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_waiters_wake_and_late_ones_do_not_wait() {
        let (trigger, shutdown) = Shutdown::new();
        assert!(!shutdown.started());
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        assert!(
            tokio::time::timeout(Duration::from_secs(1), shutdown.wait()).await.is_err(),
            "returned before the start"
        );
        trigger.start();
        early.await.expect("the waiter ends");
        shutdown.wait().await;
        assert!(shutdown.started());
    }

    #[tokio::test]
    async fn a_lost_trigger_is_a_shutdown() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        shutdown.wait().await;
        assert!(shutdown.started());
    }

    #[tokio::test]
    async fn sigterm_starts_it() {
        let shutdown = Shutdown::on_signals().expect("handlers");
        assert!(!shutdown.started());
        // SAFETY: raising a signal that a handler was installed for touches no memory of ours.
        assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
        tokio::time::timeout(Duration::from_secs(5), shutdown.wait()).await.expect("stops after SIGTERM");
    }
}
