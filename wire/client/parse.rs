//! From bytes to client messages.

use super::data::{
    parse_add, parse_counted, parse_delete_range, parse_extend, parse_lease, parse_range_deleted, parse_resolved,
};
use super::watch::{parse_ended, parse_events, parse_started, parse_watch};
use super::*;
use crate::malformed::{Malformed, root};
use crate::member::{check_count, parse_members};
use crate::refusal::Code;
use crate::{schema, slots};

/// Verifies and checks a request.
pub fn parse_request(payload: &[u8]) -> Result<Request<'_>, Malformed> {
    let request = root::<schema::Request<'_>>(payload, "request")?;
    let id = request.id();
    Ok(Request { id, deadline_ms: request.deadline_ms(), body: request_body(&request, id)? })
}

// A `body_as_*` of the generated code is `None` only when the body has another type, which the match has ruled out; the `?`
// on `None` keeps that free of panics. The order of arms is that of traffic.
fn request_body<'a>(request: &schema::Request<'a>, id: u64) -> Result<RequestBody<'a>, Malformed> {
    use schema::RequestBody as Type;
    let kind = request.body_type();
    let body = match kind {
        Type::Put => request.body_as_put().map(|put| RequestBody::Put(parse_put(put))),
        Type::Get => match request.body_as_get() {
            Some(get) => Some(RequestBody::Get(parse_get(get, id)?)),
            None => None,
        },
        Type::Delete => request.body_as_delete().map(|delete| RequestBody::Delete(parse_delete(delete))),
        Type::Hello => request.body_as_hello().map(|hello| RequestBody::Hello(parse_hello(hello))),
        Type::OpenSession => Some(RequestBody::OpenSession),
        Type::CloseSession => request.body_as_close_session().map(|body| RequestBody::CloseSession { session: body.session() }),
        Type::GetTopology => Some(RequestBody::GetTopology),
        Type::GetStatus => Some(RequestBody::GetStatus),
        Type::Ping => Some(RequestBody::Ping),
        Type::RingAdd => request
            .body_as_ring_add()
            .map(|body| RequestBody::RingAdd { node: body.node(), peer: body.peer().unwrap_or_default() }),
        Type::RingPromote => request.body_as_ring_promote().map(|body| RequestBody::RingPromote { node: body.node() }),
        Type::RingRemove => {
            request.body_as_ring_remove().map(|body| RequestBody::RingRemove { node: body.node(), force: body.force() })
        }
        Type::RingTransfer => request.body_as_ring_transfer().map(|body| RequestBody::RingTransfer { to: body.to() }),
        Type::Transact => match request.body_as_transact() {
            Some(transact) => Some(RequestBody::Transact(Box::new(parse_transact(transact, id)?))),
            None => None,
        },
        Type::Scan => match request.body_as_scan() {
            Some(scan) => Some(RequestBody::Scan(parse_scan(scan, id)?)),
            None => None,
        },
        Type::GetMany => match request.body_as_get_many() {
            Some(many) => Some(RequestBody::GetMany(Box::new(parse_get_many(many, id)?))),
            None => None,
        },
        Type::Add => request.body_as_add().map(|add| RequestBody::Add(parse_add(add))),
        Type::Extend => match request.body_as_extend() {
            Some(extend) => Some(RequestBody::Extend(parse_extend(extend, id)?)),
            None => None,
        },
        Type::DeleteRange => request.body_as_delete_range().map(|range| RequestBody::DeleteRange(parse_delete_range(range))),
        Type::GrantLease => request.body_as_grant_lease().map(|grant| RequestBody::GrantLease {
            ttl_ms: grant.ttl_ms(),
            place: Place { session: grant.session(), sequence: grant.sequence(), answered_below: grant.answered_below() },
        }),
        Type::KeepLease => request.body_as_keep_lease().map(|keep| RequestBody::KeepLease { lease: keep.lease() }),
        Type::RevokeLease => request.body_as_revoke_lease().map(|revoke| RequestBody::RevokeLease {
            lease: revoke.lease(),
            place: Place { session: revoke.session(), sequence: revoke.sequence(), answered_below: revoke.answered_below() },
        }),
        Type::GetLease => request.body_as_get_lease().map(|lease| RequestBody::GetLease { lease: lease.lease() }),
        Type::Resolve => request.body_as_resolve().map(|place| {
            let (session, sequence, answered_below) = (place.session(), place.sequence(), place.answered_below());
            RequestBody::Resolve(Place { session, sequence, answered_below })
        }),
        Type::Watch => request.body_as_watch().map(|watch| RequestBody::Watch(parse_watch(watch))),
        Type::Unwatch => request.body_as_unwatch().map(|unwatch| RequestBody::Unwatch { watch: unwatch.watch() }),
        Type::FollowTopology => Some(RequestBody::FollowTopology),
        Type::Unpin => request.body_as_unpin().map(|unpin| RequestBody::Unpin { pin: unpin.pinned() }),
        _ => None,
    };
    body.ok_or_else(|| {
        let max = schema::RequestBody::ENUM_MAX;
        Malformed::new(id, format!("request.body is of type {}, known are 1 to {max}", kind.0))
    })
}

