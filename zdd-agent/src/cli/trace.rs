//! `zdd trace`: a live sample of packets, as lines, as JSON, or as pcapng for Wireshark's kin.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::StreamExt;

use super::Outcome;
use super::args::TraceArgs;
use super::output::{Output, ReaderGone, remark};
use crate::api::client::{Client, ClientError};
use crate::trace::pcapng::Writer;
use crate::trace::{TraceFilter, TracedPacket, reasons};

/// Where packets go.
enum Sink {
    Lines,
    Capture(Writer, Box<dyn Write>, PathBuf),
}

impl Sink {
    fn open(path: Option<&PathBuf>, snap: u32) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Sink::Lines) };
        let mut to: Box<dyn Write> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(File::create(path).map_err(gone).with_context(|| unwritten(path))?)
        };
        let (writer, head) = Writer::begin(snap);
        to.write_all(&head).and_then(|()| to.flush()).map_err(|error| lost(error, path))?;
        Ok(Sink::Capture(writer, to, path.clone()))
    }

    fn take(&mut self, packet: &TracedPacket, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Sink::Lines => out.print(packet, line),
            // Each at once: whoever reads a pipe looks at it live.
            Sink::Capture(writer, to, path) => to
                .write_all(&writer.packet(packet))
                .and_then(|()| to.flush())
                .map_err(|error| lost(error, path)),
        }
    }
}

fn unwritten(path: &Path) -> String {
    format!(
        "cannot write {}\nhelp: make room, or name another file; --write - goes to standard output",
        path.display()
    )
}

/// A pipe whose reader has what it wanted is no error.
fn lost(error: std::io::Error, path: &Path) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => gone(error),
        _ => gone(error).context(unwritten(path)),
    }
}

fn gone(error: std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::BrokenPipe { ReaderGone.into() } else { error.into() }
}

fn line(packet: &TracedPacket) -> String {
    let (seconds, micros) = (packet.unix_ns / 1_000_000_000 % 86_400, packet.unix_ns / 1_000 % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let missed =
        if packet.missed > 0 { format!("  ({} more not shown)", packet.missed) } else { String::new() };
    format!(
        "{hour:02}:{minute:02}:{second:02}.{micros:06}Z {:<10} {}, {} bytes{missed}\n",
        packet.interface,
        packet.told(),
        packet.bytes
    )
}

/// Follows until interrupted, or until `--count` packets have come.
pub async fn run(args: TraceArgs, mut client: Client, out: &mut Output) -> anyhow::Result<Outcome> {
    let mut bits = 0;
    for word in &args.reason {
        bits |= reasons(word)?;
    }
    let filter = TraceFilter {
        service: args.service,
        reasons: if bits == 0 { u64::MAX } else { bits },
        from: args.from,
        rate: args.rate,
        snap: args.snap,
    };
    let mut packets = client.trace(&filter).await?;
    let mut sink = Sink::open(args.write.as_ref(), args.snap)?;
    let (mut shown, mut missed) = (0, 0);
    let mut interrupt = super::interrupts()?;
    let ended = loop {
        if args.count.is_some_and(|count| shown >= count) {
            break Ok(());
        }
        let packet = tokio::select! {
            packet = packets.next() => packet,
            _ = interrupt.recv() => break Ok(()),
        };
        let packet = match packet {
            Some(packet) => packet?,
            None => break Err(ClientError::Broke("it stops".to_owned())),
        };
        (shown, missed) = (shown + 1, missed + packet.missed);
        sink.take(&packet, out)?;
    };
    if !out.is_json() {
        remark(
            "note",
            &format!("{shown} packets shown, {missed} more matched and were left out by the rate"),
        );
    }
    ended?;
    Ok(Outcome::Done)
}
