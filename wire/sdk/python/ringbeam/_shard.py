"""What a client keeps per shard: who leads it, whom it reads from, its session, and who waits for what.

Everything here runs in one event loop between two awaits, so there is no lock but those that are held across awaits.

Not here: finding leaders (`_leader.py`), opening sessions (`_call.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ringbeam._connection import Connection
from ringbeam._errors import Error
from ringbeam._pace import Flow, share, spread
from ringbeam._readers import Readers
from ringbeam._refusal import Refusal
from ringbeam._retry import Lost
from ringbeam._session import NoTicket, Session, Ticket


class NotFound(Exception):
    """No node to talk to before the deadline. `lasting`: set when waiting longer would not have helped."""

    def __init__(self, why: str, lasting: Error | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.lasting = lasting


class Shard:
    """See the head of this file."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.leader: Connection | None = None
        self.readers: Readers[Connection] = Readers()
        """Whom it reads from, where any node will do."""
        self.session = Session()
        self.finding: asyncio.Task[NotFound | None] | None = None
        """The task that looks for the leader, while it does: for all who wait, whoever began it."""
        self.why = ""
        """What its last round came to."""
        self.opening: asyncio.Task[tuple[Connection, Refusal | Lost] | None] | None = None
        """The task that opens a session, while it does: for all who wait, whoever began it. Its end says where and
        how it failed."""
        self.news = asyncio.Event()
        """Set when a node that is followed says that another one leads."""
        # The latest leader that a node told of, as (term, node): of a term that has two, the one with the greater id is
        # the later.
        self._led = (0, 0)
        self.flow = Flow()
        """First attempts of calls."""
        # Tasks that wait for a leader.
        self._searching = 0
        # Since when there has been no leader, and how many calls a second there were then.
        self._leaderless: tuple[float, float] | None = None
        # When the leader was found last, and within how long those that waited for it go.
        self._found = (0.0, 0.0)
        self.denied = 0
        """The node that has said last that it does not lead: others may go on naming it for a while."""
        # Where a redirect points, until somebody has gone there.
        self._named: str | None = None
        # Tasks that wait for room in the session, the longest first.
        self._waiters: deque[asyncio.Future[None]] = deque()

    def begin_write(self, now: float) -> tuple[Connection, Ticket] | None:
        """Counts a write's first attempt. Everything it needs, when it is all there: the usual case."""
        self.flow.begin(now)
        if self.leader is None:
            return None
        ticket = self.begin(now)
        return None if isinstance(ticket, NoTicket) else (self.leader, ticket)

    def begin(self, now: float) -> Ticket | NoTicket:
        """A place in the session."""
        session, floor = self.session, self.session.floor
        if session.holds:
            session.release_before(now)
        ticket = session.begin()
        if session.floor != floor:
            self._wake(session.floor - floor)
        return ticket

    def open_leader(self) -> Connection | None:
        """The leader's connection if it is open."""
        return self.leader if self.leader is not None and self.leader.is_open else None

    def lead_by(self, connection: Connection, at_once: bool, now: float) -> None:
        """The leader is found. Those that waited for it are let go by and by: see `_pace.py`. `at_once`: by a search
        that did not have to wait for there to be one; then nobody has waited for longer than this one look."""
        if self._leaderless is not None:
            since, per_second = self._leaderless
            self._leaderless = None
            self._found = (now, 0.0 if at_once else spread(self._searching, per_second, now - since))
        if self.denied == connection.welcome.node:
            self.denied = 0
        self.leader = connection

    @contextmanager
    def search(self, now: float) -> Iterator[None]:
        """Counts a task that waits for a leader."""
        self._searching += 1
        # Unless another task has found it since this one looked.
        if self._leaderless is None and self.open_leader() is None:
            self._leaderless = (now, self.flow.per_second(now))
        try:
            yield
        finally:
            self._searching -= 1

    @property
    def sought(self) -> bool:
        """Somebody waits for a leader."""
        return self._searching > 0

    @property
    def leaderless_since(self) -> float:
        """Since when there has been no leader."""
        return asyncio.get_running_loop().time() if self._leaderless is None else self._leaderless[0]

    def share(self, now: float, dice: int) -> float:
        """For how long a task still waits that has waited for the leader, now that it is found, seconds."""
        found, window = self._found
        return max(0.0, found + share(window, dice) - now)

    def told(self, term: int, leader: int, address: str, now: float) -> None:
        """A node that this client follows says who leads. News that is older than what is known changes nothing."""
        if (term, leader) <= self._led:
            return
        self._led = (term, leader)
        if self.leader is None or self.leader.welcome.node != leader:
            if self.leader is not None:
                self.not_leader(self.leader, address, now)
            if not self.sought:
                # If nobody has waited for it, who calls next is not to wait for what passed until then.
                self._leaderless = None
            self._named = address
            self.news.set()

    def not_leader(self, connection: Connection, named: str | None, now: float) -> None:
        """This connection does not reach the leader any more; perhaps `named` does. News of another one than the
        present leader's is old and changes nothing."""
        if self.leader is connection:
            if self._leaderless is None:
                self._leaderless = (now, self.flow.per_second(now))
            self.leader = None
            self._named = named

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

    def hold(self, ticket: Ticket, until: float) -> None:
        """The outcome of this write is unknown to its caller, who may ask for it: its answer is to be kept for a
        while."""
        self._wake(self.session.hold(ticket, until))

    def release(self, session: int, sequence: int) -> None:
        """Nobody asks any more for the outcome of this write."""
        self._wake(self.session.release(session, sequence))

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
