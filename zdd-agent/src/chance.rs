//! Chance from the kernel.

/// From the kernel's random source: keys must not be guessable.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: a valid buffer and its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 8, "getrandom gives eight bytes at once since Linux 3.17");
    u64::from_ne_bytes(bytes)
}
