//! The data plane of one core: everything between a client's bytes and a quorum of disks, and back.
//!
//! Begin with [`write`](write.rs), which shows the way of a write on one page; every step names its room.
//!
//! ```text
//! connection ─▶ admission ─▶ batcher ─▶ raft ─┬─▶ wal ─▶ io
//!     ▲                                       ├─▶ peers
//!     └────────────── answers ◀── state ◀─────┘
//!     ◀────── events ◀── watch ◀────┘
//! ```
//!
//! All of it is generic over [`io::Env`], the outside world.

/// Whether a test has planted this bug (`planted.rs`): never, and no code, without the cargo feature `sim`.
#[cfg(feature = "sim")]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is($crate::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "sim"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

mod admin;
mod admission;
mod attest;
mod batcher;
mod connection;
mod data;
mod error;
mod fresh;
pub mod io;
mod leases;
pub mod limits;
#[cfg(feature = "sim")]
pub mod planted;
#[cfg(feature = "sim")]
pub mod probe;
pub mod raft;
mod read;
mod scan;
pub mod shard;
pub mod state;
mod topology;
pub mod wal;
pub mod watch;
mod write;
