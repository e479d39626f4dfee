//! The log: what recovery makes of damaged and of forged segments, on a simulated disk.
//!
//! ```text
//!   damage.rs   a log by the real writer, then damage          ─┐
//!   forge.rs    segments out of any records, by format.rs       ├─▶ trial.rs: the real recovery, crashes, what must hold
//!   format.rs   the bytes, as docs/format.md has them          ─┘
//! ```

pub mod damage;
pub mod forge;
mod format;
mod trial;

use ringbeam_shards::wal::{Owner, WalConfig};

/// Whose logs these are.
pub const OWNER: Owner = Owner { ring: 0xABCD, node: 2, incarnation: 77, shard: 3 };
/// Directory of the log.
pub const DIR: &str = "log";

/// The smallest segments that there can be: seven blocks for flushes. So a few operations fill several.
pub const CONFIG: WalConfig =
    WalConfig { segment_bytes: 8 * 4096, cache_bytes: 4 << 10, spare_segments: 1, stock_ahead: false, entry_bytes_max: 6_000 };

fn path(number: u64) -> String {
    format!("{DIR}/wal-{number:016x}.seg")
}
