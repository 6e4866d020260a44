//! The express way comes to the same as the steps, and takes just what it may: every mode, family, kind of packet, cell, port and size,
//! each with each.

use super::*;
use crate::entries::{Affinity, BackendId, Cell, Commit, EndEntry, EndKind, Service};
use crate::flows::Bucket;
use crate::model::Model;
use crate::net::{Addr, UDP};
use crate::pace::Pace;
use crate::packet::L3;
use crate::process::{Verdict, process_by};
use crate::signals::SignalBucket;
use crate::spans::Span;
use crate::syn_filter::Line;

const SERVICE: u16 = 3;
const BASE: BackendId = 1;
const CURRENT: BackendId = 2;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What comes, and what it meets.
#[derive(Clone, Copy, Debug)]
struct Case {
    mode: Mode,
    v6: bool,
    /// TCP with these flags; `None`: UDP.
    flags: Option<u8>,
    options: Options,
    hops: u8,
    cell: Cell,
    port: Way,
    /// Bytes that the port takes more than the packet has as it leaves, if it has a limit.
    spare: Option<i32>,
    rate: Rate,
    paced: bool,
    /// The client has the address of the backends.
    own: bool,
}

/// How the port is by which a backend is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Redirects,
    Bounces,
    Stack,
    Tagged,
    Gone,
    Unresolved,
}

/// Options of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Options {
    None,
    /// The MSS first, as most send it.
    Mss,
    /// The MSS after others.
    Later,
    /// The MSS first in a header that goes on behind the packet.
    Beyond,
}

const OPTIONS: [Options; 4] = [Options::None, Options::Mss, Options::Later, Options::Beyond];

impl Options {
    /// What they are, with a value that no way takes, and the words that the header is said to have.
    fn bytes(self) -> (&'static [u8], u8) {
        match self {
            Self::None => (&[], 5),
            Self::Mss => (&[2, 4, 0xff, 0xff], 6),
            Self::Later => (&[1, 1, 2, 4, 0xff, 0xff, 1, 1], 7),
            Self::Beyond => (&[2, 4, 0xff, 0xff], 15),
        }
    }
}

const FLAGS: [Option<u8>; 7] =
    [Some(SYN), Some(SYN | ACK), Some(ACK), Some(ACK | FIN), Some(RST), Some(SYN | 0xc0), None];
const WAYS: [Way; 6] = [Way::Redirects, Way::Bounces, Way::Stack, Way::Tagged, Way::Gone, Way::Unresolved];

fn cells() -> [Cell; 5] {
    let dirty = Cell::DIRTY | Cell::LOOKUP;
    [
        Cell::settled(BASE),
        Cell::settled(0),
        Cell::new(BASE, CURRENT, dirty),
        Cell::new(BASE, CURRENT, dirty | Cell::ARMED),
        Cell::new(BASE, BASE, Cell::LOOKUP),
    ]
}

/// An address of service, client or backend.
fn address(v6: bool, last: u8) -> Addr {
    if v6 {
        Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, last])
    } else {
        Addr::v4([10, 0, 9, last])
    }
}

impl Case {
    fn client(self) -> Addr {
        address(self.v6, if self.own { 20 } else { 10 })
    }

    fn proto(self) -> u8 {
        if self.flags.is_some() { TCP } else { UDP }
    }

    /// Whether it asks for a connection.
    fn asks(self) -> bool {
        self.flags.is_some_and(|flags| flags & (SYN | ACK) == SYN)
    }

    /// Bytes of the IP packet.
    fn length(self) -> usize {
        let network = if self.v6 { 40 } else { 20 };
        network + if self.flags.is_none() { 8 } else { 20 + self.options.bytes().0.len() } + 24
    }

