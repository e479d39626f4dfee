"""The connections of a client: one per (node, shard), opened when first needed, shared by all tasks.

    open: TCP -> preamble, Hello -> Welcome of the right version, ring and shard -> Connection

Two tasks that need the same connection wait for one dial, which has a task of its own. A dial that failed answers
everyone for
CONNECT_FAILURE_SHARED, so that a thousand tasks knock once at a dead node and not a thousand times. Bounded by the
addresses ever known times shards.

Not here: which node (`_leader.py`), what runs over a connection (`_connection.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import getrandbits

from ringbeam._answers import Topology
from ringbeam._breaker import Breaker, admit
from ringbeam._connection import Connection, Doubt
from ringbeam._errors import ConnectError, Error, ProtocolError, Refused
from ringbeam._frame import VERSION
from ringbeam._limits import CLOSE_TIMEOUT, CONNECT_FAILURE_SHARED, CONNECT_TIMEOUT
from ringbeam._refusal import Refusal
from ringbeam._requests import FollowTopology
from ringbeam._retry import Lost
from ringbeam._wire import Answer

Told = Callable[[Topology], None]
"""Whom to tell what a node says of the topology by itself."""


class OpenError(Exception):
    """A connection could not be opened."""

    def __init__(self, cause: Refusal | str, address: str, nonsense: bool = False) -> None:
        super().__init__(f"{address}: {cause}")
        self.refusal = cause if isinstance(cause, Refusal) else None
        """The node refused the Hello."""
        self.nonsense = nonsense
        """What answers is not a node of this ring."""

    def error(self) -> Error:
        """What to tell a caller who cannot go on because of it."""
        if self.refusal is not None:
            return Refused(self.refusal)
        return ProtocolError(str(self)) if self.nonsense else ConnectError(str(self))


@dataclass(slots=True)
class _Entry:
    connection: Connection | None = None
    # The task that dials, while it does.
    dialling: asyncio.Task[None] | None = None
    failure: OpenError | None = None
    failed_at: float = 0.0

    def open(self) -> Connection | None:
        return self.connection if self.connection is not None and self.connection.is_open else None


class Pool:
    """See the head of this file."""

    def __init__(self, client: str, ring: int, doubt: Doubt, told: Told) -> None:
        self.ring = ring
        """The ring that nodes must belong to; 0 until the first answered."""
        self.closed = False
        self._client = client
        self._doubt = doubt
        self._told = told
        self._entries: dict[tuple[str, int], _Entry] = {}
        # Those of `open_own`.
        self._own: set[Connection] = set()
        # By address: what all connections to one node know of it together.
        self._breakers: dict[str, Breaker] = {}

    def connected(self, address: str, shard: int) -> Connection | None:
        """The open connection to this node and shard, if there is one."""
        entry = self._entries.get((address, shard))
        return entry.open() if entry is not None else None

    async def open(self, address: str, shard: int, deadline: float) -> Connection:
        """The connection to this node and shard, opened if need be, until `deadline` at most. Raises OpenError."""
        if self.closed:
            raise OpenError("the client is closed", address)
        entry = self._entries.setdefault((address, shard), _Entry())
        if (connection := entry.open()) is not None:
            return connection
        loop = asyncio.get_running_loop()
        if entry.failure is not None and loop.time() - entry.failed_at < CONNECT_FAILURE_SHARED:
            raise entry.failure
        if entry.dialling is None:
            entry.dialling = loop.create_task(self._keep(entry, address, shard))
        ended, _ = await asyncio.wait({entry.dialling}, timeout=max(0.0, deadline - loop.time()))
        if not ended:
            raise OpenError("no connection before the deadline", address)
        if (connection := entry.open()) is not None:
            return connection
        if self.closed or entry.failure is None:
            raise OpenError("the client is closed" if self.closed else "the connection ended at once", address)
        raise entry.failure

    async def _keep(self, entry: _Entry, address: str, shard: int) -> None:
        """Dials for all who wait, and keeps what comes of it. It has a time of its own: callers with little of it could
        go on ending it for ever where a handshake takes longer than that."""
        try:
            entry.failure = None
            entry.connection = await self._reach(address, shard)
            # A node that knows no such stream refuses it, which changes nothing.
            entry.connection.follow(FollowTopology(), self._hear, attended=False)
        except OpenError as failure:
            entry.failure = failure.with_traceback(None)
            entry.failed_at = asyncio.get_running_loop().time()
        finally:
            entry.dialling = None

    async def _reach(self, address: str, shard: int) -> Connection:
        """A new connection, within CONNECT_TIMEOUT."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._dial(address, shard)
        except OpenError as failure:
            # What is refused or makes no sense is an answer, and no reason to leave the node alone.
            if failure.refusal is None and not failure.nonsense and not self.closed:
                self._failed(address)
            raise
        except TimeoutError:
            self._failed(address)
            raise OpenError(f"no connection within {CONNECT_TIMEOUT:g} s", address) from None

    def _failed(self, address: str) -> None:
        self.breaker_of(address).failed(asyncio.get_running_loop().time(), getrandbits(64))

    async def open_own(self, address: str, shard: int) -> Connection:
        """A connection that nobody else has, for who may keep its node waiting. Raises OpenError."""
        if self.closed:
            raise OpenError("the client is closed", address)
        connection = await self._reach(address, shard)
        self._own = {own for own in self._own if own.is_open} | {connection}
        return connection

    def admit(self, addresses: Sequence[str]) -> list[str]:
        """Who of these may be asked: not those that failed again and again just now, but always somebody."""
        now = asyncio.get_running_loop().time()
        return [addresses[at] for at in admit([self.breaker_of(address).ask(now) for address in addresses])]

    def breaker_of(self, address: str) -> Breaker:
        """The breaker of the node at this address."""
        return self._breakers.setdefault(address, Breaker())

    def also_known_as(self, address: str, connection: Connection) -> None:
        """The same node is known under another address too."""
        entry = self._entries.setdefault((address, connection.welcome.shard), _Entry())
        if entry.open() is None:
            entry.connection = connection

    async def close(self, why: str) -> None:
        """Ends all connections. Last words that were said before get CLOSE_TIMEOUT to leave."""
        self.closed = True
        ended = [entry.connection for entry in self._entries.values() if entry.connection is not None]
        ended += self._own
        for entry in self._entries.values():
            if entry.dialling is not None:
                entry.dialling.cancel()
        self._entries.clear()
        self._own.clear()
        for connection in ended:
            connection.close(why)
        leaving = [asyncio.ensure_future(connection.gone.wait()) for connection in ended]
        if leaving:
            _, late = await asyncio.wait(leaving, timeout=CLOSE_TIMEOUT)
            for waiting in late:
                waiting.cancel()
        for connection in ended:
            connection.abort()

    def _hear(self, answer: Answer | Lost) -> None:
        """A topology that was not asked for again."""
        if isinstance(answer, Topology):
            self._told(answer)

    async def _dial(self, address: str, shard: int) -> Connection:
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        connection = Connection(address, self._doubt, self.breaker_of(address))
        try:
            await loop.create_connection(lambda: connection, host, port)
        except OSError as why:
            raise OpenError(f"cannot connect: {why}", address) from None
        try:
            answer = await connection.greet(shard, self.ring, self._client)
            if isinstance(answer, Refusal):
                raise OpenError(answer, address)
            if isinstance(answer, str):
                raise OpenError(answer, address, nonsense=connection.nonsense or connection.is_open)
            if answer.version != VERSION:
                speaks = f"the node speaks protocol version {answer.version}, this SDK speaks {VERSION}"
                raise OpenError(speaks, address, nonsense=True)
            if self.ring and answer.ring != self.ring:
                wrong = f"the node is of ring {answer.ring:x}, expected was {self.ring:x}"
                raise OpenError(wrong, address, nonsense=True)
            if answer.shard != shard:
                raise OpenError(f"shard {answer.shard} answered, asked was shard {shard}", address, nonsense=True)
            if self.closed:
                raise OpenError("the client is closed", address)
        except BaseException:
            connection.close("it was not opened")
            raise
        connection.welcome = answer
        return connection


def split_address(address: str) -> tuple[str, int]:
    """Host and port of host:port or [host]:port. Raises OpenError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise OpenError("this is no address, right is host:port, as in 127.0.0.1:7701", address)
    return host.removeprefix("[").removesuffix("]"), int(port)
