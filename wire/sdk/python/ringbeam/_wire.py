"""Messages and bytes: requests are encoded, replies are decoded and checked.

    request  ->  Request{id, deadline_ms, body}  ->  frame            frame  ->  Reply{id, body}  ->  answer

flatbuffers' Python runtime has no verifier. What it reads beyond a payload raises, lengths are compared with their
limits before anything is allocated, and a payload has its checksum: so a bad payload is `Malformed`, never a wrong
answer.

Not here: frames (`_frame.py`), what to do about an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError
from typing import Any, Final

from flatbuffers import Builder

from ringbeam._answers import (
    Absent,
    Breakdown,
    Consistency,
    Done,
    Member,
    Progress,
    Revision,
    Role,
    SessionOpened,
    SlotRange,
    Status,
    Topology,
    Value,
    Welcome,
    Written,
)
from ringbeam._frame import frame
from ringbeam._limits import MEMBERS_MAX, SLOTS
from ringbeam._refusal import Code, Refusal
from ringbeam._schema import schema_generated as schema

NOBODY: Final = (1 << 64) - 1
"""A request id that no call has: its reply reaches nobody, but for the Welcome."""


# ---- requests ----


@dataclass(frozen=True, slots=True)
class Hello:
    version_min: int
    version_max: int
    features: int
    ring: int
    client: str


@dataclass(frozen=True, slots=True)
class Put:
    namespace: bytes
    key: bytes
    value: bytes
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    namespace: bytes
    key: bytes
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    namespace: bytes
    key: bytes
    consistency: Consistency = Consistency.LINEARIZABLE


@dataclass(frozen=True, slots=True)
class OpenSession:
    pass


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int


@dataclass(frozen=True, slots=True)
class GetTopology:
    pass


@dataclass(frozen=True, slots=True)
class GetStatus:
    pass


@dataclass(frozen=True, slots=True)
class Ping:
    pass


Body = Hello | Put | Delete | Get | OpenSession | CloseSession | GetTopology | GetStatus | Ping
"""What a client asks."""

Answer = Welcome | Written | Value | Absent | SessionOpened | Topology | Status | Refusal | Done
"""What a node answers."""


def encode_request(id: int, deadline_ms: int, body: Body) -> bytes:
    """A whole frame. `deadline_ms`: milliseconds from arrival within which the answer is of use; 0: no deadline."""
    b = Builder(128)
    kind, table = _build(b, body)
    schema.RequestStart(b)
    schema.RequestAddId(b, id)
    schema.RequestAddDeadlineMs(b, deadline_ms)
    schema.RequestAddBodyType(b, kind)
    schema.RequestAddBody(b, table)
    b.Finish(schema.RequestEnd(b))
    return frame(bytes(b.Output()))


def _build(b: Any, body: Body) -> tuple[int, int]:
    match body:
        case Put():
            namespace, key, value = _text(b, body.namespace), _bytes(b, body.key), _bytes(b, body.value)
            schema.PutStart(b)
            if namespace:
                schema.PutAddNamespace(b, namespace)
            if key:
                schema.PutAddKey(b, key)
            if value:
                schema.PutAddValue(b, value)
            schema.PutAddSession(b, body.session)
            schema.PutAddSequence(b, body.sequence)
            schema.PutAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.Put, schema.PutEnd(b)
        case Get():
            namespace, key = _text(b, body.namespace), _bytes(b, body.key)
            schema.GetStart(b)
            if namespace:
                schema.GetAddNamespace(b, namespace)
            if key:
                schema.GetAddKey(b, key)
            schema.GetAddConsistency(b, body.consistency)
            return schema.RequestBody.Get, schema.GetEnd(b)
        case Delete():
            namespace, key = _text(b, body.namespace), _bytes(b, body.key)
            schema.DeleteStart(b)
            if namespace:
                schema.DeleteAddNamespace(b, namespace)
            if key:
                schema.DeleteAddKey(b, key)
            schema.DeleteAddSession(b, body.session)
            schema.DeleteAddSequence(b, body.sequence)
            schema.DeleteAddAnsweredBelow(b, body.answered_below)
            return schema.RequestBody.Delete, schema.DeleteEnd(b)
        case Hello():
            client = b.CreateString(body.client)
            schema.HelloStart(b)
            schema.HelloAddVersionMin(b, body.version_min)
            schema.HelloAddVersionMax(b, body.version_max)
            schema.HelloAddFeatures(b, body.features)
            schema.HelloAddRing(b, body.ring)
            schema.HelloAddClient(b, client)
            return schema.RequestBody.Hello, schema.HelloEnd(b)
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


def _bytes(b: Any, octets: bytes) -> int:
    return b.CreateByteVector(octets) if octets else 0


def _text(b: Any, text: bytes) -> int:
    # CreateString takes UTF-8 as it is.
    return b.CreateString(text) if text else 0


# ---- replies ----


class Malformed(Exception):
    """Bytes that are not a reply. The message says the place, the value, and what would be right."""


def decode_reply(payload: bytes) -> tuple[int, Answer]:
    """A reply's id and answer. A refusal whose code this build does not know is INTERNAL with the number in its
    message."""
    try:
        reply = schema.Reply.GetRootAs(payload)
        body = reply.Body()
        if body is None:
            raise Malformed("reply.body is absent, it is required")
        kind = reply.BodyType()
        if not 1 <= kind < len(_PARSERS):
            raise Malformed(f"reply.body is of type {kind}, known are 1 to {len(_PARSERS) - 1}")
        table, parse = _PARSERS[kind]
        message = table()
        message.Init(body.Bytes, body.Pos)
        return reply.Id(), parse(message)
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


def _revision(revision: Any, place: str) -> Revision:
    if revision is None:
        raise Malformed(f"{place} is absent, it is required")
    return Revision(revision.Index(), revision.Position())


def _written(m: Any) -> Written:
    spent = m.Breakdown()
    return Written(
        revision=_revision(m.Revision(), "reply.body.revision"),
        ring_time_ms=m.RingTimeMs(),
        existed=m.Existed(),
        duplicate=m.Duplicate(),
        breakdown=Breakdown(spent.QueueUs(), spent.FsyncUs(), spent.QuorumUs(), spent.ApplyUs())
        if spent is not None
        else Breakdown(),
    )


_VALUE_SLOT = 6  # of the table Value: found is 4, value 6


def _value(m: Any) -> Value | Absent:
    if not m.Found():
        return Absent(m.Index())
    table = m._tab
    offset = table.Offset(_VALUE_SLOT)
    value = b""
    if offset:
        begin, length = table.Vector(offset), table.VectorLen(offset)
        value = table.Bytes[begin : begin + length]
        if len(value) != length:
            raise Malformed(f"reply.body.value has {length} bytes, of which {len(value)} are there")
    return Value(value, _revision(m.Revision(), "reply.body.revision of a found value"), m.Index())


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


# By the number of the union ReplyBody.
_PARSERS: Final[tuple[tuple[Any, Any], ...]] = (
    (None, None),
    (schema.Welcome, _welcome),
    (schema.Written, _written),
    (schema.Value, _value),
    (schema.SessionOpened, _session_opened),
    (schema.Topology, _topology),
    (schema.Status, _status),
    (schema.Refused, _refused),
    (schema.Done, _done),
)
