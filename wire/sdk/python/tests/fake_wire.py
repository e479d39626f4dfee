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
from ringbeam import _requests as requests
from ringbeam._answers import (
    Absent,
    Consistency,
    Counted,
    Done,
    Item,
    Items,
    LeaseStatus,
    RangeDeleted,
    Resolved,
    SessionOpened,
    Transacted,
    Welcome,
)
from ringbeam._events import Event, Events, Fold, WatchEnded, WatchStarted
from ringbeam._frame import frame
from ringbeam._refusal import Refusal
from ringbeam._requests import Body
from ringbeam._schema import schema_generated as schema
from ringbeam._traffic import AGE_UNKNOWN
from ringbeam._wire import Answer


def parse_request(payload: bytes) -> tuple[int, int, Body]:
    """What a node reads."""
    request = schema.Request.GetRootAs(payload)
    kind, table = request.BodyType(), request.Body()
    names = {number: name for name, number in vars(schema.RequestBody).items() if isinstance(number, int)}
    message = getattr(schema, names[kind])()
    message.Init(table.Bytes, table.Pos)
    return request.Id(), request.DeadlineMs(), _body(names[kind], message)


def _body(kind: str, message: Any) -> Body:
    match kind:
        case "Hello":
            name = (message.Client() or b"").decode()
            return requests.Hello(message.VersionMin(), message.VersionMax(), message.Features(), message.Ring(), name)
        case "Put":
            parts = (message.Namespace() or b"", vector(message, 6), vector(message, 8))
            return requests.Put(*parts, *_place(message), message.TtlMs(), message.Lease())
        case "Delete":
            return requests.Delete(message.Namespace() or b"", vector(message, 6), *_place(message))
        case "Get":
            return requests.Get(message.Namespace() or b"", vector(message, 6), *_fresh(message))
        case "GetMany":
            keys = tuple(vector(message.Keys(at), 4) for at in range(message.KeysLength()))
            return requests.GetMany(message.Namespace() or b"", keys, *_fresh(message))
        case "Scan":
            name, start, end = _range(message)
            backward, keys_only, limit = message.Backward(), message.KeysOnly(), message.Limit()
            moment = (message.Pin(), message.Pinned(), message.PinnedIndex())
            return requests.Scan(name, start, end, backward, keys_only, limit, *_fresh(message), *moment)
        case "Transact":
            compares = [_compare(message.Compares(at)) for at in range(message.ComparesLength())]
            then = [_step(message.Then(at)) for at in range(message.ThenLength())]
            otherwise = [_step(message.Otherwise(at)) for at in range(message.OtherwiseLength())]
            return requests.Transact(message.Namespace() or b"", Txn(compares, then, otherwise), *_place(message))
        case "Add":
            numbers = (message.Delta(), message.Min(), message.Max())
            return requests.Add(message.Namespace() or b"", vector(message, 6), *numbers, *_place(message))
        case "Extend":
            key = vector(message, 6)
            return requests.Extend(
                message.Namespace() or b"", key, Fold(message.Fold()), vector(message, 10), *_place(message)
            )
        case "DeleteRange":
            return requests.DeleteRange(*_range(message), message.Limit(), *_place(message))
        case "GrantLease":
            return requests.GrantLease(message.TtlMs(), *_place(message))
        case "KeepLease":
            return requests.KeepLease(message.Lease())
        case "RevokeLease":
            return requests.RevokeLease(message.Lease(), *_place(message))
        case "GetLease":
            return requests.GetLease(message.Lease())
        case "Resolve":
            return requests.Resolve(*_place(message))
        case "Watch":
            after = message.After()
            begin = Revision(after.Index(), after.Position()) if after else None
            wishes = (message.Snapshot(), message.NoPuts(), message.NoDeletes(), message.Previous(), message.Conflate())
            return requests.Watch(*_range(message), begin, *wishes, message.ProgressMs())
        case "Unwatch":
            return requests.Unwatch(message.Watch())
        case "Unpin":
            return requests.Unpin(message.Pinned())
        case "FollowTopology":
            return requests.FollowTopology()
        case "OpenSession":
            return requests.OpenSession()
        case "CloseSession":
            return requests.CloseSession(message.Session())
        case "GetTopology":
            return requests.GetTopology()
        case "GetStatus":
            return requests.GetStatus()
        case "Ping":
            return requests.Ping()
        case other:
            raise AssertionError(f"the SDK has no request {other}")


def _place(message: Any) -> tuple[int, int, int]:
    return message.Session(), message.Sequence(), message.AnsweredBelow()


def _range(message: Any) -> tuple[bytes, bytes, bytes]:
    return message.Namespace() or b"", vector(message, 6), vector(message, 8)


