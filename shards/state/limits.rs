//! Bounds of the state machine, each with its unit and its reason.
//!
//! [`Limits`] decide what apply answers, so they are part of what is replicated: **every node of a ring must use the same
//! ones**. A snapshot carries its own, and the `Loader` refuses one made under others by name.

use ringbeam_wire::limits as wire;

/// Longest key, in bytes. The record's key length is a `u16`, and a key travels in every message about it.
pub const KEY_BYTES_MAX: usize = wire::KEY_BYTES_MAX as usize;
/// Longest value that any configuration allows, in bytes; the configured bound is checked before the log.
pub const VALUE_BYTES_HARD_MAX: usize = wire::VALUE_BYTES_HARD_MAX as usize;
/// Longest name of a namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = wire::NAMESPACE_BYTES_MAX as usize;

/// Writes in one batch, exclusive: a position has this many bits in a session id.
pub const POSITION_BITS: u32 = 20;
/// First position that a batch cannot have.
pub const POSITIONS_MAX: u32 = 1 << POSITION_BITS;
/// First log index that cannot be packed into a session id. 2^44 batches last 557 years at 1,000 a second.
pub const INDEX_MAX: u64 = 1 << (64 - POSITION_BITS);

/// Sessions that one batch removes at most because their time is up, so that no batch is slow because 65,536 clients left
/// at once. A session whose time is up is refused at once all the same, removed or not.
pub const EXPIRED_PER_BATCH_MAX: usize = 64;

/// Bytes of the records that one range delete takes, about: it frees them without a pause, and large ones take longer.
pub const ERASED_BYTES_MAX: u64 = 4 << 20;

/// Longest JSON that merge patches apply to, bytes, and longest patch: to parse one holds the core for about 0.3 ms.
pub const MERGED_BYTES_MAX: usize = 64 << 10;
/// Patches that a value keeps unfolded: a read parses them all, and a value that is never read is parsed once in so many patches.
pub const DELTAS_MAX: usize = 16;
/// Bytes of the patches that a value keeps unfolded: memory, and a read's work, beside the value's own.
pub const DELTAS_BYTES_MAX: usize = 4 << 10;

/// Leases that a shard may have, those included whose time is up and which no `Expire` has taken yet. One for each client of a large
/// fleet; about 200 bytes each, so this bounds them to 26 MB.
pub const LEASES_MAX: u32 = 1 << 17;
/// Keys and leases that one `Expire` may take at most: what is proposed is far less (`crate::limits`), this is what the log may hold.
pub const EXPIRE_HARD_MAX: u32 = 10_000;

/// What a slice's walk costs for a record that it only looks at, in bytes of its budget. Each is a cache
/// miss or two, which take longer than copying a small record.
pub const VISIT_COST_BYTES: usize = 128;
/// Smallest and largest budget of one slice, in bytes.
pub const SLICE_BUDGET_BYTES: (usize, usize) = (4 << 10, 4 << 20);
/// Longest payload of one slice, in bytes: a whole budget and then the largest thing there is.
pub const SLICE_PAYLOAD_BYTES_MAX: usize = 24 << 20;
/// Bytes of a kept answer, and of each further place that what its gets found takes.
pub const PLACE_BYTES: usize = 32;
/// Places that the largest result of a transaction takes.
pub const RESULT_PLACES_MAX: u64 = (wire::TRANSACTION_RESULT_BYTES_MAX as u64).div_ceil(PLACE_BYTES as u64);
/// Places that the result of a counter or of a range delete takes: two notes of 16 bytes and a number in decimal.
pub const NUMBER_PLACES_MAX: u64 = (16 + 20 + 16u64).div_ceil(PLACE_BYTES as u64);
/// Places that one session's kept answers may take: 4 MiB, as a session goes into a snapshot in one piece.
pub const SESSION_PLACES_MAX: u64 = 1 << 17;
/// Largest `session_window` that can be set, for the same reason.
pub const SESSION_WINDOW_HARD_MAX: u32 = 1 << 16;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(NAMESPACE_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(VALUE_BYTES_HARD_MAX + KEY_BYTES_MAX + 1024 + SLICE_BUDGET_BYTES.1 <= SLICE_PAYLOAD_BYTES_MAX);
const _: () = assert!(SESSION_WINDOW_HARD_MAX as u64 + RESULT_PLACES_MAX < SESSION_PLACES_MAX);
const _: () = assert!(2 * PLACE_BYTES * SESSION_PLACES_MAX as usize + SLICE_BUDGET_BYTES.1 <= SLICE_PAYLOAD_BYTES_MAX);

/// The bounds that a ring chooses; equal on all its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions that may be open at once.
    pub sessions_max: u32,
    /// Answers that one session may leave unacknowledged (not below its `answered_below`) at once.
    pub session_window: u32,
    /// Answers of all sessions together; at 48 bytes each this bounds their memory. What a transaction's gets found counts as so many
    /// answers as it takes.
    pub answers_max: u32,
    /// Ring time after which an unused session is forgotten, in milliseconds. Rounded up to whole seconds of last use.
    pub session_lifetime_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { sessions_max: 65_536, session_window: 4_096, answers_max: 16 << 20, session_lifetime_ms: 15 * 60 * 1_000 }
    }
}

impl Limits {
    /// The same limits within what the formats can hold.
    pub(super) fn bounded(self) -> Limits {
        Limits { session_window: self.session_window.min(SESSION_WINDOW_HARD_MAX), ..self }
    }
}
