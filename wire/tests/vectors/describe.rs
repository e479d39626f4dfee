//! Messages as JSON, with the schema's names for types and fields.

use ringbeam_wire::client::*;
use ringbeam_wire::peer::{
    AppendHead, AppendReply, EntryKind, EntryRef, LogId, Membership, PeerReplyBody, PeerRequestBody, Purpose, Standing, Vote,
};
use ringbeam_wire::refusal::Refusal;

use crate::json::{Json, Raw, fields};

macro_rules! object {
    ($type:ty; $($field:ident),* $(,)?) => {
        impl Json for $type { fn json(&self) -> String { fields!(self; $($field),*) } }
    };
}
object!(Member; node, incarnation, peer, client, admin, region, role);
object!(Hello<'_>; version_min, version_max, features, ring, client);
object!(Delete<'_>; namespace, key, session, sequence, answered_below);
object!(Welcome; version, features, ring, node, shard, key_bytes_max, value_bytes_max, session_window, server);
object!(Revision; index, position);
object!(Breakdown; queue_us, fsync_us, quorum_us, apply_us);
object!(Written; revision, ring_time_ms, existed, duplicate, breakdown);
object!(SlotRange; first, end, shard);
object!(Topology; epoch, ring, shard, leader, term, slots, members);
object!(Progress; node, role, matched, lag, learner);
object!(
    Status; node, ring, shard, shards, version, role, uptime_ms, raft_state, leader, term, last_index, committed_index,
    applied_index, snapshot_index, purged_index, keys, state_bytes, state_hash, log_bytes, sessions, connections, voters,
    voters_joint, fault, ring_time_ms,
);
object!(Item<'_>; key, found, value, revision);
object!(Add<'_>; namespace, key, delta, min, max, session, sequence, answered_below);
object!(Extend<'_>; namespace, key, fold, delta, session, sequence, answered_below);
object!(DeleteRange<'_>; namespace, from, until, limit, session, sequence, answered_below);
object!(Place; session, sequence, answered_below);
object!(Counted; revision, ring_time_ms, value, duplicate, breakdown);
object!(RangeDeleted; revision, ring_time_ms, deleted, more, duplicate, breakdown);
object!(Lease; lease, ttl_ms, left_ms, keys, revision, ring_time_ms, duplicate);
object!(Resolved<'_>; happened, existed, revision, ring_time_ms, gets);
object!(
    Watch<'_>; namespace, from, until, after, snapshot, no_puts, no_deletes, previous, conflate, progress_ms,
);
object!(WatchStarted; index, oldest);
object!(WatchEnded; code, message, index, oldest);
object!(Events<'_>; events, index, ring_time_ms, snapshot_ends);
object!(Transacted<'_>; revision, ring_time_ms, succeeded, duplicate, breakdown, gets);
object!(
    Transact<'_>; namespace, compares, then, otherwise, session, sequence, answered_below,
);
object!(LogId; term, leader, index);
object!(Vote; term, node, committed);
object!(EntryRef<'_>; id, kind, payload);

macro_rules! number {
    ($type:ty; $($variant:ident = $number:literal),*) => {
        impl Json for $type {
            fn json(&self) -> String { match self { $(Self::$variant => $number.to_string()),* } }
        }
    };
}
number!(Role; Voter = 0, TieBreaker = 1, Observer = 2);
number!(Fold; Concatenate = 0, MergePatch = 1);
number!(Relation; Equal = 0, NotEqual = 1, Less = 2, Greater = 3);
number!(EntryKind; Blank = 0, Batch = 1, Membership = 2);
number!(Purpose; Replication = 0, Heartbeat = 1, Election = 2, Snapshot = 3, Control = 4, Read = 5);
number!(Standing; Unknown = 0, Known = 1, OtherIncarnation = 2);

impl Json for Compare<'_> {
    fn json(&self) -> String {
        let (target, revision, value) = match self.target {
            Target::Revision(revision) => (0u8, Some(revision), &b""[..]),
            Target::Value(value) => (1, None, value),
        };
        fields!(key: self.key, target: target, relation: self.relation, revision: revision, value: value)
    }
}

impl Json for Step<'_> {
    fn json(&self) -> String {
        let (kind, value, life) = match *self {
            Step::Get { .. } => (0u8, &b""[..], Life::default()),
            Step::Put { value, life, .. } => (1, value, life),
            Step::Delete { .. } => (2, &b""[..], Life::default()),
        };
        fields!(kind: kind, key: self.key(), value: value, ttl_ms: life.ttl_ms, lease: life.lease)
    }
}

impl Json for GetMany<'_> {
    fn json(&self) -> String {
        let keys: Vec<Raw> = self.keys.iter().map(|key| Raw(fields!(bytes: key))).collect();
        let (consistency, index_min, age_ms_max, stale_ok) = spread(self.consistency);
        fields!(
            namespace: self.namespace, keys: keys, consistency: consistency, index_min: index_min, age_ms_max: age_ms_max,
            stale_ok: stale_ok
        )
    }
}

/// A consistency as the schema spreads it over four fields.
fn spread(consistency: Consistency) -> (u8, u64, u32, bool) {
    match consistency {
        Consistency::Linearizable => (0, 0, 0, false),
        Consistency::Local => (1, 0, 0, false),
        Consistency::Session { index_min } => (2, index_min, 0, false),
        Consistency::Bounded { age_ms_max, stale_ok } => (3, 0, age_ms_max, stale_ok),
    }
}

impl Json for Put<'_> {
    fn json(&self) -> String {
        let Put { namespace, key, value, session, sequence, answered_below, life } = *self;
        fields!(
            namespace: namespace, key: key, value: value, session: session, sequence: sequence, answered_below: answered_below,
            ttl_ms: life.ttl_ms, lease: life.lease
        )
    }
}

impl Json for Get<'_> {
    fn json(&self) -> String {
        let (consistency, index_min, age_ms_max, stale_ok) = spread(self.consistency);
        fields!(
            namespace: self.namespace, key: self.key, consistency: consistency, index_min: index_min, age_ms_max: age_ms_max,
            stale_ok: stale_ok
        )
    }
}

impl Json for Scan<'_> {
    fn json(&self) -> String {
        let Scan { namespace, from, until, backward, keys_only, limit, consistency, moment } = *self;
        let (pin, pinned, pinned_index) = match moment {
            Moment::Now => (0, 0, 0),
            Moment::Pin { keys } => (keys, 0, 0),
            Moment::Pinned { pin, index } => (0, pin, index),
        };
        let (consistency, index_min, age_ms_max, stale_ok) = spread(consistency);
        fields!(
            namespace: namespace, from: from, until: until, backward: backward, keys_only: keys_only, limit: limit,
            consistency: consistency, index_min: index_min, age_ms_max: age_ms_max, stale_ok: stale_ok, pin: pin,
            pinned: pinned, pinned_index: pinned_index
        )
    }
}

impl Json for Value<'_> {
    fn json(&self) -> String {
        let Value { found, value, revision, index, age_ms, stale } = *self;
        let age_ms = age_ms.unwrap_or(u32::MAX);
        fields!(found: found, value: value, revision: revision, index: index, age_ms: age_ms, stale: stale)
    }
}

impl Json for Items<'_> {
    fn json(&self) -> String {
        let age_ms = self.age_ms.unwrap_or(u32::MAX);
        fields!(
            items: self.items, index: self.index, more: self.more, age_ms: age_ms, stale: self.stale, pinned: self.pinned
        )
    }
}

impl Json for Event<'_> {
    fn json(&self) -> String {
        let (kind, fold) = match self.kind {
            EventKind::Put => (0u8, Fold::default()),
            EventKind::Delete => (1, Fold::default()),
            EventKind::Expire => (2, Fold::default()),
            EventKind::Extend(fold) => (3, fold),
            EventKind::Snapshot => (4, Fold::default()),
        };
        let Event { key, value, revision, previous, conflated, .. } = *self;
        fields!(
            kind: kind, key: key, value: value, revision: revision, fold: fold, previous: previous, conflated: conflated
        )
    }
}

impl Json for Refusal {
    fn json(&self) -> String {
        let Refusal { unknown, message, leader, leader_address, retry_after_ms, .. } = self;
        fields!(
            code: self.code as u16, unknown: unknown, message: message, leader: leader, leader_address: leader_address,
            retry_after_ms: retry_after_ms
        )
    }
}

impl Json for Membership {
    fn json(&self) -> String {
        let configs: Vec<Raw> = self.configs.iter().map(|nodes| Raw(fields!(nodes: nodes))).collect();
        fields!(configs: configs, members: self.members)
    }
}

/// `message` of a vector: id, type of the body, body.
pub fn request(id: u64, deadline_ms: u32, body: &RequestBody<'_>) -> String {
    let empty = || "{}".to_string();
    let (kind, body) = match body {
        RequestBody::Hello(hello) => ("Hello", hello.json()),
        RequestBody::Put(put) => ("Put", put.json()),
        RequestBody::Delete(delete) => ("Delete", delete.json()),
        RequestBody::Get(get) => ("Get", get.json()),
        RequestBody::OpenSession => ("OpenSession", empty()),
        RequestBody::CloseSession { session } => ("CloseSession", fields!(session: session)),
        RequestBody::GetTopology => ("GetTopology", empty()),
        RequestBody::GetStatus => ("GetStatus", empty()),
        RequestBody::Ping => ("Ping", empty()),
        RequestBody::RingAdd { node, peer } => ("RingAdd", fields!(node: node, peer: peer)),
        RequestBody::RingPromote { node } => ("RingPromote", fields!(node: node)),
        RequestBody::RingRemove { node, force } => ("RingRemove", fields!(node: node, force: force)),
        RequestBody::RingTransfer { to } => ("RingTransfer", fields!(to: to)),
        RequestBody::Transact(transact) => ("Transact", transact.json()),
        RequestBody::Scan(scan) => ("Scan", scan.json()),
        RequestBody::GetMany(many) => ("GetMany", many.json()),
        RequestBody::Add(add) => ("Add", add.json()),
        RequestBody::Extend(extend) => ("Extend", extend.json()),
        RequestBody::DeleteRange(range) => ("DeleteRange", range.json()),
        RequestBody::GrantLease { ttl_ms, place } => {
            let Place { session, sequence, answered_below } = *place;
            ("GrantLease", fields!(ttl_ms: ttl_ms, session: session, sequence: sequence, answered_below: answered_below))
        }
        RequestBody::KeepLease { lease } => ("KeepLease", fields!(lease: lease)),
        RequestBody::RevokeLease { lease, place } => {
            let Place { session, sequence, answered_below } = *place;
            ("RevokeLease", fields!(lease: lease, session: session, sequence: sequence, answered_below: answered_below))
        }
        RequestBody::GetLease { lease } => ("GetLease", fields!(lease: lease)),
        RequestBody::Resolve(place) => ("Resolve", place.json()),
        RequestBody::Watch(watch) => ("Watch", watch.json()),
        RequestBody::Unwatch { watch } => ("Unwatch", fields!(watch: watch)),
        RequestBody::FollowTopology => ("FollowTopology", empty()),
        RequestBody::Unpin { pin } => ("Unpin", fields!(pinned: pin)),
    };
    fields!(id: id, deadline_ms: deadline_ms, body_type: kind, body: Raw(body))
}

pub fn reply(id: u64, body: &ReplyBody<'_>) -> String {
    let (kind, body) = match body {
        ReplyBody::Welcome(welcome) => ("Welcome", welcome.json()),
        ReplyBody::Written(written) => ("Written", written.json()),
        ReplyBody::Value(value) => ("Value", value.json()),
        ReplyBody::SessionOpened { session, lifetime_ms } => {
            ("SessionOpened", fields!(session: session, lifetime_ms: lifetime_ms))
        }
        ReplyBody::Topology(topology) => ("Topology", topology.json()),
        ReplyBody::Status(status) => ("Status", status.json()),
        ReplyBody::Refused(refusal) => ("Refused", refusal.json()),
        ReplyBody::Done { message } => ("Done", fields!(message: message)),
        ReplyBody::Transacted(transacted) => ("Transacted", transacted.json()),
        ReplyBody::Items(items) => ("Items", items.json()),
        ReplyBody::Counted(counted) => ("Counted", counted.json()),
        ReplyBody::RangeDeleted(gone) => ("RangeDeleted", gone.json()),
        ReplyBody::Lease(lease) => ("Lease", lease.json()),
        ReplyBody::Resolved(resolved) => ("Resolved", resolved.json()),
        ReplyBody::WatchStarted(started) => ("WatchStarted", started.json()),
        ReplyBody::Events(events) => ("Events", events.json()),
        ReplyBody::WatchEnded(ended) => ("WatchEnded", ended.json()),
    };
    fields!(id: id, body_type: kind, body: Raw(body))
}

pub fn peer_request(id: u64, body: &PeerRequestBody<'_>) -> String {
    let (kind, body) = match body {
        PeerRequestBody::Hello(hello) => {
            ("PeerHello", fields!(hello; version, ring, from, from_incarnation, to, to_incarnation, shard, purpose))
        }
        PeerRequestBody::Append(append) => {
            let entries: Vec<EntryRef<'_>> = append.entries().collect();
            let AppendHead { vote, previous, committed, settled } = append.head;
            ("Append", fields!(vote: vote, previous: previous, committed: committed, entries: entries, settled: settled))
        }
        PeerRequestBody::Vote(ask) => ("RequestVote", fields!(ask; vote, last, pre, transfer)),
        PeerRequestBody::Transfer(transfer) => ("TransferLeader", fields!(transfer; from, to, last)),
        PeerRequestBody::SnapshotOffer(offer) => {
            ("SnapshotOffer", fields!(offer; vote, last, membership_at, membership, snapshot, bytes, crc))
        }
        PeerRequestBody::SnapshotChunk { offset, data, last } => {
            ("SnapshotChunk", fields!(offset: offset, data: data, last: last))
        }
        PeerRequestBody::Identify => ("Identify", "{}".to_string()),
        PeerRequestBody::Found { ring, shards, members } => ("Found", fields!(ring: ring, shards: shards, members: members)),
        PeerRequestBody::WhoAmI { node, incarnation } => ("WhoAmI", fields!(node: node, incarnation: incarnation)),
        PeerRequestBody::ReadIndex => ("ReadIndex", "{}".to_string()),
    };
    fields!(id: id, body_type: kind, body: Raw(body))
}

pub fn peer_reply(id: u64, body: &PeerReplyBody) -> String {
    let none = Raw("null".to_string());
    let (kind, body) = match body {
        PeerReplyBody::Welcome(welcome) => ("PeerWelcome", fields!(welcome; version, node, incarnation, ring)),
        PeerReplyBody::Append { reply, full, promised_ms } => (
            "AppendReply",
            match reply {
                AppendReply::Success => fields!(outcome: 0u8, matched: none, vote: none, full: full, promised_ms: promised_ms),
                AppendReply::Partial { matched } => {
                    fields!(outcome: 1u8, matched: matched, vote: none, full: full, promised_ms: promised_ms)
                }
                AppendReply::Conflict => fields!(outcome: 2u8, matched: none, vote: none, full: full, promised_ms: promised_ms),
                AppendReply::HigherVote(vote) => {
                    fields!(outcome: 3u8, matched: none, vote: vote, full: full, promised_ms: promised_ms)
                }
            },
        ),
        PeerReplyBody::Vote(answer) => ("VoteReply", fields!(answer; vote, granted, last)),
        PeerReplyBody::Transfer { accepted, message } => ("TransferReply", fields!(accepted: accepted, message: message)),
        PeerReplyBody::Snapshot { vote, resume_at, installed } => {
            ("SnapshotReply", fields!(vote: vote, resume_at: resume_at, installed: installed))
        }
        PeerReplyBody::Identity(identity) => {
            ("Identity", fields!(identity; node, incarnation, ring, shards, member, members, started))
        }
        PeerReplyBody::YouAre { standing, ring, shards, members } => {
            ("YouAre", fields!(state: standing, ring: ring, shards: shards, members: members))
        }
        PeerReplyBody::ReadIndex { index } => ("ReadIndexReply", fields!(index: index)),
        PeerReplyBody::Refused { code, message } => ("PeerRefused", fields!(code: code, message: message)),
    };
    fields!(id: id, body_type: kind, body: Raw(body))
}
