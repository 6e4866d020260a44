//! Why a packet met its fate. Every packet ends in exactly one of these counters.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet met its fate; the number is its index in the counter map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        /// All reasons in the order of their numbers.
        pub const REASONS: &[Reason] = &[$(Reason::$name,)+];

        impl Reason {
            /// The name in metrics and `status`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// To the base of a settled cell; nothing was looked up.
    Settled = "settled",
    /// To the backend of the flow's entry.
    Entry = "entry",
    /// To the second identity of the flow's tuple.
    Alt = "alt",
    /// A new flow of a changing cell, with a new entry.
    New = "new",
    /// A SYN that was seen before its cell changed: to base.
    Replayed = "replayed",
    /// A flow of a changing cell that had no entry: to base, with a new entry.
    Learned = "learned",
    /// To base, because a clean cell or a RST needs no entry.
    Base = "base",
    /// To base, because an entry could not be made (table or quota full).
    Fallback = "fallback",
    /// A backend's reply, rewritten to come from the VIP.
    Reply = "reply",
    /// Rewritten, and left to the stack to route: the next hop is not known yet or cannot take redirected frames.
    StackRouted = "stack_routed",
    /// A backend's reply, rewritten, and left to the stack to route.
    ReplyStackRouted = "reply_stack_routed",
    /// `ipip`: does not fit the way to its backend; its sender was told by ICMP how large packets may be.
    TooBig = "too_big",
    /// Not for us: neither IPv4 nor IPv6.
    PassNotIp = "pass_not_ip",
    /// Not for us: neither TCP nor UDP, or an extension header before it.
    PassNotTransport = "pass_not_transport",
    /// Not for us: no VIP, no backend.
    PassNotVip = "pass_not_vip",
    /// A fragment: it has no ports, or the rest of its datagram will have none.
    PassFragment = "pass_fragment",
    /// To or from a backend's own address.
    PassDirect = "pass_direct",
    /// From a backend to this host itself (a probe's answer).
    PassLocal = "pass_local",
    /// For a VIP whose service was never committed.
    PassNoService = "pass_no_service",
    /// The packet is shorter than its headers say: passing it would let the stack parse what we could not.
    DropMalformed = "drop_malformed",
    /// SYN together with FIN or RST: no TCP sends it, and no rule of ours could place it.
    DropSynFin = "drop_syn_fin",
    /// The cell names no backend: every version is empty and there is nowhere to go.
    DropNoBackend = "drop_no_backend",
    /// `l2`, `ipip`: the MAC address of the backend (or of the router before it) is not known, and the stack would answer for the VIP itself.
    DropNoNextHop = "drop_no_next_hop",
    /// `nat`, `ipip`: the packet has no hop left.
    DropTtl = "drop_ttl",
    /// `ipip`: does not fit the way to its backend, and its sender cannot be told: IPv4 without don't-fragment, or a way too
    /// narrow for IPv6.
    DropTooBig = "drop_too_big",
    /// `ipip`: the driver left no room for an outer header in front of the frame.
    DropNoHeadroom = "drop_no_headroom",
}

impl Reason {
    /// Whether the packet reached a backend (or the stack on its way there).
    pub const fn forwarded(self) -> bool {
        (self as u32) <= Reason::Fallback as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, reason) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(REASONS[..index].iter().all(|other| other.name() != reason.name()));
        }
    }
}
