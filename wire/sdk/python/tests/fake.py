"""A ring of fake nodes in this process that speaks the real wire: what the SDK is tested against.

Every request is noted in `asked`. A test's `script` may answer it; what it leaves to the fake is answered as a good
ring would: the leader writes into one map with exactly-once by (session, sequence), the others redirect.

Not here: limits, namespaces, expiry of sessions, floors: a script plays them. Bytes: `fake_wire.py`.
"""

from __future__ import annotations

import asyncio
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
from ringbeam._answers import Absent, Consistency, Done, Item, Items, SessionOpened, Transacted, Welcome
from ringbeam._frame import Decoder
from ringbeam._refusal import Refusal
from ringbeam._requests import (
    Body,
    CloseSession,
    Delete,
    Get,
    GetMany,
    GetStatus,
    GetTopology,
    Hello,
    OpenSession,
    Ping,
    Put,
    Scan,
    Transact,
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


Act = Answer | Silence | Close | ApplyAndClose | Later | Raw
Script = Callable[["Ring", At, Body], Act | None]


def no_script(_ring: Ring, _at: At, _body: Body) -> Act | None:
    return None


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
    answers: dict[tuple[int, int], Written | Transacted] = field(default_factory=dict)
    connections: int = 0
    sessions: int = 0
    _servers: list[asyncio.Server] = field(default_factory=list)
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

    def lead(self, node: int) -> None:
        self.leader = node
        self.term += 1

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
        return [(at.node, body.session, body.sequence) for at, body in self.asked if isinstance(body, Put)]

    @property
    def transactions(self) -> list[tuple[int, int, int]]:
        """All transactions so far, as (node, session, sequence)."""
        return [(at.node, body.session, body.sequence) for at, body in self.asked if isinstance(body, Transact)]

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
            case GetTopology():
                return self.topology(at.shard)
            case GetStatus():
                return Status(node=at.node, shard=at.shard)
            case Ping():
                return Done("here")
            case Get() if leads or body.consistency is Consistency.LOCAL:
                value = self.store.get(body.key)
                return Absent() if value is None else Value(value)
            case GetMany() if leads or body.consistency is Consistency.LOCAL:
                found = [self._item(key, b"") for key in body.keys[: self.page]]
                return Items(tuple(found), len(self.answers), len(body.keys) > self.page)
            case Scan() if leads or body.consistency is Consistency.LOCAL:
                return self._scan(at.shard, body)
        if not leads:
            address = self.address(self.leader) if self.leader else ""
            return Refusal(Code.NOT_LEADER, message="not here", leader=self.leader, leader_address=address)
        match body:
            case OpenSession():
                self.sessions += 1
                return SessionOpened(self.sessions, 60_000)
            case CloseSession():
                return Written()
            case Put() | Delete() | Transact():
                return self._apply(at, body)
        raise AssertionError(f"no usual answer to {body}")

    def _apply(self, at: At, body: Put | Delete | Transact) -> Written | Transacted:
        first = self.answers.get((body.session, body.sequence))
        if first is not None and body.session:
            return replace(first, duplicate=True)
        revision = Revision(len(self.answers) + 1, 0)
        answer: Written | Transacted
        if isinstance(body, Transact):
            answer = self._transact(at, body.txn, revision)
        else:
            answer = Written(revision, existed=body.key in self.store)
            self._set(body.key, body.value if isinstance(body, Put) else None, revision)
        self.answers[(body.session, body.sequence or -len(self.answers))] = answer
        return answer

    def _transact(self, at: At, txn: ringbeam.Txn, revision: Revision) -> Transacted:
        assert all(self._is_on(at.shard, key) for key in txn.keys), "a transaction went to a shard without its keys"
        succeeded = all(self._holds(compare) for compare in txn.when)
        steps = txn.then if succeeded else txn.otherwise
        before = [self._item(step.key, b"") for step in steps if isinstance(step, ringbeam.Get)]
        for step in steps:
            if not isinstance(step, ringbeam.Get):
                self._set(step.key, step.value if isinstance(step, ringbeam.Put) else None, revision)
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

    def _scan(self, shard: int, scan: Scan) -> Items:
        within = [key for key in sorted(self.store) if scan.start <= key and (not scan.end or key < scan.end)]
        here = [key for key in within if self._is_on(shard, key)]
        most = min(scan.limit or self.page, self.page)
        keys = (here[::-1] if scan.backward else here)[:most]
        items = tuple(item for key in keys if (item := self._item(key, key)) is not None)
        if scan.keys_only:
            items = tuple(replace(item, value=b"") for item in items)
        return Items(items, len(self.answers), len(here) > most)

    def _item(self, key: bytes, named: bytes) -> Item | None:
        return Item(named, self.store[key], self.revisions[key]) if key in self.store else None

    def _is_on(self, shard: int, key: bytes) -> bool:
        return slot_of(key) * self.shards // 4096 == shard

    def _set(self, key: bytes, value: bytes | None, revision: Revision) -> None:
        """None: removes it."""
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
                    self.asked.append((at, body))
                    act = self.script(self, at, body) or self.usual(at, body)
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
            writer.transport.abort()


async def nobody() -> str:
    """An address where nobody listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return f"127.0.0.1:{port}"
