//! See `src/wal_damage.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringbeam_fuzz::wal_damage::run(data));
