//! From client messages to frames.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, Vector, WIPOffset};

use super::data::{
    build_add, build_counted, build_delete_range, build_extend, build_lease, build_range_deleted, build_resolved,
};
use super::watch::{build_ended, build_events, build_started, build_watch};
use super::*;
use crate::frame_builder::FrameBuilder;
use crate::member::build_members;
use crate::schema;

pub(super) type Builder = FlatBufferBuilder<'static>;
pub(super) type Body = WIPOffset<UnionWIPOffset>;

/// Encodes client messages: one reusable builder per connection. Each call appends one whole frame (header, CRC, payload).
pub struct Encoder(FrameBuilder);

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder with a small buffer.
    pub fn new() -> Encoder {
        Encoder(FrameBuilder::new())
    }

    /// Appends the frame of a request to `out`.
    pub fn request(&mut self, out: &mut Vec<u8>, id: u64, deadline_ms: u32, body: &RequestBody<'_>) {
        self.0.append(out, |b| {
            let (body_type, body) = request_body(b, body);
            schema::Request::create(b, &schema::RequestArgs { id, deadline_ms, body_type, body: Some(body) })
        });
    }

    /// Appends the frame of a reply to `out`.
    pub fn reply(&mut self, out: &mut Vec<u8>, id: u64, body: &ReplyBody<'_>) {
        self.0.append(out, |b| {
            let (body_type, body) = reply_body(b, body);
            schema::Reply::create(b, &schema::ReplyArgs { id, body_type, body: Some(body) })
        });
    }
}

/// The default namespace is absent on the wire.
pub(super) fn namespace(b: &mut Builder, namespace: &str) -> Option<WIPOffset<&'static str>> {
    (!namespace.is_empty()).then(|| b.create_string(namespace))
}

pub(super) fn bytes(b: &mut Builder, bytes: &[u8]) -> Option<WIPOffset<Vector<'static, u8>>> {
    Some(b.create_vector(bytes))
}

