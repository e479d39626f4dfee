"""What a client keeps per shard: who leads it, whom it reads from, its session, and who waits for what.

Everything here runs in one event loop between two awaits, so there is no lock but those that are held across awaits.

Not here: finding leaders (`_leader.py`), opening sessions (`_call.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque

from ringbeam._connection import Connection
from ringbeam._refusal import Refusal
from ringbeam._retry import Lost
from ringbeam._session import NoTicket, Session, Ticket


class Shard:
    """See the head of this file."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.leader: Connection | None = None
        self.reader: Connection | None = None
        self.session = Session()
        self.finding = asyncio.Lock()
        """Held by the one task that looks for the leader; the others wait for it."""
        self.opening: asyncio.Task[tuple[Connection, Refusal | Lost] | None] | None = None
        """The task that opens a session, while it does: for all who wait, whoever began it. Its end says where and
        how it failed."""
        # Where a redirect points, until somebody has gone there.
        self._named: str | None = None
        # Tasks that wait for room in the session, the longest first.
        self._waiters: deque[asyncio.Future[None]] = deque()

    def begin_write(self) -> tuple[Connection, Ticket] | None:
        """Everything a write needs, when it is all there: the usual case."""
        if self.leader is None:
            return None
        ticket = self.session.begin()
        return None if isinstance(ticket, NoTicket) else (self.leader, ticket)

    def open_leader(self) -> Connection | None:
        """The leader's connection if it is open."""
        return self.leader if self.leader is not None and self.leader.is_open else None

    def not_leader(self, connection: Connection, named: str | None) -> None:
        """This connection does not reach the leader any more; perhaps `named` does. News of another one than the
        present leader's is old and changes nothing."""
        if self.leader is connection:
            self.leader = None
            self._named = named

    def not_reader(self, connection: Connection) -> None:
        """This connection is no good to read from."""
        if self.reader is connection:
            self.reader = None

    def take_named(self) -> str | None:
        """Where a redirect points; told once."""
        named, self._named = self._named, None
        return named

    def session_opened(self, id: int, window: int) -> None:
        self.session.opened(id, window)
        self._wake(len(self._waiters))

    def session_expired(self, id: int) -> None:
        self.session.expired(id)
        self._wake(len(self._waiters))

    def settle(self, ticket: Ticket) -> None:
        """Nobody will send this ticket again: its caller has the answer, or has given up, or is gone."""
        freed = self.session.settle(ticket)
        if freed and self._waiters:
            self._wake(freed)

    async def wait_for_room(self, deadline: float) -> None:
        """Returns when it is worth another look whether the session has room. Raises TimeoutError."""
        if self.session.id == 0 or self.session.room > 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(woken)
        try:
            async with asyncio.timeout_at(deadline):
                await woken
        except BaseException:
            if woken.done() and not woken.cancelled():
                # Woken and ended at once: the room is somebody else's.
                self._wake(1)
            elif woken in self._waiters:
                self._waiters.remove(woken)
            raise

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
