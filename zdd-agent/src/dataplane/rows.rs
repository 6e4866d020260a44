//! Rows of cells in the mapped array. Packets only read them, and the agent writes only rows that nobody reads; so a row
//! that is read may be read like any memory.

use std::ops::Deref;
use std::sync::Arc;

use zdd_common::entries::Cell;

use super::Dataplane;
use super::fault::{self, Write};
use super::mapped::Mapped;

/// A row of cells as it stands in the map: no copy. Whoever holds one for a row that is live must let go of it before that
/// row is given back to be written.
#[derive(Default)]
pub struct Row {
    cells: Option<Arc<Mapped<u64>>>,
    start: u32,
    len: u32,
}

impl Row {
    /// Index of its first cell.
    pub fn start(&self) -> u32 {
        self.start
    }
}

impl Deref for Row {
    type Target = [Cell];

    fn deref(&self) -> &[Cell] {
        let Some(cells) = self.cells.as_ref().filter(|_| self.len > 0) else { return &[] };
        // SAFETY: `Dataplane::row` has checked the bounds; a cell is a u64 and nothing else; the array lives as long as the
        // mapping, which is shared; nobody writes a row that is live, see the module.
        unsafe {
            std::slice::from_raw_parts(
                cells.range(self.start as usize, self.len as usize).cast(),
                self.len as usize,
            )
        }
    }
}

impl Dataplane {
    /// Writes a row of cells, by plain stores into shared memory. The row is nobody's: spare since a grace period.
    ///
    /// # Panics
    /// When it does not lie within the map: rows are given out by the reconciler, so that is a bug of its own.
    pub fn write_row(&self, row: u32, cells: &[Cell]) {
        assert!(row as usize + cells.len() <= self.cells.len(), "a row within the map");
        if cells.is_empty() {
            return;
        }
        fault::before(Write::Row);
        // SAFETY: within the mapping; the two do not overlap, because a row that a `Row` shows is not spare.
        unsafe {
            let to = self.cells.range(row as usize, cells.len());
            std::ptr::copy_nonoverlapping(cells.as_ptr().cast(), to, cells.len());
        };
        // The commit's release store orders these before it.
    }

    /// The row of `len` cells that begins at cell `start`.
    ///
    /// # Panics
    /// As [`Dataplane::write_row`].
    pub fn row(&self, start: u32, len: u32) -> Row {
        assert!(start as usize + len as usize <= self.cells.len(), "a row within the map");
        Row { cells: Some(Arc::clone(&self.cells)), start, len }
    }

    /// Number of cells in the map.
    pub fn cell_capacity(&self) -> u32 {
        self.cells.len() as u32
    }
}
