//! The kernel's side: program, maps, links. The only module that imports aya.
//!
//! Everything is pinned below one directory of a BPF file system, so that traffic goes on with the last committed
//! generation while no agent runs. Words that packets change are mapped into the agent and changed atomically.

mod attach;
mod decap;
mod error;
mod fault;
mod frags;
mod grace;
mod inventory;
mod mapped;
mod mappings;
mod object;
mod per_cpu;
mod pins;
pub mod probe;
mod rows;
mod signals;
mod sources;
mod spans;
mod tables;
mod trace;
mod vips;

pub use attach::{Attached, detach};
pub use decap::{Decap, DecapCounts, DecapSpec, decap_counts, decap_detach, decap_runs};
pub use error::DataplaneError;
#[doc(hidden)]
pub use fault::Write;
pub use grace::GraceWaiter;
pub use inventory::{PinnedMap, pinned_maps};
pub use mappings::MappingTotals;
pub use object::{Dataplane, Opened};
pub use rows::Row;
pub use sources::SourceSet;
pub use spans::Ends;
pub use tables::{FlowScan, FlowTotals};
pub use trace::TraceRing;

#[doc(hidden)]
pub mod raw {
    //! For tests that run the program on frames.
    /// The balancer's object, for programs of frames in one piece.
    pub fn object() -> std::borrow::Cow<'static, [u8]> {
        super::frags::object(super::object::OBJECT, false)
    }

    /// Any object of ours, for such programs: only they can be called by others that are so.
    pub fn plain(object: &[u8]) -> std::borrow::Cow<'_, [u8]> {
        super::frags::object(object, false)
    }

    /// Whether frames in several buffers are redirected here.
    pub fn redirects_frags() -> bool {
        super::object::redirects_frags()
    }
}
