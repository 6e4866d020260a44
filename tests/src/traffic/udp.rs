//! UDP flows: one socket each, a numbered datagram every so often, echoed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use super::client::{Running, Shared};
use super::protocol::{Place, parse_echo};

/// An answer that has not come by then is lost. A busy machine may take far longer than the pause between two datagrams.
const PATIENCE: Duration = Duration::from_secs(10);

/// Datagrams of a flow that may wait for their answers at a time.
const OPEN_MAX: usize = 20;

/// One tick in this many sends even so.
const SELDOM: u64 = 25;

/// One flow until its goodbye. A datagram that gets no answer is lost, which is not yet a fault; another backend's answer is.
pub(super) async fn flow(shared: Arc<Shared>, index: usize, _running: Running) {
    let source = shared.source(index, shared.spec.udp.pick(index));
    let mut place: Option<Place> = None;
    shared.ledger().counts.udp_total += 1;
    let result = run(&shared, index, &mut place).await;
    let at = shared.now_us();
    let mut ledger = shared.ledger();
    if let Some(place) = place {
        ledger.live_udp[usize::from(place.version)] -= 1;
    }
    if let Err(e) = result {
        ledger.incident(at, format!("UDP flow {index} from {source}: {e}"));
    }
}

async fn run(shared: &Shared, index: usize, place: &mut Option<Place>) -> std::io::Result<()> {
    let target = shared.spec.udp.pick(index);
    let socket = UdpSocket::bind((shared.source(index, target), 0)).await?;
    socket.connect(target).await?;
    let every = shared.spec.echo_every;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut buffer, mut moved) = ([0u8; 128], false);
    // Sent and not answered: number, and when it counts as lost.
    let mut open: VecDeque<(u64, Instant)> = VecDeque::new();
    for n in 1u64.. {
        tick.tick().await;
        let now = Instant::now();
        let late = open.iter().take_while(|(_, until)| *until <= now).count();
        open.drain(..late);
        shared.ledger().counts.udp_lost += late as u64;
        let over = shared.stopping() || place.is_some_and(|p| shared.must_hang_up(p));
        if over && open.is_empty() {
            break;
        }
        // Who is late gets less: a queue that overflows because a machine stands still would look like a loss. But no flow falls silent.
        if !over && (open.len() < OPEN_MAX || n.is_multiple_of(SELDOM)) {
            shared.ledger().counts.udp_sent += 1;
            open.push_back((n, now + PATIENCE));
            // An error here is an ICMP answer to an earlier one, which is lost then; the kernel did not send this one.
            if socket.send(n.to_string().as_bytes()).await.is_err() {
                open.pop_back();
                shared.ledger().counts.udp_lost += 1;
            }
        }
        let deadline = now + every;
        // Answers to earlier datagrams are read and checked too.
        if !open.is_empty() {
            while let Ok(Ok(len)) = timeout_at(deadline, socket.recv(&mut buffer)).await {
                let Some((number, from)) = parse_echo(&shared.spec.fleet, &buffer[..len]) else {
                    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
                    return Err(std::io::Error::other(format!("unexpected answer {text:?}")));
                };
                let first = *place.get_or_insert_with(|| {
                    let mut ledger = shared.ledger();
                    ledger.counts.udp_answered += 1;
                    ledger.live_udp[usize::from(from.version)] += 1;
                    from
                });
                if first != from && !moved {
                    moved = true;
                    let at = shared.now_us();
                    let own = socket.local_addr()?;
                    let mut ledger = shared.ledger();
                    ledger.counts.udp_moved += 1;
                    ledger.incident(
                        at,
                        format!("UDP flow {index} from {own} moved from {first:?} to {from:?}"),
                    );
                }
                open.retain(|(sent, _)| *sent != number);
                if open.is_empty() {
                    break;
                }
            }
        }
    }
    Ok(())
}