fn parse_hello(hello: schema::Hello<'_>) -> Hello<'_> {
    Hello {
        version_min: hello.version_min(),
        version_max: hello.version_max(),
        features: hello.features(),
        ring: hello.ring(),
        client: hello.client().unwrap_or_default(),
    }
}

fn parse_put(put: schema::Put<'_>) -> Put<'_> {
    Put {
        namespace: put.namespace().unwrap_or_default(),
        key: put.key().map_or(&[], |key| key.bytes()),
        value: put.value().map_or(&[], |value| value.bytes()),
        session: put.session(),
        sequence: put.sequence(),
        answered_below: put.answered_below(),
        life: Life { ttl_ms: put.ttl_ms(), lease: put.lease() },
    }
}

fn parse_delete(delete: schema::Delete<'_>) -> Delete<'_> {
    Delete {
        namespace: delete.namespace().unwrap_or_default(),
        key: delete.key().map_or(&[], |key| key.bytes()),
        session: delete.session(),
        sequence: delete.sequence(),
        answered_below: delete.answered_below(),
    }
}

fn parse_get(get: schema::Get<'_>, id: u64) -> Result<Get<'_>, Malformed> {
    let consistency = parse_consistency(get.consistency(), get.index_min(), get.age_ms_max(), get.stale_ok(), id)?;
    let key = get.key().map_or(&[][..], |key| key.bytes());
    Ok(Get { namespace: get.namespace().unwrap_or_default(), key, consistency })
}

fn parse_consistency(
    consistency: schema::Consistency,
    index_min: u64,
    age_ms_max: u32,
    stale_ok: bool,
    id: u64,
) -> Result<Consistency, Malformed> {
    match consistency {
        schema::Consistency::Linearizable => Ok(Consistency::Linearizable),
        schema::Consistency::Local => Ok(Consistency::Local),
        schema::Consistency::Session => Ok(Consistency::Session { index_min }),
        schema::Consistency::Bounded => Ok(Consistency::Bounded { age_ms_max, stale_ok }),
        schema::Consistency(other) => {
            let known = "known are 0 (linearizable), 1 (local), 2 (session), 3 (bounded)";
            Err(Malformed::new(id, format!("request.body.consistency is {other}, {known}")))
        }
    }
}

fn parse_scan(scan: schema::Scan<'_>, id: u64) -> Result<Scan<'_>, Malformed> {
    Ok(Scan {
        namespace: scan.namespace().unwrap_or_default(),
        from: scan.from().map_or(&[], |from| from.bytes()),
        until: scan.until().map_or(&[], |until| until.bytes()),
        backward: scan.backward(),
        keys_only: scan.keys_only(),
        limit: scan.limit(),
        consistency: parse_consistency(scan.consistency(), scan.index_min(), scan.age_ms_max(), scan.stale_ok(), id)?,
        moment: match (scan.pinned(), scan.pin()) {
            (0, 0) => Moment::Now,
            (0, keys) => Moment::Pin { keys },
            (pin, _) => Moment::Pinned { pin, index: scan.pinned_index() },
        },
    })
}

fn parse_get_many(many: schema::GetMany<'_>, id: u64) -> Result<GetMany<'_>, Malformed> {
    let keys = many.keys().into_iter().flatten().map(|key| key.bytes().map_or(&[][..], |bytes| bytes.bytes()));
    Ok(GetMany {
        namespace: many.namespace().unwrap_or_default(),
        keys: keys.collect(),
        consistency: parse_consistency(many.consistency(), many.index_min(), many.age_ms_max(), many.stale_ok(), id)?,
    })
}

fn parse_transact(transact: schema::Transact<'_>, id: u64) -> Result<Transact<'_>, Malformed> {
    let compares = transact.compares().into_iter().flatten().enumerate();
    Ok(Transact {
        namespace: transact.namespace().unwrap_or_default(),
        compares: compares.map(|(at, compare)| parse_compare(compare, id, at)).collect::<Result<_, _>>()?,
        then: parse_steps(transact.then(), id, "then")?,
        otherwise: parse_steps(transact.otherwise(), id, "otherwise")?,
        session: transact.session(),
        sequence: transact.sequence(),
        answered_below: transact.answered_below(),
    })
}

fn parse_compare(compare: schema::Compare<'_>, id: u64, at: usize) -> Result<Compare<'_>, Malformed> {
    let odd =
        |field, is, known| Err(Malformed::new(id, format!("request.body.compares[{at}].{field} is {is}, known are {known}")));
    let relation = match compare.relation() {
        schema::Relation::Equal => Relation::Equal,
        schema::Relation::NotEqual => Relation::NotEqual,
        schema::Relation::Less => Relation::Less,
        schema::Relation::Greater => Relation::Greater,
        schema::Relation(other) => return odd("relation", other, "0 (equal), 1 (not equal), 2 (less), 3 (greater)"),
    };
    let target = match compare.target() {
        schema::Target::Revision => Target::Revision(compare.revision().map_or_else(Revision::default, parse_revision)),
        schema::Target::Value => Target::Value(compare.value().map_or(&[], |value| value.bytes())),
        schema::Target(other) => return odd("target", other, "0 (revision), 1 (value)"),
    };
    Ok(Compare { key: compare.key().map_or(&[], |key| key.bytes()), relation, target })
}

type StepVector<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<schema::Step<'a>>>;

fn parse_steps<'a>(steps: Option<StepVector<'a>>, id: u64, list: &str) -> Result<Vec<Step<'a>>, Malformed> {
    steps.into_iter().flatten().enumerate().map(|(at, step)| parse_step(step, id, list, at)).collect()
}

fn parse_step<'a>(step: schema::Step<'a>, id: u64, list: &str, at: usize) -> Result<Step<'a>, Malformed> {
    let key = step.key().map_or(&[][..], |key| key.bytes());
    match step.kind() {
        schema::StepKind::Get => Ok(Step::Get { key }),
        schema::StepKind::Put => Ok(Step::Put {
            key,
            value: step.value().map_or(&[], |value| value.bytes()),
            life: Life { ttl_ms: step.ttl_ms(), lease: step.lease() },
        }),
        schema::StepKind::Delete => Ok(Step::Delete { key }),
        schema::StepKind(other) => {
            let why = format!("request.body.{list}[{at}].kind is {other}, known are 0 (get), 1 (put), 2 (delete)");
            Err(Malformed::new(id, why))
        }
    }
}

/// Verifies and checks a reply. A refusal whose code this build does not know is [`Code::Internal`] with the number in its message.
pub fn parse_reply(payload: &[u8]) -> Result<Reply<'_>, Malformed> {
    let reply = root::<schema::Reply<'_>>(payload, "reply")?;
    let id = reply.id();
    Ok(Reply { id, body: reply_body(&reply, id)? })
}

fn reply_body<'a>(reply: &schema::Reply<'a>, id: u64) -> Result<ReplyBody<'a>, Malformed> {
    if let Some(written) = reply.body_as_written() {
        return parse_written(written, id).map(ReplyBody::Written);
    }
    if let Some(value) = reply.body_as_value() {
        return parse_value(value, id).map(ReplyBody::Value);
    }
    if let Some(refused) = reply.body_as_refused() {
        return Ok(ReplyBody::Refused(parse_refusal(refused)));
    }
    if let Some(welcome) = reply.body_as_welcome() {
        return Ok(ReplyBody::Welcome(parse_welcome(welcome)));
    }
    if let Some(opened) = reply.body_as_session_opened() {
        return Ok(ReplyBody::SessionOpened { session: opened.session(), lifetime_ms: opened.lifetime_ms() });
    }
    if let Some(topology) = reply.body_as_topology() {
        return parse_topology(topology, id).map(ReplyBody::Topology);
    }
    if let Some(status) = reply.body_as_status() {
        return parse_status(status, id).map(|status| ReplyBody::Status(Box::new(status)));
    }
    if let Some(done) = reply.body_as_done() {
        return Ok(ReplyBody::Done { message: text(done.message()) });
    }
    if let Some(transacted) = reply.body_as_transacted() {
        return parse_transacted(transacted, id).map(|transacted| ReplyBody::Transacted(Box::new(transacted)));
    }
    if let Some(items) = reply.body_as_items() {
        return Ok(ReplyBody::Items(Items {
            items: parse_items(items.items(), id)?,
            index: items.index(),
            more: items.more(),
            age_ms: parse_age(items.age_ms()),
            stale: items.stale(),
            pinned: items.pinned(),
        }));
    }
    if let Some(events) = reply.body_as_events() {
        return parse_events(events, id).map(ReplyBody::Events);
    }
    if let Some(counted) = reply.body_as_counted() {
        return parse_counted(counted, id).map(ReplyBody::Counted);
    }
    if let Some(gone) = reply.body_as_range_deleted() {
        return parse_range_deleted(gone, id).map(ReplyBody::RangeDeleted);
    }
    if let Some(lease) = reply.body_as_lease() {
        return Ok(ReplyBody::Lease(parse_lease(lease)));
    }
    if let Some(resolved) = reply.body_as_resolved() {
        return parse_resolved(resolved, id).map(|resolved| ReplyBody::Resolved(Box::new(resolved)));
    }
    if let Some(started) = reply.body_as_watch_started() {
        return Ok(ReplyBody::WatchStarted(parse_started(started)));
    }
    if let Some(ended) = reply.body_as_watch_ended() {
        return Ok(ReplyBody::WatchEnded(Box::new(parse_ended(ended))));
    }
    let (kind, max) = (reply.body_type().0, schema::ReplyBody::ENUM_MAX);
    Err(Malformed::new(id, format!("reply.body is of type {kind}, known are 1 to {max}")))
}

/// The greatest number says that the age is not known.
fn parse_age(age_ms: u32) -> Option<u32> {
    (age_ms != u32::MAX).then_some(age_ms)
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_string()
}

fn parse_welcome(welcome: schema::Welcome<'_>) -> Welcome {
    Welcome {
        version: welcome.version(),
        features: welcome.features(),
        ring: welcome.ring(),
        node: welcome.node(),
        shard: welcome.shard(),
        key_bytes_max: welcome.key_bytes_max(),
        value_bytes_max: welcome.value_bytes_max(),
        session_window: welcome.session_window(),
        server: text(welcome.server()),
    }
}

pub(super) fn parse_revision(revision: &schema::Revision) -> Revision {
    Revision { index: revision.index(), position: revision.position() }
}

fn parse_written(written: schema::Written<'_>, id: u64) -> Result<Written, Malformed> {
    let revision = written.revision().ok_or_else(|| Malformed::absent(id, "reply.body.revision"))?;
    Ok(Written {
        revision: parse_revision(revision),
        ring_time_ms: written.ring_time_ms(),
        existed: written.existed(),
        duplicate: written.duplicate(),
        breakdown: written.breakdown().map_or_else(Breakdown::default, parse_breakdown),
    })
}

pub(super) fn parse_breakdown(breakdown: &schema::Breakdown) -> Breakdown {
    Breakdown {
        queue_us: breakdown.queue_us(),
        fsync_us: breakdown.fsync_us(),
        quorum_us: breakdown.quorum_us(),
        apply_us: breakdown.apply_us(),
    }
}

fn parse_transacted(transacted: schema::Transacted<'_>, id: u64) -> Result<Transacted<'_>, Malformed> {
    let revision = transacted.revision().ok_or_else(|| Malformed::absent(id, "reply.body.revision"))?;
    Ok(Transacted {
        revision: parse_revision(revision),
        ring_time_ms: transacted.ring_time_ms(),
        succeeded: transacted.succeeded(),
        duplicate: transacted.duplicate(),
        breakdown: transacted.breakdown().map_or_else(Breakdown::default, parse_breakdown),
        gets: parse_items(transacted.gets(), id)?,
    })
}

pub(super) type ItemVector<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<schema::Item<'a>>>;

pub(super) fn parse_items<'a>(items: Option<ItemVector<'a>>, id: u64) -> Result<Vec<Item<'a>>, Malformed> {
    items.into_iter().flatten().map(|item| parse_item(item, id)).collect()
}

