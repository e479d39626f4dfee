"""Watching a range of keys: on each shard that has a part of it, over any node, going on by itself after a disconnect.

    Watch -> per shard: a node, a connection of its own -> WatchStarted -> Events -> Events -> .. lost -> another,
                                                                              |                 behind the last index
                                                                              v
             async for event in watch        <-  what waits, up to WATCH_EVENTS_MAX; then the node has to wait

A connection of its own, so that who is slow to take events holds up no replies: it is not read then, the node sees a
full socket, and pauses the watch.

Invariants
- Each change of the range behind where the watch began is given out, in the order of its shard, or the watch ends with
  an error, or a copy begins anew (`Batch.copy_begins`): never a gap in silence.
- A watch that begins now, also at a node that lags behind, begins behind all that the client's session has seen.
- `token` covers exactly what was given out, up to whole batches: whoever goes on with it gets what came after it, and
  perhaps the last batch again.

Not here: bytes (`_traffic.py`), which node (`_readers.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import getrandbits
from types import TracebackType
from typing import Final

from ringbeam._answers import ABSENT, Revision
from ringbeam._call import Core, odd
from ringbeam._connection import Connection
from ringbeam._consistency import Marks
from ringbeam._errors import Compacted, ConnectError, Error, ProtocolError, Refused, Timeout
from ringbeam._events import Event, EventKind, Events, WatchEnded, WatchStarted
from ringbeam._limits import WATCH_EVENTS_MAX
from ringbeam._refusal import Code, Refusal
from ringbeam._requests import Watch as Ask
from ringbeam._retry import Lost, backoff
from ringbeam._shard import NotFound
from ringbeam._watch_token import Place, encode
from ringbeam._wire import Answer

POSITION_MAX: Final = (1 << 32) - 1
"""The position of a revision behind all others of its index."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one shard that came together."""

    shard: int
    events: tuple[Event, ...]
    index: int
    """Everything up to this log index of the shard has come. Events behind it are a part of a large batch of writes,
    more of which follows."""
    ring_time_ms: int
    """Ring time at that index, milliseconds."""
    copy_begins: bool
    """A copy of what the range has in this shard begins: what is known of it is over. At the start of a watch with a
    snapshot; again, if that was interrupted; and when changes were lost, to a watch that conflates or restarts."""
    copy_ends: bool
    """That was all of it: what has not come is not there."""


class _Lane:
    """The watch on one shard."""

    __slots__ = (
        "_size",
        "ask",
        "compacted",
        "connection",
        "copy_due",
        "copying",
        "error",
        "over",
        "received",
        "restart",
        "seen",
        "shard",
        "started",
        "taken",
        "task",
        "tried",
        "waiting",
        "wake",
    )

    def __init__(self, shard: int, ask: Ask, place: Revision | None, restart: bool, wake: asyncio.Event) -> None:
        self.shard = shard
        self.ask = ask
        self.seen = 0
        """Changes up to this log index were seen before it began: a node that lags behind has them still to come."""
        self.restart = restart
        """When changes are lost, begin anew with a copy."""
        self.received = place
        """Up to where everything has come; None: it has not begun."""
        self.taken = place
        """And was given out; None: it has to begin with a copy."""
        self.copy_due = ask.snapshot
        """A copy is to begin, or has not come to its end."""
        self.copying = False
        """Part of one has come over the present connection."""
        self.waiting: deque[tuple[Batch, Place]] = deque()
        """What has come and was not given out, and where one is behind it."""
        # Its events, and one more for each message.
        self._size = 0
        self.wake = wake
        self.connection: Connection | None = None
        self.started = asyncio.Event()
        self.over: asyncio.Future[Answer | Lost] | None = None
        """How the present connection's part ends."""
        self.error: Error | None = None
        """Why there is nothing more to come."""
        self.compacted: dict[str, Compacted] = {}
        """Nodes that do not keep what comes next."""
        self.tried: set[str] = set()
        """Nodes that were asked, or could not be reached, since one has last taken the watch."""
        self.task: asyncio.Task[None] | None = None

    def next_ask(self) -> Ask:
        """What to ask the next node for."""
        return replace(self.ask, after=None if self.copy_due else self.received, snapshot=self.copy_due)

    def hear(self, answer: Answer | Lost) -> None:
        """A message of the present connection."""
        match answer:
            case WatchStarted():
                self.compacted.clear()
                self.tried.clear()
                if self.received is None:
                    self.received = Revision(max(answer.index, self.seen), POSITION_MAX)
                    self.taken = None if self.copy_due else self.received
                self.started.set()
            case Events():
                self._add(answer)
            case _:
                if self.over is not None and not self.over.done():
                    self.over.set_result(answer)

    def _add(self, events: Events) -> None:
        copied = events.snapshot_ends or any(event.kind is EventKind.SNAPSHOT for event in events.events)
        begins = copied and not self.copying
        self.copying = (self.copying or copied) and not events.snapshot_ends
        self.copy_due = (self.copy_due or copied) and not events.snapshot_ends
        changes = [event.revision for event in events.events if event.kind is not EventKind.SNAPSHOT]
        self.received = max([Revision(events.index, POSITION_MAX), *changes, self.received or ABSENT])
        told = (events.index, events.ring_time_ms, begins, events.snapshot_ends)
        new = events.events
        if changes and min(changes).index <= self.seen:
            new = tuple(event for event in new if event.kind is EventKind.SNAPSHOT or event.revision.index > self.seen)
        self.waiting.append((Batch(self.shard, new, *told), None if self.copy_due else self.received))
        self._size += len(new) + 1
        self.wake.set()
        if self.connection is not None and self._size > WATCH_EVENTS_MAX:
            self.connection.hold(True)

    def take(self) -> tuple[Batch, Place]:
        """The next batch that has come."""
        batch, place = self.waiting.popleft()
        self._size -= len(batch.events) + 1
        if self.connection is not None and self._size <= WATCH_EVENTS_MAX // 2:
            self.connection.hold(False)
        return batch, place


