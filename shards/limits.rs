//! Every bound of the data plane, with its unit and its reason. Nothing here is configuration: what an operator may choose is in
//! [`crate::shard::Settings`]; these are the walls inside which any choice is safe.
//!
//! **Invariant**: what is bounded here is bounded in bytes or in count at its entrance, so a node's memory is at most the sum of
//! these plus the state itself.

use std::time::Duration;

/// Bytes of entries read from the log at once, for replication or replay: enough to keep a 10 Gbit/s link busy for a
/// millisecond, small enough that one follower's catch-up does not hold the core.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Batches that are in raft at once: over a round trip of 60 ms, one each [`COMPANY_WAIT`]. On a short way two are in flight, as
/// the others wait for company.
pub const BATCHES_IN_FLIGHT_MAX: usize = 32;

/// How long the first write of a batch waits for others beside a larger batch in flight, or longer while the disk is busy: about what
/// a batch takes on a short way, and little beside a round trip between regions.
pub const COMPANY_WAIT: Duration = Duration::from_millis(2);

/// Writes in one batch. Positions in a batch must fit 20 bits (session ids), and a batch is applied without a pause.
pub const BATCH_WRITES_MAX: usize = 4096;

/// Replies that wait for a slow client, in bytes: above it no further request of that connection is read.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Requests of one connection that wait for their answers: above it none is read from it.
pub const CONNECTION_REQUESTS_MAX: usize = 8192;

/// A client that takes no reply bytes for this long while some wait is disconnected.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(30);

/// A client that has ended its direction is given its outstanding answers for this long.
pub const FAREWELL_MAX: Duration = Duration::from_secs(30);

/// Linearizable reads of a shard that wait for one read-index round.
pub const READS_WAITING_MAX: usize = 65_536;

/// Reads of a shard that wait until its state has come so far, or is shown to be so fresh. They are looked through together.
pub const FRESH_WAITING_MAX: usize = 4096;

/// How long such a read waits, when its deadline is not earlier: longer than an election after a killed leader and a catch-up of a follower
/// that was away for a moment, shorter than a caller's patience, who may ask another node.
pub const FRESH_WAIT_MAX: Duration = Duration::from_millis(1000);

/// How long a bounded read that takes a stale answer waits for a better one: a round between regions.
pub const STALE_PATIENCE: Duration = Duration::from_millis(150);

/// Between two questions to the leader how far it has committed, while reads arrive that want to know their age.
pub const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// The same while a read waits for the answer: it bounds what such reads cost the leader, a hundred rounds a second for each node.
pub const ASK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The leader is asked for so long after the last read that wanted its age: one who reads each second finds an answer that is there.
pub const ASK_LINGER: Duration = Duration::from_secs(2);

/// Answers of the leader that are kept while the state has not applied them: at [`ASK_INTERVAL`] some seconds, then more coarsely.
pub const FRESHNESS_PAIRS_MAX: usize = 64;

/// How much slower than true time a node's monotonic clock may run, thousandths. Far beyond what NTP corrects (0.5) or a crystal is off (0.1);
/// the simulator's clocks are off by up to 50.
pub const CLOCK_DRIFT_PER_MILLE_MAX: u64 = 60;

/// Questions for the commit index that wait for one round: one a member, as each asks once at a time.
pub const READ_INDEX_QUESTIONS_MAX: usize = ringbeam_wire::limits::MEMBERS_MAX as usize;

/// Scans of one moment under way in a shard on a node. Each change compares its key with the range of each, some nanoseconds.
pub const PINS_MAX: usize = 128;

/// A pinned moment that no page was asked for so long is given up: its client takes its time with a page, or is gone.
pub const PIN_IDLE_MAX: Duration = Duration::from_secs(30);

/// One that has rested so long goes earlier, when its last page was answered or another scan has no room.
pub const PIN_RESTED: Duration = Duration::from_secs(5);

/// Records that a page of a pinned moment passes by because they are newer, before other tasks run: about 200 us.
pub const STEPS_MAX: usize = 4096;

/// Records that nobody needs any more which are freed before other tasks run: about 100 us.
pub const SHED_FREED_MAX: usize = 1024;

/// And for so long; what is left waits for the next look.
pub const SHED_PATIENCE: Duration = Duration::from_millis(50);

/// Connections of a shard that follow the topology: each client keeps one. A change is sent to all of them at once.
pub const TOPOLOGY_FOLLOWERS_MAX: usize = 16_384;

/// Pause before a follower of the topology that had no room for a change is tried again.
pub const TOPOLOGY_RETRY: Duration = Duration::from_millis(100);

/// Time from a connection's preamble to its Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a peer to answer a connect, or a request that is not an append.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// Append requests sent to a follower and not answered. openraft's follower side queues 64; more would only wait there.
pub const APPENDS_IN_FLIGHT_MAX: usize = 32;

/// How long an append that only carries a new commit index waits for entries to ride with. An idle ring's followers apply that
/// much later; a lone writer's next write comes sooner.
pub const COMMIT_UPDATE_WAIT: Duration = Duration::from_millis(1);

