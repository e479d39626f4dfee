//! A snapshot's slices and back: no write enters, though one keeps what a snapshot still needs (`freeze.rs`, whose
//! `walk.rs` makes the slices).
//!
//! ```text
//! owed.rs   what slices owe of sessions and leases     slice.rs   the bytes of a slice
//! loader.rs slices back into a state                   digest.rs  what both ends compare
//! ```

pub(super) mod digest;
pub(super) mod loader;
pub(super) mod owed;
pub(super) mod slice;
