//! libFuzzer on [`fuzz::documents`].
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::limit_memory(),
    |data: &[u8]| fuzz::documents(data)
);
