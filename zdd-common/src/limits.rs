//! Fixed limits of the layout. What an operator can change is in the agent's configuration; these are the bounds of it.

/// Ways of a flow bucket.
pub const WAYS: usize = 4;
/// Entries of the flow table where nobody asks for more or fewer.
pub const FLOWS_DEFAULT: u32 = 1 << 18;
/// Bytes of the SYN filter, likewise.
pub const SYN_FILTER_DEFAULT: u32 = 2 << 20;
/// Largest number of backends: ids are 15 bits in a flow entry and 0 means none.
pub const BACKENDS_MAX: u32 = 32_767;
/// Largest number of services: ids are 16 bits.
pub const SERVICES_MAX: u32 = 65_536;
/// Smallest number of cells of a service: a step of 0.1 %.
pub const CELLS_MIN: u32 = 1 << 10;
/// Largest number of cells of a service.
pub const CELLS_MAX: u32 = 1 << 20;
/// Cells of a service that says nothing: a step of 0.006 %.
pub const CELLS_DEFAULT: u32 = 1 << 14;
/// Backends of one service: with the most cells, each backend still has 100 of them.
pub const BACKENDS_PER_SERVICE_MAX: u32 = 10_000;
/// Distance in sequence numbers within which a packet can belong to a position: far above any TCP window that one
/// connection moves between two packets, far below the chance of an accident (3 % of the number space).
pub const POSITION_REACH: u32 = 64 << 20;
/// How far ahead of its initial sequence number a connection may be while it is half-open and the tuple has a second
/// identity: an initial window of jumbo frames fits, a live older connection almost never does.
pub const HALF_OPEN_REACH: u32 = 64 << 10;
/// IPv6 extension headers before a transport header.
pub const EXTENSIONS_MAX: usize = 4;
/// Bytes of these headers together.
pub const EXTENSION_BYTES_MAX: usize = 128;
/// Datagrams of which the first fragment's way is remembered at a time.
pub const FRAGMENTED_MAX: u32 = 8192;
/// For how long: what the stack waits for the rest of an IPv4 datagram (ipfrag_time, 30 s).
pub const FRAGMENT_LIFE_NS: u64 = 30_000_000_000;
/// Mappings of one bucket: ports in a row.
pub const SNAT_WAYS: usize = 8;
/// Addresses of ours, of each family, that `snat` sends from.
pub const SNAT_SOURCES_MAX: usize = 8;
/// Prefixes of ports and of sources, over all VIPs: tries take memory for what is in them only.
pub const PREFIXES_MAX: u32 = 1 << 20;
/// Sources whose new connections are counted at a time; the least recently seen make room.
pub const PACED_MAX: u32 = 1 << 16;
/// Room for counters of reasons: more than there are, so that one more finds its place in maps that are there.
pub const REASONS_MAX: u32 = 64;
/// Layout number of all maps. Bump it with any change of a [`crate::wire!`] type or of a map's meaning; the agent
/// refuses maps of another number.
pub const LAYOUT: u32 = 4;

const _: () =
    assert!(CELLS_MAX >= 100 * BACKENDS_PER_SERVICE_MAX, "a cell must weigh at most 1 % of a backend");
const _: () = assert!(CELLS_MIN.is_power_of_two() && CELLS_MAX.is_power_of_two());
const _: () = assert!(HALF_OPEN_REACH < POSITION_REACH);