pub(super) fn parse_item(item: schema::Item<'_>, id: u64) -> Result<Item<'_>, Malformed> {
    let key = item.key().map_or(&[][..], |key| key.bytes());
    if !item.found() {
        return Ok(Item { key, ..Item::default() });
    }
    let revision = item.revision().ok_or_else(|| Malformed::absent(id, "the revision of a found item"))?;
    let value = item.value().map_or(&[][..], |value| value.bytes());
    Ok(Item { key, found: true, value, revision: parse_revision(revision) })
}

fn parse_value(value: schema::Value<'_>, id: u64) -> Result<Value<'_>, Malformed> {
    let (index, age_ms, stale) = (value.index(), parse_age(value.age_ms()), value.stale());
    if !value.found() {
        return Ok(Value { index, age_ms, stale, ..Value::default() });
    }
    let revision = value.revision().ok_or_else(|| Malformed::absent(id, "reply.body.revision of a found value"))?;
    Ok(Value {
        found: true,
        value: value.value().map_or(&[], |value| value.bytes()),
        revision: parse_revision(revision),
        index,
        age_ms,
        stale,
    })
}

fn parse_refusal(refused: schema::Refused<'_>) -> Refusal {
    let message = refused.message().unwrap_or_default();
    let (code, message) = match Code::from_u16(refused.code()) {
        Some(code) => (code, message.to_string()),
        None => (Code::Internal, format!("refusal {} (unknown to this version): {message}", refused.code())),
    };
    Refusal {
        code,
        unknown: refused.unknown(),
        message,
        leader: refused.leader(),
        leader_address: text(refused.leader_address()),
        retry_after_ms: refused.retry_after_ms(),
    }
}

fn parse_topology(topology: schema::Topology<'_>, id: u64) -> Result<Topology, Malformed> {
    Ok(Topology {
        epoch: topology.epoch(),
        ring: topology.ring(),
        shard: topology.shard(),
        leader: topology.leader(),
        term: topology.term(),
        slots: topology
            .slots()
            .map_or(Ok(Vec::new()), |ranges| ranges.iter().map(|range| parse_slot_range(range, id)).collect())?,
        members: parse_members(topology.members(), id, "reply.body.members")?,
    })
}

fn parse_slot_range(range: &schema::SlotRange, id: u64) -> Result<SlotRange, Malformed> {
    let (first, end, shard) = (range.first(), range.end(), range.shard());
    if first < end && end <= slots::SLOTS {
        return Ok(SlotRange { first, end, shard });
    }
    let right = format!("right is first < end <= {}", slots::SLOTS);
    Err(Malformed::new(id, format!("reply.body.slots has the range {first}..{end} of shard {shard}, {right}")))
}

fn parse_status(status: schema::Status<'_>, id: u64) -> Result<Status, Malformed> {
    let mut voters = Vec::new();
    if let Some(progress) = status.voters() {
        check_count(progress.len(), id, "reply.body.voters")?;
        voters.reserve_exact(progress.len());
        for progress in progress {
            voters.push(Progress {
                node: progress.node(),
                role: Role::parse(progress.role(), id, "reply.body.voters.role")?,
                matched: progress.matched(),
                lag: progress.lag(),
                learner: progress.learner(),
            });
        }
    }
    Ok(Status {
        node: status.node(),
        ring: status.ring(),
        shard: status.shard(),
        shards: status.shards(),
        version: text(status.version()),
        role: Role::parse(status.role(), id, "reply.body.role")?,
        uptime_ms: status.uptime_ms(),
        raft_state: text(status.raft_state()),
        leader: status.leader(),
        term: status.term(),
        last_index: status.last_index(),
        committed_index: status.committed_index(),
        applied_index: status.applied_index(),
        snapshot_index: status.snapshot_index(),
        purged_index: status.purged_index(),
        keys: status.keys(),
        state_bytes: status.state_bytes(),
        state_hash: status.state_hash(),
        log_bytes: status.log_bytes(),
        sessions: status.sessions(),
        connections: status.connections(),
        voters,
        voters_joint: status.voters_joint(),
        fault: status.fault().map(str::to_string),
        ring_time_ms: status.ring_time_ms(),
    })
}
