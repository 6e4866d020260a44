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
    /// A later fragment, to where its datagram's first one went.
    Fragment = "fragment",
    /// An ICMP error, to the backend of the flow whose packet it quotes.
    IcmpError = "icmp_error",
    /// To base, because an entry could not be made (table or quota full).
    Fallback = "fallback",
    /// A backend's reply, rewritten to come from the VIP.
    Reply = "reply",
    /// Rewritten, and left to the stack to route: the next hop is not known yet or cannot take redirected frames.
    StackRouted = "stack_routed",
    /// A backend's reply, rewritten, and left to the stack to route.
    ReplyStackRouted = "reply_stack_routed",
    /// Does not fit its way; its sender was told by ICMP how large packets may be.
    TooBig = "too_big",
    /// Not for us: neither IPv4 nor IPv6, or no whole header of it.
    PassNotIp = "pass_not_ip",
    /// Not for us: neither TCP nor UDP, nor an ICMP error about a flow of ours.
    PassNotTransport = "pass_not_transport",
    /// Not for us: no VIP, no backend; whatever else may be wrong with it.
    PassNotVip = "pass_not_vip",
    /// A fragment that is not for us.
    PassFragment = "pass_fragment",
    /// To or from a backend's own address.
    PassDirect = "pass_direct",
    /// From a backend to this host itself (a probe's answer).
    PassLocal = "pass_local",
    /// For a VIP whose service was never committed.
    PassNoService = "pass_no_service",
    /// From a `snat` backend to a port of ours that is no flow's (any more): for this host to answer.
    PassNoMapping = "pass_no_mapping",
    /// Not a plain frame, and the program for such frames is not loaded: it passes unseen.
    PassOdd = "pass_odd",
    /// For a VIP, or a backend's reply, and shorter than its headers say: passing it would let the stack parse what we could
    /// not.
    DropMalformed = "drop_malformed",
    /// For a VIP, or a backend's reply: SYN together with FIN or RST. No TCP sends it, and no rule of ours could place it.
    DropSynFin = "drop_syn_fin",
    /// For a VIP: more IPv6 extension headers than are looked behind.
    DropHeaders = "drop_headers",
    /// For a VIP, or a backend's reply: a first fragment without the whole transport header, or a later one that overlaps the
    /// first (RFC 1858, RFC 5722, RFC 7112).
    DropFragment = "drop_fragment",
    /// For a VIP: a later fragment of a datagram whose first one has not been seen lately. It came too early, or its trail was
    /// lost; what is missing goes to a backend, so the stack could not use it either.
    DropFragmentEarly = "drop_fragment_early",
    /// `snat`: every port that the flow could have towards its backend is in use. `nat`: a backend is its own client, and no ports are given out.
    DropNoPort = "drop_no_port",
    /// The cell names no backend: every version is empty and there is nowhere to go.
    DropNoBackend = "drop_no_backend",
    /// `l2`, `ipip`, `snat`: the MAC address of the backend (or of the router before it) is not known, and the stack would answer for the VIP itself.
    DropNoNextHop = "drop_no_next_hop",
    /// `nat`, `snat`, `ipip`: the packet has no hop left.
    DropTtl = "drop_ttl",
    /// Does not fit its way, and its sender cannot be told: IPv4 without don't-fragment, or a way too
    /// narrow for IPv6.
    DropTooBig = "drop_too_big",
    /// From a source that the service's access list denies.
    DropDenied = "drop_denied",
    /// A new connection of a source that has opened more than the service's limit.
    DropRate = "drop_rate",
    /// `ipip`: the driver left no room for an outer header in front of the frame.
    DropNoHeadroom = "drop_no_headroom",
    /// `ipip`: a router said that a packet does not fit its way to a backend; it became an error for the packet's sender.
    TooBigPath = "too_big_path",
    /// A router says that IP in IP does not fit its way, which is left to the stack: too little is quoted to tell whose that was, it is not
    /// what we would send there now, or (then it is rewritten) there is no complete route to who has to know.
    PassTooBig = "pass_too_big",
    /// For a VIP, or about a flow of ours, and from an address that nothing is forwarded from: see [`crate::net::Addr::is_martian`].
    DropMartian = "drop_martian",
    /// For a VIP, or a backend's reply, and sent to a group's link address (broadcast or multicast), which is no way to a router (RFC 1812, 5.3.4):
    /// every host of the link that forwards it would make one more of it.
    DropLinkGroup = "drop_link_group",
}

const _: () = assert!(REASONS.len() <= crate::limits::REASONS_MAX as usize, "each has a counter");

impl Reason {
    /// The reason of a forwarded packet by its number, as one program tells it to another.
    #[inline(always)]
    pub(crate) const fn forwarded_as(number: u8) -> Self {
        match number {
            1 => Self::Entry,
            2 => Self::Alt,
            3 => Self::New,
            4 => Self::Replayed,
            5 => Self::Learned,
            6 => Self::Base,
            7 => Self::Fragment,
            8 => Self::IcmpError,
            9 => Self::Fallback,
            _ => Self::Settled,
        }
    }

    /// Whether the packet reached a backend (or the stack on its way there).
    pub const fn forwarded(self) -> bool {
        (self as u32) <= Reason::Fallback as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the table below `after`: the names in their first cells, and what to do.
    fn told(after: &str) -> Vec<(Vec<&'static str>, &'static str)> {
        let readme = include_str!("../../README.md");
        let from = readme.find(after).unwrap_or_else(|| panic!("{after:?} is not in the README"));
        let table = readme[from..].lines().skip_while(|line| !line.starts_with('|'));
        table
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                let &[_, names, _, todo, ..] = &cells[..] else { panic!("{line}: three cells") };
                (names.split(", ").map(|name| name.trim_matches('`')).collect(), todo)
            })
            .collect()
    }

    fn assert_all_told(after: &str, names: &[&str]) {
        let told = told(after);
        for (_, todo) in &told {
            assert!(!todo.is_empty(), "{told:?}: what to do?");
        }
        let in_table: Vec<_> = told.iter().flat_map(|(names, _)| names).copied().collect();
        for name in names {
            let times = in_table.iter().filter(|told| *told == name).count();
            assert_eq!(times, 1, "{name} is told {times} times");
        }
        let unknown: Vec<_> = in_table.iter().filter(|told| !names.contains(told)).collect();
        assert!(unknown.is_empty(), "{unknown:?} are told, and there are no such");
    }

    #[test]
    fn the_readme_tells_what_to_do_about_every_reason_and_of_no_other() {
        let names: Vec<_> = REASONS.iter().map(|reason| reason.name()).collect();
        assert_all_told("### Packet reasons", &names);
        let names: Vec<_> = crate::decap::OUTCOMES.iter().map(|outcome| outcome.name()).collect();
        assert_all_told("On a backend every frame ends in", &names);
    }

    #[test]
    fn reasons_to_forward_are_told_by_their_numbers() {
        for reason in REASONS.iter().filter(|reason| reason.forwarded()) {
            assert_eq!(Reason::forwarded_as(*reason as u8), *reason);
        }
    }

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, reason) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(REASONS[..index].iter().all(|other| other.name() != reason.name()));
        }
    }
}
