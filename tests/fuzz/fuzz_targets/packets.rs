//! What happens to packets, from the frame to the verdict, over tables in memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| zdd_fuzz::run::run(input));
