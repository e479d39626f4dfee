//! See `src/frame.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: ringbeam_fuzz::plant(), |data: &[u8]| ringbeam_fuzz::frame::run(data));
