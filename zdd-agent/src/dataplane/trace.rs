//! Traces: what the program tells of packets while somebody looks.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::PerCpuValues;
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use zdd_common::trace::{TraceAsk, TraceBudget, TraceMark};

use super::fault::{self, Write};
use super::object::Plain;
use super::{Dataplane, DataplaneError};

/// Pages of each CPU's ring: 128 KiB, a thousand packets with their headers.
const PAGES: usize = 32;

/// Where one CPU's packets come in. They stop coming when it is dropped.
pub struct TraceRing(PerfEventArrayBuffer);

impl AsRawFd for TraceRing {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl TraceRing {
    /// Everything that has come. The result says how many packets found the ring full.
    pub fn drain(&mut self, mut take: impl FnMut(TraceMark, Vec<u8>)) -> u64 {
        self.0.fold(0, |lost, event| match event {
            PerfEvent::Lost { count } => lost + count,
            PerfEvent::Sample { head, tail } => {
                let whole = [head, tail].concat();
                if let Some((mark, mut frame)) = read(whole) {
                    // Behind the frame the kernel has filled up to eight bytes.
                    frame.truncate(mark.captured as usize);
                    take(mark, frame);
                }
                lost
            }
        })
    }
}

/// The mark and what follows it.
fn read(mut whole: Vec<u8>) -> Option<(TraceMark, Vec<u8>)> {
    let frame = if whole.len() < size_of::<TraceMark>() {
        return None;
    } else {
        whole.split_off(size_of::<TraceMark>())
    };
    // SAFETY: as many bytes as it has, and `wire!` has proved that any bytes are one.
    Some((unsafe { whole.as_ptr().cast::<TraceMark>().read_unaligned() }, frame))
}

impl Dataplane {
    /// Opens a ring for each CPU.
    ///
    /// # Errors
    /// The kernel refuses them: without CAP_PERFMON, or without memory.
    pub fn open_trace(&mut self) -> Result<Vec<TraceRing>, DataplaneError> {
        let failed = |what: &str, error: &dyn std::error::Error| DataplaneError::Kernelspace {
            what: format!("cannot {what} for traces"),
            reason: error.to_string(),
        };
        let cpus = aya::util::online_cpus().map_err(|(_, error)| failed("count the CPUs", &error))?;
        // What an earlier trace missed is no news to this one.
        let none = (0..self.cpus).map(|_| Plain(TraceBudget::default())).collect::<Vec<_>>();
        let none = PerCpuValues::try_from(none).map_err(|error| failed("clear the budgets", &error))?;
        fault::before(Write::Trace);
        self.trace_budget.set(0, none, 0).map_err(|error| failed("clear the budgets", &error))?;
        let mut rings = Vec::with_capacity(cpus.len());
        for cpu in cpus {
            let ring =
                PerfEventArrayBuffer::open(cpu, PAGES).map_err(|error| failed("open a ring", &error))?;
            fault::before(Write::Trace);
            self.trace_out.set(cpu, &ring).map_err(|error| failed("give the program a ring", &error))?;
            rings.push(TraceRing(ring));
        }
        Ok(rings)
    }

    /// Says what is wanted from now on. [`TraceAsk::default`]: nothing.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn ask_trace(&mut self, ask: TraceAsk) -> Result<(), DataplaneError> {
        fault::before(Write::Trace);
        self.trace
            .set(0, &Plain(ask), 0)
            .map_err(|error| DataplaneError::kernel("cannot change the trace", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_and_its_frame_are_told_apart() {
        let mark = TraceMark { at_ns: 7, length: 60, captured: 2, reason: 3, ..TraceMark::default() };
        // SAFETY: a plain value without padding.
        let bytes: [u8; size_of::<TraceMark>()] = unsafe { std::mem::transmute(mark) };
        let whole = [&bytes[..], &[0xaa, 0xbb, 0, 0]].concat();
        assert_eq!(read(whole), Some((mark, vec![0xaa, 0xbb, 0, 0])));
        assert_eq!(read(vec![0; 20]), None);
    }
}
