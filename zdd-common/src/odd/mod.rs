//! Frames that are not plain: VLAN tags, extension headers, fragments, ICMP errors, and what contradicts itself.
//!
//! The second part of [`crate::process`]. In the kernel it is a program of its own, reached by a tail call, so that plain
//! traffic pays nothing for it: it parses again from the frame's first byte and shares no state with the first part but the
//! maps, so either program may be replaced before the other.
//!
//! Only what is ours is ever dropped: a flaw counts once the packet is known to be for a VIP, or a backend's reply.

mod extension;
mod fragment;
mod icmp;
mod path;
mod survey;
mod view;

use crate::entries::EndKind;
use crate::frame::Frame;
use crate::net::{Addr, End};
use crate::process::{self, Fate, Next, Verdict, Work};
use crate::reason::Reason;
use crate::signals::Rate;
use crate::snat::Kind;
use crate::tables::Tables;

pub(crate) use extension::{FRAGMENT, LIMIT, is_extension};
pub(crate) use fragment::leave as leave_trail;
pub use fragment::{DatagramKey, Trail};
pub(crate) use icmp::{Change, Quote, rewrite as rewrite_quote};
pub(crate) use view::View;

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Shape {
    /// Nothing of ours: passes for the reason that its fate has.
    Foreign,
    /// TCP or UDP, ports known.
    Whole,
    /// A first fragment, ports known.
    First,
    /// A later fragment.
    Later,
    /// An ICMP error.
    Icmp,
    /// Flawed so that not even ports can be read.
    Nameless,
}

/// A frame on its way through the steps. In the kernel it lies in a map: the stack is for the call chain, and the verifier does
/// not follow every combination of what is written here once more through all that comes after.
pub struct Odd {
    /// Its fate is to pass for some reason until it turns out to be ours.
    work: Work,
    shape: Shape,
    /// What is wrong with it: dropped for it if it is ours. A reason to forward: nothing.
    flaw: Reason,
    /// Of a fragment: offset in bytes, a multiple of 8, and bit 0: more fragments follow.
    fragment: u16,
    /// The extension headers.
    chain: extension::Chain,
    /// What an ICMP error quotes.
    quote: icmp::Quote,
    /// What that one carries, if it is IP in IP.
    inner: icmp::Quote,
    /// What a router says of it.
    path: path::PathError,
    /// Number of a fragment's datagram, as it stands in the frame.
    id: u32,
    /// `snat`: of a later fragment, 1 + the number of our address, and our port.
    source: (u8, u16),
}

/// No flaw.
const SOUND: Reason = Reason::Settled;

impl Odd {
    /// What was found out about the packet.
    #[inline(always)]
    pub fn work(&self) -> &Work {
        &self.work
    }

    #[inline(always)]
    fn flawed(&mut self, flaw: Reason) {
        self.flaw = flaw;
        if self.shape as u8 == Shape::Foreign as u8 {
            self.shape = Shape::Nameless;
        }
    }

    #[inline(always)]
    fn foreign(&mut self, reason: Reason) {
        self.work.fate = Fate::pass(reason);
    }

    #[inline(always)]
    fn offset(&self) -> u16 {
        self.fragment & !7
    }

    #[inline(always)]
    fn more(&self) -> bool {
        self.fragment & 1 != 0
    }

    #[inline(always)]
    fn sound(&self) -> bool {
        self.flaw as u8 == SOUND as u8
    }
}

impl Default for Odd {
    #[inline(always)]
    fn default() -> Self {
        Self {
            work: Work::default(),
            shape: Shape::Foreign,
            flaw: SOUND,
            fragment: 0,
            chain: extension::Chain::new(0),
            quote: icmp::Quote::none(),
            inner: icmp::Quote::none(),
            path: path::PathError::none(),
            id: 0,
            source: (0, 0),
        }
    }
}

