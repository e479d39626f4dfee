"""A ring of fake nodes in this process that speaks the real wire: what the SDK is tested against.

Every request is noted in `asked`. A test's `script` may answer it; what it leaves to the fake is answered as a good
ring would: the leader writes into one map with exactly-once by (session, sequence), the others redirect.

Not here: limits, expiry of sessions, floors: a script plays them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from flatbuffers import Builder

from ringbeam import Code, Member, Revision, Role, SlotRange, Status, Topology, Value, Written
from ringbeam._answers import Absent, Consistency, Done, SessionOpened, Welcome
from ringbeam._frame import Decoder, frame
from ringbeam._refusal import Refusal
from ringbeam._schema import schema_generated as schema
from ringbeam._wire import (
    Answer,
    Body,
    CloseSession,
    Delete,
    Get,
    GetStatus,
    GetTopology,
    Hello,
    OpenSession,
    Ping,
    Put,
)

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
    answers: dict[tuple[int, int], Written] = field(default_factory=dict)
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
        if not leads:
            address = self.address(self.leader) if self.leader else ""
            return Refusal(Code.NOT_LEADER, message="not here", leader=self.leader, leader_address=address)
        match body:
            case OpenSession():
                self.sessions += 1
                return SessionOpened(self.sessions, 60_000)
            case CloseSession():
                return Written()
            case Put():
                return self._apply(body, body.key in self.store, lambda: self.store.update({body.key: body.value}))
            case Delete():
                return self._apply(body, body.key in self.store, lambda: self.store.pop(body.key, None))
        raise AssertionError(f"no usual answer to {body}")

    def _apply(self, body: Put | Delete, existed: bool, act: Callable[[], object]) -> Written:
        first = self.answers.get((body.session, body.sequence))
        if first is not None and body.session:
            return replace(first, duplicate=True)
        act()
        written = Written(Revision(len(self.answers) + 1, 0), existed=existed)
        self.answers[(body.session, body.sequence or -len(self.answers))] = written
        return written

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
            body = Hello(message.VersionMin(), message.VersionMax(), message.Features(), message.Ring(), name)
        case "Put":
            parts = (message.Namespace() or b"", vector(message, 6), vector(message, 8))
            body = Put(*parts, message.Session(), message.Sequence(), message.AnsweredBelow())
        case "Delete":
            pair = (message.Namespace() or b"", vector(message, 6))
            body = Delete(*pair, message.Session(), message.Sequence(), message.AnsweredBelow())
        case "Get":
            body = Get(message.Namespace() or b"", vector(message, 6), Consistency(message.Consistency()))
        case "OpenSession":
            body = OpenSession()
        case "CloseSession":
            body = CloseSession(message.Session())
        case "GetTopology":
            body = GetTopology()
        case "GetStatus":
            body = GetStatus()
        case "Ping":
            body = Ping()
        case other:
            raise AssertionError(f"the SDK has no request {other}")
    return request.Id(), request.DeadlineMs(), body


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
