//! Writing a row into the mapped cells, and how long after its commit a packet on another CPU sees it.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use zdd_common::entries::{Cell, Commit};

use super::plane::{CELLS, Plane, SERVICE, frame, mac};
use super::report::{Report, Unit};
use super::{kernel, quantile, rounds, sorted};

pub(super) fn measure(plane: &mut Plane, report: &mut Report) -> Result<()> {
    rows(plane, report);
    visible(plane, report)
}

fn rows(plane: &Plane, report: &mut Report) {
    let count = if report.quick { 51 } else { 501 };
    let mut points = Vec::new();
    for (cells, target) in
        [(8_192u32, None), (16_384, None), (65_536, Some(1e-3)), (131_072, Some(1e-3)), (CELLS, None)]
    {
        let row: Vec<Cell> = (0..cells).map(|n| Cell::settled(1 + (n % 2) as u16)).collect();
        let mut generation = 1;
        let times = rounds(count, || {
            plane.plane.write_row((generation % 2) * CELLS, &row);
            plane.plane.commit(SERVICE, Commit::new((generation % 2) * CELLS, generation));
            generation += 1;
        });
        let best = report.row(
            "publish: row and commit, 0 system calls",
            format!("{cells} cells"),
            Unit::Seconds,
            &times,
            target,
        );
        points.push((f64::from(cells), best));
    }
    report.growth("publish: row and commit", "cells", Unit::Seconds, points);
}

/// Two whole rows, one for each backend, committed in turn.
fn visible(plane: &Plane, report: &mut Report) -> Result<()> {
    for row in 0..2u32 {
        plane.plane.write_row(row * CELLS, &vec![Cell::settled(1 + row as u16); CELLS as usize]);
    }
    plane.plane.commit(SERVICE, Commit::new(0, 1));
    let begin = Instant::now();
    // Backend of the last packet, and when it was back: ns since `begin`.
    let (backend, at) = (AtomicU64::new(1), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let count = if report.quick { 400 } else { 5_000 };
    let program = plane.program.as_fd();
    let mut times = Vec::with_capacity(count);
    let outcome = std::thread::scope(|scope| -> Result<()> {
        let packets = scope.spawn(|| -> std::io::Result<()> {
            let mut last = 1u64;
            while !stop.load(Ordering::Relaxed) {
                let mut packet = frame(1);
                kernel::test_run(program, &mut packet)?;
                let now = begin.elapsed().as_nanos() as u64;
                let seen = u64::from(packet[5]);
                if seen != last {
                    last = seen;
                    at.store(now, Ordering::Relaxed);
                    backend.store(seen, Ordering::Release);
                }
            }
            Ok(())
        });
        let outcome = (0..count).try_for_each(|round| {
            let row = (round as u32 + 1) % 2;
            let wanted = u64::from(mac(1 + row as u16)[5]);
            // Not always at the same point of the other loop.
            std::thread::sleep(Duration::from_micros(20 + (round as u64 * 7) % 30));
            let start = begin.elapsed().as_nanos() as u64;
            plane.plane.commit(SERVICE, Commit::new(row * CELLS, round as u32 + 2));
            while backend.load(Ordering::Acquire) != wanted {
                ensure!(
                    begin.elapsed().as_nanos() as u64 - start < 5_000_000_000,
                    "a commit was not seen for 5 s"
                );
                std::hint::spin_loop();
            }
            times.push(Duration::from_nanos(at.load(Ordering::Relaxed).saturating_sub(start)));
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        packets.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    });
    outcome?;
    let times = sorted(times);
    report.row(
        "commit to visible on another CPU",
        "a system call per look included",
        Unit::Seconds,
        &times,
        Some(50e-6),
    );
    report.row("commit to visible, 99 of 100", "", Unit::Seconds, &[quantile(&times, 0.99)], None);
    Ok(())
}
