//! Connections back to back from one address: how soon does a change show?

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::Target;
use super::protocol::{Fleet, Place};
use super::short;
use crate::rig::{Error, Result, Rig};

/// One connection of a prober.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Before its SYN.
    pub started: Instant,
    /// After its answer.
    pub ended: Instant,
    /// Who answered; `None`: it failed.
    pub place: Option<Place>,
    /// The server saw the client's own address and port; false as well when the connection failed.
    pub own_source: bool,
}

/// Dials back to back while something else happens.
#[derive(Debug)]
pub struct Prober<'a> {
    rig: &'a Rig,
    fleet: Fleet,
    target: Target,
}

impl<'a> Prober<'a> {
    /// Dials `target`, where members of `fleet` answer.
    pub fn new(rig: &'a Rig, fleet: Fleet, target: Target) -> Self {
        Self { rig, fleet, target }
    }

    /// Dials from `client` while `change` runs and until a connection that began after it had returned was answered by
    /// `version`, at most `patience` longer. Returns every connection and what `change` returned with the moment when it did.
    pub fn during<R>(
        &self,
        client: Ipv4Addr,
        version: u8,
        patience: Duration,
        change: impl FnOnce() -> R,
    ) -> Result<(Vec<Probed>, R, Instant)> {
        // None: still running. The prober reads it between two connections.
        let returned: Mutex<Option<Instant>> = Mutex::new(None);
        let returned_at = || *returned.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let dialler = scope.spawn(move || {
                self.rig.in_ns("c", move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let mut all = Vec::new();
                    loop {
                        let started = Instant::now();
                        let answer = short::ask(&self.fleet, client.into(), self.target.pick(0));
                        let answer =
                            runtime.block_on(async { tokio::time::timeout(short::PATIENCE, answer).await });
                        let answer = answer.ok().and_then(std::io::Result::ok);
                        let place = answer.map(|a| a.place);
                        let own_source = answer.is_some_and(|a| a.own_source);
                        all.push(Probed { started, ended: Instant::now(), place, own_source });
                        // Only the first is waited for.
                        let _ = ready.send(());
                        let Some(at) = returned_at() else { continue };
                        let seen = started >= at && place.is_some_and(|p| p.version == version);
                        if seen || at.elapsed() > patience {
                            return Ok(all);
                        }
                    }
                })
            });
            // The change begins when connections flow. An error here means the dialler has ended; its result says why.
            let _ = is_ready.recv();
            let result = change();
            let at = Instant::now();
            *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
            let all = match dialler.join() {
                Ok(all) => all?.map_err(Error::io("dial back to back"))?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok((all, result, at))
        })
    }
}

/// Milliseconds from `returned` to the answer of the first connection that began after it and landed on `version`. `None`: there is none.
pub fn first_new_ms(all: &[Probed], returned: Instant, version: u8) -> Option<f64> {
    all.iter()
        .filter(|p| p.started >= returned && p.place.is_some_and(|place| place.version == version))
        .map(|p| p.ended.duration_since(returned).as_secs_f64() * 1e3)
        .reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_begun_after_the_command_count() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let probed = |from, to, version: u8| {
            let place = Some(Place { version, backend: version });
            Probed { started: at(from), ended: at(to), place, own_source: true }
        };
        let all = [probed(8, 11, 1), probed(11, 12, 0), probed(12, 14, 1), probed(14, 15, 1)];
        assert_eq!(first_new_ms(&all, at(10), 1), Some(4.0));
        assert_eq!(first_new_ms(&all, at(14), 0), None);
    }
}
