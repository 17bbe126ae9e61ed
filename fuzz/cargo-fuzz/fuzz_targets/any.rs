//! libFuzzer on [`fuzz::any`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::any(data));