fn request_body(b: &mut Builder, body: &RequestBody<'_>) -> (schema::RequestBody, Body) {
    use schema::RequestBody as Type;
    match body {
        RequestBody::Hello(hello) => {
            let args = schema::HelloArgs {
                version_min: hello.version_min,
                version_max: hello.version_max,
                features: hello.features,
                ring: hello.ring,
                client: Some(b.create_string(hello.client)),
            };
            (Type::Hello, schema::Hello::create(b, &args).as_union_value())
        }
        RequestBody::Put(put) => {
            let args = schema::PutArgs {
                namespace: namespace(b, put.namespace),
                key: bytes(b, put.key),
                value: bytes(b, put.value),
                session: put.session,
                sequence: put.sequence,
                answered_below: put.answered_below,
                ttl_ms: put.life.ttl_ms,
                lease: put.life.lease,
            };
            (Type::Put, schema::Put::create(b, &args).as_union_value())
        }
        RequestBody::Delete(delete) => {
            let args = schema::DeleteArgs {
                namespace: namespace(b, delete.namespace),
                key: bytes(b, delete.key),
                session: delete.session,
                sequence: delete.sequence,
                answered_below: delete.answered_below,
            };
            (Type::Delete, schema::Delete::create(b, &args).as_union_value())
        }
        RequestBody::Get(get) => {
            let Fresh { consistency, index_min, age_ms_max, stale_ok } = fresh(get.consistency);
            let args = schema::GetArgs {
                namespace: namespace(b, get.namespace),
                key: bytes(b, get.key),
                consistency,
                index_min,
                age_ms_max,
                stale_ok,
            };
            (Type::Get, schema::Get::create(b, &args).as_union_value())
        }
        RequestBody::OpenSession => {
            (Type::OpenSession, schema::OpenSession::create(b, &schema::OpenSessionArgs {}).as_union_value())
        }
        &RequestBody::CloseSession { session } => {
            let args = schema::CloseSessionArgs { session };
            (Type::CloseSession, schema::CloseSession::create(b, &args).as_union_value())
        }
        RequestBody::GetTopology => {
            (Type::GetTopology, schema::GetTopology::create(b, &schema::GetTopologyArgs {}).as_union_value())
        }
        RequestBody::GetStatus => (Type::GetStatus, schema::GetStatus::create(b, &schema::GetStatusArgs {}).as_union_value()),
        RequestBody::Ping => (Type::Ping, schema::Ping::create(b, &schema::PingArgs {}).as_union_value()),
        &RequestBody::RingAdd { node, peer } => {
            let args = schema::RingAddArgs { node, peer: Some(b.create_string(peer)) };
            (Type::RingAdd, schema::RingAdd::create(b, &args).as_union_value())
        }
        &RequestBody::RingPromote { node } => {
            (Type::RingPromote, schema::RingPromote::create(b, &schema::RingPromoteArgs { node }).as_union_value())
        }
        &RequestBody::RingRemove { node, force } => {
            let args = schema::RingRemoveArgs { node, force };
            (Type::RingRemove, schema::RingRemove::create(b, &args).as_union_value())
        }
        &RequestBody::RingTransfer { to } => {
            (Type::RingTransfer, schema::RingTransfer::create(b, &schema::RingTransferArgs { to }).as_union_value())
        }
        RequestBody::Transact(transact) => (Type::Transact, build_transact(b, transact)),
        RequestBody::Scan(scan) => {
            let Fresh { consistency, index_min, age_ms_max, stale_ok } = fresh(scan.consistency);
            let (pin, pinned, pinned_index) = match scan.moment {
                Moment::Now => (0, 0, 0),
                Moment::Pin { keys } => (keys, 0, 0),
                Moment::Pinned { pin, index } => (0, pin, index),
            };
            let args = schema::ScanArgs {
                namespace: namespace(b, scan.namespace),
                from: bytes(b, scan.from),
                until: bytes(b, scan.until),
                backward: scan.backward,
                keys_only: scan.keys_only,
                limit: scan.limit,
                consistency,
                index_min,
                age_ms_max,
                stale_ok,
                pin,
                pinned,
                pinned_index,
            };
            (Type::Scan, schema::Scan::create(b, &args).as_union_value())
        }
        RequestBody::GetMany(many) => {
            let mut keys = Vec::with_capacity(many.keys.len());
            for key in &many.keys {
                let bytes = bytes(b, key);
                keys.push(schema::Key::create(b, &schema::KeyArgs { bytes }));
            }
            let Fresh { consistency, index_min, age_ms_max, stale_ok } = fresh(many.consistency);
            let args = schema::GetManyArgs {
                namespace: namespace(b, many.namespace),
                keys: Some(b.create_vector(&keys)),
                consistency,
                index_min,
                age_ms_max,
                stale_ok,
            };
            (Type::GetMany, schema::GetMany::create(b, &args).as_union_value())
        }
        RequestBody::Add(add) => (Type::Add, build_add(b, add)),
        RequestBody::Extend(extend) => (Type::Extend, build_extend(b, extend)),
        RequestBody::DeleteRange(range) => (Type::DeleteRange, build_delete_range(b, range)),
        &RequestBody::GrantLease { ttl_ms, place: Place { session, sequence, answered_below } } => {
            let args = schema::GrantLeaseArgs { ttl_ms, session, sequence, answered_below };
            (Type::GrantLease, schema::GrantLease::create(b, &args).as_union_value())
        }
        &RequestBody::KeepLease { lease } => {
            (Type::KeepLease, schema::KeepLease::create(b, &schema::KeepLeaseArgs { lease }).as_union_value())
        }
        &RequestBody::RevokeLease { lease, place: Place { session, sequence, answered_below } } => {
            let args = schema::RevokeLeaseArgs { lease, session, sequence, answered_below };
            (Type::RevokeLease, schema::RevokeLease::create(b, &args).as_union_value())
        }
        &RequestBody::GetLease { lease } => {
            (Type::GetLease, schema::GetLease::create(b, &schema::GetLeaseArgs { lease }).as_union_value())
        }
        &RequestBody::Resolve(Place { session, sequence, answered_below }) => {
            let args = schema::ResolveArgs { session, sequence, answered_below };
            (Type::Resolve, schema::Resolve::create(b, &args).as_union_value())
        }
        RequestBody::Watch(watch) => (Type::Watch, build_watch(b, watch)),
        &RequestBody::Unwatch { watch } => {
            (Type::Unwatch, schema::Unwatch::create(b, &schema::UnwatchArgs { watch }).as_union_value())
        }
        RequestBody::FollowTopology => {
            (Type::FollowTopology, schema::FollowTopology::create(b, &schema::FollowTopologyArgs {}).as_union_value())
        }
        &RequestBody::Unpin { pin } => {
            (Type::Unpin, schema::Unpin::create(b, &schema::UnpinArgs { pinned: pin }).as_union_value())
        }
    }
}

