//! See `src/wal_damage.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: ringbeam_fuzz::plant(), |data: &[u8]| ringbeam_fuzz::wal_damage::run(data));
