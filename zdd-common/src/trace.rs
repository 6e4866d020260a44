//! Traces: a sample of packets, each told with what became of it and why, for people who look. Nothing is done for it while nobody
//! looks but reading one word.

use crate::net::Addr;
use crate::process::{Next, Verdict, Work};
use crate::reason::Reason;
use crate::snat::Order;

/// What a trace wants: one value, written by the agent. All zero: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TraceAsk {
    /// Until when, ns since boot (CLOCK_MONOTONIC). The agent moves it on while somebody looks: one that was killed leaves no trace
    /// on for longer than that. 0: off.
    pub until: u64,
    /// Bit n: packets with the reason of number n.
    pub reasons: u64,
    /// Bit `service & 63`: packets of that service, and of others with the same bit, which the agent leaves out. All ones: any, and
    /// packets of none.
    pub services: u64,
    /// Packets whose source or destination is `net` where `mask` has ones.
    pub net: Addr,
    /// See `net`. All zero: any.
    pub mask: Addr,
    /// Packets per second on each CPU.
    pub rate: u32,
    /// Bytes of each frame.
    pub snap: u32,
}
wire!(TraceAsk, 64, { until: u64, reasons: u64, services: u64, net: Addr, mask: Addr, rate: u32, snap: u32 });

/// How many more one CPU may tell of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TraceBudget {
    /// The second that it is for, since boot.
    pub second: u64,
    /// Told in it.
    pub told: u32,
    /// Wanted and not told since the last one that was.
    pub missed: u32,
}
wire!(TraceBudget, 16, { second: u64, told: u32, missed: u32 });

/// What is told of one packet; the first bytes of its frame follow, as it left the program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TraceMark {
    /// When, ns since boot (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Source of the packet as it came, if [`TraceMark::PARSED`].
    pub src: Addr,
    /// Destination, as `src`.
    pub dst: Addr,
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Length of the frame as it left.
    pub length: u32,
    /// Bytes of it that follow.
    pub captured: u32,
    /// Wanted and not told on this CPU since the packet before.
    pub missed: u32,
    /// Source port, network byte order, as `src`.
    pub src_port: u16,
    /// Destination port, network byte order, as `src`.
    pub dst_port: u16,
    /// Service, if [`TraceMark::SERVED`].
    pub service: u16,
    /// Backend: whom a packet was sent to, or who sent a reply; 0: none.
    pub backend: u16,
    /// IP protocol number, as `src`.
    pub proto: u8,
    /// Number of its [`Reason`].
    pub reason: u8,
    /// See [`TraceMark::PASS`].
    pub action: u8,
    /// What of this is known.
    pub known: u8,
    /// 0.
    pub zero: u32,
}
wire!(TraceMark, 72, {
    at_ns: u64, src: Addr, dst: Addr, ifindex: u32, length: u32, captured: u32, missed: u32, src_port: u16, dst_port: u16,
    service: u16, backend: u16, proto: u8, reason: u8, action: u8, known: u8, zero: u32,
});

impl TraceMark {
    /// Addresses, ports and protocol are known.
    pub const PARSED: u8 = 1;
    /// The service is known.
    pub const SERVED: u8 = 2;
    /// Went up the stack.
    pub const PASS: u8 = 0;
    /// Was dropped.
    pub const DROP: u8 = 1;
    /// Left by the interface that it came in by.
    pub const TRANSMIT: u8 = 2;
    /// Left by another interface.
    pub const REDIRECT: u8 = 3;

    /// What became of a packet, as its number.
    #[inline(always)]
    pub const fn action(verdict: Verdict) -> u32 {
        let action = match verdict {
            Verdict::Pass(_) | Verdict::Odd => Self::PASS,
            Verdict::Drop(_) | Verdict::Map => Self::DROP,
            Verdict::Transmit(_) => Self::TRANSMIT,
            Verdict::Redirect(..) => Self::REDIRECT,
        };
        action as u32
    }