/// A consistency as the schema spreads it.
struct Fresh {
    consistency: schema::Consistency,
    index_min: u64,
    age_ms_max: u32,
    stale_ok: bool,
}

fn fresh(consistency: Consistency) -> Fresh {
    let plain = |consistency| Fresh { consistency, index_min: 0, age_ms_max: 0, stale_ok: false };
    match consistency {
        Consistency::Linearizable => plain(schema::Consistency::Linearizable),
        Consistency::Local => plain(schema::Consistency::Local),
        Consistency::Session { index_min } => Fresh { index_min, ..plain(schema::Consistency::Session) },
        Consistency::Bounded { age_ms_max, stale_ok } => Fresh { age_ms_max, stale_ok, ..plain(schema::Consistency::Bounded) },
    }
}

fn build_transact(b: &mut Builder, transact: &Transact<'_>) -> Body {
    let mut compares = Vec::with_capacity(transact.compares.len());
    for compare in &transact.compares {
        let (target, revision, value) = match compare.target {
            Target::Revision(revision) => (schema::Target::Revision, Some(build_revision(revision)), None),
            Target::Value(value) => (schema::Target::Value, None, bytes(b, value)),
        };
        let relation = match compare.relation {
            Relation::Equal => schema::Relation::Equal,
            Relation::NotEqual => schema::Relation::NotEqual,
            Relation::Less => schema::Relation::Less,
            Relation::Greater => schema::Relation::Greater,
        };
        let key = bytes(b, compare.key);
        let args = schema::CompareArgs { key, target, relation, revision: revision.as_ref(), value };
        compares.push(schema::Compare::create(b, &args));
    }
    let (then, otherwise) = (build_steps(b, &transact.then), build_steps(b, &transact.otherwise));
    let args = schema::TransactArgs {
        namespace: namespace(b, transact.namespace),
        compares: Some(b.create_vector(&compares)),
        then: Some(b.create_vector(&then)),
        otherwise: Some(b.create_vector(&otherwise)),
        session: transact.session,
        sequence: transact.sequence,
        answered_below: transact.answered_below,
    };
    schema::Transact::create(b, &args).as_union_value()
}

