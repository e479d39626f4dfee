"""The node's side of the wire, for the fake ring: requests are read and replies written with flatc's own code, so that
what the SDK lays out by hand is read by another's hand, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flatbuffers import Builder

from ringbeam import (
    Compare,
    Delete,
    Get,
    Member,
    Put,
    Relation,
    Revision,
    Status,
    Topology,
    Txn,
    Value,
    ValueIs,
    Written,
)
from ringbeam import _wire as wire
from ringbeam._answers import Absent, Consistency, Done, Item, Items, SessionOpened, Transacted, Welcome
from ringbeam._frame import frame
from ringbeam._refusal import Refusal
from ringbeam._schema import schema_generated as schema
from ringbeam._wire import Answer, Body


def parse_request(payload: bytes) -> tuple[int, int, Body]:
    """What a node reads."""
    request = schema.Request.GetRootAs(payload)
    kind, table = request.BodyType(), request.Body()
    names = {number: name for name, number in vars(schema.RequestBody).items() if isinstance(number, int)}
    message = getattr(schema, names[kind])()
    message.Init(table.Bytes, table.Pos)
    body: Body
    match names[kind]:
        case "Hello":
            name = (message.Client() or b"").decode()
            body = wire.Hello(message.VersionMin(), message.VersionMax(), message.Features(), message.Ring(), name)
        case "Put":
            parts = (message.Namespace() or b"", vector(message, 6), vector(message, 8))
            body = wire.Put(*parts, message.Session(), message.Sequence(), message.AnsweredBelow())
        case "Delete":
            pair = (message.Namespace() or b"", vector(message, 6))
            body = wire.Delete(*pair, message.Session(), message.Sequence(), message.AnsweredBelow())
        case "Get":
            body = wire.Get(message.Namespace() or b"", vector(message, 6), Consistency(message.Consistency()))
        case "OpenSession":
            body = wire.OpenSession()
        case "CloseSession":
            body = wire.CloseSession(message.Session())
        case "GetTopology":
            body = wire.GetTopology()
        case "GetStatus":
            body = wire.GetStatus()
        case "Ping":
            body = wire.Ping()
        case "Transact":
            compares = [_compare(message.Compares(at)) for at in range(message.ComparesLength())]
            then = [_step(message.Then(at)) for at in range(message.ThenLength())]
            otherwise = [_step(message.Otherwise(at)) for at in range(message.OtherwiseLength())]
            ticket = (message.Session(), message.Sequence(), message.AnsweredBelow())
            body = wire.Transact(message.Namespace() or b"", Txn(compares, then, otherwise), *ticket)
        case "Scan":
            name = message.Namespace() or b""
            flags = (message.Backward(), message.KeysOnly(), message.Limit(), Consistency(message.Consistency()))
            body = wire.Scan(name, vector(message, 6), vector(message, 8), *flags)
        case "GetMany":
            keys = tuple(vector(message.Keys(at), 4) for at in range(message.KeysLength()))
            body = wire.GetMany(message.Namespace() or b"", keys, Consistency(message.Consistency()))
        case other:
            raise AssertionError(f"the SDK has no request {other}")
    return request.Id(), request.DeadlineMs(), body


def _compare(message: Any) -> Compare:
    key, relation = vector(message, 4), Relation(message.Relation())
    if message.Target() == schema.Target.Value:
        return Compare(key, relation, ValueIs(vector(message, 12)))
    revision = message.Revision()
    return Compare(key, relation, Revision(revision.Index(), revision.Position()) if revision else Revision())


def _step(message: Any) -> Get | Put | Delete:
    key = vector(message, 6)
    match message.Kind():
        case schema.StepKind.Get:
            return Get(key)
        case schema.StepKind.Put:
            return Put(key, vector(message, 8))
        case schema.StepKind.Delete:
            return Delete(key)
        case other:
            raise AssertionError(f"there is no step {other}")


def vector(message: Any, slot: int) -> bytes:
    table = message._tab
    offset = table.Offset(slot)
    if not offset:
        return b""
    begin = table.Vector(offset)
    return bytes(table.Bytes[begin : begin + table.VectorLen(offset)])


def encode_reply(id: int, answer: Answer) -> bytes:
    """What a node sends: a whole frame."""
    b = Builder(128)
    kind, table = _build(b, answer)
    schema.ReplyStart(b)
    schema.ReplyAddId(b, id)
    schema.ReplyAddBodyType(b, kind)
    schema.ReplyAddBody(b, table)
    b.Finish(schema.ReplyEnd(b))
    return frame(bytes(b.Output()))


def _build(b: Any, answer: Answer) -> tuple[int, int]:
    kinds = schema.ReplyBody
    match answer:
        case Written():
            revision, spent = answer.revision, answer.breakdown
            schema.WrittenStart(b)
            schema.WrittenAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.WrittenAddRingTimeMs(b, answer.ring_time_ms)
            schema.WrittenAddExisted(b, answer.existed)
            schema.WrittenAddDuplicate(b, answer.duplicate)
            parts = (spent.queue_us, spent.fsync_us, spent.quorum_us, spent.apply_us)
            schema.WrittenAddBreakdown(b, schema.CreateBreakdown(b, *parts))
            return kinds.Written, schema.WrittenEnd(b)
        case Value():
            value = b.CreateByteVector(answer.value)
            schema.ValueStart(b)
            schema.ValueAddFound(b, True)
            schema.ValueAddValue(b, value)
            schema.ValueAddRevision(b, schema.CreateRevision(b, answer.revision.index, answer.revision.position))
            schema.ValueAddIndex(b, answer.index)
            return kinds.Value, schema.ValueEnd(b)
        case Transacted():
            revision, spent = answer.revision, answer.breakdown
            found = [None if get is None else Item(b"", get.value, get.revision) for get in answer.gets]
            gets = _build_items(b, found, schema.TransactedStartGetsVector)
            schema.TransactedStart(b)
            schema.TransactedAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.TransactedAddRingTimeMs(b, answer.ring_time_ms)
            schema.TransactedAddSucceeded(b, answer.succeeded)
            schema.TransactedAddDuplicate(b, answer.duplicate)
            parts = (spent.queue_us, spent.fsync_us, spent.quorum_us, spent.apply_us)
            schema.TransactedAddBreakdown(b, schema.CreateBreakdown(b, *parts))
            schema.TransactedAddGets(b, gets)
            return kinds.Transacted, schema.TransactedEnd(b)
        case Items():
            items = _build_items(b, answer.items, schema.ItemsStartItemsVector)
            schema.ItemsStart(b)
            schema.ItemsAddItems(b, items)
            schema.ItemsAddIndex(b, answer.index)
            schema.ItemsAddMore(b, answer.more)
            return kinds.Items, schema.ItemsEnd(b)
        case Absent():
            schema.ValueStart(b)
            schema.ValueAddIndex(b, answer.index)
            return kinds.Value, schema.ValueEnd(b)
        case Refusal():
            message, address = b.CreateString(answer.message), b.CreateString(answer.leader_address)
            schema.RefusedStart(b)
            schema.RefusedAddCode(b, answer.code)
            schema.RefusedAddUnknown(b, answer.unknown)
            schema.RefusedAddMessage(b, message)
            schema.RefusedAddLeader(b, answer.leader)
            schema.RefusedAddLeaderAddress(b, address)
            schema.RefusedAddRetryAfterMs(b, answer.retry_after_ms)
            return kinds.Refused, schema.RefusedEnd(b)
        case SessionOpened():
            schema.SessionOpenedStart(b)
            schema.SessionOpenedAddSession(b, answer.session)
            schema.SessionOpenedAddLifetimeMs(b, answer.lifetime_ms)
            return kinds.SessionOpened, schema.SessionOpenedEnd(b)
        case Done():
            text = b.CreateString(answer.message)
            schema.DoneStart(b)
            schema.DoneAddMessage(b, text)
            return kinds.Done, schema.DoneEnd(b)
        case Welcome():
            server = b.CreateString(answer.server)
            schema.WelcomeStart(b)
            schema.WelcomeAddVersion(b, answer.version)
            schema.WelcomeAddFeatures(b, answer.features)
            schema.WelcomeAddRing(b, answer.ring)
            schema.WelcomeAddNode(b, answer.node)
            schema.WelcomeAddShard(b, answer.shard)
            schema.WelcomeAddKeyBytesMax(b, answer.key_bytes_max)
            schema.WelcomeAddValueBytesMax(b, answer.value_bytes_max)
            schema.WelcomeAddSessionWindow(b, answer.session_window)
            schema.WelcomeAddServer(b, server)
            return kinds.Welcome, schema.WelcomeEnd(b)
        case Status():
            version, state = b.CreateString(answer.version), b.CreateString(answer.raft_state)
            schema.StatusStart(b)
            schema.StatusAddNode(b, answer.node)
            schema.StatusAddShard(b, answer.shard)
            schema.StatusAddVersion(b, version)
            schema.StatusAddRaftState(b, state)
            return kinds.Status, schema.StatusEnd(b)
        case Topology():
            return kinds.Topology, _build_topology(b, answer)


def _build_items(b: Any, items: Sequence[Item | None], start: Callable[[Any, int], None]) -> int:
    built = []
    for item in items:
        if item is None:
            schema.ItemStart(b)
            built.append(schema.ItemEnd(b))
            continue
        key, value = b.CreateByteVector(item.key), b.CreateByteVector(item.value)
        schema.ItemStart(b)
        schema.ItemAddKey(b, key)
        schema.ItemAddFound(b, True)
        schema.ItemAddValue(b, value)
        schema.ItemAddRevision(b, schema.CreateRevision(b, item.revision.index, item.revision.position))
        built.append(schema.ItemEnd(b))
    start(b, len(built))
    for table in reversed(built):
        b.PrependUOffsetTRelative(table)
    end: int = b.EndVector()
    return end


def _build_topology(b: Any, topology: Topology) -> int:
    members = [_build_member(b, member) for member in topology.members]
    schema.TopologyStartMembersVector(b, len(members))
    for member in reversed(members):
        b.PrependUOffsetTRelative(member)
    members_at = b.EndVector()
    schema.TopologyStartSlotsVector(b, len(topology.slots))
    for part in reversed(topology.slots):
        schema.CreateSlotRange(b, part.first, part.end, part.shard)
    slots_at = b.EndVector()
    schema.TopologyStart(b)
    schema.TopologyAddEpoch(b, topology.epoch)
    schema.TopologyAddRing(b, topology.ring)
    schema.TopologyAddShard(b, topology.shard)
    schema.TopologyAddLeader(b, topology.leader)
    schema.TopologyAddTerm(b, topology.term)
    schema.TopologyAddSlots(b, slots_at)
    schema.TopologyAddMembers(b, members_at)
    end: int = schema.TopologyEnd(b)
    return end


def _build_member(b: Any, member: Member) -> int:
    client, region = b.CreateString(member.client), b.CreateString(member.region)
    schema.MemberStart(b)
    schema.MemberAddNode(b, member.node)
    schema.MemberAddIncarnation(b, member.incarnation)
    schema.MemberAddClient(b, client)
    schema.MemberAddRegion(b, region)
    schema.MemberAddRole(b, member.role)
    end: int = schema.MemberEnd(b)
    return end
