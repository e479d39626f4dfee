//! Every bound of the SDK, with its unit and its reason.

use std::time::Duration;

/// A call's deadline unless the caller says another. Longer than any healthy election (600 to 1200 ms) twice over.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What is held back from the deadline that the server is told, so that its "too late, and certainly not done" still
/// arrives in time to be better news than our own "unknown": an eighth of what remains, at most this.
pub const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(50);

/// Shortest wait of a back-off, milliseconds.
pub const BACKOFF_MS_MIN: u64 = 5;

/// Longest wait of a back-off, milliseconds: the extra time after a failover, so well under an election.
pub const BACKOFF_MS_MAX: u64 = 100;

/// Redirects that one call follows at once. More in a row are nodes that disagree during an election: back off.
pub const REDIRECTS_AT_ONCE_MAX: u32 = 2;

/// Longest wait between two searches for a leader, milliseconds, when there has been none for long: every client asks every node.
pub const SEARCH_MS_MAX: u64 = 1_000;

/// What a first attempt puts into the retry budget, retries: a ring in trouble sees a tenth more, not a multiple.
pub const RETRIES_PER_CALL: f64 = 0.1;

/// What first attempts put into the retry budget fades with this time constant: a failover's worth of seconds, and no more.
pub const RETRY_FADE: Duration = Duration::from_secs(10);

/// Retries that a client may make that has called seldom: those of a hundred writes whose connection is lost.
pub const RETRY_RESERVE: f64 = 100.0;

/// The reserve grows back by so many retries a second: whoever waits for a ring in trouble may knock once a second.
pub const RETRY_RESERVE_PER_SECOND: f64 = 1.0;

/// So many repeats of a call cost no retry that met nodes which do not lead: two or three wrong ones in an election, twice over.
pub const LEADERLESS_FREE: u32 = 8;

/// The rate of calls is measured over this long: seconds-long outages are to be set against it.
pub const RATE_WINDOW: Duration = Duration::from_secs(1);

/// Calls that waited for a leader are let go within this long, whatever their number: a call's usual deadline.
pub const SPREAD_MAX: Duration = Duration::from_secs(5);

/// Failures in a row after which a node is left alone. One or two are what a restart looks like.
pub const BREAKER_FAILURES: u32 = 3;

/// A node is left alone for at most this long at first, milliseconds: several searches for a leader.
pub const BREAKER_MS_MIN: u64 = 100;

/// A node is left alone for at most this long at last, milliseconds: it serves again so much later than it could.
pub const BREAKER_MS_MAX: u64 = 2_000;

/// Whoever finds out whether a node is back has this long before somebody else may: see [`CONNECT_TIMEOUT`].
pub const BREAKER_PROBE: Duration = Duration::from_secs(1);

/// Of so many reads that ask for a hedge at most one gets it: a ring that is slow as a whole gets 5 % more to do.
pub const HEDGE_ONE_IN: i64 = 20;

/// Hedges that may be made at once after a quiet time.
pub const HEDGE_RESERVE: i64 = 10;

/// What a near-cache holds unless it is told otherwise, bytes.
pub const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// What an entry of a near-cache costs beside its key and value, bytes: its handles, and its place in the tables.
pub const CACHE_ENTRY_OVERHEAD_BYTES: u64 = 160;

/// An entry of a near-cache takes at most one part in so many of it: a large value must not drive out everything else.
pub const CACHE_ENTRY_SHARE_MAX: u64 = 8;

/// Whether a near-cache pays is judged each so many reads.
pub const CACHE_WINDOW: u64 = 2_048;

/// A near-cache pays when it answers one in so many reads: a hit saves a thousand times what a miss costs in vain, but its memory is the
/// program's.
pub const CACHE_PAYS_ONE_IN: u64 = 20;

/// A near-cache that did not pay is off for at least so many windows, and then tries two: what goes through it in vain, which may cost as
/// much again as the read itself, is one read in 65 at first ..
pub const CACHE_OFF_WINDOWS_MIN: u64 = 128;

/// .. and at most so many: one in 500.
pub const CACHE_OFF_WINDOWS_MAX: u64 = 1_024;

/// Bits that say which keys a near-cache was asked for before: 16 KiB.
pub const CACHE_DOOR_BITS: u64 = 1 << 17;

/// So many keys are remembered before all are forgotten: at most one key in four is then taken for another.
pub const CACHE_DOOR_KEYS: u32 = 1 << 15;

/// Sessions that one write may lose before it gives up: a ring that expires a session before its first write is broken.
pub const SESSIONS_LOST_MAX: u32 = 3;

/// Unanswered writes of one session when the server does not say (`Welcome.session_window` 0).
pub const SESSION_WINDOW_DEFAULT: u32 = 1024;

/// Most unanswered writes of one session, whatever the server allows: the bookkeeping is one bit each.
pub const SESSION_WINDOW_MAX: u32 = 1 << 16;

