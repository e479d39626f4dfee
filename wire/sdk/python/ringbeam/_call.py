"""The way of a call: find the node, take a ticket, send, and do what `_retry.py` says until there is an answer or no
time.

    put -> shard of the key -> leader known, session open, room?  -- yes --> send --> Written
                                        | no                          | anything else
                                        v                             v
                               find leader, open session  <----  _retry.py: where, when, or why not

The first line runs without waiting for anything but the reply. Everything below it is one loop.

Invariants
- A ticket is settled exactly when nobody will send it again, however the call ends; a cancelled call counts.
- Opening a session sends nothing of the write itself, whatever becomes of it.

Not here: public names and arguments (`_client.py`), reads of several keys (`_reads.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from random import getrandbits

from ringbeam._answers import Absent, Consistency, SessionOpened, Topology, Transacted, Value, Written
from ringbeam._budget import Budget, costs
from ringbeam._connection import Connection, Outcome
from ringbeam._errors import ConnectError, Error, ProtocolError, Refused, Timeout, Unknown
from ringbeam._leader import Finder, NotFound, deadline_ms
from ringbeam._limits import TIMEOUT_DEFAULT
from ringbeam._pool import Pool
from ringbeam._refusal import Refusal, check_key, check_namespace, check_value
from ringbeam._requests import (
    Body,
    CloseSession,
    Delete,
    Get,
    GetMany,
    GetTopology,
    OpenSession,
    Put,
    Read,
    Scan,
    Transact,
    Write,
)
from ringbeam._retry import Effort, Kind, Leader, Lost, Trouble, Verdict
from ringbeam._routing import Routes
from ringbeam._session import NoTicket, Ticket
from ringbeam._shard import Shard
from ringbeam._slots import slot_of
from ringbeam._transaction import Get as GetStep
from ringbeam._transaction import check_keys, check_size
from ringbeam._wire import Answer

What = Write | Read | GetTopology
"""What is asked, without the ticket."""

_FAILED = (Refusal, Lost, Trouble)
"""An attempt that was not answered."""

_WHY_CLOSED = "the client was closed"


@dataclass(frozen=True, slots=True)
class _Job:
    """One call in the loop."""

    shard: Shard
    kind: Kind
    what: What
    deadline: float
    timeout: float

    def body(self, ticket: Ticket | None) -> Body:
        what = self.what
        if ticket is None or not isinstance(what, Put | Delete | Transact):
            return what
        return _with_ticket(what, ticket)


class Core:
    """What all views of a client share."""

    def __init__(self, pool: Pool, routes: Routes, sessions: bool) -> None:
        self.pool = pool
        self.routes = routes
        self.finder = Finder(pool, routes)
        self._sessions = sessions
        self._shards = [Shard(number) for number in range(routes.shards)]
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(self._loop.time())
        # Tasks that look for a later leader; the loop itself keeps only weak references.
        self._reconsidering: set[asyncio.Task[None]] = set()

    # ---- the usual way ----

    async def write(self, what: Put | Delete, timeout: float) -> Written:
        deadline = self._loop.time() + timeout
        refuse(check_namespace(what.namespace) or check_key(what.key))
        answer = await self._write(what, self.routes.table[slot_of(what.key)], deadline, timeout)
        if isinstance(answer, Written):
            return answer
        raise odd(answer)

    async def transact(self, what: Transact, timeout: float) -> Transacted:
        deadline = self._loop.time() + timeout
        table, txn = self.routes.table, what.txn
        refuse(check_namespace(what.namespace) or check_keys(txn, table))
        answer = await self._write(what, table[slot_of(txn.keys[0])], deadline, timeout)
        if not isinstance(answer, Transacted):
            raise odd(answer)
        ran = txn.then if answer.succeeded else txn.otherwise
        asked = sum(isinstance(step, GetStep) for step in ran)
        if len(answer.gets) != asked:
            raise ProtocolError(f"a node answered a transaction of {asked} gets with what {len(answer.gets)} found")
        return answer

    async def read(self, what: Get, timeout: float) -> Value | None:
        deadline = self._loop.time() + timeout
        refuse(check_namespace(what.namespace) or check_key(what.key))
        answer = await self.ask(what, self.routes.table[slot_of(what.key)], deadline, timeout)
        if isinstance(answer, Value):
            return answer
        if isinstance(answer, Absent):
            return None
        raise odd(answer)

    async def ask(self, what: Read, number: int, deadline: float, timeout: float) -> Answer:
        """Reads from shard `number`. What is asked has been checked."""
        shard = self._shards[number]
        now = self._loop.time()
        shard.flow.begin(now)
        node = shard.leader if what.consistency is Consistency.LINEARIZABLE else shard.reader
        remaining = deadline - now
        first = None
        if node is not None and remaining > 0:
            outcome = await node.call(what, deadline, deadline_ms(remaining))
            if not isinstance(outcome, _FAILED):
                node.breaker.answered()
                return outcome
            first = (node, None, outcome)
        return await self._carry_out(_Job(shard, Kind.READ, what, deadline, timeout), first)

    async def _write(self, what: Write, number: int, deadline: float, timeout: float) -> Answer:
        shard = self._shards[number]
        kind = Kind.EXACTLY_ONCE if self._sessions else Kind.AT_MOST_ONCE
        ready = shard.begin_write(self._loop.time())
        if ready is None:
            return await self._carry_out(_Job(shard, kind, what, deadline, timeout))
        leader, ticket = ready
        try:
            _check_size(what, leader)
            outcome = await leader.call(_with_ticket(what, ticket), deadline, deadline_ms(timeout))
        except BaseException:
            shard.settle(ticket)
            raise
        if not isinstance(outcome, _FAILED):
            leader.breaker.answered()
            shard.settle(ticket)
            return outcome
        job = _Job(shard, kind, what, deadline, timeout)
        return await self._carry_out(job, (leader, ticket, outcome))

    async def topology(self, shard: int, timeout: float) -> Topology:
        """A fresh topology, as the leader of `shard` sees it."""
        if not 0 <= shard < len(self._shards):
            raise ProtocolError(f"there is no shard {shard}, this ring has {len(self._shards)}")
        deadline = self._loop.time() + timeout
        job = _Job(self._shards[shard], Kind.READ, GetTopology(), deadline, timeout)
        answer = await self._carry_out(job)
        if not isinstance(answer, Topology):
            raise odd(answer)
        self.finder.learn(answer)
        return answer

    # ---- everything else ----

    async def _carry_out(self, job: _Job, first: tuple[Connection, Ticket | None, Outcome] | None = None) -> Answer:
        """The loop. `first`: an attempt that was made already; its ticket is settled here."""
        shard = job.shard
        effort = Effort(job.kind)
        ticket: Ticket | None = None
        last: tuple[Connection, Outcome] | None = None
        why: tuple[str, Refusal | None] = ("the time was up before it could be sent", None)
        avoid: str | None = None
        if first is not None:
            last, ticket = (first[0], first[2]), first[1]
        try:
            while True:
                if last is not None:
                    connection, outcome = last
                    last = None
                    if not isinstance(outcome, _FAILED):
                        connection.breaker.answered()
                        return outcome
                    if isinstance(outcome, Refusal):
                        connection.breaker.refused(outcome, self._loop.time(), getrandbits(64))
                    why = _why(connection, outcome)
                    step = effort.after(outcome, getrandbits(64))
                    if isinstance(step, Verdict):
                        raise _error(step, why, job, ticket)
                    if costs(outcome, step.leader) and not self._may_retry():
                        raise _error(effort.out_of_time(), _spent(why), job, ticket, self._loop.time())
                    if step.leader is not Leader.SAME:
                        named = outcome.leader_address if isinstance(outcome, Refusal) else None
                        shard.not_leader(connection, named if step.leader is Leader.NAMED else None, self._loop.time())
                        shard.not_reader(connection)
                        avoid = connection.address
                    if step.new_session and ticket is not None:
                        shard.session_expired(ticket.session)
                        shard.settle(ticket)
                        ticket = None
                    if self._loop.time() + step.after >= job.deadline:
                        raise _error(effort.out_of_time(), why, job, ticket)
                    if step.after > 0:
                        await asyncio.sleep(step.after)
                try:
                    connection = await self._find(job, avoid)
                except NotFound as nobody:
                    if nobody.lasting is not None and effort.out_of_time() is not Verdict.UNKNOWN:
                        raise nobody.lasting from None
                    if self.pool.closed and effort.out_of_time() is not Verdict.UNKNOWN:
                        raise ConnectError(_WHY_CLOSED) from None
                    raise _error(effort.out_of_time(), (nobody.why, None), job, ticket) from None
                if effort.out_of_time() is not Verdict.UNKNOWN:
                    _check_size(job.what, connection)
                if job.kind is Kind.EXACTLY_ONCE and ticket is None:
                    try:
                        taken = await self._take_ticket(job, connection)
                    except Timeout:
                        # What was refused before says more than that one more try came too late.
                        if why[1] is None:
                            raise
                        raise _error(effort.out_of_time(), why, job, None) from None
                    if not isinstance(taken, Ticket):
                        last = taken
                        continue
                    ticket = taken
                remaining = job.deadline - self._loop.time()
                if remaining <= 0:
                    raise _error(effort.out_of_time(), why, job, ticket)
                last = (connection, await connection.call(job.body(ticket), job.deadline, deadline_ms(remaining)))
        finally:
            if ticket is not None:
                shard.settle(ticket)

    async def _find(self, job: _Job, avoid: str | None) -> Connection:
        if isinstance(job.what, Get | GetMany | Scan) and job.what.consistency is Consistency.LOCAL:
            return await self.finder.reader(job.shard, avoid, job.deadline)
        return await self.finder.leader(job.shard, job.deadline)

    async def _take_ticket(self, job: _Job, connection: Connection) -> Ticket | tuple[Connection, Refusal | Lost]:
        """A place in the shard's session, which is opened if need be; or where and how the opening failed."""
        shard = job.shard
        while True:
            taken = shard.session.begin()
            if isinstance(taken, Ticket):
                return taken
            if taken is NoTicket.WINDOW_FULL:
                try:
                    await shard.wait_for_room(job.deadline)
                except TimeoutError:
                    full = "too many writes of this client are unanswered, and no answer came in time"
                    raise Timeout(job.timeout, full) from None
                continue
            if shard.opening is None:
                shard.opening = self._loop.create_task(self._open_session(shard, connection))
                shard.opening.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            opening = shard.opening
            done, _ = await asyncio.wait({opening}, timeout=max(0.0, job.deadline - self._loop.time()))
            if not done:
                raise Timeout(job.timeout, f"{connection.address} opened no session in time")
            failed = opening.result()
            if failed is not None:
                return failed

    async def _open_session(self, shard: Shard, connection: Connection) -> tuple[Connection, Refusal | Lost] | None:
        """Opens the shard's session for whoever waits for it. It has a deadline of its own: a session whose caller has
        gone is the next caller's. Were it dropped, the ring would keep it for its lifetime, one for every impatient
        call."""
        try:
            deadline = self._loop.time() + TIMEOUT_DEFAULT
            outcome = await connection.call(OpenSession(), deadline, deadline_ms(TIMEOUT_DEFAULT))
        finally:
            shard.opening = None
        if isinstance(outcome, SessionOpened) and outcome.session:
            shard.session_opened(outcome.session, connection.welcome.session_window)
            return None
        if isinstance(outcome, Refusal):
            # What is unknown is the session's fate, not the write's.
            return connection, replace(outcome, unknown=False)
        if isinstance(outcome, Lost | Trouble):
            return connection, Lost(sent=False)
        raise odd(outcome)

    def _may_retry(self) -> bool:
        """Takes a retry out of the budget."""
        self._budget.earn(sum(shard.flow.harvest() for shard in self._shards), self._loop.time())
        return self._budget.spend()

    def doubt(self, connection: Connection) -> None:
        """`connection` completes nothing: see whether another node leads."""
        shard = self._shards[connection.welcome.shard]
        task = self._loop.create_task(self.finder.reconsider(shard, connection))
        self._reconsidering.add(task)
        task.add_done_callback(self._reconsidering.discard)

    async def close(self) -> None:
        """The ring keeps a session's answers until it expires; a goodbye frees them at once."""
        if self.pool.closed:
            return
        self.pool.closed = True
        for task in self._reconsidering:
            task.cancel()
        for shard in self._shards:
            leader = shard.open_leader()
            if leader is not None and shard.session.id:
                leader.close(_WHY_CLOSED, CloseSession(shard.session.id))
        await self.pool.close(_WHY_CLOSED)


