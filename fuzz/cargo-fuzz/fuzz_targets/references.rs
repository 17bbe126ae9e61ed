//! libFuzzer on [`fuzz::references`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::references(data));
