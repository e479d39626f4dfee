"""Messages and bytes: requests are encoded, replies are decoded and checked.

    request  ->  Request{id, deadline_ms, body}  ->  frame            frame  ->  Reply{id, body}  ->  answer

What there is much of is laid out in `_traffic.py`, all else by what flatc made. Neither has a verifier. What it reads
beyond a payload raises, lengths are compared with their limits before anything is allocated, and a payload has its
checksum: so a bad payload is `Malformed`, never a wrong answer.

Not here: frames (`_frame.py`), what to do about an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as StructError
from typing import Any, Final

from flatbuffers import Builder

from ringbeam import _traffic
from ringbeam._answers import (
    Absent,
    Consistency,
    Done,
    Items,
    Member,
    Progress,
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
from ringbeam._frame import frame
from ringbeam._limits import MEMBERS_MAX, SLOTS
from ringbeam._refusal import Code, Refusal
from ringbeam._schema import schema_generated as schema
from ringbeam._transaction import Txn

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
class Transact:
    namespace: bytes
    txn: Txn
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class GetMany:
    namespace: bytes
    keys: tuple[bytes, ...]
    consistency: Consistency = Consistency.LINEARIZABLE


@dataclass(frozen=True, slots=True)
class Scan:
    namespace: bytes
    start: bytes = b""
    end: bytes = b""
    """b"": to the last key."""
    backward: bool = False
    keys_only: bool = False
    limit: int = 0
    """0: as many items as a page may have."""
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


Write = Put | Delete | Transact
Read = Get | GetMany | Scan
Rare = Hello | Scan | OpenSession | CloseSession | GetTopology | GetStatus | Ping
Body = Write | Read | Rare
"""What a client asks."""

Answer = Welcome | Written | Value | Absent | Transacted | Items | SessionOpened | Topology | Status | Refusal | Done
"""What a node answers."""


def encode_request(id: int, deadline_ms: int, body: Body) -> bytes:
    """A whole frame. `deadline_ms`: milliseconds from arrival within which the answer is of use; 0: no deadline."""
    match body:
        case Put():
            ticket = (body.session, body.sequence, body.answered_below)
            return frame(_traffic.put(id, deadline_ms, body.namespace, body.key, body.value, *ticket))
        case Get():
            return frame(_traffic.get(id, deadline_ms, body.namespace, body.key, body.consistency))
        case Delete():
            ticket = (body.session, body.sequence, body.answered_below)
            return frame(_traffic.delete(id, deadline_ms, body.namespace, body.key, *ticket))
        case Transact():
            ticket = (body.session, body.sequence, body.answered_below)
            return frame(_traffic.transact(id, deadline_ms, body.namespace, body.txn, *ticket))
        case GetMany():
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


def _build(b: Any, body: Rare) -> tuple[int, int]:
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
            return schema.RequestBody.Scan, schema.ScanEnd(b)
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
        if not 1 <= kind < len(_PARSERS):
            raise Malformed(f"reply.body is of type {kind}, known are 1 to {_traffic.ITEMS}")
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


def _whole(answer: Written | Value | Absent | Transacted | None, place: str) -> Answer:
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
    (None, None),  # Written and Value, and Transacted and Items behind the last: `_traffic.py`
    (None, None),
    (schema.SessionOpened, _session_opened),
    (schema.Topology, _topology),
    (schema.Status, _status),
    (schema.Refused, _refused),
    (schema.Done, _done),
)
