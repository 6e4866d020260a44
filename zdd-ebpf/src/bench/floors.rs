//! The least that work of a kind can cost here. Each does what its comment says and nothing less; a figure of ours means
//! something only beside these.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::XdpContext;
use zdd_common::bench::{SLOTS, Vip4, Vip6};
use zdd_common::net::{Addr, TCP, UDP};

/// VIPs and their numbers.
#[map]
static VIPS4: HashMap<Vip4, u32> = HashMap::with_max_entries(1, 0);
/// The same for IPv6.
#[map]
static VIPS6: HashMap<Vip6, u32> = HashMap::with_max_entries(1, 0);
/// Backends' addresses by VIP and slot, the result of a Maglev or any other hash. IPv4 in the first four bytes: the kernel
/// rounds values of mapped arrays up to eight.
#[map]
static TABLE4: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The same for IPv6.
#[map]
static TABLE6: Array<Addr> = Array::with_max_entries(1, BPF_F_MMAPABLE);

const ETH: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// Where a one-armed balancer sends everything.
const GATEWAY: Mac = Mac(u32::from_ne_bytes([2, 0, 0, 0]), u16::from_ne_bytes([0, 0xfe]));
const OWN: Mac = Mac(u32::from_ne_bytes([2, 0, 0, 0]), u16::from_ne_bytes([0, 1]));

/// A MAC address in two words, as it is read and written.
struct Mac(u32, u16);

/// XDP_TX at once.
#[xdp]
pub fn tx(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Parses and swaps the MAC addresses.
#[xdp]
pub fn mac(ctx: XdpContext) -> u32 {
    let (mut flow4, mut flow6) = (Flow4::default(), Flow6::default());
    match ethertype(&ctx) {
        ETHERTYPE_IPV4 if parse4(&ctx, &mut flow4) => swap(&ctx),
        ETHERTYPE_IPV6 if parse6(&ctx, &mut flow6) => swap(&ctx),
        _ => XDP_PASS,
    }
}

/// Parses, looks the destination up among the VIPs, and passes.
#[xdp]
pub fn pass(ctx: XdpContext) -> u32 {
    let (mut flow4, mut flow6) = (Flow4::default(), Flow6::default());
    let known = match ethertype(&ctx) {
        ETHERTYPE_IPV4 if parse4(&ctx, &mut flow4) => vip4(&flow4).is_some(),
        ETHERTYPE_IPV6 if parse6(&ctx, &mut flow6) => vip6(&flow6).is_some(),
        _ => false,
    };
    if known { XDP_DROP } else { XDP_PASS }
}

/// Parses, looks the VIP up, picks a backend from its table by a hash of the flow, and puts an IPv4 or IPv6 header before the
/// packet.
#[xdp]
pub fn stateless(ctx: XdpContext) -> u32 {
    encapsulate(&ctx)
}

/// XDP_TX when the packet has its header.
#[inline(always)]
pub(crate) fn encapsulate(ctx: &XdpContext) -> u32 {
    let (mut flow4, mut flow6) = (Flow4::default(), Flow6::default());
    match ethertype(ctx) {
        ETHERTYPE_IPV4 if parse4(ctx, &mut flow4) => {
            let Some(vip) = vip4(&flow4) else { return XDP_PASS };
            let hash = mix(u64::from(flow4.src) << 32 | u64::from(flow4.ports));
            let Some(backend) = TABLE4.get(slot(*vip, hash)) else { return XDP_DROP };
            ipip(ctx, &flow4, *backend as u32)
        }
        ETHERTYPE_IPV6 if parse6(ctx, &mut flow6) => {
            let Some(vip) = vip6(&flow6) else { return XDP_PASS };
            let hash = mix(mix(flow6.src.hi) ^ flow6.src.lo) ^ u64::from(flow6.ports);
            let Some(backend) = TABLE6.get(slot(*vip, mix(hash))) else { return XDP_DROP };
            ip6ip6(ctx, &flow6, *backend)
        }
        _ => XDP_PASS,
    }
}

#[derive(Default)]
struct Flow4 {
    src: u32,
    dst: u32,
    ports: u32,
    proto: u8,
    length: u16,
}

#[derive(Default)]
struct Flow6 {
    src: Addr,
    dst: Addr,
    ports: u32,
    proto: u8,
    length: u16,
}

/// 0 of a frame that is too short for one.
#[inline(always)]
fn ethertype(ctx: &XdpContext) -> u16 {
    read::<u16>(ctx, 12).unwrap_or(0)
}

/// TCP or UDP, no options, no fragment.
#[inline(always)]
fn parse4(ctx: &XdpContext, flow: &mut Flow4) -> bool {
    // One check for all of it.
    let Some(ports) = read::<u32>(ctx, ETH + IPV4) else { return false };
    let at = ctx.data() + ETH;
    // SAFETY: before the ports, which are within the frame.
    let fragment = unsafe {
        flow.src = get(at + 12);
        flow.dst = get(at + 16);
        flow.length = u16::from_be(get(at + 2));
        flow.proto = get(at + 9);
        if get::<u8>(at) != 0x45 {
            return false;
        }
        get::<u16>(at + 6)
    };
    flow.ports = ports;
    fragment & 0x3fffu16.to_be() == 0 && (flow.proto == TCP || flow.proto == UDP)
}

/// TCP or UDP, no extension headers.
#[inline(always)]
fn parse6(ctx: &XdpContext, flow: &mut Flow6) -> bool {
    let Some(ports) = read::<u32>(ctx, ETH + IPV6) else { return false };
    let at = ctx.data() + ETH;
    // SAFETY: as above.
    unsafe {
        flow.src = get(at + 8);
        flow.dst = get(at + 24);
        flow.length = u16::from_be(get(at + 4));
        flow.proto = get(at + 6);
    }
    flow.ports = ports;
    flow.proto == TCP || flow.proto == UDP
}

#[inline(always)]
fn vip4(flow: &Flow4) -> Option<&'static u32> {
    let key = Vip4 { addr: flow.dst, port: (flow.ports >> 16) as u16, proto: flow.proto.into() };
    // SAFETY: nobody changes the map while the program runs.
    unsafe { VIPS4.get(&key) }
}