fn build_steps(b: &mut Builder, steps: &[Step<'_>]) -> Vec<WIPOffset<schema::Step<'static>>> {
    let mut built = Vec::with_capacity(steps.len());
    for step in steps {
        let (kind, value, life) = match step {
            Step::Get { .. } => (schema::StepKind::Get, None, Life::default()),
            Step::Put { value, life, .. } => (schema::StepKind::Put, bytes(b, value), *life),
            Step::Delete { .. } => (schema::StepKind::Delete, None, Life::default()),
        };
        let key = bytes(b, step.key());
        let args = schema::StepArgs { kind, key, value, ttl_ms: life.ttl_ms, lease: life.lease };
        built.push(schema::Step::create(b, &args));
    }
    built
}

fn reply_body(b: &mut Builder, body: &ReplyBody<'_>) -> (schema::ReplyBody, Body) {
    use schema::ReplyBody as Type;
    match body {
        ReplyBody::Written(written) => (Type::Written, build_written(b, written)),
        ReplyBody::Value(value) => (Type::Value, build_value(b, value)),
        ReplyBody::Refused(refusal) => {
            let args = schema::RefusedArgs {
                code: refusal.code as u16,
                unknown: refusal.unknown,
                message: Some(b.create_string(&refusal.message)),
                leader: refusal.leader,
                leader_address: (!refusal.leader_address.is_empty()).then(|| b.create_string(&refusal.leader_address)),
                retry_after_ms: refusal.retry_after_ms,
            };
            (Type::Refused, schema::Refused::create(b, &args).as_union_value())
        }
        ReplyBody::Welcome(welcome) => {
            let args = schema::WelcomeArgs {
                version: welcome.version,
                features: welcome.features,
                ring: welcome.ring,
                node: welcome.node,
                shard: welcome.shard,
                key_bytes_max: welcome.key_bytes_max,
                value_bytes_max: welcome.value_bytes_max,
                session_window: welcome.session_window,
                server: Some(b.create_string(&welcome.server)),
            };
            (Type::Welcome, schema::Welcome::create(b, &args).as_union_value())
        }
        &ReplyBody::SessionOpened { session, lifetime_ms } => {
            let args = schema::SessionOpenedArgs { session, lifetime_ms };
            (Type::SessionOpened, schema::SessionOpened::create(b, &args).as_union_value())
        }
        ReplyBody::Topology(topology) => (Type::Topology, build_topology(b, topology)),
        ReplyBody::Status(status) => (Type::Status, build_status(b, status)),
        ReplyBody::Done { message } => {
            let args = schema::DoneArgs { message: Some(b.create_string(message)) };
            (Type::Done, schema::Done::create(b, &args).as_union_value())
        }
        ReplyBody::Transacted(transacted) => (Type::Transacted, build_transacted(b, transacted)),
        ReplyBody::Items(items) => {
            let built = build_items(b, &items.items);
            let args = schema::ItemsArgs {
                items: Some(b.create_vector(&built)),
                index: items.index,
                more: items.more,
                age_ms: items.age_ms.unwrap_or(u32::MAX),
                stale: items.stale,
                pinned: items.pinned,
            };
            (Type::Items, schema::Items::create(b, &args).as_union_value())
        }
        ReplyBody::Counted(counted) => (Type::Counted, build_counted(b, counted)),
        ReplyBody::RangeDeleted(gone) => (Type::RangeDeleted, build_range_deleted(b, gone)),
        ReplyBody::Lease(lease) => (Type::Lease, build_lease(b, lease)),
        ReplyBody::Resolved(resolved) => (Type::Resolved, build_resolved(b, resolved)),
        ReplyBody::WatchStarted(started) => (Type::WatchStarted, build_started(b, started)),
        ReplyBody::Events(events) => (Type::Events, build_events(b, events)),
        ReplyBody::WatchEnded(ended) => (Type::WatchEnded, build_ended(b, ended)),
    }
}

pub(super) fn build_revision(revision: Revision) -> schema::Revision {
    schema::Revision::new(revision.index, revision.position)
}

pub(super) fn build_breakdown(breakdown: &Breakdown) -> schema::Breakdown {
    schema::Breakdown::new(breakdown.queue_us, breakdown.fsync_us, breakdown.quorum_us, breakdown.apply_us)
}

pub(super) fn build_items(b: &mut Builder, items: &[Item<'_>]) -> Vec<WIPOffset<schema::Item<'static>>> {
    let mut built = Vec::with_capacity(items.len());
    for item in items {
        built.push(build_item(b, item));
    }
    built
}

pub(super) fn build_item(b: &mut Builder, item: &Item<'_>) -> WIPOffset<schema::Item<'static>> {
    let revision = build_revision(item.revision);
    let args = schema::ItemArgs {
        key: if item.key.is_empty() { None } else { bytes(b, item.key) },
        found: item.found,
        value: if item.found && !item.value.is_empty() { bytes(b, item.value) } else { None },
        revision: item.found.then_some(&revision),
    };
    schema::Item::create(b, &args)
}

fn build_transacted(b: &mut Builder, transacted: &Transacted<'_>) -> Body {
    let gets = build_items(b, &transacted.gets);
    let args = schema::TransactedArgs {
        revision: Some(&build_revision(transacted.revision)),
        ring_time_ms: transacted.ring_time_ms,
        succeeded: transacted.succeeded,
        duplicate: transacted.duplicate,
        breakdown: Some(&build_breakdown(&transacted.breakdown)),
        gets: Some(b.create_vector(&gets)),
    };
    schema::Transacted::create(b, &args).as_union_value()
}

fn build_written(b: &mut Builder, written: &Written) -> Body {
    let args = schema::WrittenArgs {
        revision: Some(&build_revision(written.revision)),
        ring_time_ms: written.ring_time_ms,
        existed: written.existed,
        duplicate: written.duplicate,
        breakdown: Some(&build_breakdown(&written.breakdown)),
    };
    schema::Written::create(b, &args).as_union_value()
}

fn build_value(b: &mut Builder, value: &Value<'_>) -> Body {
    let revision = build_revision(value.revision);
    let args = schema::ValueArgs {
        found: value.found,
        value: if value.found { bytes(b, value.value) } else { None },
        revision: value.found.then_some(&revision),
        index: value.index,
        age_ms: value.age_ms.unwrap_or(u32::MAX),
        stale: value.stale,
    };
    schema::Value::create(b, &args).as_union_value()
}

fn build_topology(b: &mut Builder, topology: &Topology) -> Body {
    let slots: Vec<_> =
        topology.slots.iter().map(|range| schema::SlotRange::new(range.first, range.end, range.shard)).collect();
    let args = schema::TopologyArgs {
        epoch: topology.epoch,
        ring: topology.ring,
        shard: topology.shard,
        leader: topology.leader,
        term: topology.term,
        slots: Some(b.create_vector(&slots)),
        members: Some(build_members(b, &topology.members)),
    };
    schema::Topology::create(b, &args).as_union_value()
}

fn build_status(b: &mut Builder, status: &Status) -> Body {
    let mut voters = Vec::with_capacity(status.voters.len());
    for &Progress { node, role, matched, lag, learner } in &status.voters {
        let args = schema::ProgressArgs { node, role: role.build(), matched, lag, learner };
        voters.push(schema::Progress::create(b, &args));
    }
    let args = schema::StatusArgs {
        node: status.node,
        ring: status.ring,
        shard: status.shard,
        shards: status.shards,
        version: Some(b.create_string(&status.version)),
        role: status.role.build(),
        uptime_ms: status.uptime_ms,
        raft_state: Some(b.create_string(&status.raft_state)),
        leader: status.leader,
        term: status.term,
        last_index: status.last_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        purged_index: status.purged_index,
        keys: status.keys,
        state_bytes: status.state_bytes,
        state_hash: status.state_hash,
        log_bytes: status.log_bytes,
        sessions: status.sessions,
        connections: status.connections,
        voters: Some(b.create_vector(&voters)),
        voters_joint: status.voters_joint,
        fault: status.fault.as_deref().map(|fault| b.create_string(fault)),
        ring_time_ms: status.ring_time_ms,
    };
    schema::Status::create(b, &args).as_union_value()
}