def _fresh(message: Any) -> tuple[Consistency, int, int, bool]:
    return Consistency(message.Consistency()), message.IndexMin(), message.AgeMsMax(), message.StaleOk()


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
            ttl_ms = message.TtlMs()
            return Put(key, vector(message, 8), ttl=ttl_ms / 1_000 if ttl_ms else None, lease=message.Lease())
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
            schema.ValueAddAgeMs(b, age_ms(answer.age))
            schema.ValueAddStale(b, answer.stale)
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
            schema.ItemsAddAgeMs(b, age_ms(answer.age))
            schema.ItemsAddStale(b, answer.stale)
            schema.ItemsAddPinned(b, answer.pinned)
            return kinds.Items, schema.ItemsEnd(b)
        case Absent():
            schema.ValueStart(b)
            schema.ValueAddIndex(b, answer.index)
            schema.ValueAddAgeMs(b, age_ms(answer.age))
            schema.ValueAddStale(b, answer.stale)
            return kinds.Value, schema.ValueEnd(b)
        case Counted():
            revision, spent = answer.revision, answer.breakdown
            schema.CountedStart(b)
            schema.CountedAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.CountedAddRingTimeMs(b, answer.ring_time_ms)
            schema.CountedAddValue(b, answer.value)
            schema.CountedAddDuplicate(b, answer.duplicate)
            parts = (spent.queue_us, spent.fsync_us, spent.quorum_us, spent.apply_us)
            schema.CountedAddBreakdown(b, schema.CreateBreakdown(b, *parts))
            return kinds.Counted, schema.CountedEnd(b)
        case RangeDeleted():
            revision, spent = answer.revision, answer.breakdown
            schema.RangeDeletedStart(b)
            schema.RangeDeletedAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.RangeDeletedAddRingTimeMs(b, answer.ring_time_ms)
            schema.RangeDeletedAddDeleted(b, answer.deleted)
            schema.RangeDeletedAddMore(b, answer.more)
            schema.RangeDeletedAddDuplicate(b, answer.duplicate)
            parts = (spent.queue_us, spent.fsync_us, spent.quorum_us, spent.apply_us)
            schema.RangeDeletedAddBreakdown(b, schema.CreateBreakdown(b, *parts))
            return kinds.RangeDeleted, schema.RangeDeletedEnd(b)
        case LeaseStatus():
            revision = answer.revision
            schema.LeaseStart(b)
            schema.LeaseAddLease(b, answer.lease)
            schema.LeaseAddTtlMs(b, answer.ttl_ms)
            schema.LeaseAddLeftMs(b, answer.left_ms)
            schema.LeaseAddKeys(b, answer.keys)
            schema.LeaseAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.LeaseAddRingTimeMs(b, answer.ring_time_ms)
            schema.LeaseAddDuplicate(b, answer.duplicate)
            return kinds.Lease, schema.LeaseEnd(b)
        case Resolved():
            revision = answer.revision
            found = [None if get is None else Item(b"", get.value, get.revision) for get in answer.gets]
            gets = _build_items(b, found, schema.ResolvedStartGetsVector)
            schema.ResolvedStart(b)
            schema.ResolvedAddHappened(b, answer.happened)
            schema.ResolvedAddExisted(b, answer.existed)
            schema.ResolvedAddRevision(b, schema.CreateRevision(b, revision.index, revision.position))
            schema.ResolvedAddRingTimeMs(b, answer.ring_time_ms)
            schema.ResolvedAddGets(b, gets)
            return kinds.Resolved, schema.ResolvedEnd(b)
        case WatchStarted():
            schema.WatchStartedStart(b)
            schema.WatchStartedAddIndex(b, answer.index)
            schema.WatchStartedAddOldest(b, schema.CreateRevision(b, answer.oldest.index, answer.oldest.position))
            return kinds.WatchStarted, schema.WatchStartedEnd(b)
        case WatchEnded():
            text = b.CreateString(answer.message)
            schema.WatchEndedStart(b)
            schema.WatchEndedAddCode(b, answer.code)
            schema.WatchEndedAddMessage(b, text)
            schema.WatchEndedAddIndex(b, answer.index)
            schema.WatchEndedAddOldest(b, schema.CreateRevision(b, answer.oldest.index, answer.oldest.position))
            return kinds.WatchEnded, schema.WatchEndedEnd(b)
        case Events():
            tables = [_build_event(b, event) for event in answer.events]
            schema.EventsStartEventsVector(b, len(tables))
            for built in reversed(tables):
                b.PrependUOffsetTRelative(built)
            events = b.EndVector()
            schema.EventsStart(b)
            schema.EventsAddEvents(b, events)
            schema.EventsAddIndex(b, answer.index)
            schema.EventsAddRingTimeMs(b, answer.ring_time_ms)
            schema.EventsAddSnapshotEnds(b, answer.snapshot_ends)
            return kinds.Events, schema.EventsEnd(b)
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


def age_ms(age: float | None) -> int:
    return AGE_UNKNOWN if age is None else round(age * 1_000)


def _build_event(b: Any, event: Event) -> int:
    previous = None if event.previous is None else _build_item(b, event.previous)
    key, value = b.CreateByteVector(event.key), b.CreateByteVector(event.value)
    schema.EventStart(b)
    schema.EventAddKind(b, event.kind)
    schema.EventAddKey(b, key)
    schema.EventAddValue(b, value)
    schema.EventAddRevision(b, schema.CreateRevision(b, event.revision.index, event.revision.position))
    schema.EventAddFold(b, event.fold)
    if previous is not None:
        schema.EventAddPrevious(b, previous)
    schema.EventAddConflated(b, event.conflated)
    end: int = schema.EventEnd(b)
    return end


def _build_items(b: Any, items: Sequence[Item | None], start: Callable[[Any, int], None]) -> int:
    built = [_build_item(b, item) for item in items]
    start(b, len(built))
    for table in reversed(built):
        b.PrependUOffsetTRelative(table)
    end: int = b.EndVector()
    return end


def _build_item(b: Any, item: Item | None) -> int:
    if item is None:
        schema.ItemStart(b)
        nothing: int = schema.ItemEnd(b)
        return nothing
    key, value = b.CreateByteVector(item.key), b.CreateByteVector(item.value)
    schema.ItemStart(b)
    schema.ItemAddKey(b, key)
    schema.ItemAddFound(b, True)
    schema.ItemAddValue(b, value)
    schema.ItemAddRevision(b, schema.CreateRevision(b, item.revision.index, item.revision.position))
    end: int = schema.ItemEnd(b)
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
