//! Planted bugs: real mistakes behind switches, so that the simulator can show that it finds them. Only with the cargo feature
//! `sim`; `planted!` in `lib.rs` is `false` without it, and nothing of a switch is left.
//!
//! **Invariant**: one bug at a time, and only in the thread that planted it.
//!
//! **Not here**: what finds them, and how fast (docs/simulation.md).

use std::cell::Cell;

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident $name:literal,)+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            /// All of them, with their names.
            pub const ALL: &'static [(Bug, &'static str)] = &[$((Bug::$bug, $name),)+];
        }
    };
}

bugs! {
    /// Who asks for the outcome of a write that has not happened is told "never", and nothing keeps it from happening.
    NeverWithoutFence "never-without-fence",
    /// A leader counts itself for the quorum before its flush.
    LeaderAcksBeforeFsync "leader-acks-before-fsync",
    /// A follower acknowledges an append before its flush.
    FollowerAcksBeforeFsync "follower-acks-before-fsync",
    /// `save_vote` says done and writes nothing.
    VoteNotPersisted "vote-not-persisted",
    /// A vote is granted without asking whether the candidate's log is as long, or whom this node has voted for.
    VoteGrantedUnasked "vote-granted-unasked",
    /// A log starts on an empty disk under a known id and votes: nobody compares incarnations.
    EmptyDiskVotes "empty-disk-votes",
    /// The log goes on after a flush that failed.
    SyncErrorIgnored "sync-error-ignored",
    /// A new segment is used before its name is durable.
    SegmentNameNotSynced "segment-name-not-synced",
    /// A snapshot stands in for log entries before its bytes are durable.
    SnapshotNotSynced "snapshot-not-synced",
    /// What a peer has sent is given to raft as a snapshot without being read.
    RottenSnapshotInstalled "rotten-snapshot-installed",
    /// A snapshot that peers refuse as damaged is sent to them again and again.
    RottenSnapshotKept "rotten-snapshot-kept",
    /// A snapshot that was being written while a newer one was installed takes its place.
    OldSnapshotPublished "old-snapshot-published",
    /// A snapshot that is found when a node starts is relied on, though its name may not be durable.
    FoundSnapshotNotSynced "found-snapshot-not-synced",
    /// A voter is removed whoever else has what is acknowledged.
    CopiesNotCounted "copies-not-counted",
    /// Recovery does not look at checksums.
    ChecksumIgnored "checksum-ignored",
    /// A shard whose log found no room when it started does not try again.
    FullForEver "full-for-ever",
    /// A log of another version is read as one of this.
    VersionIgnored "version-ignored",
    /// Recovery takes any damage for a torn tail, and cuts there.
    DamageTakenForTail "damage-taken-for-tail",
    /// Recovery leaves the blocks of a cut flush where they are.
    TornFlushNotWiped "torn-flush-not-wiped",
    /// A truncation is not written: after a restart the suffix is back.
    TruncationForgotten "truncation-forgotten",
    /// A purge takes all that is committed, not only what a snapshot covers.
    PurgeUpToCommitted "purge-up-to-committed",
    /// What a leader has proposed keeps its room in the log until it is answered, though the log has it.
    RoomKeptUntilAnswered "room-kept-until-answered",
    /// After a restart all that is in the log counts as committed.
    CommittedAhead "committed-ahead",
    /// Nobody completes a change of the voters that is half done when its leader dies.
    ChangeLeftHalfDone "change-left-half-done",
    /// A leader answers a linearizable read by its own belief.
    ReadWithoutQuorum "read-without-quorum",
    /// Reads by lease, though followers give theirs up when a connection closes.
    ReadByLease "read-by-lease",
    /// A follower gives up the leader's lease though it has promised to keep it.
    PromiseBroken "promise-broken",
    /// A confirmed read does not wait until the state has applied what was committed.
    ReadBeforeApplied "read-before-applied",
    /// A read that arrives while a round is under way is served by that round.
    ReadJoinsRound "read-joins-round",
    /// A leader says how far it has committed by its own belief: its followers show an age that may not be true.
    AttestedWithoutQuorum "attested-without-quorum",
    /// A session's read is answered by whatever a node has applied.
    SessionIndexIgnored "session-index-ignored",
    /// Any node answers linearizable reads from its own state.
    FollowerReads "follower-reads",
    /// Answers of a batch go to the wrong writes.
    AnswersOffByOne "answers-off-by-one",
    /// A write that was proposed is refused as if it had not been.
    UnknownSaidAsRefused "unknown-said-as-refused",
    /// A retry is applied again.
    RetryAppliedTwice "retry-applied-twice",
    /// Kept answers go, of the session used longest ago, when there are more than a few.
    AnswersEvictedEarly "answers-evicted-early",
    /// A state that comes from a snapshot has no sessions.
    SnapshotWithoutSessions "snapshot-without-sessions",
    /// A frozen state does not keep what is overwritten.
    FreezeKeepsNothing "freeze-keeps-nothing",
    /// A pinned moment does not keep what is overwritten.
    PinKeepsNothing "pin-keeps-nothing",
    /// A snapshot's index is read after its state was frozen: it says more than it holds.
    SnapshotSaysMore "snapshot-says-more",
    /// A snapshot's index is read before its state was frozen: it holds more than it says.
    SnapshotHoldsMore "snapshot-holds-more",
    /// A value that is folded because it has too many patches leaves the newest one out.
    FoldLosesPatch "fold-loses-patch",
    /// A slice of a range goes from a frozen state, too.
    SliceGoesFromFrozen "slice-goes-from-frozen",
    /// A transaction's compares hold, whatever is there.
    ComparesIgnored "compares-ignored",
    /// Keys and leases go a second of ring time before their time.
    ExpiresEarly "expires-early",
    /// A tie-breaker drops what its snapshot covers, whoever has it.
    TieBreakerForgets "tie-breaker-forgets",
    /// A watch whose connection has no room misses what it was about to be told.
    WatchSkipsWhilePaused "watch-skips-while-paused",
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

impl Bug {
    /// The bug with this name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.iter().find(|(_, known)| *known == name).map(|(bug, _)| *bug)
    }
}

/// From now on this thread has this bug, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this thread has this bug.
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
