//! Frames that a driver keeps in several buffers: jumbo frames in native mode. A program takes them only when it is loaded so, and then
//! the array by which programs go on in each other belongs to such programs alone.

use std::borrow::Cow;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::MapData;

use super::probe::{self, BPF_F_XDP_HAS_FRAGS};

/// What the section of such a program is called, and of any other.
const SECTION: &[u8] = b"xdp.frags\0";
const PLAIN: &[u8] = b"xdp\0";

/// Which of the two the objects' programs were built as has a say only by the name of their section: it is shortened for a load without.
pub(super) fn object(object: &[u8], frags: bool) -> Cow<'_, [u8]> {
    if frags {
        return Cow::Borrowed(object);
    }
    let mut plain = object.to_vec();
    let mut at = 0;
    while let Some(found) = plain[at..].windows(SECTION.len()).position(|bytes| bytes == SECTION) {
        at += found;
        plain[at..at + PLAIN.len()].copy_from_slice(PLAIN);
    }
    Cow::Owned(plain)
}

/// Whether the kernel has such programs.
pub(super) fn known() -> bool {
    probe::loads(&[0x0000_0002_0000_00b7, 0x0000_0000_0000_0095], BPF_F_XDP_HAS_FRAGS).unwrap_or(false)
}

/// Whether a map that is pinned belongs to such programs: a tiny one that names it is tried. `None`: that cannot be told.
pub(super) fn owns(pin: &Path) -> Option<bool> {
    let map = MapData::from_pin(pin).ok()?;
    let fd = map.fd().as_fd().as_raw_fd() as u64;
    let program = [0x1118 | fd << 32, 0, 0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let takes = |flags| probe::loads(&program, flags).ok();
    match (takes(BPF_F_XDP_HAS_FRAGS)?, takes(0)?) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_for_either_kind_of_program() {
        for whole in [crate::dataplane::object::OBJECT, crate::dataplane::decap::OBJECT] {
            let named = |bytes: &[u8]| bytes.windows(SECTION.len()).any(|bytes| bytes == SECTION);
            assert!(named(&object(whole, true)));
            let plain = object(whole, false);
            assert!(!named(&plain));
            assert_eq!(plain.len(), whole.len());
        }
    }
}
