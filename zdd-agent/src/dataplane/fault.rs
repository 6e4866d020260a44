//! Lets tests end the agent before a write of their choice, as a kill would: debug builds only.
//!
//! The environment variable `ZDD_DIE_BEFORE_WRITE` names a file. While there is one, it holds how many writes are left; the write that
//! finds none ends the process, and leaves in the file what it was.

/// A write to the kernel's tables comes next.
#[cfg(debug_assertions)]
pub(super) fn before(write: &str) {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("ZDD_DIE_BEFORE_WRITE").map(PathBuf::from));
    let Some(file) = &*FILE else { return };
    let Some(left) = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<u32>().ok()) else {
        return;
    };
    // A file that cannot be written is the test's to see: it waits for a death.
    let Some(left) = left.checked_sub(1) else {
        let _ = std::fs::write(file, format!("died before {write}"));
        std::process::abort();
    };
    let _ = std::fs::write(file, left.to_string());
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(super) fn before(_write: &str) {}
