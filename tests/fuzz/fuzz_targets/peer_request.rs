//! See `src/peer_request.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringbeam_fuzz::peer_request::run(data));
