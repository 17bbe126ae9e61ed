//! libFuzzer on [`fuzz::bolt`].
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::limit_memory(),
    |data: &[u8]| fuzz::bolt(data)
);
