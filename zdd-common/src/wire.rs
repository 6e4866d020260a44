//! Layout proofs for everything that kernel and user space both read.

/// Marker of types whose every bit pattern is valid and that have no padding, so that bytes may become values.
///
/// # Safety
/// Implement it with [`wire!`](crate::wire!) only, which proves size, alignment and the absence of padding.
pub unsafe trait Wire: Copy + 'static {}

/// Proves at compile time that a `#[repr(C)]` type has the given size in bytes and that its fields fill it exactly,
/// then implements [`Wire`] for it. A field added or reordered without thought is a compile error, not a map that
/// the other side reads wrongly.
#[macro_export]
macro_rules! wire {
    ($type:ty, $size:literal, { $($field:ident : $kind:ty),+ $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size, "the size is part of the map layout");
            assert!(0 $(+ core::mem::size_of::<$kind>())+ == $size, "padding would leak and compare unequal");
            // Names each field with its type: a field forgotten here makes the sum above fail.
            let _ = |value: &$type| { $( let _: &$kind = &value.$field; )+ };
        };
        // SAFETY: the assertions above; all fields are integers or arrays of them.
        unsafe impl $crate::wire::Wire for $type {}
    };
}

// SAFETY: integers have no padding and no invalid pattern.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: as above.
unsafe impl Wire for u64 {}
// SAFETY: nor have arrays of what has none.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}
