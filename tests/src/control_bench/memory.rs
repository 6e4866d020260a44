//! What the kernel accounts for each map, by one of what it holds; and that connections of settled services add nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;

use anyhow::{Result, ensure};
use zdd_agent::dataplane::SourceSet;
use zdd_agent::prefix::Prefix;
use zdd_common::entries::{Cell, Commit};
use zdd_common::limits::{FRAGMENTED_MAX, PACED_MAX, SNAT_WAYS, WAYS};
use zdd_common::sources::Source;

use super::kernel;
use super::plane::{CELLS, Plane, SERVICE, frame, limits};
use super::report::{Memory, Report, Unit};

/// Maps, one of what they hold, and how many. Those of the kernel's own (`TX`, `PORTS`, counters by reason) are in the sum.
fn maps(plane: &Plane) -> Result<Vec<(&'static str, &'static str, u64)>> {
    let limits = limits();
    let (services, backends) = (u64::from(limits.services), u64::from(limits.backends));
    // As many as the source's ports make: not more than the limit.
    let mappings = kernel::max_entries(plane.map("MAPPINGS")?.as_fd())? * SNAT_WAYS as u64;
    Ok(vec![
        ("SERVICES", "service", services),
        ("FACTS", "service", services),
        ("SERVICE_COUNT", "service", services),
        ("REFUSED_COUNT", "service", services),
        ("BACKENDS", "backend", backends + 1),
        ("BACKEND_COUNT", "backend", backends + 1),
        ("ENDS", "VIP or nat backend", services + backends),
        ("CELLS", "cell (slot of a row)", limits.cells.into()),
        ("FLOWS", "flow entry", plane.plane.flow_capacity()),
        ("SYNS", "byte of the SYN filter", limits.syn_filter.into()),
        ("SIGNAL_FLOWS", "flow followed for signals", limits.signals.into()),
        ("SIGNALS", "backend", backends + 1),
        ("MAPPINGS", "flow mapped by snat", mappings),
        ("SNAT_POOL", "host", 1),
        ("DIRECT", "direct conversation", limits.direct.into()),
        ("FRAGMENTS", "datagram in fragments", FRAGMENTED_MAX.into()),
        ("PACES", "source with limited connections", PACED_MAX.into()),
        ("REPLIERS", "host", 1),
        ("LOCALS", "address of this host", 65_536),
        ("PORTS", "interface and MAC", 4096),
        ("TX", "interface and MAC", 4096),
        ("WANTED", "neighbour asked for", 1024),
        ("REASON_COUNT", "reason", zdd_common::limits::REASONS_MAX.into()),
        ("QUOTAS", "table", 1),
    ])
}

fn total(plane: &Plane) -> Result<u64> {
    maps(plane)?.iter().map(|(name, ..)| Ok(kernel::memlock(plane.map(name)?.as_fd())?)).sum()
}

pub(super) fn measure(plane: &mut Plane, report: &mut Report) -> Result<()> {
    let mut all = 0;
    for (name, per, room) in maps(plane)? {
        let bytes = kernel::memlock(plane.map(name)?.as_fd())?;
        all += bytes;
        let each = bytes as f64 / room as f64;
        report.memory.push(Memory { what: name.to_owned(), per, room, bytes, each });
    }
    let known = report.memory.clone();
    let sum = |names: &[&str]| -> f64 {
        known.iter().filter(|m| names.contains(&m.what.as_str())).map(|m| m.each).sum()
    };
    let (service, backend) = (
        sum(&["SERVICES", "FACTS", "SERVICE_COUNT", "REFUSED_COUNT", "ENDS"]),
        sum(&["BACKENDS", "BACKEND_COUNT", "ENDS"]),
    );
    report.memory.push(Memory {
        what: "all".to_owned(),
        per: "agent",
        room: 1,
        bytes: all,
        each: all as f64,
    });
    report.row("memory: a service without its cells", "", Unit::Bytes, &[service], None);
    report.row("memory: a version", "the agent alone knows it", Unit::Bytes, &[0.0], None);
    report.row("memory: a nat backend", "", Unit::Bytes, &[backend], None);
    report.row(
        "memory: a slot (cell)",
        "one row, and one spare by size",
        Unit::Bytes,
        &[sum(&["CELLS"])],
        None,
    );
    report.row("memory: a flow entry", format!("{WAYS} in a bucket"), Unit::Bytes, &[sum(&["FLOWS"])], None);
    report.row("memory: a flow followed for signals", "", Unit::Bytes, &[sum(&["SIGNAL_FLOWS"])], None);
    report.row("memory: signals of a backend", "", Unit::Bytes, &[sum(&["SIGNALS"])], None);
    report.row(
        "memory: a flow mapped by snat",
        format!("{SNAT_WAYS} in a bucket"),
        Unit::Bytes,
        &[sum(&["MAPPINGS"])],
        None,
    );
    lists(plane, report)?;
    settled(plane, report)
}

/// Prefixes of access lists: a trie, whose elements the kernel takes when they are written.
fn lists(plane: &mut Plane, report: &mut Report) -> Result<()> {
    const PREFIXES: u32 = 10_000;
    let bytes = |plane: &Plane| -> Result<u64> { Ok(kernel::memlock(plane.map("SOURCES")?.as_fd())?) };
    let source = Source { flags: Source::DENIED, service: SERVICE };
    let prefix = |n: u32| Prefix { addr: IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + (n << 8))), length: 24 };
    let set: SourceSet = (0..PREFIXES).map(|n| (prefix(n), source)).collect();
    let before = bytes(plane)?;
    plane.plane.write_sources(1, &set)?;
    let taken = bytes(plane)? - before;
    plane.plane.remove_sources(1, &set);
    ensure!(bytes(plane)? == before, "prefixes that are gone still take memory");
    let each = taken as f64 / f64::from(PREFIXES);
    report.memory.push(Memory {
        what: "SOURCES".to_owned(),
        per: "prefix of an access list",
        room: PREFIXES.into(),
        bytes: taken,
        each,
    });
    // A trie has inner nodes of its own, fewer than prefixes.
    report.row(
        "memory: a prefix of an access list",
        format!("{PREFIXES} of IPv4"),
        Unit::Bytes,
        &[each],
        None,
    );
    Ok(())
}

/// Packets of many connections to a settled service, and the accounts before and after.
fn settled(plane: &mut Plane, report: &mut Report) -> Result<()> {
    let connections: u32 = if report.quick { 20_000 } else { 100_000 };
    plane.plane.write_row(0, &vec![Cell::settled(1); CELLS as usize]);
    plane.plane.commit(SERVICE, Commit::new(0, 500_000));
    let before = total(plane)?;
    for client in 0..connections {
        let mut packet = frame(client);
        kernel::test_run(plane.program.as_fd(), &mut packet)?;
        ensure!(packet[5] == 1, "connection {client} was not sent to the backend");
    }
    let entries: u64 = plane.plane.quotas().used.iter().sum();
    ensure!(entries == 0, "{connections} settled connections made {entries} entries");
    let each = (total(plane)? - before) as f64 / f64::from(connections);
    let size = format!("{connections} connections, {entries} entries");
    report.row("memory: a settled connection", size, Unit::Bytes, &[each], Some(f64::MIN_POSITIVE));
    Ok(())
}