#[inline(always)]
fn vip6(flow: &Flow6) -> Option<&'static u32> {
    let key = Vip6 { addr: flow.dst, port: (flow.ports >> 16) as u16, proto: flow.proto.into(), zero: 0 };
    // SAFETY: as above.
    unsafe { VIPS6.get(&key) }
}

/// One multiplication: enough to spread.
#[inline(always)]
fn mix(word: u64) -> u64 {
    let x = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ x >> 32
}

#[inline(always)]
fn slot(vip: u32, hash: u64) -> u32 {
    vip * SLOTS + (hash as u32 & (SLOTS - 1))
}

#[inline(always)]
fn swap(ctx: &XdpContext) -> u32 {
    let (Some(a), Some(b), Some(c), Some(d)) =
        (read::<u32>(ctx, 0), read::<u16>(ctx, 4), read::<u32>(ctx, 6), read::<u16>(ctx, 10))
    else {
        return XDP_DROP;
    };
    if macs(ctx, &Mac(c, d), &Mac(a, b)) { XDP_TX } else { XDP_DROP }
}

/// RFC 2003.
#[inline(always)]
fn ipip(ctx: &XdpContext, flow: &Flow4, to: u32) -> u32 {
    let length = flow.length.wrapping_add(IPV4 as u16).to_be();
    // The source varies with the flow, so that receivers spread tunnelled packets over their queues.
    let from = u32::from_ne_bytes([172, 16, 0, 0])
        | (flow.src ^ flow.ports) & u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let (first, ttl) = (u16::from_ne_bytes([0x45, 0]), u16::from_ne_bytes([64, 4]));
    let mut sum = u32::from(first) + u32::from(length) + u32::from(ttl);
    sum += (from & 0xffff) + (from >> 16) + (to & 0xffff) + (to >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    // SAFETY: the context is the caller's.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV4 as i32)) } != 0 {
        return XDP_DROP;
    }
    let header =
        [u32::from(first) | u32::from(length) << 16, 0, u32::from(ttl) | (!sum & 0xffff) << 16, from, to];
    if ethernet(ctx, ETHERTYPE_IPV4) && write(ctx, ETH, header) { XDP_TX } else { XDP_DROP }
}

/// RFC 2473.
#[inline(always)]
fn ip6ip6(ctx: &XdpContext, flow: &Flow6, to: Addr) -> u32 {
    let length = flow.length.wrapping_add(IPV6 as u16).to_be();
    // SAFETY: the context is the caller's.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV6 as i32)) } != 0 {
        return XDP_DROP;
    }
    let [a, b] = length.to_ne_bytes();
    let first = u64::from_ne_bytes([0x60, 0, 0, 0, a, b, 41, 64]);
    let from =
        Addr { hi: u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]), lo: flow.src.lo ^ u64::from(flow.ports) };
    let header = [first, from.hi, from.lo, to.hi, to.lo];
    if ethernet(ctx, ETHERTYPE_IPV6) && write(ctx, ETH, header) { XDP_TX } else { XDP_DROP }
}

#[inline(always)]
fn ethernet(ctx: &XdpContext, ethertype: u16) -> bool {
    macs(ctx, &GATEWAY, &OWN) && write(ctx, 12, ethertype)
}

#[inline(always)]
fn macs(ctx: &XdpContext, dst: &Mac, src: &Mac) -> bool {
    write(ctx, 0, dst.0) && write(ctx, 4, dst.1) && write(ctx, 6, src.0) && write(ctx, 10, src.1)
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the frame, checked above.
    Some(unsafe { get(at) })
}

/// Reads a number. Not `read_unaligned`, which is a load for every byte: BPF on the machines that this runs on takes words at
/// any address of a frame.
///
/// # Safety
/// It is within the frame.
#[inline(always)]
unsafe fn get<T: Copy>(at: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { (at as *const T).read_volatile() }
}

#[inline(always)]
fn write<T: Copy>(ctx: &XdpContext, offset: usize, value: T) -> bool {
    let at = ctx.data() + offset;
    if at + size_of::<T>() > ctx.data_end() {
        return false;
    }
    // SAFETY: as in `read`.
    unsafe { (at as *mut T).write_volatile(value) };
    true
}