def _with_ticket(what: Write, ticket: Ticket) -> Write:
    session, sequence, below = ticket
    if isinstance(what, Put):  # by hand: what there is most of
        return Put(what.namespace, what.key, what.value, session, sequence, below, what.ttl_ms, what.lease)
    return replace(what, session=session, sequence=sequence, answered_below=below)


def refuse(refusal: Refusal | None) -> None:
    """Ends a call that would be refused, before anything of it is sent."""
    if refusal is not None:
        raise Refused(refusal)


def _check_size(what: What, connection: Connection) -> None:
    """What depends on the node's own limit."""
    if isinstance(what, Put):
        refuse(check_value(what.value, connection.welcome.value_bytes_max))
    elif isinstance(what, Transact):
        refuse(check_size(what.txn, connection.welcome.value_bytes_max))


def _why(connection: Connection, outcome: Refusal | Lost | Trouble) -> tuple[str, Refusal | None]:
    if isinstance(outcome, Refusal):
        return f"{connection.address}: {outcome}", outcome
    if isinstance(outcome, Lost):
        return connection.why_closed(), None
    if outcome is Trouble.BUSY:
        return f"too much is in flight to {connection.address}", None
    return f"{connection.address} did not answer in time", None


def _spent(why: tuple[str, Refusal | None]) -> tuple[str, Refusal | None]:
    """It would be tried again, but the client's retry budget is spent."""
    text, refusal = why
    spent = "; not tried again, as this client's retry budget is spent"
    return text + spent, refusal and replace(refusal, message=refusal.message + spent)


def _error(
    verdict: Verdict,
    why: tuple[str, Refusal | None],
    job: _Job,
    ticket: Ticket | None,
    given_up_at: float | None = None,
) -> Error:
    """`given_up_at`: before the deadline."""
    text, refusal = why
    if verdict is Verdict.UNKNOWN:
        session, sequence = (ticket.session, ticket.sequence) if ticket is not None else (0, 0)
        return Unknown(job.shard.number, session, sequence, text)
    if verdict is Verdict.REFUSED and refusal is not None:
        return Refused(refusal)
    return Timeout(job.timeout if given_up_at is None else given_up_at - (job.deadline - job.timeout), text)


def odd(answer: Outcome) -> ProtocolError:
    """A node answered something else than was asked."""
    return ProtocolError(f"a node answered with {type(answer).__name__}, which is no answer to this request")