class Watch:
    """Every change of a range of keys. Made by `Client.watch`; `async with` begins and ends it.

    Iterating gives each `Event`; `batches` gives them as they came together, and says where a snapshot begins and ends.
    It ends with an error only: `Compacted` when what comes next is no longer kept by any node in reach, `ConnectError`
    when the client is closed.
    """

    __slots__ = ("__weakref__", "_batch", "_core", "_given", "_idle", "_lanes", "_seen", "_timeout", "_wake")

    def __init__(
        self,
        core: Core,
        ask: Ask,
        shards: Sequence[int],
        places: Mapping[int, Place],
        seen: Marks,
        restart: bool,
        idle: bool,
        timeout: float,
    ) -> None:
        """`places`: where shards go on; those that are not in it begin as `ask` says. `seen`: by the session."""
        self._core = core
        self._seen = seen
        self._timeout = timeout
        # Whether batches without events are given out.
        self._idle = idle
        self._wake = asyncio.Event()
        self._lanes = []
        for shard in shards:
            place = places.get(shard)
            asked = replace(ask, snapshot=place is None) if shard in places else ask
            self._lanes.append(_Lane(shard, asked, place, restart, self._wake))
        # What is being given out by event, how far, and where one is behind it.
        self._batch: tuple[_Lane, Batch, Place] | None = None
        self._given = 0

    async def __aenter__(self) -> Watch:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        for lane in self._lanes:
            if lane.task is not None and not lane.task.get_loop().is_closed():
                lane.task.cancel()

    async def start(self) -> None:
        """Begins, which the first iteration does too: from here on nothing is missed. Timeout: no node could be found
        in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        for lane in self._lanes:
            if lane.task is None:
                if lane.received is None and not lane.copy_due:
                    lane.seen = self._seen.at[lane.shard]
                lane.task = loop.create_task(_follow(self._core, lane))
        for lane in self._lanes:
            assert lane.task is not None
            begun = asyncio.ensure_future(lane.started.wait())
            left = max(0.0, deadline - loop.time())
            await asyncio.wait({begun, lane.task}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
            if lane.error is not None:
                self.close()
                raise lane.error
            if not lane.started.is_set():
                self.close()
                raise Timeout(self._timeout, f"no node of shard {lane.shard} took the watch")

    def close(self) -> None:
        """Ends the watch."""
        for lane in self._lanes:
            if lane.task is not None:
                lane.task.cancel()
            if lane.connection is not None:
                lane.connection.close("the watch has ended")
            lane.error = lane.error or ConnectError("the watch was closed")
            lane.waiting.clear()
        self._wake.set()

    @property
    def token(self) -> bytes:
        """Where another watch of the same range goes on, of this or another process or SDK: `client.watch(..,
        after=token)`. A shard whose copy was not given out to its end begins with one."""
        places = {lane.shard: lane.taken for lane in self._lanes if lane.started.is_set() or lane.received is not None}
        return encode(self._core.routes.ring, self._core.routes.shards, places)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        while True:
            if self._batch is None:
                self._batch, self._given = await self._next(), 0
            lane, batch, place = self._batch
            while self._given < len(batch.events):
                event = batch.events[self._given]
                self._given += 1
                if self._given == len(batch.events):
                    lane.taken = place
                yield event
            lane.taken = place
            self._batch = None

    async def batches(self) -> AsyncIterator[Batch]:
        """Events as they came together, shard by shard."""
        while True:
            lane, batch, place = await self._next()
            lane.taken = place
            if batch.events or batch.copy_begins or batch.copy_ends or self._idle:
                yield batch

    async def _next(self) -> tuple[_Lane, Batch, Place]:
        await self.start()
        while True:
            for at, lane in enumerate(self._lanes):
                if lane.waiting:
                    # The others come first the next time.
                    self._lanes = [*self._lanes[at + 1 :], *self._lanes[: at + 1]]
                    return lane, *lane.take()
                if lane.error is not None:
                    self.close()
                    raise lane.error
            self._wake.clear()
            await self._wake.wait()


async def _follow(core: Core, lane: _Lane) -> None:
    """Watches one shard until there is nothing more to be had, which `lane.error` says."""
    loop = asyncio.get_running_loop()
    shard = core.shard(lane.shard)
    attempts = 0
    try:
        while lane.error is None:
            began = loop.time()
            try:
                connection = await core.finder.own(shard, lane.tried)
            except NotFound as nobody:
                lane.error = nobody.lasting or ConnectError(nobody.why)
                return
            lane.connection, lane.copying = connection, False
            lane.over = loop.create_future()
            lane.tried.add(connection.address)
            connection.follow(lane.next_ask(), lane.hear)
            try:
                outcome = await lane.over
            finally:
                lane.connection = None
                connection.close("this part of the watch has ended")
            lane.error = _lasting(lane, connection, outcome, {one.address for one in core.routes.candidates()})
            shard.readers.failed(connection.address, loop.time())
            attempts = 1 if loop.time() - began > 1.0 else attempts + 1
            if lane.error is None:
                await asyncio.sleep(backoff(attempts, getrandbits(64)))
    finally:
        lane.wake.set()


def _lasting(lane: _Lane, connection: Connection, outcome: Answer | Lost, nodes: set[str]) -> Error | None:
    """Why the watch cannot go on at another node, of these; None: it can."""
    if isinstance(outcome, Lost):
        return ProtocolError(connection.why_closed()) if connection.nonsense else None
    if isinstance(outcome, WatchEnded):
        try:
            code = Code(outcome.code)
        except ValueError:
            code = Code.INTERNAL
        refusal = Refusal(code, message=outcome.message)
        if code is Code.COMPACTED:
            # Another node may keep more. One that is down is not waited for: what is lost would never be told.
            lane.compacted[connection.address] = Compacted(refusal, lane.shard, outcome.oldest)
            if not nodes <= lane.tried | lane.compacted.keys():
                return None
            if not lane.restart:
                return min(lane.compacted.values(), key=lambda gone: gone.oldest)
            lane.copy_due = True
            return None
        return None if code in _ELSEWHERE else Refused(refusal)
    if isinstance(outcome, Refusal):
        return None if outcome.code in _ELSEWHERE else Refused(outcome)
    return odd(outcome)


_ELSEWHERE: Final = frozenset(
    {
        Code.NOT_LEADER,
        Code.OVERLOADED,
        Code.SHARD_FAULT,
        Code.NOT_SERVING,
        Code.SHUTTING_DOWN,
        Code.NOT_FRESH,
        Code.TOO_MANY_WATCHES,
        # Asked again, it says what it still has.
        Code.WATCH_TOO_SLOW,
    }
)