    /// What the steps found out about a packet. `fate`: the number of its reason, and [`TraceMark::action`] eight bits further up.
    /// What is in `work` may be left from an earlier packet: how far this one came says what of it is its own.
    #[inline(always)]
    pub fn of(work: Option<&Work>, fate: u32) -> Self {
        let mut mark = Self {
            at_ns: 0,
            src: Addr { hi: 0, lo: 0 },
            dst: Addr { hi: 0, lo: 0 },
            ifindex: 0,
            length: 0,
            captured: 0,
            missed: 0,
            src_port: 0,
            dst_port: 0,
            service: 0,
            backend: 0,
            proto: 0,
            reason: fate as u8,
            action: (fate >> 8) as u8,
            known: 0,
            zero: 0,
        };
        let unread = [Reason::PassNotIp as u8, Reason::PassOdd as u8];
        let Some(work) = work else { return mark };
        if mark.reason == unread[0]
            || mark.reason == unread[1]
            || work.packet.src.hi | work.packet.src.lo == 0
        {
            return mark;
        }
        let packet = &work.packet;
        mark.known = Self::PARSED;
        mark.src = packet.src;
        mark.dst = packet.dst;
        mark.src_port = packet.src_port;
        mark.dst_port = packet.dst_port;
        mark.proto = packet.proto;
        match work.next {
            Next::Steer | Next::Encapsulate => {
                mark.known |= Self::SERVED;
                mark.service = work.end.service;
                mark.backend = work.steered.backend;
            }
            Next::Reply => {
                mark.known |= Self::SERVED;
                mark.service = work.end.service;
                mark.backend = work.end.id;
            }
            // The last two come from the express way, which packets do not take while somebody looks.
            Next::Read
            | Next::Done
            | Next::Odd
            | Next::Classify
            | Next::MapOut
            | Next::MapBack
            | Next::Decide
            | Next::Deliver => {}
        }
        mark
    }

    /// Adds what the order for the program that maps knows of the packet.
    #[inline(always)]
    pub fn ordered(&mut self, order: &Order) {
        self.known = Self::PARSED | Self::SERVED;
        self.src = order.src;
        self.dst = order.dst;
        self.src_port = order.src_port;
        self.dst_port = order.dst_port;
        self.proto = order.proto;
        self.service = order.service;
        self.backend = order.backend;
    }
}

impl TraceAsk {
    /// Whether it wants a packet.
    #[inline(always)]
    pub fn wants(&self, now_ns: u64, mark: &TraceMark) -> bool {
        if now_ns >= self.until || self.reasons >> (mark.reason & 63) & 1 == 0 {
            return false;
        }
        if self.services != u64::MAX
            && (mark.known & TraceMark::SERVED == 0 || self.services >> (mark.service & 63) & 1 == 0)
        {
            return false;
        }
        if self.mask.hi | self.mask.lo == 0 {
            return true;
        }
        mark.known & TraceMark::PARSED != 0 && (self.within(mark.src) || self.within(mark.dst))
    }

    #[inline(always)]
    fn within(&self, addr: Addr) -> bool {
        (addr.hi ^ self.net.hi) & self.mask.hi | (addr.lo ^ self.net.lo) & self.mask.lo == 0
    }

    /// What wants all that either wants, and perhaps more.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        // The longest prefix that both have: octets, because the words are in network byte order.
        let (a, b) = (self.net.octets(), other.net.octets());
        let (of_a, of_b) = (self.mask.octets(), other.mask.octets());
        let mut mask = [0; 16];
        for at in 0..16 {
            let same = !(a[at] ^ b[at]);
            // Only ones from the left: what follows the first difference is not compared.
            let kept = same & of_a[at] & of_b[at];
            let ones = kept.leading_ones();
            mask[at] = if ones == 8 { 0xff } else { !(0xff >> ones) };
            if ones < 8 {
                break;
            }
        }
        let mask = Addr::v6(mask);
        Self {
            until: self.until.max(other.until),
            reasons: self.reasons | other.reasons,
            services: self.services | other.services,
            net: Addr { hi: self.net.hi & mask.hi, lo: self.net.lo & mask.lo },
            mask,
            rate: self.rate.max(other.rate),
            snap: self.snap.max(other.snap),
        }
    }
}

