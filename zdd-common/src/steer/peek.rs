//! Where a flow is, asked by somebody who must not change anything: an ICMP error about it.

use super::{Steered, place};
use crate::entries::{BackendId, Cell, FlowKey, State};
use crate::reason::Reason;
use crate::tables::{Found, SteerTables};

/// The backend of a flow: of an established connection's entry, else the tuple's older identity, else base. Reads only, so that
/// forged errors can neither make entries nor keep them alive.
#[inline(always)]
pub fn peek<T: SteerTables>(tables: &mut T, id: u16, key: &FlowKey) -> Steered {
    let Some(service) = tables.service(id) else { return Steered::to(0, Reason::PassNoService) };
    let place = place(&service, key);
    let commit = tables.commit(id);
    if commit.generation() == 0 {
        return Steered::to(0, Reason::PassNoService);
    }
    let Some(cell) = tables.cell(commit.row().wrapping_add(place.cell)) else {
        return Steered::to(0, Reason::DropNoBackend);
    };
    let mut backend: BackendId = cell.base();
    if cell.0 & (Cell::DIRTY | Cell::LOOKUP) != 0
        && let Found::Live(_, word, _) = tables.find(key, place.table_hash)
    {
        backend = if word.is(State::Est) { word.backend() } else { word.alt() };
    }
    Steered::to(backend, Reason::IcmpError)
}
