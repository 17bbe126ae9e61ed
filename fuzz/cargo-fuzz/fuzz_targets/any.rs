//! libFuzzer on [`fuzz::any`].
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::limit_memory(),
    |data: &[u8]| fuzz::any(data)
);