impl TraceBudget {
    /// Whether one more may be told now, and how many were not since the one before.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, rate: u32) -> Option<u32> {
        let second = now_ns / 1_000_000_000;
        if self.second != second {
            self.second = second;
            self.told = 0;
        }
        if self.told >= rate {
            self.missed = self.missed.saturating_add(1);
            return None;
        }
        self.told += 1;
        let missed = self.missed;
        self.missed = 0;
        Some(missed)
    }
}

const _: () = assert!(crate::limits::REASONS_MAX <= 64, "one bit each in `reasons`");

/// The bit of a reason.
pub const fn reason_bit(reason: Reason) -> u64 {
    1 << (reason as u64 & 63)
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn ask() -> TraceAsk {
        TraceAsk {
            until: 100,
            reasons: u64::MAX,
            services: u64::MAX,
            rate: 2,
            snap: 96,
            ..TraceAsk::default()
        }
    }

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn mark() -> TraceMark {
        TraceMark {
            src: addr("10.0.1.2"),
            dst: addr("10.9.9.9"),
            service: 3,
            reason: Reason::Settled as u8,
            known: TraceMark::PARSED | TraceMark::SERVED,
            ..TraceMark::default()
        }
    }

    /// A network of addresses as they stand in maps: IPv4 ones have 96 bits in front.
    fn net(text: &str, length: u32) -> TraceAsk {
        let whole = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let mask = Addr::v6(whole.to_be_bytes());
        let addr = addr(text);
        TraceAsk { net: Addr { hi: addr.hi & mask.hi, lo: addr.lo & mask.lo }, mask, ..ask() }
    }

    #[test]
    fn nothing_is_wanted_when_off_or_over() {
        assert!(!TraceAsk::default().wants(0, &mark()));
        assert!(ask().wants(99, &mark()) && !ask().wants(100, &mark()));
    }

    #[test]
    fn each_filter_leaves_out_what_it_says() {
        let only = |reason| TraceAsk { reasons: reason_bit(reason), ..ask() };
        assert!(only(Reason::Settled).wants(0, &mark()) && !only(Reason::DropTtl).wants(0, &mark()));
        let of = |service: u16| TraceAsk { services: 1 << service, ..ask() };
        assert!(of(3).wants(0, &mark()) && !of(4).wants(0, &mark()));
        let none = TraceMark { known: 0, ..mark() };
        assert!(!of(3).wants(0, &none) && ask().wants(0, &none));
        assert!(net("10.0.1.0", 96 + 24).wants(0, &mark()), "as its source");
        assert!(net("10.9.9.9", 128).wants(0, &mark()), "as its destination");
        assert!(!net("10.0.2.0", 96 + 24).wants(0, &mark()) && !net("10.0.1.0", 96 + 24).wants(0, &none));
    }

    #[test]
    fn two_traces_want_what_either_wants() {
        let (a, b) = (net("10.0.1.0", 96 + 24), net("10.0.2.7", 128));
        let both = a.with(&b);
        assert_eq!(both.mask, net("10.0.0.0", 96 + 22).mask);
        assert!(both.wants(0, &mark()) && !both.wants(0, &TraceMark { src: addr("10.0.4.1"), ..mark() }));
        assert_eq!(a.with(&ask()).mask, Addr::default(), "any");
        assert_eq!(a.with(&a).mask, a.mask);
        let six = net("fd00::", 64);
        assert!(a.with(&six).wants(0, &mark()));
        let apart = TraceAsk { reasons: 1, services: 2, rate: 9, ..a }.with(&TraceAsk {
            reasons: 4,
            services: 8,
            snap: 1500,
            ..a
        });
        assert_eq!((apart.reasons, apart.services, apart.rate, apart.snap), (5, 10, 9, 1500));
    }

    #[test]
    fn a_second_has_its_budget_and_what_is_missed_is_told_once() {
        let mut budget = TraceBudget::default();
        let second = |n: u64| n * 1_000_000_000;
        let taken: Vec<_> = (0..5).map(|_| budget.take(second(7), 2)).collect();
        assert_eq!(taken, [Some(0), Some(0), None, None, None]);
        assert_eq!([budget.take(second(8), 2), budget.take(second(8), 2)], [Some(3), Some(0)]);
        assert_eq!(budget.take(second(8), 0), None);
    }
}
