//! Every bound of watches, with its unit and its reason. How much history is kept is the operator's choice: [`super::Bounds`].

//!
//! The model tests work with small bounds, so that every way of the code is gone often.

use std::time::Duration;

use ringbeam_wire::limits::{ITEMS_BYTES_MAX, SCAN_ITEMS_MAX};

const fn bound(real: usize, tests: usize) -> usize {
    if cfg!(test) { tests } else { real }
}

/// Bytes of one chunk of the history: a thousand small changes without an allocation; what is dropped at once.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of the history that are looked through for one delivery, beside the rest of a log index: about 500 small changes, 100 us.
pub const SLICE_BYTES: u64 = bound(32 << 10, 600) as u64;

/// Events that are looked at before other tasks run: about 100 us of it.
pub const GATHER_MAX: usize = bound(512, 7);

/// Messages that are made before other tasks run: about 1 us each.
pub const DELIVER_MAX: usize = bound(128, 3);

/// Watches that catch up together. Each is put into an index of its own for that, about 0.3 us.
pub const TOGETHER_MAX: usize = bound(256, 4);

/// Watches of a connection that has room again which go on at once; the others follow when these have not filled it.
pub const RESUME_MAX: usize = bound(256, 2);

/// Bytes that wait for a connection, or are on their way into its socket, above which its watches pause. What a watch is told at once goes
/// beyond: [`SLICE_BYTES`] of the history and the rest of a log index, a batch of up to `limits.batch_bytes_max` (1 MiB, if not chosen), with
/// the previous values if it wants them. A node with 5,000 clients that have stopped reading holds 160 to 320 MiB for them if batches are
/// small, and 5 GiB if each of them watched all of a whole batch; for `SEND_STALL_MAX`, when they are ended.
pub const EVENT_BYTES_MAX: usize = 32 << 10;

/// Bytes of events in one message, about; a transaction is never split.
pub const MESSAGE_BYTES: usize = bound(256 << 10, 300);

/// Bytes of previous values that the events of one revision carry; what is beyond is left out. So the largest transaction and what it
/// replaced fit a frame.
pub const PREVIOUS_BYTES_MAX: usize = 128 << 10;

/// Keys of one page of a copy. It is made without a pause.
pub const PAGE_ITEMS_MAX: usize = bound(SCAN_ITEMS_MAX as usize, 3);

/// Bytes of one page of a copy; one key more may go beyond.
pub const PAGE_BYTES_MAX: usize = ITEMS_BYTES_MAX as usize;

/// Watches of one connection.
pub const CONNECTION_WATCHES_MAX: usize = 4096;

/// Watches of a shard on a node: about 900 bytes each.
pub const SHARD_WATCHES_MAX: usize = 65_536;

/// Different ranges being watched in a shard that are neither a key nor a prefix: each change is compared with all of them, 5 ns each.
pub const ODD_RANGES_MAX: usize = 256;

/// Shortest time between two progress notices of a watch: 10,000 watches are 100,000 messages a second then.
pub const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// Progress notices before other tasks run.
pub const NOTICES_MAX: usize = 64;