/// Decides about a frame that is not plain, and rewrites it. `odd`: room for the work; what is in it does not matter.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: F, tables: &mut T, odd: &mut Odd) -> Verdict {
    *odd = Odd::default();
    let Some(mut frame) = View::of(frame) else { return Verdict::Pass(Reason::PassNotIp) };
    let mut steps = survey::survey(&mut frame, odd);
    match odd.shape {
        Shape::Whole | Shape::First => {
            whole(tables, odd);
            steps |= follow(&mut frame, tables, odd);
            if matches!(odd.shape, Shape::First) {
                steps |= fragment::lead(tables, odd);
            }
        }
        Shape::Later => {
            frame.headless = true;
            steps |= fragment::follow(tables, odd);
        }
        Shape::Icmp => {
            frame.headless = true;
            steps |= icmp::read(&mut frame, odd);
            if odd.quote.tunnel() {
                steps |= path::read(&mut frame, odd);
                steps |= path::classify(tables, odd);
                if odd.path.tell && !odd.sound() {
                    odd.work.fate = Fate::drop(odd.flaw);
                } else if odd.path.tell {
                    // The kernel's answer is about the untagged link: what came tagged, the stack routes.
                    if frame.tags() == 0 {
                        steps |= path::find_route(tables, odd);
                    }
                    steps |= path::tell(&mut frame, odd);
                }
            } else {
                steps |= icmp::classify(tables, odd);
                judge(odd);
            }
            match odd.work.next {
                Next::Steer => steps |= icmp::to_backend(&mut frame, tables, odd),
                Next::Reply => steps |= icmp::to_client(&mut frame, odd),
                _ => {}
            }
        }
        Shape::Nameless => nameless(tables, odd),
        _ => {}
    }
    match odd.work.next {
        Next::Steer => {
            steps |= deliver(&mut frame, tables, odd);
            if matches!(odd.work.next, Next::Encapsulate) {
                steps |= encapsulate(&mut frame, tables, odd);
            }
        }
        Next::MapOut | Next::MapBack => {}
        Next::Reply => {
            // The kernel's answer is about the untagged link: what came tagged, the stack routes.
            if frame.tags() == 0 {
                process::find_route(tables, &mut odd.work);
            }
            steps |= reply(&mut frame, tables, odd);
        }
        _ => {}
    }
    let maps = matches!(odd.work.next, Next::MapOut | Next::MapBack);
    if maps {
        steps |= process::order(tables, &odd.work);
        steps |= hand(&frame, tables, odd);
    }
    // Else the compiler would see that nobody asks, and drop the value after all.
    core::hint::black_box(steps);
    if maps { Verdict::Map } else { odd.work.fate.verdict() }
}

/// What a step returns in the kernel: nothing, but surely so. What is left in the return register of a function without a value
/// may be a pointer to the stack, which the verifier does not let out.
pub(crate) type Done = u64;

#[inline(always)]
pub(crate) fn done() -> Done {
    core::hint::black_box(0)
}

/// Notes what a whole packet tells of its flow; see [`crate::signals`].
#[inline(always)]
fn follow<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, odd: &mut Odd) -> Done {
    if odd.work.end.rate() == Rate::OFF || !matches!(odd.shape, Shape::Whole) {
        return 0;
    }
    match odd.work.next {
        Next::Steer => process::follow(frame, tables, &mut odd.work),
        Next::Reply => process::follow_reply(frame, tables, &mut odd.work),
        _ => 0,
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn deliver<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, odd: &mut Odd) -> Done {
    process::send(frame, tables, &mut odd.work);
    done()
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn encapsulate<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, odd: &mut Odd) -> Done {
    process::ipip::deliver(frame, tables, &mut odd.work);
    done()
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn reply<F: Frame, T: Tables>(frame: &mut View<F>, tables: &mut T, odd: &mut Odd) -> Done {
    process::send_reply(frame, tables, &mut odd.work);
    done()
}

/// Adds to the order of the program that maps what is odd about the frame.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn hand<F: Frame, T: Tables>(frame: &View<F>, tables: &mut T, odd: &Odd) -> Done {
    let Some(order) = tables.handed() else { return done() };
    let outward = order.outward();
    order.tags = frame.tags();
    order.skip = frame.skip();
    order.id = odd.id;
    match odd.shape {
        Shape::First => {
            order.first = 1;
            order.covered = fragment::covered(odd);
        }
        Shape::Later => {
            order.kind = if outward { Kind::OutLater } else { Kind::BackLater } as u8;
            (order.source, order.dst_port) = odd.source;
        }
        Shape::Icmp => {
            order.kind = if outward { Kind::OutError } else { Kind::BackError } as u8;
            odd.quote.note(order);
        }
        _ => {}
    }
    done()
}

/// TCP or UDP with ports: like a plain packet, unless it is flawed.
#[inline(always)]
fn whole<T: Tables>(tables: &mut T, odd: &mut Odd) {
    process::classify(tables, &mut odd.work);
    judge(odd);
    if matches!(odd.work.next, Next::Steer) {
        odd.work.steer(tables);
    }
}

/// Drops what is ours and flawed.
#[inline(always)]
fn judge(odd: &mut Odd) {
    let ours = matches!(odd.work.next, Next::Steer | Next::Reply | Next::MapBack);
    if ours && !odd.sound() {
        odd.work.next = Next::Done;
        odd.work.fate = Fate::drop(odd.flaw);
    }
}

/// For an address of a VIP it could be a flow's, and the stack is not to make anything of it.
#[inline(always)]
fn nameless<T: Tables>(tables: &mut T, odd: &mut Odd) {
    odd.work.fate = if is_vip_address(tables, odd.work.packet.dst) {
        Fate::drop(odd.flaw)
    } else {
        Fate::pass(Reason::PassNotVip)
    };
}

/// Whether some VIP has this address.
#[inline(always)]
fn is_vip_address<T: Tables>(tables: &mut T, addr: Addr) -> bool {
    match tables.end(&End::new(addr, 0, 0)) {
        Some(end) => end.is(EndKind::Address),
        None => false,
    }
}
