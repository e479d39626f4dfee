"""Messages and bytes: requests are encoded, replies are decoded and checked.

    request  ->  Request{id, deadline_ms, body}  ->  frame            frame  ->  Reply{id, body}  ->  answer

What there is much of is laid out in `_traffic.py`, all else by what flatc made. Neither has a verifier. What it reads
beyond a payload raises, lengths are compared with their limits before anything is allocated, and a payload has its
checksum: so a bad payload is `Malformed`, never a wrong answer.

Not here: frames (`_frame.py`), what to do about an answer.
"""

from __future__ import annotations

from struct import error as StructError
from typing import Any, Final

from flatbuffers import Builder

from ringbeam import _traffic
from ringbeam._answers import (
    Absent,
    Breakdown,
    Consistency,
    Counted,
    Done,
    Items,
    LeaseStatus,
    Member,
    Progress,
    RangeDeleted,
    Resolved,
    Revision,
    Role,
    SessionOpened,
    SlotRange,
    Status,
    Topology,
    Transacted,
    Value,
    Welcome,
    Written,
)
from ringbeam._events import Events, WatchEnded, WatchStarted
from ringbeam._frame import frame
from ringbeam._limits import MEMBERS_MAX, SLOTS, TRANSACTION_PARTS_MAX
from ringbeam._refusal import Code, Refusal
from ringbeam._requests import (
    Add,
    Body,
    CloseSession,
    Command,
    Delete,
    DeleteRange,
    Extend,
    FollowTopology,
    Get,
    GetLease,
    GetMany,
    GetStatus,
    GetTopology,
    GrantLease,
    Hello,
    KeepLease,
    OpenSession,
    Ping,
    Put,
    Resolve,
    RevokeLease,
    Scan,
    Stream,
    Transact,
    Unpin,
    Unwatch,
    Watch,
)
from ringbeam._schema import schema_generated as schema

NOBODY: Final = (1 << 64) - 1
"""A request id that no call has: its reply reaches nobody, but for the Welcome."""


Answer = (
    Welcome
    | Written
    | Value
    | Absent
    | Transacted
    | Items
    | Counted
    | RangeDeleted
    | LeaseStatus
    | Resolved
    | SessionOpened
    | Topology
    | Status
    | Refusal
    | Done
    | WatchStarted
    | Events
    | WatchEnded
)
"""What a node answers."""


# ---- requests ----


def encode_request(id: int, deadline_ms: int, body: Body) -> bytes:
    """A whole frame. `deadline_ms`: milliseconds from arrival within which the answer is of use; 0: no deadline."""
    match body:
        case Put():
            ticket = (body.session, body.sequence, body.answered_below)
            if body.ttl_ms or body.lease:
                life = (body.ttl_ms, body.lease)
                return frame(_traffic.live_put(id, deadline_ms, body.namespace, body.key, body.value, *ticket, *life))
            return frame(_traffic.put(id, deadline_ms, body.namespace, body.key, body.value, *ticket))
        case Get():
            if body.consistency > Consistency.LOCAL:
                fresh = (body.consistency, body.index_min, body.age_ms_max, body.stale_ok)
                return frame(_traffic.fresh_get(id, deadline_ms, body.namespace, body.key, *fresh))
            return frame(_traffic.get(id, deadline_ms, body.namespace, body.key, body.consistency))
        case Delete():
            ticket = (body.session, body.sequence, body.answered_below)
            return frame(_traffic.delete(id, deadline_ms, body.namespace, body.key, *ticket))
        case Transact():
            ticket = (body.session, body.sequence, body.answered_below)
            return frame(_traffic.transact(id, deadline_ms, body.namespace, body.txn, *ticket))
        case Add():
            ticket = (body.session, body.sequence, body.answered_below)
            bounds = (body.min, body.max)
            return frame(_traffic.add(id, deadline_ms, body.namespace, body.key, body.delta, *bounds, *ticket))
        case Extend():
            ticket = (body.session, body.sequence, body.answered_below)
            change = (body.fold, body.delta)
            return frame(_traffic.extend(id, deadline_ms, body.namespace, body.key, *change, *ticket))
        case GetMany():
            if body.consistency > Consistency.LOCAL:
                fresh = (body.consistency, body.index_min, body.age_ms_max, body.stale_ok)
                return frame(_traffic.fresh_get_many(id, deadline_ms, body.namespace, body.keys, *fresh))
            return frame(_traffic.get_many(id, deadline_ms, body.namespace, body.keys, body.consistency))
    b = Builder(128)
    kind, table = _build(b, body)
    schema.RequestStart(b)
    schema.RequestAddId(b, id)
    schema.RequestAddDeadlineMs(b, deadline_ms)
    schema.RequestAddBodyType(b, kind)
    schema.RequestAddBody(b, table)
    b.Finish(schema.RequestEnd(b))
    return frame(bytes(b.Output()))


