//! Long-lived connections: a numbered line every so often, checked.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, timeout};

use super::client::{Running, Shared};
use super::protocol::{Greeting, Lines, Place, parse_greeting};
use super::socket;

/// Silence after which a connection counts as broken.
const SILENCE: Duration = Duration::from_secs(20);

/// Goodbyes are spread over this many lines.
const HANG_UP_SPREAD: u64 = 60;

/// One connection from its SYN to its end. Counts itself broken when it does not end by its own will.
pub(super) async fn live(shared: Arc<Shared>, index: usize, _running: Running) {
    let source = shared.source(index, shared.spec.tcp.pick(index));
    let opened = timeout(SILENCE, open(&shared, index)).await;
    let (mut stream, mut lines, greeting) = match flatten(opened) {
        Ok(opened) => opened,
        Err(e) => {
            let at = shared.now_us();
            let mut ledger = shared.ledger();
            ledger.counts.long_opened += 1;
            ledger.counts.long_broken += 1;
            ledger.incident(at, format!("long-lived connection {index} from {source} never began: {e}"));
            return;
        }
    };
    let place = greeting.place;
    {
        let wrong_source =
            shared.spec.sources_seen && stream.local_addr().is_ok_and(|own| own != greeting.source);
        let mut ledger = shared.ledger();
        ledger.counts.long_opened += 1;
        ledger.counts.wrong_source += u64::from(wrong_source);
        ledger.live_long[usize::from(place.version)] += 1;
    }
    let result = exchange(&shared, index, &mut stream, &mut lines, place).await;
    let at = shared.now_us();
    let own = stream.local_addr().map_or_else(|_| source.to_string(), |a| a.to_string());
    let mut ledger = shared.ledger();
    ledger.live_long[usize::from(place.version)] -= 1;
    match result {
        Ok(()) => {}
        Err(Trouble::Moved(line)) => {
            ledger.counts.long_moved += 1;
            ledger.incident(
                at,
                format!("long-lived connection {index} from {own} began on {place:?} and got {line:?}"),
            );
        }
        Err(Trouble::Broken(why)) => {
            ledger.counts.long_broken += 1;
            ledger
                .incident(at, format!("long-lived connection {index} from {own} on {place:?} broke: {why}"));
        }
    }
}

enum Trouble {
    Moved(String),
    Broken(String),
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        Self::Broken(e.to_string())
    }
}

fn flatten<T>(result: Result<std::io::Result<T>, tokio::time::error::Elapsed>) -> std::io::Result<T> {
    result.unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "silence for 20 s")))
}

async fn open(shared: &Shared, index: usize) -> std::io::Result<(TcpStream, Lines, Greeting)> {
    let target = shared.spec.tcp.pick(index);
    let mut stream = socket::connect(shared.source(index, target), target).await?;
    let mut lines = Lines::default();
    let line = lines.next(&mut stream).await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let greeting = parse_greeting(&shared.spec.fleet, line)
        .ok_or_else(|| std::io::Error::other(format!("greeted by {:?}", String::from_utf8_lossy(line))))?;
    Ok((stream, lines, greeting))
}

async fn exchange(
    shared: &Shared,
    index: usize,
    stream: &mut TcpStream,
    lines: &mut Lines,
    place: Place,
) -> Result<(), Trouble> {
    use std::io::Write;
    let member = &shared.spec.fleet.members()[usize::from(place.backend)];
    let suffix = format!(" {} {}", member.version, member.backend);
    let mut tick = tokio::time::interval(shared.spec.echo_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut request = Vec::with_capacity(16);
    let slot = u64::try_from(index).unwrap_or(0) % HANG_UP_SPREAD;
    for n in 1u64.. {
        tick.tick().await;
        if shared.stopping() || (n % HANG_UP_SPREAD == slot && shared.must_hang_up(place)) {
            break;
        }
        request.clear();
        writeln!(request, "{n}")?;
        stream.write_all(&request).await?;
        let number = &request[..request.len() - 1];
        let Some(answer) = flatten(timeout(SILENCE, lines.next(stream)).await)? else {
            return Err(Trouble::Broken(format!("end of stream instead of line {n}")));
        };
        if answer.strip_prefix(number) != Some(suffix.as_bytes()) {
            let text = String::from_utf8_lossy(answer).into_owned();
            // The right number with another name: somebody else took the connection over.
            return Err(if answer.starts_with(number) && answer.get(number.len()) == Some(&b' ') {
                Trouble::Moved(text)
            } else {
                Trouble::Broken(format!("line {n} was answered by {text:?}"))
            });
        }
        shared.ledger().counts.long_lines += 1;
    }
    stream.shutdown().await?;
    match flatten(timeout(SILENCE, lines.next(stream)).await)? {
        None => Ok(()),
        Some(line) => Err(Trouble::Broken(format!("{:?} after the goodbye", String::from_utf8_lossy(line)))),
    }
}
