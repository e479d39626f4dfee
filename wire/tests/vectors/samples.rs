//! One message of every kind at least, with everything absent and with everything there.

use ringbeam_wire::client::*;
use ringbeam_wire::peer::{
    AppendHead, AppendReply, EntryKind, EntryRef, Identity, LogId, Membership, PeerHello, PeerReplyBody, PeerRequestBody,
    PeerWelcome, Purpose, RequestVote, SnapshotOffer, Standing, TransferLeader, Vote, VoteReply,
};
use ringbeam_wire::refusal::{Code, Refusal};

/// A message to encode. An `Append` exists only when parsed, so here it is its parts.
pub enum Sample {
    Request(u32, RequestBody<'static>),
    Reply(ReplyBody<'static>),
    PeerRequest(PeerRequestBody<'static>),
    Append(AppendHead, Vec<EntryRef<'static>>),
    PeerReply(PeerReplyBody),
    Membership(Membership),
}

const ID: LogId = LogId { term: 7, leader: 2, index: 1_000 };
const VOTE: Vote = Vote { term: 7, node: 2, committed: true };
const HEARTBEAT: AppendHead = AppendHead { vote: VOTE, previous: Some(ID), committed: Some(ID), settled: 0 };
/// Has no zero byte and does not fit a double.
const RING: u64 = 0xf1e2_d3c4_b5a6_9788;

fn member(node: u64, role: Role) -> Member {
    Member {
        node,
        incarnation: RING + node,
        peer: format!("10.0.{node}.1:7700"),
        client: format!("10.0.{node}.1:7701"),
        admin: format!("10.0.{node}.1:7702"),
        region: "eu-central".to_string(),
        role,
    }
}

fn members() -> Vec<Member> {
    vec![member(1, Role::Voter), member(2, Role::TieBreaker), member(3, Role::Observer)]
}

/// Name and message; ids in frames are positions in this list.
pub fn samples() -> Vec<(&'static str, Sample)> {
    let all = [
        requests(),
        replies(),
        peer_requests(),
        peer_replies(),
        later(),
        data_requests(),
        data_replies(),
        model_requests(),
        model_replies(),
        fresh(),
        pinned(),
    ];
    all.into_iter().flatten().collect()
}

fn requests() -> Vec<(&'static str, Sample)> {
    let hello = Hello { version_min: 1, version_max: 3, features: 5, ring: RING, client: "sdk/1.2 \"é\\\u{7}" };
    let put = Put {
        namespace: "sessions",
        key: b"{user:17}.cart",
        value: b"\x00\x01two\xff",
        session: 4_294_967_297,
        sequence: 3,
        answered_below: 2,
        ..Put::default()
    };
    let Put { namespace, key, session, sequence, answered_below, .. } = put;
    let delete = Delete { namespace, key, session, sequence, answered_below };
    let request = |body| Sample::Request(0, body);
    vec![
        ("hello", request(RequestBody::Hello(hello))),
        ("hello, all absent", request(RequestBody::Hello(Hello::default()))),
        ("put", Sample::Request(2_500, RequestBody::Put(put))),
        ("put, default namespace, no session", request(RequestBody::Put(Put { key: b"k", value: b"v", ..Put::default() }))),
        ("put, empty value", request(RequestBody::Put(Put { value: b"", ..put }))),
        ("put, empty key", request(RequestBody::Put(Put { key: b"", ..put }))),
        (
            "put, largest numbers",
            Sample::Request(
                u32::MAX,
                RequestBody::Put(Put { session: u64::MAX, sequence: u64::MAX, answered_below: u64::MAX, ..put }),
            ),
        ),
        ("delete", Sample::Request(1, RequestBody::Delete(delete))),
        ("get, linearizable", request(RequestBody::Get(Get { namespace, key, consistency: Consistency::Linearizable }))),
        ("get, local", request(RequestBody::Get(Get { namespace: "", key: b"k", consistency: Consistency::Local }))),
        ("open session", request(RequestBody::OpenSession)),
        ("close session", request(RequestBody::CloseSession { session })),
        ("get topology", request(RequestBody::GetTopology)),
        ("get status", request(RequestBody::GetStatus)),
        ("ping", request(RequestBody::Ping)),
        ("ring add", request(RequestBody::RingAdd { node: 4, peer: "10.0.4.1:7700" })),
        ("ring promote", request(RequestBody::RingPromote { node: 4 })),
        ("ring remove", request(RequestBody::RingRemove { node: 4, force: false })),
        ("ring remove, forced", request(RequestBody::RingRemove { node: 4, force: true })),
        ("ring transfer", request(RequestBody::RingTransfer { to: 2 })),
        ("ring transfer, to any", request(RequestBody::RingTransfer { to: 0 })),
    ]
}

fn replies() -> Vec<(&'static str, Sample)> {
    let welcome = Welcome {
        version: 1,
        features: 5,
        ring: RING,
        node: 2,
        shard: 1,
        key_bytes_max: 4_096,
        value_bytes_max: 1 << 20,
        session_window: 1_024,
        server: "ringbeam 0.1.0".to_string(),
    };
    let revision = Revision { index: 1_000, position: 17 };
    let written = Written {
        revision,
        ring_time_ms: 86_400_000,
        existed: true,
        duplicate: true,
        breakdown: Breakdown { queue_us: 40, fsync_us: 120, quorum_us: 310, apply_us: 3 },
    };
    let topology = Topology {
        epoch: 12,
        ring: RING,
        shard: 1,
        leader: 1,
        term: 7,
        slots: vec![SlotRange { first: 0, end: 2048, shard: 0 }, SlotRange { first: 2048, end: 4096, shard: 1 }],
        members: members(),
    };
    let refused = Refusal::not_leader(3, "10.0.3.1:7701").retry_after_ms(250);
    let unknown = Refusal::new(Code::OutcomeUnknown, "leadership was lost before the quorum answered");
    let reply = Sample::Reply;
    vec![
        ("welcome", reply(ReplyBody::Welcome(welcome))),
        ("written", reply(ReplyBody::Written(written))),
        ("written, all zero", reply(ReplyBody::Written(Written::default()))),
        (
            "value, found",
            reply(ReplyBody::Value(Value {
                found: true,
                value: b"\x00\x01two\xff",
                revision,
                index: 1_001,
                ..Value::default()
            })),
        ),
        (
            "value, found empty",
            reply(ReplyBody::Value(Value { found: true, value: b"", revision, index: 1_001, ..Value::default() })),
        ),
        ("value, not found", reply(ReplyBody::Value(Value { index: 1_001, ..Value::default() }))),
        ("session opened", reply(ReplyBody::SessionOpened { session: 4_294_967_297, lifetime_ms: 600_000 })),
        ("topology", reply(ReplyBody::Topology(topology))),
        ("topology, empty", reply(ReplyBody::Topology(Topology::default()))),
        ("status", reply(ReplyBody::Status(Box::new(status())))),
        ("status, empty", reply(ReplyBody::Status(Box::default()))),
        ("refused, not leader", reply(ReplyBody::Refused(refused))),
        ("refused, no leader known", reply(ReplyBody::Refused(Refusal::not_leader(0, "")))),
        ("refused, outcome unknown", reply(ReplyBody::Refused(unknown))),
        ("done", reply(ReplyBody::Done { message: "node 4 is a learner".to_string() })),
    ]
}

fn status() -> Status {
    Status {
        node: 2,
        ring: RING,
        shard: 1,
        shards: 2,
        version: "0.1.0".to_string(),
        role: Role::Voter,
        uptime_ms: 61_000,
        raft_state: "leader".to_string(),
        leader: 2,
        term: 7,
        last_index: 1_003,
        committed_index: 1_002,
        applied_index: 1_001,
        snapshot_index: 900,
        purged_index: 800,
        keys: 1_000_000,
        state_bytes: 96_000_000,
        state_hash: RING,
        log_bytes: 64 << 20,
        sessions: 3,
        connections: 5,
        voters: vec![
            Progress { node: 1, role: Role::Voter, matched: 1_003, lag: 0, learner: false },
            Progress { node: 3, role: Role::Observer, matched: 1_000, lag: 3, learner: true },
        ],
        voters_joint: true,
        fault: Some("the log's disk failed an fsync".to_string()),
        ring_time_ms: 86_400_000,
    }
}

fn peer_requests() -> Vec<(&'static str, Sample)> {
    let hello = PeerHello {
        version: 1,
        ring: RING,
        from: 1,
        from_incarnation: RING + 1,
        to: 2,
        to_incarnation: RING + 2,
        shard: 1,
        purpose: Purpose::Control,
    };
    let entry = |index, kind, payload| EntryRef { id: LogId { index, ..ID }, kind, payload };
    let entries = vec![
        entry(1_001, EntryKind::Blank, &b""[..]),
        entry(1_002, EntryKind::Batch, &b"batch\x00"[..]),
        entry(1_003, EntryKind::Membership, &b"membership"[..]),
    ];
    let committed = Some(LogId { index: 999, ..ID });
    let offer = SnapshotOffer {
        vote: VOTE,
        last: Some(ID),
        membership_at: committed,
        membership: b"membership",
        snapshot: "1000-7-2",
        bytes: 96_000_000,
        crc: 0xdead_beef,
    };
    let peer = Sample::PeerRequest;
    vec![
        ("peer hello", peer(PeerRequestBody::Hello(hello))),
        ("peer hello, all absent", peer(PeerRequestBody::Hello(PeerHello::default()))),
        ("append", Sample::Append(AppendHead { vote: VOTE, previous: Some(ID), committed, settled: 0 }, entries)),
        (
            "append, first entry",
            Sample::Append(AppendHead { vote: VOTE, ..AppendHead::default() }, vec![entry(0, EntryKind::Membership, b"m")]),
        ),
        ("append, heartbeat", Sample::Append(HEARTBEAT, vec![])),
        (
            "vote",
            peer(PeerRequestBody::Vote(RequestVote {
                vote: Vote { committed: false, ..VOTE },
                last: Some(ID),
                pre: false,
                transfer: false,
            })),
        ),
        (
            "pre-vote, empty log",
            peer(PeerRequestBody::Vote(RequestVote { vote: Vote::default(), last: None, pre: true, transfer: false })),
        ),
        (
            "vote by hand-over",
            peer(PeerRequestBody::Vote(RequestVote { vote: VOTE, last: Some(ID), pre: false, transfer: true })),
        ),
        ("transfer leader", peer(PeerRequestBody::Transfer(TransferLeader { from: VOTE, to: 3, last: Some(ID) }))),
        ("snapshot offer", peer(PeerRequestBody::SnapshotOffer(offer))),
        ("snapshot chunk", peer(PeerRequestBody::SnapshotChunk { offset: 1 << 40, data: b"\x00chunk", last: false })),
        ("snapshot chunk, last", peer(PeerRequestBody::SnapshotChunk { offset: 6, data: b"", last: true })),
        ("identify", peer(PeerRequestBody::Identify)),
        ("found", peer(PeerRequestBody::Found { ring: RING, shards: 2, members: members() })),
        ("who am i", peer(PeerRequestBody::WhoAmI { node: 4, incarnation: RING + 4 })),
    ]
}

fn peer_replies() -> Vec<(&'static str, Sample)> {
    let identity = |founded: bool| Identity {
        node: 1,
        incarnation: RING + 1,
        ring: if founded { RING } else { 0 },
        shards: if founded { 2 } else { 0 },
        member: member(1, Role::Voter),
        members: if founded { members() } else { vec![] },
        started: founded,
    };
    let you_are = |standing| PeerReplyBody::YouAre { standing, ring: RING, shards: 2, members: members() };
    let vote_reply = VoteReply { vote: VOTE, granted: true, last: Some(ID) };
    let membership = Membership { configs: vec![vec![1, 2], vec![1, 2, 3]], members: members() };
    let peer = Sample::PeerReply;
    let append = |reply, full| peer(PeerReplyBody::Append { reply, full, promised_ms: 0 });
    vec![
        ("peer welcome", peer(PeerReplyBody::Welcome(PeerWelcome { version: 1, node: 2, incarnation: RING + 2, ring: RING }))),
        ("append reply, success", append(AppendReply::Success, false)),
        ("append reply, partial", append(AppendReply::Partial { matched: Some(ID) }, false)),
        ("append reply, nothing", append(AppendReply::Partial { matched: None }, false)),
        ("append reply, conflict", append(AppendReply::Conflict, false)),
        ("append reply, success on a full disk", append(AppendReply::Success, true)),
        ("append reply, higher vote", append(AppendReply::HigherVote(VOTE), false)),
        ("vote reply, granted", peer(PeerReplyBody::Vote(vote_reply))),
        ("vote reply, denied", peer(PeerReplyBody::Vote(VoteReply::default()))),
        ("transfer reply", peer(PeerReplyBody::Transfer { accepted: false, message: "a tie-breaker never leads".to_string() })),
        ("snapshot reply", peer(PeerReplyBody::Snapshot { vote: VOTE, resume_at: 1 << 40, installed: false })),
        ("snapshot reply, installed", peer(PeerReplyBody::Snapshot { vote: VOTE, resume_at: 0, installed: true })),
        ("identity", peer(PeerReplyBody::Identity(Box::new(identity(true))))),
        ("identity, not founded", peer(PeerReplyBody::Identity(Box::new(identity(false))))),
        ("you are, unknown", peer(you_are(Standing::Unknown))),
        ("you are, known", peer(you_are(Standing::Known))),
        ("you are, other incarnation", peer(you_are(Standing::OtherIncarnation))),
        ("peer refused", peer(PeerReplyBody::Refused { code: 23, message: "node 4 has another incarnation".to_string() })),
        ("membership, joint", Sample::Membership(membership)),
        ("membership, empty", Sample::Membership(Membership::default())),
    ]
}

fn data_requests() -> Vec<(&'static str, Sample)> {
    let namespace = "sessions";
    let revision = Revision { index: 1_000, position: 17 };
    let compare = |relation, target| Compare { key: b"{user:17}.cart", relation, target };
    let transact = Transact {
        namespace,
        compares: vec![
            compare(Relation::Equal, Target::Revision(revision)),
            compare(Relation::NotEqual, Target::Revision(Revision::default())),
            compare(Relation::Less, Target::Value(b"\x00\x01two\xff")),
            compare(Relation::Greater, Target::Value(b"")),
        ],
        then: vec![
            Step::Put { key: b"{user:17}.cart", value: b"full", life: Life::default() },
            Step::Put { key: b"{user:17}.flag", value: b"", life: Life::default() },
            Step::Delete { key: b"{user:17}.old" },
        ],
        otherwise: vec![Step::Get { key: b"{user:17}.cart" }],
        session: 4_294_967_297,
        sequence: 3,
        answered_below: 2,
    };
    let scan = Scan { namespace, from: b"a", until: b"b\xff", limit: 100, ..Scan::default() };
    let back = Scan { backward: true, keys_only: true, consistency: Consistency::Local, ..scan };
    let many = GetMany { namespace, keys: vec![b"{t}.a", b"{t}.b"], consistency: Consistency::Local };
    let request = |body| Sample::Request(0, body);
    vec![
        ("transact", Sample::Request(2_500, RequestBody::Transact(Box::new(transact)))),
        ("transact, empty", request(RequestBody::Transact(Box::default()))),
        ("scan", request(RequestBody::Scan(scan))),
        ("scan, backward, keys only, local", request(RequestBody::Scan(back))),
        ("scan, everything", request(RequestBody::Scan(Scan::default()))),
        ("get many", request(RequestBody::GetMany(Box::new(many)))),
    ]
}

fn data_replies() -> Vec<(&'static str, Sample)> {
    let revision = Revision { index: 1_000, position: 17 };
    let found = Item { key: b"", found: true, value: b"full", revision };
    let transacted = Transacted {
        revision,
        ring_time_ms: 86_400_000,
        succeeded: true,
        duplicate: true,
        breakdown: Breakdown { queue_us: 40, fsync_us: 120, quorum_us: 310, apply_us: 3 },
        gets: vec![found, Item::default(), Item { value: b"", ..found }],
    };
    let items = vec![Item { key: b"a", ..found }, Item { key: b"b", value: b"", ..found }];
    let reply = Sample::Reply;
    vec![
        ("transacted", reply(ReplyBody::Transacted(Box::new(transacted)))),
        ("transacted, all zero", reply(ReplyBody::Transacted(Box::default()))),
        ("items", reply(ReplyBody::Items(Items { items, index: 1_001, more: true, ..Items::default() }))),
        ("items, none", reply(ReplyBody::Items(Items { index: 1_001, ..Items::default() }))),
    ]
}

/// What came later, so that the ids of the others stay.
fn later() -> Vec<(&'static str, Sample)> {
    vec![("append, heartbeat to a tie-breaker", Sample::Append(AppendHead { settled: 998, ..HEARTBEAT }, vec![]))]
}

const PLACE: Place = Place { session: 4_294_967_297, sequence: 3, answered_below: 2 };
const REVISION: Revision = Revision { index: 1_001, position: 7 };

fn model_requests() -> Vec<(&'static str, Sample)> {
    let Place { session, sequence, answered_below } = PLACE;
    let request = |body| Sample::Request(0, body);
    let life = Life { ttl_ms: 90_000, lease: 5_000_000_000 };
    let put = Put { namespace: "n", key: b"k", value: b"v", session, sequence, answered_below, life };
    let step = Step::Put { key: b"{t}a", value: b"v", life };
    let transact = Transact { then: vec![step], ..Transact::default() };
    let add = Add { namespace: "n", key: b"hits", delta: -3, min: 0, max: 1_000, session, sequence, answered_below };
    let (namespace, fold) = ("n", Fold::MergePatch);
    let extend = Extend { namespace, key: b"state", fold, delta: br#"{"a":1}"#, session, sequence, answered_below };
    let range = DeleteRange { namespace, from: b"a", until: b"b", limit: 100, session, sequence, answered_below };
    let watch = Watch {
        namespace,
        from: b"a",
        until: b"b",
        after: Some(REVISION),
        snapshot: true,
        no_puts: true,
        no_deletes: true,
        previous: true,
        conflate: true,
        progress_ms: 500,
    };
    vec![
        ("put, with a life", request(RequestBody::Put(put))),
        ("transact, with a life", request(RequestBody::Transact(Box::new(transact)))),
        ("add", request(RequestBody::Add(add))),
        ("add, defaults", request(RequestBody::Add(Add { key: b"k", delta: 1, ..Add::default() }))),
        ("extend, merge patch", request(RequestBody::Extend(extend))),
        ("extend, concatenate", request(RequestBody::Extend(Extend { key: b"k", delta: b"more", ..Extend::default() }))),
        ("delete range", request(RequestBody::DeleteRange(range))),
        ("delete range, everything", request(RequestBody::DeleteRange(DeleteRange::default()))),
        ("grant lease", request(RequestBody::GrantLease { ttl_ms: 10_000, place: PLACE })),
        ("keep lease", request(RequestBody::KeepLease { lease: 5_000_000_000 })),
        ("revoke lease", request(RequestBody::RevokeLease { lease: 5_000_000_000, place: PLACE })),
        ("get lease", request(RequestBody::GetLease { lease: 5_000_000_000 })),
        ("resolve", request(RequestBody::Resolve(PLACE))),
        ("watch", request(RequestBody::Watch(watch))),
        ("watch, defaults", request(RequestBody::Watch(Watch::default()))),
        ("unwatch", request(RequestBody::Unwatch { watch: 42 })),
        ("follow topology", request(RequestBody::FollowTopology)),
    ]
}

fn model_replies() -> Vec<(&'static str, Sample)> {
    let reply = Sample::Reply;
    let (revision, ring_time_ms) = (REVISION, 123_456);
    let breakdown = Breakdown { queue_us: 1, fsync_us: 2, quorum_us: 3, apply_us: 4 };
    let counted = Counted { revision, ring_time_ms, value: -17, duplicate: true, breakdown };
    let gone = RangeDeleted { revision, ring_time_ms, deleted: 1_000, more: true, duplicate: true, breakdown };
    let lease =
        Lease { lease: 5_000_000_000, ttl_ms: 10_000, left_ms: 9_000, keys: 3, revision, ring_time_ms, duplicate: true };
    let item = Item { found: true, value: b"old", revision, ..Item::default() };
    let resolved = Resolved { happened: true, existed: true, revision, ring_time_ms, gets: vec![item, Item::default()] };
    let event = |kind, key, value| Event { kind, key, value, revision, ..Event::default() };
    let events = vec![
        Event { previous: Some(item), conflated: true, ..event(EventKind::Put, b"a", b"new") },
        event(EventKind::Delete, b"b", b""),
        event(EventKind::Expire, b"c", b""),
        event(EventKind::Extend(Fold::MergePatch), b"d", b"{}"),
        event(EventKind::Extend(Fold::Concatenate), b"e", b"+"),
        event(EventKind::Snapshot, b"f", b"as it is"),
    ];
    let ended = WatchEnded {
        code: Code::Compacted as u16,
        message: "watch from 900".to_string(),
        index: 800,
        oldest: Revision { index: 900, position: 0 },
    };
    let value = Value { found: true, value: b"v", revision, index: 1_002, age_ms: Some(15), stale: true };
    vec![
        ("counted", reply(ReplyBody::Counted(counted))),
        ("range deleted", reply(ReplyBody::RangeDeleted(gone))),
        ("lease", reply(ReplyBody::Lease(lease))),
        ("resolved", reply(ReplyBody::Resolved(Box::new(resolved)))),
        ("resolved, never", reply(ReplyBody::Resolved(Box::default()))),
        ("watch started", reply(ReplyBody::WatchStarted(WatchStarted { index: 1_000, oldest: REVISION }))),
        ("events", reply(ReplyBody::Events(Events { events, index: 1_001, ring_time_ms, snapshot_ends: true }))),
        ("events, progress", reply(ReplyBody::Events(Events { index: 1_001, ring_time_ms, ..Events::default() }))),
        ("watch ended", reply(ReplyBody::WatchEnded(Box::new(ended)))),
        ("value, with its age", reply(ReplyBody::Value(value))),
        (
            "items, with their age",
            reply(ReplyBody::Items(Items { index: 7, age_ms: Some(0), stale: true, ..Items::default() })),
        ),
    ]
}

fn fresh() -> Vec<(&'static str, Sample)> {
    let request = |body| Sample::Request(0, body);
    let session = Consistency::Session { index_min: 1_001 };
    let bounded = Consistency::Bounded { age_ms_max: 250, stale_ok: true };
    let hello = PeerHello { purpose: Purpose::Read, ..PeerHello::default() };
    vec![
        ("get, session", request(RequestBody::Get(Get { namespace: "", key: b"k", consistency: session }))),
        ("get, bounded", request(RequestBody::Get(Get { namespace: "", key: b"k", consistency: bounded }))),
        ("scan, session", request(RequestBody::Scan(Scan { consistency: session, ..Scan::default() }))),
        ("get many, bounded", request(RequestBody::GetMany(Box::new(GetMany { consistency: bounded, ..GetMany::default() })))),
        ("peer hello, to read", Sample::PeerRequest(PeerRequestBody::Hello(hello))),
        ("read index", Sample::PeerRequest(PeerRequestBody::ReadIndex)),
        ("read index reply", Sample::PeerReply(PeerReplyBody::ReadIndex { index: 1_001 })),
    ]
}

fn pinned() -> Vec<(&'static str, Sample)> {
    let request = |moment| Sample::Request(0, RequestBody::Scan(Scan { moment, ..Scan::default() }));
    let items = Items { index: 1_001, more: true, pinned: 4_294_967_298, ..Items::default() };
    vec![
        ("scan, to be pinned", request(Moment::Pin { keys: u32::MAX })),
        ("scan, of a pinned moment", request(Moment::Pinned { pin: 4_294_967_298, index: 1_001 })),
        ("items, pinned", Sample::Reply(ReplyBody::Items(items))),
        (
            "append reply, with a promise",
            Sample::PeerReply(PeerReplyBody::Append { reply: AppendReply::Success, full: false, promised_ms: 200 }),
        ),
        ("unpin", Sample::Request(0, RequestBody::Unpin { pin: 4_294_967_298 })),
    ]
}