def _build(b: Any, body: DeleteRange | GrantLease | RevokeLease | Scan | Command | Stream) -> tuple[int, int]:
    match body:
        case Hello():
            client = b.CreateString(body.client)
            schema.HelloStart(b)
            schema.HelloAddVersionMin(b, body.version_min)
            schema.HelloAddVersionMax(b, body.version_max)
            schema.HelloAddFeatures(b, body.features)
            schema.HelloAddRing(b, body.ring)
            schema.HelloAddClient(b, client)
            return schema.RequestBody.Hello, schema.HelloEnd(b)
        case Scan():
            namespace = b.CreateString(body.namespace)  # which takes UTF-8 as it is
            start, end = b.CreateByteVector(body.start), b.CreateByteVector(body.end)
            schema.ScanStart(b)
            schema.ScanAddNamespace(b, namespace)
            schema.ScanAddFrom(b, start)
            schema.ScanAddUntil(b, end)
            schema.ScanAddBackward(b, body.backward)
            schema.ScanAddKeysOnly(b, body.keys_only)
            schema.ScanAddLimit(b, body.limit)
            schema.ScanAddConsistency(b, body.consistency)
            schema.ScanAddIndexMin(b, body.index_min)
            schema.ScanAddAgeMsMax(b, body.age_ms_max)
            schema.ScanAddStaleOk(b, body.stale_ok)
            schema.ScanAddPin(b, body.pin)
            schema.ScanAddPinned(b, body.pinned)
            schema.ScanAddPinnedIndex(b, body.pinned_index)
            return schema.RequestBody.Scan, schema.ScanEnd(b)
        case DeleteRange():
            namespace = b.CreateString(body.namespace)
            start, end = b.CreateByteVector(body.start), b.CreateByteVector(body.end)
            schema.DeleteRangeStart(b)
            schema.DeleteRangeAddNamespace(b, namespace)
            schema.DeleteRangeAddFrom(b, start)
            schema.DeleteRangeAddUntil(b, end)
            schema.DeleteRangeAddLimit(b, body.limit)
            schema.DeleteRangeAddSession(b, body.session)
            schema.DeleteRangeAddSequence(b, body.sequence)
            schema.DeleteRangeAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.DeleteRange, schema.DeleteRangeEnd(b)
        case GrantLease():
            schema.GrantLeaseStart(b)
            schema.GrantLeaseAddTtlMs(b, body.ttl_ms)
            schema.GrantLeaseAddSession(b, body.session)
            schema.GrantLeaseAddSequence(b, body.sequence)
            schema.GrantLeaseAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.GrantLease, schema.GrantLeaseEnd(b)
        case KeepLease():
            schema.KeepLeaseStart(b)
            schema.KeepLeaseAddLease(b, body.lease)
            return schema.RequestBody.KeepLease, schema.KeepLeaseEnd(b)
        case RevokeLease():
            schema.RevokeLeaseStart(b)
            schema.RevokeLeaseAddLease(b, body.lease)
            schema.RevokeLeaseAddSession(b, body.session)
            schema.RevokeLeaseAddSequence(b, body.sequence)
            schema.RevokeLeaseAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.RevokeLease, schema.RevokeLeaseEnd(b)
        case GetLease():
            schema.GetLeaseStart(b)
            schema.GetLeaseAddLease(b, body.lease)
            return schema.RequestBody.GetLease, schema.GetLeaseEnd(b)
        case Resolve():
            schema.ResolveStart(b)
            schema.ResolveAddSession(b, body.session)
            schema.ResolveAddSequence(b, body.sequence)
            schema.ResolveAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.Resolve, schema.ResolveEnd(b)
        case Watch():
            return schema.RequestBody.Watch, _build_watch(b, body)
        case Unwatch():
            schema.UnwatchStart(b)
            schema.UnwatchAddWatch(b, body.watch)
            return schema.RequestBody.Unwatch, schema.UnwatchEnd(b)
        case Unpin():
            schema.UnpinStart(b)
            schema.UnpinAddPinned(b, body.pinned)
            return schema.RequestBody.Unpin, schema.UnpinEnd(b)
        case FollowTopology():
            schema.FollowTopologyStart(b)
            return schema.RequestBody.FollowTopology, schema.FollowTopologyEnd(b)
        case CloseSession():
            schema.CloseSessionStart(b)
            schema.CloseSessionAddSession(b, body.session)
            return schema.RequestBody.CloseSession, schema.CloseSessionEnd(b)
        case OpenSession():
            schema.OpenSessionStart(b)
            return schema.RequestBody.OpenSession, schema.OpenSessionEnd(b)
        case GetTopology():
            schema.GetTopologyStart(b)
            return schema.RequestBody.GetTopology, schema.GetTopologyEnd(b)
        case GetStatus():
            schema.GetStatusStart(b)
            return schema.RequestBody.GetStatus, schema.GetStatusEnd(b)
        case Ping():
            schema.PingStart(b)
            return schema.RequestBody.Ping, schema.PingEnd(b)


