//! How many cache lines a packet touches: the same `process` as in the kernel, run over the model, with every access written down.
//!
//! Counted, each line once a packet:
//! - *maps*: lines of map values (services, cells, backends, ports, sketches, flow buckets, SYN filter, quotas, facts, mappings), at the
//!   offsets that the values have in the kernel, where arrays begin on a page. Of values that atomic operations go to (buckets,
//!   filter) the words really touched; of others the whole value, which is one line but for `snat`'s pool (two).
//! - *frame*: lines of the frame, which begins 256 bytes into a page; `ipip`'s outer header lies before that.
//! - *counters*: values in per-CPU memory (service, backend, reason), each a line that no other CPU writes.
//! - *lookups*: in the kernel's hash tables and tries. Each touches lines of the kernel's own, the head of a hash bucket and the
//!   elements in it: two at least.
//!
//! Not counted, because always warm: the BPF stack, the per-CPU scratch that a frame is worked on in, program text; nor per-CPU
//! arrays' pointers, and what helpers such as the route lookup touch.

mod model;
mod tables;
mod touched;

use serde::Serialize;
use zdd_common::process::{self, Verdict};

use super::cases::{Case, Flows, Kind};
use super::frame;
use tables::Traced;

/// Packets that are counted.
const PACKETS: u32 = 512;
/// Flows at the most: what a packet touches does not depend on how many others there are, but for full buckets.
pub(super) const FLOWS: u32 = 1024;

/// Means over the packets of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lines {
    /// Of map values.
    pub maps: f64,
    /// Of the frame.
    pub frame: f64,
    /// Values in per-CPU memory.
    pub counters: f64,
    /// Lookups in hash tables and tries, each two lines or more of the kernel's own.
    pub lookups: f64,
}

/// Counts for a case. The same on every machine.
///
/// # Panics
/// When the packets do not take the path that the case names.
pub(super) fn count(case: &Case) -> Lines {
    let mut tables = model::of(case);
    let flows = match case.flows {
        Flows::Some(flows) => flows.min(FLOWS),
        Flows::New => u32::MAX,
    };
    // Once each, so that flows have their entries; then again, counted.
    let fill = flows.min(FLOWS);
    let mut sum = touched::Touched::default();
    for n in 0..fill + PACKETS {
        let flow = if flows == u32::MAX { n } else { n % flows };
        let mut frame = Traced::new(packet(case, flow, n));
        touched::begin();
        let verdict = process::process(&mut frame, &mut tables);
        touched::counter();
        let seen = touched::end();
        if n >= fill {
            let done = matches!(verdict, Verdict::Transmit(_) | Verdict::Pass(_));
            assert!(done, "{}: {verdict:?}", case.name());
            sum.add(&seen);
        }
    }
    sum.mean(PACKETS)
}

/// What the driver makes of the case's frame for flow `flow`, as packet `n`.
fn packet(case: &Case, flow: u32, n: u32) -> Vec<u8> {
    use zdd_common::bench::{PORT_BITS, PORT_FIRST};
    let mut bytes = frame::bytes(case);
    let (src, dst, port, seq) = if case.v6 { (34, 50, 54, 58) } else { (26, 30, 34, 38) };
    let mut add = |at: usize, more: u32| {
        let word: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        bytes[at..at + 4].copy_from_slice(&u32::from_be_bytes(word).wrapping_add(more).to_be_bytes());
    };
    add(src, flow >> PORT_BITS);
    if case.services > 1 {
        let mixed = u64::from(flow.wrapping_mul(0x9E37_79B9));
        add(dst, ((mixed * u64::from(case.services)) >> 32) as u32);
    }
    let port_of = PORT_FIRST + (flow & ((1 << PORT_BITS) - 1)) as u16;
    bytes[port..port + 2].copy_from_slice(&port_of.to_be_bytes());
    if case.kind == Kind::Syn {
        bytes[seq..seq + 4].copy_from_slice(&n.wrapping_mul(0x85EB_CA6B).to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::cases::{self, State};
    use super::*;

    fn of(name: &str, flows: &str) -> Lines {
        let all = cases::all();
        let case = all.iter().find(|case| case.name() == name && case.flows() == flows);
        count(case.unwrap_or_else(|| panic!("no case {name}, {flows}")))
    }

    #[test]
    fn a_settled_packet_touches_vip_service_cell_backend_and_port_and_nothing_per_flow() {
        for (name, frame) in
            [("v4 ACK settled l2", 1.0), ("v4 ACK settled nat", 1.0), ("v6 UDP settled l2", 2.0)]
        {
            let lines = of(name, "64k");
            assert!(lines.maps <= 5.0, "{name}: {lines:?}");
            assert!(lines.frame <= frame && lines.lookups == 0.0, "{name}: {lines:?}");
        }
    }

    #[test]
    fn a_syn_adds_one_line_of_the_filter_and_an_entry_little_more_than_one() {
        let [ack, syn] = ["v4 ACK settled l2", "v4 SYN settled l2"].map(|name| of(name, "64k").maps);
        assert!(syn - ack <= 1.0 && syn > ack, "{ack} and {syn}");
        let known = of("v4 ACK transition l2", "64k").maps;
        // Its bucket's first line; of a second way the next one.
        assert!(known - ack >= 1.0 && known - ack <= 1.5, "{ack} and {known}");
    }

    #[test]
    fn an_outer_header_takes_a_line_of_the_frame_more() {
        let [l2, ipip] = ["v4 ACK settled l2", "v4 ACK settled ipip"].map(|name| of(name, "1"));
        assert_eq!(ipip.frame, l2.frame + 1.0);
    }

    #[test]
    fn every_case_can_be_counted() {
        for case in cases::all() {
            let lines = count(&case);
            assert!(lines.frame >= 1.0 && lines.counters >= 1.0, "{}: {lines:?}", case.name());
            assert!(case.state == State::NotVip || lines.maps >= 2.0, "{}: {lines:?}", case.name());
        }
    }
}
