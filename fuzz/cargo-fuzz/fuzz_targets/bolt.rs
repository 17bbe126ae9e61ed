//! libFuzzer on [`fuzz::bolt`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bolt(data));
