//! See `src/snapshot_file.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringbeam_fuzz::snapshot_file::run(data));
