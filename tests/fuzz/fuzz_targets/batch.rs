//! See `src/batch.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringbeam_fuzz::batch::run(data));