def _build_watch(b: Any, watch: Watch) -> int:
    namespace = b.CreateString(watch.namespace)
    start, end = b.CreateByteVector(watch.start), b.CreateByteVector(watch.end)
    schema.WatchStart(b)
    schema.WatchAddNamespace(b, namespace)
    schema.WatchAddFrom(b, start)
    schema.WatchAddUntil(b, end)
    if watch.after is not None:
        schema.WatchAddAfter(b, schema.CreateRevision(b, watch.after.index, watch.after.position))
    schema.WatchAddSnapshot(b, watch.snapshot)
    schema.WatchAddNoPuts(b, watch.no_puts)
    schema.WatchAddNoDeletes(b, watch.no_deletes)
    schema.WatchAddPrevious(b, watch.previous)
    schema.WatchAddConflate(b, watch.conflate)
    schema.WatchAddProgressMs(b, watch.progress_ms)
    end_of_table: int = schema.WatchEnd(b)
    return end_of_table


# ---- replies ----


class Malformed(Exception):
    """Bytes that are not a reply. The message says the place, the value, and what would be right."""


def decode_reply(payload: bytes) -> tuple[int, Answer]:
    """A reply's id and answer. A refusal whose code this build does not know is INTERNAL with the number in its
    message."""
    try:
        id, kind, at = _traffic.reply(payload)
        if kind == _traffic.WRITTEN:
            return id, _whole(_traffic.written(payload, at), "reply.body.revision")
        if kind == _traffic.VALUE:
            return id, _whole(_traffic.value(payload, at), "reply.body.revision of a found value")
        if kind == _traffic.ITEMS:
            return id, _traffic.items(payload, at)
        if kind == _traffic.TRANSACTED:
            return id, _whole(_traffic.transacted(payload, at), "reply.body.revision")
        if kind == _traffic.COUNTED:
            return id, _whole(_traffic.counted(payload, at), "reply.body.revision")
        if kind == _traffic.EVENTS:
            return id, _traffic.events(payload, at)
        if kind not in _PARSERS:
            raise Malformed(f"reply.body is of type {kind}, known are 1 to {_KIND_MAX}")
        if not at:
            raise Malformed("reply.body is absent, it is required")
        table, parse = _PARSERS[kind]
        message = table()
        message.Init(payload, at)
        return id, parse(message)
    except (StructError, IndexError, ValueError, TypeError, OverflowError) as why:
        raise Malformed(f"the reply of {len(payload)} bytes is not valid: {why}") from why