    fn frame(self) -> Vec<u8> {
        let length = self.length();
        let mut frame = vec![2u8; 12];
        let (src, dst) = (self.client(), address(self.v6, 1));
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x6b, 0x90, 0, 1, 0, length as u8 - 40, self.proto(), self.hops]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        } else {
            frame.extend([8, 0, 0x45, 0xb9, 0, length as u8, 0, 7, 0x40, 0, self.hops, self.proto(), 0, 0]);
            frame.extend(src.v4_octets());
            frame.extend(dst.v4_octets());
            let sum: u32 =
                frame[L3..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[L3 + 10..L3 + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        frame.extend([0x9c, 0x40, 0, 80]);
        match self.flags {
            Some(flags) => {
                let (options, words) = self.options.bytes();
                frame.extend([0, 0, 3, 232, 0, 0, 0, 9, words << 4, flags, 1, 0, 0x12, 0x34, 0, 0]);
                frame.extend(options);
            }
            None => frame.extend([0, 32, 0x12, 0x34]),
        }
        // To one who takes UDP for TCP: a SYN with options.
        frame.extend([0x6a; 24]);
        assert_eq!(frame.len(), L3 + length);
        frame
    }

    /// Whether backends have IPv6 addresses: under `ipip` they are of the other family, unless one is the client.
    fn outer_v6(self) -> bool {
        self.v6 != (matches!(self.mode, Mode::Ipip) && !self.own)
    }

    /// Bytes of an outer header.
    fn header(self) -> usize {
        match self.mode {
            Mode::Ipip if self.outer_v6() => 40,
            Mode::Ipip => 20,
            _ => 0,
        }
    }

    fn model(self) -> Model {
        let mut model = Model::new(8, 4);
        model.buckets = vec![Bucket::default(); 2];
        model.filter = vec![Line::default(); 4];
        model.signal_flows = vec![SignalBucket::default(); 2];
        model.now_ns = 1 << 40;
        model.ingress = 1;
        model.cells = vec![self.cell];
        let mut service = Service {
            commit: Commit::new(0, 1).0,
            groups: 1,
            per_group: 1,
            affinity: Affinity::Flow as u32,
            udp_idle: 100,
            ..Service::default()
        };
        if self.paced {
            let pace = Pace::new(10, 1);
            (service.new_interval, service.new_burst) = (pace.interval, pace.burst);
        }
        model.services.insert(SERVICE, service);
        let vip = EndEntry { kind: EndKind::Vip as u16, service: SERVICE, id: 77, ..EndEntry::default() };
        let end = End::new(address(self.v6, 1), 80u16.to_be(), self.proto());
        model.ends.insert(end, vip.with_rate(self.rate));
        let (flags, tags) = match self.port {
            Way::Bounces => (Port::TX, 0),
            Way::Stack => (Port::STACK, 0),
            Way::Tagged => (0, 7),
            _ => (0, 0),
        };
        let leaves = (self.length() + self.header()) as u32;
        let mtu = self.spare.map_or(0, |spare| leaves.wrapping_add_signed(spare));
        let ifindex = if self.port == Way::Bounces { 1 } else { 2 };
        if self.port != Way::Gone {
            model.ports.insert(5, Port { mac: [4; 6], flags, ifindex, tags, mtu });
        }
        for id in [BASE, CURRENT] {
            let hop = NextHop::new([6, 0, 0, 0, 0, id as u8], 5);
            let unresolved = self.port == Way::Unresolved;
            model.backends.insert(
                id,
                Backend {
                    addr: address(self.outer_v6(), 20),
                    next_hop: if unresolved { 0 } else { hop.0 },
                    port: 8080u16.to_be(),
                    mode: self.mode as u16,
                    service: SERVICE.into(),
                    source: address(self.outer_v6(), 0),
                    spread: 0xff,
                    ..Backend::default()
                },
            );
        }
        model
    }

    /// Whether the express way is to finish it; by what README says of the modes, not by what the code asks.
    fn is_simple(self) -> bool {
        let tcp = self.flags.is_some();
        let asks = self.asks();
        let any_syn = self.flags.is_some_and(|flags| flags & SYN != 0);
        let none = self.options == Options::None;
        let first = none || self.options == Options::Mss;
        let resolved = matches!(self.port, Way::Redirects | Way::Bounces);
        let fits = self.spare.is_none_or(|spare| spare >= 0);
        // Who limits new connections has them counted by the steps; who follows flows notes each packet of TCP there.
        if asks && self.paced || tcp && self.rate != Rate::OFF || !resolved || self.cell == Cell::settled(0) {
            return false;
        }
        match self.mode {
            Mode::L2 => fits,
            Mode::Ipip => fits && self.hops > 1 && (!asks || first),
            Mode::Nat => fits && self.hops > 1 && (!any_syn || if asks { first } else { none }) && !self.own,
            Mode::Snat => false,
        }
    }

    fn check(self) {
        let frame = self.frame();
        let both = |room: bool| {
            let [one, other] = [true, false].map(|express| {
                let mut model = self.model();
                // The second one of a changing cell finds an entry.
                let gone = [(); 2].map(|()| {
                    let mut frame = frame.clone();
                    let verdict = if room {
                        process_by(&mut frame, &mut model, express)
                    } else {
                        process_by(&mut frame[..], &mut model, express)
                    };
                    // Of what is dropped nobody sees the rest.
                    if matches!(verdict, Verdict::Drop(_)) {
                        frame.clear();
                    }
                    (verdict, frame)
                });
                (gone, model)
            });
            assert_eq!(one.0, other.0, "{self:?}: verdicts and frames");
            assert!(one.1 == other.1, "{self:?}: tables");
        };
        both(true);
        if matches!(self.mode, Mode::Ipip) {
            both(false);
        }
        let (mut frame, mut model, mut work) = (frame, self.model(), Work::default());
        work.next = Next::Read;
        express(&mut frame, &mut model, &mut work);
        let changing = self.cell.0 & Cell::LOOKUP != 0 && !(self.paced && self.asks());
        assert_eq!(matches!(work.next, Next::Decide), changing, "{self:?}: to be decided");
        if changing {
            steer::changing(&mut model, &mut work.query);
            finish(&mut frame, &mut model, &mut work);
        }
        assert_eq!(matches!(work.next, Next::Done), self.is_simple(), "{self:?}: finished");
        if !self.is_simple() {
            assert_eq!(frame, self.frame(), "{self:?}: nothing was changed before the steps");
        }
        if changing && !self.asks() && self.is_simple() {
            // A flow that is known now, in the middle of its life: at a glance, without what decides.
            let closes = self.flags.is_some_and(|flags| flags & (FIN | RST) != 0);
            let entry = model.buckets.iter().any(|bucket| bucket.ways[0].word != 0);
            work.next = Next::Read;
            express(&mut self.frame(), &mut model, &mut work);
            let next = if entry && !closes { Next::Done } else { Next::Decide };
            assert_eq!(
                core::mem::discriminant(&work.next),
                core::mem::discriminant(&next),
                "{self:?}: known"
            );
        }
    }
}

/// Checks every case of a mode: the digits of a number choose one of each.
fn each(mode: Mode) {
    const WHO: [(u8, bool); 3] = [(1, false), (2, false), (64, true)];
    const SPARE: [Option<i32>; 3] = [None, Some(0), Some(-1)];
    const RATES: [(Rate, bool); 3] = [(Rate::OFF, false), (Rate::one_in(0), false), (Rate::OFF, true)];
    let cells = cells();
    let sizes = [2, OPTIONS.len(), FLAGS.len(), WHO.len(), cells.len(), WAYS.len(), SPARE.len(), RATES.len()];
    for number in 0..sizes.iter().product() {
        let mut rest: usize = number;
        let [v6, options, flags, who, cell, port, spare, rate] = sizes.map(|size| {
            let digit = rest % size;
            rest /= size;
            digit
        });
        let ((hops, own), (rate, paced)) = (WHO[who], RATES[rate]);
        let case = Case {
            mode,
            v6: v6 == 1,
            flags: FLAGS[flags],
            options: OPTIONS[options],
            hops,
            cell: cells[cell],
            port: WAYS[port],
            spare: SPARE[spare],
            rate,
            paced,
            own,
        };
        if case.flags.is_some() || case.options == Options::None {
            case.check();
        }
    }
}

#[test]
fn l2_comes_to_the_same_by_the_express_way_which_finishes_what_is_simple() {
    each(Mode::L2);
}

#[test]
fn ipip_comes_to_the_same_by_the_express_way_which_finishes_what_is_simple() {
    each(Mode::Ipip);
}

#[test]
fn nat_comes_to_the_same_by_the_express_way_which_finishes_what_is_simple() {
    each(Mode::Nat);
}

#[test]
fn snat_comes_to_the_same_by_the_express_way_which_leaves_all_of_it() {
    each(Mode::Snat);
}

/// A plain packet whose VIP is known in one way or another, and what the express way leaves to do.
fn left(change: impl Fn(&mut Model, &mut Vec<u8>, End, End)) -> Next {
    let case = Case {
        mode: Mode::L2,
        v6: false,
        flags: Some(ACK),
        options: Options::None,
        hops: 64,
        cell: Cell::settled(BASE),
        port: Way::Redirects,
        spare: None,
        rate: Rate::OFF,
        paced: false,
        own: false,
    };
    let to = End::new(address(false, 1), 80u16.to_be(), TCP);
    let from = End::new(case.client(), 40_000u16.to_be(), TCP);
    let [(one, _), (other, _), (_, next)] = [true, false, true].map(|express_way| {
        let (mut frame, mut model, mut work) = (case.frame(), case.model(), Work::default());
        change(&mut model, &mut frame, to, from);
        let told = process_by(&mut frame.clone(), &mut model.clone(), express_way);
        work.next = Next::Read;
        express(&mut frame, &mut model, &mut work);
        (told, work.next)
    });
    assert_eq!(one, other, "verdicts of both ways");
    next
}

/// Many ports that are one end.
fn span(entry: EndEntry) -> Span {
    Span { end: entry, first: 1u16.to_be(), zero: [0; 3] }
}

#[test]
fn whoever_is_not_looked_up_quickly_is_left_to_the_steps() {
    let kind =
        |kind: EndKind| EndEntry { kind: kind as u16, service: SERVICE, id: 77, ..EndEntry::default() };
    let backend =
        EndEntry { id: BASE, vip_port: 80u16.to_be(), vip: address(false, 2), ..kind(EndKind::NatBackend) };
    let all = (1, 65_535);
    let known = left(|_, _, _, _| {});
    assert!(matches!(known, Next::Done), "a VIP by itself");
    let nobody = left(|model, _, to, _| _ = model.ends.remove(&to));
    assert!(matches!(nobody, Next::Done), "nobody's");
    let listed = left(|model, _, to, _| {
        model.ends.insert(to, EndEntry { sources: 1, ..kind(EndKind::Vip) });
    });
    assert!(matches!(listed, Next::Classify), "a VIP with a list of sources");
    let of_many = left(|model, _, to, _| {
        model.ends.remove(&to);
        model.spans.push((to, all, span(kind(EndKind::Vip))));
    });
    assert!(matches!(of_many, Next::Classify), "a VIP of many ports");
    let reply = left(|model, _, to, from| {
        model.ends.remove(&to);
        model.ends.insert(from, backend);
    });
    assert!(matches!(reply, Next::Classify), "a backend's reply");
    let reply_of_many = left(|model, _, to, from| {
        model.ends.remove(&to);
        model.spans.push((from, all, span(backend)));
    });
    assert!(matches!(reply_of_many, Next::Classify), "a reply of a backend of many ports");
    let cut = left(|_, frame, _, _| frame.truncate(L3 + 39));
    assert!(matches!(cut, Next::Read), "a cut packet");
    let fragment = left(|_, frame, _, _| frame[L3 + 6] |= 0x20);
    assert!(matches!(fragment, Next::Read), "a fragment");
    let nobody = left(|_, frame, _, _| frame[L3 + 12..L3 + 16].copy_from_slice(&[224, 0, 0, 1]));
    assert!(matches!(nobody, Next::Read), "from a group");
    let never = left(|model, _, _, _| model.services.clear());
    assert!(matches!(never, Next::Steer), "a service that was never committed");
}

#[test]
fn what_came_to_a_group_is_for_the_second_part_if_it_may_be_ours() {
    let everybody = |frame: &mut Vec<u8>| frame[..6].copy_from_slice(&[0xff; 6]);
    let vip = left(|_, frame, _, _| everybody(frame));
    assert!(matches!(vip, Next::Odd), "for a VIP");
    let reply = left(|model, frame, to, from| {
        everybody(frame);
        model.ends.remove(&to);
        model.ends.insert(from, EndEntry { kind: EndKind::NatBackend as u16, ..EndEntry::default() });
    });
    assert!(matches!(reply, Next::Odd), "a backend's");
    let nobody = left(|model, frame, to, _| {
        everybody(frame);
        model.ends.remove(&to);
    });
    assert!(matches!(nobody, Next::Done), "nobody's");
}