/// A follower that answers none of the appends in flight for this long is cut off and dialled again. Longer than any flush of
/// a healthy disk, shorter than a human's patience.
pub const APPEND_STALL_MAX: Duration = Duration::from_secs(5);

/// Bytes of one snapshot slice: about 50 microseconds of work, which writes wait for.
pub const SNAPSHOT_SLICE_BYTES: usize = 32 << 10;

/// After a slice the core is the writes' for so many times as long as the slice took, while the log leaves time for that.
pub const SNAPSHOT_REST_TIMES: u32 = 32;

/// But no longer than this: what took long was a core that somebody else had, or a process that was stopped for an hour.
pub const SNAPSHOT_REST_MAX: Duration = Duration::from_millis(20);

/// Bytes of a snapshot that are written at once: the next flush of the log waits for what the disk holds of them.
pub const SNAPSHOT_WRITE_BYTES: usize = 64 << 10;

/// Bytes of a snapshot that are read at once, and sent at once to a peer.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// A snapshot that arrives has the room of all of it. When nothing of it has come for so long, the room is given back: far longer than a
/// sender takes to dial again, or to make another of its own.
pub const INCOMING_IDLE_MAX: Duration = Duration::from_secs(600);

/// Pause before a snapshot that reads back well here, but was refused, is sent once more to the same peer: the fault is on its side
/// or on the way, and a whole snapshot is a lot to send in vain. Doubled each time, this many times at most (32 s): a disk that was
/// replaced is filled within a minute. Also the pause before a peer whose disk was full is asked again.
pub const SNAPSHOT_REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// See [`SNAPSHOT_REFUSED_PAUSE`].
pub const SNAPSHOT_REFUSED_PAUSE_DOUBLINGS: u32 = 5;

/// So often a snapshot that reads back well here is refused by peers as damaged, one or several, before another is made instead.
pub const SNAPSHOT_REFUSALS_MAX: u32 = 2;

/// Time that applying or loading may hold the core before other tasks run.
pub const HOLD_MAX: Duration = Duration::from_micros(300);

/// How often deadlines of waiting requests are looked at; they are honoured to within this.
pub const DEADLINE_SWEEP: Duration = Duration::from_millis(20);

/// How often a shard looks after itself: snapshots due, leadership to hand over, room on the disk.
pub const CARE_INTERVAL: Duration = Duration::from_millis(100);

/// How often a leader looks for keys and leases whose time is up, while there are any that have one: they go to within this, and what
/// taking them out takes. Without any it looks each [`CARE_INTERVAL`].
pub const EXPIRY_LOOK: Duration = Duration::from_millis(20);

/// Keys and leases that one entry takes out: applying it holds the core for a fraction of a millisecond, about a batch's worth.
pub const EXPIRE_KEYS_MAX: u32 = 200;

/// Least pause after such an entry: more of the time is the clients'. Whether any write is on its way at that moment says little.
pub const EXPIRE_PAUSE: Duration = Duration::from_millis(5);

/// And so many times as long as it took to apply here, up to [`CARE_INTERVAL`]: on a busy core it takes longer, and all nodes do the same.
pub const EXPIRE_PAUSE_TIMES: u32 = 4;

/// While there are keys or leases that go, a leader puts the time into the log at least this often: a new one goes on from there.
pub const RING_TIME_NOTE: Duration = Duration::from_secs(10);

/// How long a stopping leader waits to see its heir take over. A hand-over takes a few milliseconds; an heir whose disk or core
/// is busy may need two flushes of its own and a voter's before it leads. Longer than an election, so that who stops in vain has
/// left the ring nothing to wait for.
pub const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// Pause before a shard whose log found no room on the disk when it started tries to open it again.
pub const START_AGAIN: Duration = Duration::from_secs(1);

/// Pause between two looks for room in the log while its next segment is made, or cannot be made: far less than the making takes.
pub const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// A proposed write is told that its outcome is unknown when this node has been unable to bring it to an end for so long: it does
/// not lead any more, or the disks of a quorum are full. Both may pass: a new leader commits what it finds, and what was on its
/// way when a disk became full usually still fits.
pub const FUTILE_MAX: Duration = Duration::from_millis(500);

/// Retry-after hint of an `Overloaded` refusal, milliseconds: about two batch times under full load.
pub const OVERLOADED_RETRY_MS: u32 = 5;

const _: () = assert!(BATCH_WRITES_MAX < 1 << 20, "session ids keep 20 bits for the position in a batch");
const _: () = assert!(CLOCK_DRIFT_PER_MILLE_MAX < 1000);
const _: () = assert!(EXPIRE_KEYS_MAX <= crate::state::limits::EXPIRE_HARD_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES.is_multiple_of(crate::io::BLOCK_BYTES));
const _: () = assert!(SNAPSHOT_WRITE_BYTES.is_multiple_of(crate::io::BLOCK_BYTES));
const _: () = assert!(APPENDS_IN_FLIGHT_MAX <= 64, "openraft's follower queues 64 appends of a stream");
