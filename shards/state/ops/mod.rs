//! What a write may be beside a put and a delete, and what that needs: no plain write enters.
//!
//! ```text
//! transaction.rs  compares, then reads and writes, as one      leases.rs   leases, and keys whose time comes
//! counter.rs      values that are numbers                      erase.rs    a range of keys that goes
//! extend.rs, deltas.rs  a value as a base and what came after it       folds.rs  what reads have folded
//! ```

pub mod counter;
pub(super) mod deltas;
pub mod erase;
pub mod extend;
pub(super) mod folds;
pub(super) mod leases;
pub mod transaction;
