//! See `src/snapshot.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: ringbeam_fuzz::plant(), |data: &[u8]| ringbeam_fuzz::snapshot::run(data));