def _welcome(m: Any) -> Welcome:
    return Welcome(
        version=m.Version(),
        features=m.Features(),
        ring=m.Ring(),
        node=m.Node(),
        shard=m.Shard(),
        key_bytes_max=m.KeyBytesMax(),
        value_bytes_max=m.ValueBytesMax(),
        session_window=m.SessionWindow(),
        server=_string(m.Server()),
    )


def _whole(answer: Written | Value | Absent | Transacted | Counted | None, place: str) -> Answer:
    if answer is None:
        raise Malformed(f"{place} is absent, it is required")
    return answer


def _session_opened(m: Any) -> SessionOpened:
    return SessionOpened(m.Session(), m.LifetimeMs())


def _topology(m: Any) -> Topology:
    return Topology(
        epoch=m.Epoch(),
        ring=m.Ring(),
        shard=m.Shard(),
        leader=m.Leader(),
        term=m.Term(),
        slots=tuple(_slot_range(m.Slots(at)) for at in range(_count(m.SlotsLength(), SLOTS, "reply.body.slots"))),
        members=tuple(
            _member(m.Members(at), f"reply.body.members[{at}]")
            for at in range(_count(m.MembersLength(), MEMBERS_MAX, "reply.body.members"))
        ),
    )


def _slot_range(m: Any) -> SlotRange:
    part = SlotRange(m.First(), m.End(), m.Shard())
    if not part.first < part.end <= SLOTS:
        found = f"reply.body.slots has the range {part.first}..{part.end} of shard {part.shard}"
        raise Malformed(f"{found}, right is first < end <= {SLOTS}")
    return part


def _member(m: Any, place: str) -> Member:
    return Member(
        node=m.Node(),
        incarnation=m.Incarnation(),
        peer=_string(m.Peer()),
        client=_string(m.Client()),
        admin=_string(m.Admin()),
        region=_string(m.Region()),
        role=_role(m.Role(), f"{place}.role"),
    )


def _progress(m: Any) -> Progress:
    return Progress(
        node=m.Node(),
        role=_role(m.Role(), "reply.body.voters.role"),
        matched=m.Matched(),
        lag=m.Lag(),
        learner=m.Learner(),
    )


def _status(m: Any) -> Status:
    voters = _count(m.VotersLength(), MEMBERS_MAX, "reply.body.voters")
    fault = m.Fault()
    return Status(
        node=m.Node(),
        ring=m.Ring(),
        shard=m.Shard(),
        shards=m.Shards(),
        version=_string(m.Version()),
        role=_role(m.Role(), "reply.body.role"),
        uptime_ms=m.UptimeMs(),
        raft_state=_string(m.RaftState()),
        leader=m.Leader(),
        term=m.Term(),
        last_index=m.LastIndex(),
        committed_index=m.CommittedIndex(),
        applied_index=m.AppliedIndex(),
        snapshot_index=m.SnapshotIndex(),
        purged_index=m.PurgedIndex(),
        keys=m.Keys(),
        state_bytes=m.StateBytes(),
        state_hash=m.StateHash(),
        log_bytes=m.LogBytes(),
        sessions=m.Sessions(),
        connections=m.Connections(),
        voters=tuple(_progress(m.Voters(at)) for at in range(voters)),
        voters_joint=m.VotersJoint(),
        fault=None if fault is None else _string(fault),
        ring_time_ms=m.RingTimeMs(),
    )


def _refused(m: Any) -> Refusal:
    number, message = m.Code(), _string(m.Message())
    try:
        code = Code(number)
    except ValueError:
        code, message = Code.INTERNAL, f"refusal {number} (unknown to this version): {message}"
    return Refusal(
        code=code,
        unknown=m.Unknown(),
        message=message,
        leader=m.Leader(),
        leader_address=_string(m.LeaderAddress()),
        retry_after_ms=m.RetryAfterMs(),
    )