/// How long the answer of a write whose outcome is unknown is held for whoever asks for it: time for a person to read an error and type
/// a command. The ring keeps the answers of all later writes of the session meanwhile.
pub const OUTCOME_HELD: Duration = Duration::from_secs(60);

/// What such a write may hold of its session's window, as one part in so many: the rest is for writes that go on.
pub const OUTCOME_WINDOW_PART: u64 = 4;

/// Opening a connection (TCP and Hello) takes at most this; a dead host must not eat a whole deadline.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Opening a session takes at most this, whatever time the write has for which it is opened.
pub const OPEN_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Asking one node who leads takes at most this.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Once one node has named a leader, the others have this long to name one of a later term.
pub const PROBE_GRACE: Duration = Duration::from_millis(10);

/// A failed attempt to connect answers all callers for this long, so that many tasks do not dial one dead node.
pub const CONNECT_FAILURE_SHARED: Duration = Duration::from_millis(20);

/// Deadlines of calls in flight are looked at this often.
pub const SWEEP: Duration = Duration::from_millis(10);

/// A connection that owes replies and has been silent for this long is pinged; a live node answers without its log.
pub const SILENCE_BEFORE_PING: Duration = Duration::from_millis(500);

/// A connection that owes replies and has been silent for this long is dead: its host vanished without a reset.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

/// A leader that completes none of its calls for this long makes the client ask the other nodes whether a later term has
/// another leader: it may be cut off from its quorum and not from us. Longer than a slow disk's usual hiccup.
pub const STALL: Duration = Duration::from_secs(1);

/// Round trips that differ by less are equal: what two measurements on one machine differ by, microseconds.
pub const ABOUT_EQUAL_US: u32 = 300;

/// A new round trip counts for one part of so many in the smoothed one.
pub const ROUND_TRIP_WEIGHT: u32 = 8;

/// A node that failed is not read from for this long; twice as long with each further failure in a row.
pub const ASIDE_MIN: Duration = Duration::from_millis(100);

/// And at most this long: a node that is back is found again within it.
pub const ASIDE_MAX: Duration = Duration::from_secs(30);

/// The node that reads go to is chosen for this long. Calls of one time leave together, which halves what each costs; a node that has become
/// slow is left soon enough.
pub const CHOICE_KEPT: Duration = Duration::from_millis(250);

/// Round trips to nodes that may be read from are measured this often, while there are such reads.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(2);

/// So many of them at most: more than a region has.
pub const SURVEYED_MAX: usize = 8;

/// One measurement takes at most this.
pub const SURVEY_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a node that may not be fresh enough is given for a session's or a bounded read, before another is asked: a round trip to a far
/// leader and its quorum.
pub const FRESH_PATIENCE: Duration = Duration::from_millis(400);

/// Nodes that such a read is sent to before it goes to the leader.
pub const FRESH_READERS_TRIED: u32 = 2;

/// So often `Scan::all` begins anew because its moment is gone: when that goes on, the ring changes more than it keeps.
pub const SCANNED_ANEW_MAX: u32 = 3;

/// A pin that has rested so long is asked for a key more, when the next key is taken from its scan: its shard's keys wait behind those of
/// others, or the program takes its time with them. A node waits 30 s; 5 s, if it has no room for another scan.
pub const PIN_ASKED_AGAIN: Duration = Duration::from_secs(4);

/// Requests of one `get_many` under way at once. Ten thousand keys are 80 of them.
pub const BUNDLES_AT_ONCE_MAX: usize = 64;

/// Calls in flight on one connection. Each costs about 150 bytes; more than this is a queue, not a pipeline.
pub const IN_FLIGHT_MAX: u32 = 1 << 16;

/// Bytes waiting for a socket that does not drain. Beyond it calls wait instead of memory growing.
pub const OUT_BYTES_MAX: usize = 8 << 20;

/// Capacity that an output buffer keeps when idle, bytes.
pub const OUT_BYTES_KEPT: usize = 256 << 10;

/// Replies decoded between two looks at the lock, so that callers wait microseconds for it.
pub const REPLIES_PER_LOCK: usize = 128;

/// Reads in a row that completed calls before deadlines are looked at all the same: a megabyte at most, and less than a look for each.
pub const READS_PER_SWEEP: u32 = 16;

/// A value of at most this many bytes is copied out of the buffer it was read into: a caller that keeps a small value must
/// not keep 64 KiB alive.
pub const VALUE_BYTES_COPIED_MAX: usize = 1 << 10;

const _: () = assert!(ASIDE_MIN.as_millis() < ASIDE_MAX.as_millis());
const _: () = assert!(BACKOFF_MS_MIN < BACKOFF_MS_MAX);
const _: () = assert!(SILENCE_BEFORE_PING.as_millis() < SILENCE_MAX.as_millis());
