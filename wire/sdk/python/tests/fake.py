"""A ring of fake nodes in this process that speaks the real wire: what the SDK is tested against.

Every request is noted in `asked`. A test's `script` may answer it; what it leaves to the fake is answered as a good
ring would: the leader writes into one map with exactly-once by (session, sequence), the others redirect.

Not here: limits, namespaces, expiry of sessions, floors: a script plays them. Bytes: `fake_wire.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from fake_wire import encode_reply, parse_request

import ringbeam
from ringbeam import (
    ABSENT,
    Code,
    Compare,
    Member,
    Relation,
    Revision,
    Role,
    SlotRange,
    Status,
    Topology,
    Value,
    Written,
)
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
from ringbeam._events import Event, EventKind, Events, Fold, WatchEnded, WatchStarted
from ringbeam._frame import Decoder
from ringbeam._refusal import Refusal
from ringbeam._requests import (
    Add,
    Body,
    CloseSession,
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
    Transact,
    Unpin,
    Unwatch,
    Watch,
    Write,
)
from ringbeam._slots import slot_of
from ringbeam._wire import Answer

RING = 0xBEA4
VALUE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class At:
    """Whom a request reached."""

    node: int
    shard: int
    connection: int
    """Counts the connections of all nodes."""
    deadline_ms: int


@dataclass(frozen=True)
class Silence:
    """No answer, ever."""


@dataclass(frozen=True)
class Close:
    """The connection ends at once."""


@dataclass(frozen=True)
class ApplyAndClose:
    """As a good ring would, and then the connection ends instead of answering."""


@dataclass(frozen=True)
class Later:
    """The other act, after so many seconds; meanwhile others are answered."""

    seconds: float
    act: Answer


@dataclass(frozen=True)
class Raw:
    """These bytes instead of a reply."""

    octets: bytes


Applied = Written | Transacted | Counted | RangeDeleted
"""What an applied write is answered with."""

Act = Answer | Silence | Close | ApplyAndClose | Later | Raw
Script = Callable[["Ring", At, Body], Act | None]


def no_script(_ring: Ring, _at: At, _body: Body) -> Act | None:
    return None


@dataclass(frozen=True)
class Pin:
    """A moment that a node keeps for a scan."""

    node: int
    shard: int
    index: int
    items: dict[bytes, Item]
    """What there was then, by key."""


@dataclass
class Ring:
    """`async with Ring(nodes, shards, script)`: node 1 leads everything."""

    nodes: int = 1
    shards: int = 1
    script: Script = no_script
    window: int = 256
    members: list[Member] = field(default_factory=list)
    leader: int = 1
    term: int = 1
    epoch: int = 1
    asked: list[tuple[At, Body]] = field(default_factory=list)
    store: dict[bytes, bytes] = field(default_factory=dict)
    revisions: dict[bytes, Revision] = field(default_factory=dict)
    page: int = 1000
    """Items at most in the answer to a scan or a multi-get."""
    pins: dict[int, Pin] = field(default_factory=dict)
    """By id: the moments that nobody has said Unpin of. Who takes them away plays a node that gives them up."""
    answers: dict[tuple[int, int], Applied] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    compacted: int = 0
    """What came before this index is not kept for watches."""
    breaks_snapshots: int = 0
    """So many watches with a snapshot are cut in the middle of it."""
    leases: dict[int, int] = field(default_factory=dict)
    """By id: the time, milliseconds. Nothing ends by itself here."""
    held: dict[bytes, int] = field(default_factory=dict)
    """Keys with a lease."""
    never: set[tuple[int, int]] = field(default_factory=set)
    forgotten: set[tuple[int, int]] = field(default_factory=set)
    age: float | None = None
    """Of what is read."""
    connections: int = 0
    sessions: int = 0
    # The pin that was made last.
    _pinned: int = 0
    _servers: list[asyncio.Server] = field(default_factory=list)
    _watches: list[tuple[asyncio.StreamWriter, int, int, Watch]] = field(default_factory=list)
    _followers: list[tuple[asyncio.StreamWriter, int, int]] = field(default_factory=list)
    _writers: dict[asyncio.StreamWriter, int] = field(default_factory=dict)

    async def __aenter__(self) -> Ring:
        for node in range(1, self.nodes + 1):

            def converse(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node: int = node
            ) -> asyncio.Task[None]:
                return asyncio.create_task(self._converse(node, reader, writer))

            server = await asyncio.start_server(converse, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            self.members.append(Member(node=node, client=f"127.0.0.1:{port}", region=f"r{node}", role=Role.VOTER))
            self._servers.append(server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def address(self, node: int) -> str:
        return self.members[node - 1].client

    @property
    def endpoints(self) -> list[str]:
        return [member.client for member in self.members]

    def lead(self, node: int, tell: bool = False) -> None:
        """Another node leads, which those that follow are told by everyone they follow, if so said."""
        self.leader = node
        self.term += 1
        for writer, shard, id in self._followers if tell else ():
            writer.write(encode_reply(id, self.topology(shard)))

    def cut(self, node: int) -> None:
        """Ends all connections to a node."""
        for writer, of in list(self._writers.items()):
            if of == node:
                writer.transport.abort()

    @property
    def applied(self) -> int:
        return len(self.answers)

    @property
    def puts(self) -> list[tuple[int, int, int]]:
        """All puts so far, as (node, session, sequence)."""
        return self.tickets(Put)

    @property
    def transactions(self) -> list[tuple[int, int, int]]:
        """All transactions so far, as (node, session, sequence)."""
        return self.tickets(Transact)

    def tickets(self, kind: type[Any]) -> list[tuple[int, int, int]]:
        """All writes of a kind so far, as (node, session, sequence)."""
        return [(at.node, body.session, body.sequence) for at, body in self.asked if isinstance(body, kind)]

    def count(self, kind: type[Any], node: int = 0) -> int:
        return sum(1 for at, body in self.asked if isinstance(body, kind) and node in (0, at.node))

    def topology(self, shard: int) -> Topology:
        firsts = [-(-shard * 4096 // self.shards) for shard in range(self.shards + 1)]
        slots = tuple(SlotRange(firsts[n], firsts[n + 1], n) for n in range(self.shards))
        return Topology(self.epoch, RING, shard, self.leader, self.term, slots, tuple(self.members))

    def usual(self, at: At, body: Body) -> Answer:
        """What a good ring would answer."""
        leads = self.leader == at.node
        match body:
            case Hello():
                return Welcome(1, 0, RING, at.node, at.shard, 4096, VALUE_BYTES_MAX, self.window, "fake")
            case GetTopology() | FollowTopology():
                return self.topology(at.shard)
            case GetStatus():
                return Status(node=at.node, shard=at.shard)
            case Ping():
                return Done("here")
            case Unpin():
                self.pins.pop(body.pinned, None)
                return Done("")
            case Scan() if body.pinned:
                return self._scan_pinned(at, body)
            case Get() | GetMany() | Scan() if body.index_min > len(self.answers):
                return Refusal(Code.NOT_FRESH, message=f"applied log index {len(self.answers)}, not {body.index_min}")
            case Get() if leads or body.consistency is not Consistency.LINEARIZABLE:
                value = self.store.get(body.key)
                now = (len(self.answers), self.age)
                return Absent(*now) if value is None else Value(value, self.revisions[body.key], *now)
            case GetMany() if leads or body.consistency is not Consistency.LINEARIZABLE:
                found = [self._item(key, b"") for key in body.keys[: self.page]]
                return Items(tuple(found), len(self.answers), len(body.keys) > self.page, self.age)
            case Scan() if leads or body.consistency is not Consistency.LINEARIZABLE:
                return self._scan(at, body)
        if not leads:
            address = self.address(self.leader) if self.leader else ""
            return Refusal(Code.NOT_LEADER, message="not here", leader=self.leader, leader_address=address)
        match body:
            case OpenSession():
                self.sessions += 1
                return SessionOpened(self.sessions, 60_000)
            case Resolve():
                return self._resolve(body)
            case GrantLease():
                self.leases[len(self.leases) + 1] = body.ttl_ms
                return LeaseStatus(len(self.leases), body.ttl_ms, body.ttl_ms)
            case KeepLease() | GetLease():
                if body.lease not in self.leases:
                    return Refusal(Code.LEASE_NOT_FOUND, message=f"there is no lease {body.lease}")
                ttl_ms = self.leases[body.lease]
                return LeaseStatus(body.lease, ttl_ms, ttl_ms, sum(one == body.lease for one in self.held.values()))
            case RevokeLease():
                return self._revoke(body.lease)
            case Unwatch():
                return Done("it has ended")
            case CloseSession():
                return Written()
            case Put() | Delete() | Transact() | Add() | Extend() | DeleteRange():
                return self._apply(at, body)
        raise AssertionError(f"no usual answer to {body}")

    def _apply(self, at: At, body: Write) -> Answer:
        first = self.answers.get((body.session, body.sequence))
        if first is not None and body.session:
            return replace(first, duplicate=True)
        if (body.session, body.sequence) in self.never:
            return Refusal(Code.SEQUENCE_REUSED, message="it was settled that this one never happens")
        # As a shard does: what is below the floor is forgotten.
        self.forgotten |= {
            place for place in self.answers if place[0] == body.session and place[1] < body.answered_below
        }
        revision = Revision(len(self.answers) + 1, 0)
        answer: Applied
        match body:
            case Transact():
                answer = self._transact(at, body.txn, revision)
            case Put() | Delete():
                answer = Written(revision, existed=body.key in self.store)
                self._set(body.key, body.value if isinstance(body, Put) else None, revision)
                if isinstance(body, Put) and body.lease:
                    self.held[body.key] = body.lease
            case Add():
                total = int(self.store.get(body.key, b"0")) + body.delta
                if not body.min <= total <= body.max:
                    return Refusal(Code.OUT_OF_BOUNDS, message=f"{total} is outside")
                answer = Counted(revision, value=total)
                self._set(body.key, str(total).encode(), revision)
            case Extend():
                had = self.store.get(body.key)
                answer = Written(revision, existed=had is not None)
                self._set(body.key, extended(had, body), revision)
            case DeleteRange():
                here = [key for key in self._within(body.start, body.end) if self._is_on(at.shard, key)]
                for key in here[: self.page]:
                    self._set(key, None, revision)
                answer = RangeDeleted(revision, deleted=len(here[: self.page]), more=len(here) > self.page)
            case _:
                raise AssertionError(f"no usual answer to {body}")
        self.answers[(body.session, body.sequence or -len(self.answers))] = answer
        return answer

    def _revoke(self, lease: int) -> Written:
        for key in [key for key, by in self.held.items() if by == lease]:
            self._set(key, None, Revision(len(self.answers) + 1))
        return Written(existed=self.leases.pop(lease, None) is not None)

    def _watch(self, writer: asyncio.StreamWriter, at: At, id: int, watch: Watch) -> None:
        """As a good node would: the history is that of the whole ring, and every node has it."""
        now = len(self.answers)
        if watch.after is not None and watch.after.index < self.compacted:
            oldest = Revision(self.compacted)
            ended = WatchEnded(Code.COMPACTED, f"not kept on node {at.node}", watch.after.index, oldest)
            writer.write(encode_reply(id, ended))
            return
        begin = now if watch.after is None else watch.after.index
        writer.write(encode_reply(id, WatchStarted(begin, Revision(self.compacted))))
        if watch.snapshot:
            keys = [key for key in self._within(watch.start, watch.end) if self._is_on(at.shard, key)]
            items = tuple(Event(EventKind.SNAPSHOT, key, self.store[key], self.revisions[key]) for key in keys)
            half = len(items) // 2
            writer.write(encode_reply(id, Events(items[:half], now)))
            if self.breaks_snapshots:
                self.breaks_snapshots -= 1
                writer.close()
                return
            writer.write(encode_reply(id, Events(items[half:], now, snapshot_ends=True)))
        elif watch.after is not None:
            past = [event for event in self.history if event.revision > watch.after]
            writer.write(encode_reply(id, self._events_for(watch, at.shard, past)))
        self._watches.append((writer, at.shard, id, watch))

    def _events_for(self, watch: Watch, shard: int, events: list[Event]) -> Events:
        told = []
        for event in events:
            gone = event.kind in (EventKind.DELETE, EventKind.EXPIRE)
            if watch.no_deletes if gone else watch.no_puts:
                continue
            if self._is_on(shard, event.key) and event.key in self._within(watch.start, watch.end, [event.key]):
                told.append(event if watch.previous else replace(event, previous=None))
        return Events(tuple(told), max([event.revision.index for event in events], default=len(self.answers)), 1_000)

    def _happened(self, kind: EventKind, key: bytes, value: bytes, revision: Revision) -> None:
        event = Event(kind, key, value, revision, previous=self._item(key, b""))
        self.history.append(event)
        for writer, shard, id, watch in self._watches:
            writer.write(encode_reply(id, self._events_for(watch, shard, [event])))

    def _resolve(self, body: Resolve) -> Answer:
        place = (body.session, body.sequence)
        if place in self.forgotten:
            return Refusal(Code.ALREADY_ANSWERED, message="forgotten")
        answer = self.answers.get(place)
        if answer is None:
            self.never.add(place)
            return Resolved(happened=False)
        return Resolved(True, getattr(answer, "existed", False), answer.revision, answer.ring_time_ms)

    def _transact(self, at: At, txn: ringbeam.Txn, revision: Revision) -> Transacted:
        assert all(self._is_on(at.shard, key) for key in txn.keys), "a transaction went to a shard without its keys"
        succeeded = all(self._holds(compare) for compare in txn.when)
        steps = txn.then if succeeded else txn.otherwise
        before = [self._item(step.key, b"") for step in steps if isinstance(step, ringbeam.Get)]
        for step in steps:
            if not isinstance(step, ringbeam.Get):
                self._set(step.key, step.value if isinstance(step, ringbeam.Put) else None, revision)
            if isinstance(step, ringbeam.Put) and isinstance(step.lease, int) and step.lease:
                self.held[step.key] = step.lease
        gets = tuple(None if item is None else Value(item.value, item.revision, revision.index) for item in before)
        return Transacted(revision, succeeded=succeeded, gets=gets)

    def _holds(self, compare: Compare) -> bool:
        has: Any
        given: Any
        if isinstance(compare.target, Revision):
            has, given = self.revisions.get(compare.key, ABSENT), compare.target
        elif compare.key not in self.store:
            return False
        else:
            has, given = self.store[compare.key], compare.target.value
        match compare.relation:
            case Relation.EQUAL:
                return bool(has == given)
            case Relation.NOT_EQUAL:
                return bool(has != given)
            case Relation.LESS:
                return bool(has < given)
            case Relation.GREATER:
                return bool(has > given)

    def _scan(self, at: At, scan: Scan) -> Items:
        items = {key: Item(key, self.store[key], self.revisions[key]) for key in self.store}
        page = self._page(at.shard, scan, items, len(self.answers))
        if not page.more or len(page.items) >= scan.pin:
            return page
        self._pinned += 1
        self.pins[self._pinned] = Pin(at.node, at.shard, page.index, items)
        return replace(page, pinned=self._pinned)

    def _scan_pinned(self, at: At, scan: Scan) -> Items | Refusal:
        """As a good node would, whoever leads: over any connection, and the last page more than once, as it may get
        lost."""
        pin = self.pins.get(scan.pinned)
        if pin is None or (pin.node, pin.shard) != (at.node, at.shard):
            return Refusal(Code.COMPACTED, message=f"node {at.node} does not keep moment {scan.pinned} any more")
        if pin.index != scan.pinned_index:
            return Refusal(Code.BAD_REQUEST, message=f"the moment is of {pin.index}, not of {scan.pinned_index}")
        page = self._page(at.shard, scan, pin.items, pin.index)
        return replace(page, pinned=scan.pinned if page.more else 0)

    def _page(self, shard: int, scan: Scan, items: dict[bytes, Item], index: int) -> Items:
        here = [key for key in self._within(scan.start, scan.end, sorted(items)) if self._is_on(shard, key)]
        most = min(scan.limit or self.page, self.page)
        keys = (here[::-1] if scan.backward else here)[:most]
        found = tuple(replace(items[key], value=b"") if scan.keys_only else items[key] for key in keys)
        return Items(found, index, len(here) > most)

    def _within(self, start: bytes, end: bytes, keys: list[bytes] | None = None) -> list[bytes]:
        keys = sorted(self.store) if keys is None else keys
        return [key for key in keys if start <= key and (not end or key < end)]

    def _item(self, key: bytes, named: bytes) -> Item | None:
        return Item(named, self.store[key], self.revisions[key]) if key in self.store else None

    def _is_on(self, shard: int, key: bytes) -> bool:
        return slot_of(key) * self.shards // 4096 == shard

    def _set(self, key: bytes, value: bytes | None, revision: Revision) -> None:
        """None: removes it."""
        self.held.pop(key, None)
        if value is not None or key in self.store:
            kind = EventKind.DELETE if value is None else EventKind.PUT
            self._happened(kind, key, value or b"", revision)
        if value is None:
            self.store.pop(key, None)
            self.revisions.pop(key, None)
        else:
            self.store[key], self.revisions[key] = value, revision

    async def _converse(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers[writer] = node
        try:
            opening = await reader.readexactly(16)
            assert opening[:7] == b"RBM1\x01\x00\x01", opening
            shard = int.from_bytes(opening[8:12], "little")
            decoder = Decoder(32 << 20)
            while received := await reader.read(1 << 16):
                for payload in decoder.feed(received):
                    id, deadline_ms, body = parse_request(payload)
                    at = At(node, shard, connection, deadline_ms)
                    if isinstance(body, FollowTopology):
                        self._followers.append((writer, shard, id))
                    else:
                        self.asked.append((at, body))
                    act = self.script(self, at, body)
                    if act is None and isinstance(body, Watch):
                        self._watch(writer, at, id, body)
                        continue
                    act = act or self.usual(at, body)
                    match act:
                        case Silence():
                            pass
                        case Close():
                            return
                        case ApplyAndClose():
                            self.usual(at, body)
                            return
                        case Later():
                            reply = encode_reply(id, act.act)
                            asyncio.get_running_loop().call_later(act.seconds, writer.write, reply)
                        case Raw():
                            writer.write(act.octets)
                        case _:
                            writer.write(encode_reply(id, act))
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            del self._writers[writer]
            self._watches = [watch for watch in self._watches if watch[0] is not writer]
            self._followers = [follower for follower in self._followers if follower[0] is not writer]
            writer.transport.abort()


def extended(had: bytes | None, body: Extend) -> bytes:
    """A value and a delta, folded."""
    if body.fold is Fold.CONCATENATE:
        return (had or b"") + body.delta

    def merged(target: Any, patch: Any) -> Any:
        if not isinstance(patch, dict):
            return patch
        kept = dict(target) if isinstance(target, dict) else {}
        for name, value in patch.items():
            kept[name] = merged(kept.get(name), value)
        return {name: value for name, value in kept.items() if name not in patch or patch[name] is not None}

    return json.dumps(merged(json.loads(had or b"null"), json.loads(body.delta))).encode()


async def nobody() -> str:
    """An address where nobody listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return f"127.0.0.1:{port}"