def _range_deleted(m: Any) -> RangeDeleted:
    revision, spent = m.Revision(), m.Breakdown()
    if revision is None:
        raise Malformed("reply.body.revision is absent, it is required")
    return RangeDeleted(
        revision=_revision(revision),
        ring_time_ms=m.RingTimeMs(),
        deleted=m.Deleted(),
        more=m.More(),
        duplicate=m.Duplicate(),
        breakdown=Breakdown(spent.QueueUs(), spent.FsyncUs(), spent.QuorumUs(), spent.ApplyUs())
        if spent
        else Breakdown(),
    )


def _lease(m: Any) -> LeaseStatus:
    return LeaseStatus(
        lease=m.Lease(),
        ttl_ms=m.TtlMs(),
        left_ms=m.LeftMs(),
        keys=m.Keys(),
        revision=_revision(m.Revision()),
        ring_time_ms=m.RingTimeMs(),
        duplicate=m.Duplicate(),
    )


def _resolved(m: Any) -> Resolved:
    revision = _revision(m.Revision())
    count = _count(m.GetsLength(), TRANSACTION_PARTS_MAX, "reply.body.gets")
    return Resolved(
        happened=m.Happened(),
        existed=m.Existed(),
        revision=revision,
        ring_time_ms=m.RingTimeMs(),
        gets=tuple(_get(m.Gets(at), revision.index) for at in range(count)),
    )


def _get(m: Any, index: int) -> Value | None:
    if not m.Found():
        return None
    revision = m.Revision()
    if revision is None:
        raise Malformed("a found item has no revision, it is required")
    return Value(_octets(m, 8), _revision(revision), index)


def _watch_started(m: Any) -> WatchStarted:
    return WatchStarted(m.Index(), _revision(m.Oldest()))


def _watch_ended(m: Any) -> WatchEnded:
    return WatchEnded(m.Code(), _string(m.Message()), m.Index(), _revision(m.Oldest()))


def _revision(m: Any) -> Revision:
    return Revision(m.Index(), m.Position()) if m is not None else Revision()


def _octets(m: Any, slot: int) -> bytes:
    """A vector of bytes, which flatc's code reads one by one."""
    table = m._tab
    offset = table.Offset(slot)
    if not offset:
        return b""
    begin, length = table.Vector(offset), table.VectorLen(offset)
    octets: bytes = table.Bytes[begin : begin + length]
    if len(octets) != length:
        raise Malformed(f"a value is said to have {length} bytes, of which {len(octets)} are there")
    return octets


def _done(m: Any) -> Done:
    return Done(_string(m.Message()))


def _role(number: int, place: str) -> Role:
    try:
        return Role(number)
    except ValueError:
        known = "known are 0 (voter), 1 (tie-breaker), 2 (observer)"
        raise Malformed(f"{place} is {number}, {known}") from None


def _count(count: int, limit: int, place: str) -> int:
    if count > limit:
        raise Malformed(f"{place} has {count} elements, the limit is {limit}")
    return count


def _string(octets: bytes | None) -> str:
    return octets.decode() if octets else ""


# By the number of the union ReplyBody; those that are not here are read by `_traffic.py`.
_PARSERS: Final[dict[int, tuple[Any, Any]]] = {
    schema.ReplyBody.Welcome: (schema.Welcome, _welcome),
    schema.ReplyBody.SessionOpened: (schema.SessionOpened, _session_opened),
    schema.ReplyBody.Topology: (schema.Topology, _topology),
    schema.ReplyBody.Status: (schema.Status, _status),
    schema.ReplyBody.Refused: (schema.Refused, _refused),
    schema.ReplyBody.Done: (schema.Done, _done),
    schema.ReplyBody.RangeDeleted: (schema.RangeDeleted, _range_deleted),
    schema.ReplyBody.Lease: (schema.Lease, _lease),
    schema.ReplyBody.Resolved: (schema.Resolved, _resolved),
    schema.ReplyBody.WatchStarted: (schema.WatchStarted, _watch_started),
    schema.ReplyBody.WatchEnded: (schema.WatchEnded, _watch_ended),
}
_KIND_MAX: Final = max(_PARSERS)
