//! The kernel's routing decision for a reply (bpf_fib_lookup, Linux 4.18).

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_fib_lookup as Params;
use aya_ebpf::helpers::bpf_fib_lookup;
use aya_ebpf::programs::XdpContext;
use zdd_common::net::Addr;
use zdd_common::tables::Route;

use crate::maps::{TX, WANTED};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const FOUND: i64 = 0;
/// BPF_FIB_LKUP_RET_NO_NEIGH.
const NO_NEIGHBOUR: i64 = 7;
/// BPF_FIB_LKUP_RET_FRAG_NEEDED.
const FRAGMENTATION_NEEDED: i64 = 8;

/// Where a packet from `src` to `dst` goes, if the kernel knows its neighbour and frames can be redirected there.
#[inline(always)]
pub(crate) fn lookup(ctx: &XdpContext, src: &Addr, dst: &Addr, proto: u8, length: u16) -> Option<Route> {
    // SAFETY: all zero is a valid query; the helper wants no stale bytes in it.
    let mut params: Params = unsafe { MaybeUninit::zeroed().assume_init() };
    params.l4_protocol = proto;
    params.__bindgen_anon_1.tot_len = length;
    params.ifindex = ctx.ingress_ifindex() as u32;
    if dst.is_v4() {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src.v4_octets());
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst.v4_octets());
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = words(src);
        params.__bindgen_anon_4.ipv6_dst = words(dst);
    }
    // SAFETY: params is valid for its size.
    let found = unsafe { bpf_fib_lookup(ctx.ctx.cast(), &raw mut params, size_of::<Params>() as i32, 0) };
    if found == NO_NEIGHBOUR {
        // A failure under contention heals with the next packet.
        let _ = WANTED.insert(dst, &0, 0);
    }
    if found == FRAGMENTATION_NEEDED {
        // SAFETY: the helper has put the MTU where the length was (Linux 5.12).
        let fits = unsafe { params.__bindgen_anon_1.mtu_result }.into();
        return Some(Route { ifindex: 0, src_mac: [0; 6], dst_mac: [0; 6], fits });
    }
    if found != FOUND {
        return None;
    }
    let ifindex = params.ifindex;
    TX.get_ifindex(ifindex)?;
    // SAFETY: the helper filled both addresses.
    let macs = unsafe { params.__bindgen_anon_6.__bindgen_anon_2 };
    Some(Route { ifindex, src_mac: macs.smac, dst_mac: macs.dmac, fits: 0 })
}

#[inline(always)]
fn words(addr: &Addr) -> [u32; 4] {
    [addr.hi as u32, (addr.hi >> 32) as u32, addr.lo as u32, (addr.lo >> 32) as u32]
}
