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
from typing import TypeVar, get_args

from ringbeam._answers import (
    Absent,
    Consistency,
    Counted,
    Items,
    LeaseStatus,
    RangeDeleted,
    SessionOpened,
    Topology,
    Transacted,
    Value,
    Written,
)
from ringbeam._budget import Budget, costs
from ringbeam._connection import Connection, Outcome
from ringbeam._consistency import Freshness, Marks, fresh
from ringbeam._errors import ConnectError, Error, ProtocolError, Refused, Timeout, Unknown
from ringbeam._leader import Finder, deadline_ms
from ringbeam._limits import FRESH_PATIENCE, FRESH_READERS_TRIED, OUTCOME_HELD, TIMEOUT_DEFAULT
from ringbeam._pool import Pool
from ringbeam._refusal import Code, Refusal, check_key, check_namespace, check_value
from ringbeam._requests import (
    Add,
    Body,
    CloseSession,
    Delete,
    Extend,
    Get,
    GetLease,
    GetMany,
    GetTopology,
    GrantLease,
    KeepLease,
    OpenSession,
    Put,
    Read,
    Resolve,
    RevokeLease,
    Scan,
    Transact,
    Unpin,
    Write,
)
from ringbeam._retry import Effort, Kind, Leader, Lost, Trouble, Verdict
from ringbeam._routing import Routes
from ringbeam._session import NoTicket, Ticket
from ringbeam._shard import NotFound, Shard
from ringbeam._slots import slot_of
from ringbeam._transaction import Get as GetStep
from ringbeam._transaction import check_keys, check_size
from ringbeam._wire import Answer

_T = TypeVar("_T")
_Changed = TypeVar("_Changed", Written, Transacted, Counted, RangeDeleted, LeaseStatus)

Keyed = Put | Delete | Add | Extend
"""Writes of one key."""

Repeatable = GetTopology | Resolve | GrantLease | KeepLease | RevokeLease | GetLease
"""Commands to a shard's leader that may be asked for again as they are."""

What = Write | Read | Repeatable
"""What is asked, without the ticket."""

_WRITES = get_args(Write)
_READS = get_args(Read)

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
    at: str | None = None
    """The address of the only node that can answer it; None: the leader, or any, as `what` says."""

    @property
    def reads_anywhere(self) -> bool:
        """Any node may answer it."""
        return isinstance(self.what, _READS) and self.what.consistency is not Consistency.LINEARIZABLE

    @property
    def waits_for_freshness(self) -> bool:
        """It waits for a node to be fresh enough, and another may be."""
        return _waits_for_freshness(self.what)

    def body(self, ticket: Ticket | None) -> Body:
        what = self.what
        if ticket is None or not isinstance(what, _WRITES):
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

    async def write(self, what: Keyed, answer_kind: type[_Changed], timeout: float, seen: Marks) -> _Changed:
        """A write of one key."""
        refuse(check_namespace(what.namespace) or check_key(what.key))
        return await self.write_to(what, self.routes.table[slot_of(what.key)], answer_kind, timeout, seen)

    async def write_to(
        self, what: Write, number: int, answer_kind: type[_Changed], timeout: float, seen: Marks
    ) -> _Changed:
        """A write to shard `number`. What is written has been checked."""
        answer = await self._write(what, number, self._loop.time() + timeout, timeout)
        if not isinstance(answer, answer_kind):
            raise odd(answer)
        seen.saw(number, answer.revision.index)
        return answer

    async def transact(self, what: Transact, timeout: float, seen: Marks) -> Transacted:
        table, txn = self.routes.table, what.txn
        refuse(check_namespace(what.namespace) or check_keys(txn, table))
        answer = await self.write_to(what, table[slot_of(txn.keys[0])], Transacted, timeout, seen)
        ran = txn.then if answer.succeeded else txn.otherwise
        asked = sum(isinstance(step, GetStep) for step in ran)
        if len(answer.gets) != asked:
            raise ProtocolError(f"a node answered a transaction of {asked} gets with what {len(answer.gets)} found")
        return answer

    async def read(
        self, namespace: bytes, key: bytes, consistency: Freshness, timeout: float, seen: Marks
    ) -> Value | Absent:
        """What one key has."""
        deadline = self._loop.time() + timeout
        refuse(check_namespace(namespace) or check_key(key))
        number = self.routes.table[slot_of(key)]
        what = Get(namespace, key, *fresh(consistency, seen.at[number]))
        answer, _ = await self._ask(what, number, deadline, timeout)
        if not isinstance(answer, Value | Absent):
            raise odd(answer)
        seen.saw(number, answer.index)
        return answer

    async def items(
        self,
        what: GetMany | Scan,
        number: int,
        deadline: float,
        timeout: float,
        seen: Marks,
        at: str | None = None,
    ) -> tuple[Items, str]:
        """What several keys of shard `number` have, and the address of the node that says so. What is asked has been
        checked. `at`: the only node that can say it, for what is linearizable as far as the wire is concerned."""
        answer, node = await self._ask(what, number, deadline, timeout, at)
        if not isinstance(answer, Items):
            raise odd(answer)
        seen.saw(number, answer.index)
        return answer, node.address

    def unpin(self, number: int, address: str, pin: int) -> None:
        """Tells a node that nobody needs a moment of shard `number` any more. If there is no connection to it now, it
        finds out by itself."""
        connection = self.pool.connected(address, number)
        if connection is not None:
            connection.say(Unpin(pin))

    async def _ask(
        self, what: Read, number: int, deadline: float, timeout: float, at: str | None = None
    ) -> tuple[Answer, Connection]:
        shard = self._shards[number]
        now = self._loop.time()
        shard.flow.begin(now)
        anywhere = what.consistency is not Consistency.LINEARIZABLE
        if at is not None:
            assert not anywhere, "what only one node can answer is not looked for elsewhere"
            node = self.pool.connected(at, number)
        else:
            node = shard.readers.current(now) if anywhere else shard.leader
        first = None
        if node is not None and deadline > now:
            outcome = await node.call(what, *_attempt(what, deadline, now))
            if not isinstance(outcome, _FAILED):
                node.breaker.answered()
                if anywhere:
                    shard.readers.answered(node.address)
                return outcome, node
            first = (node, None, outcome)
        return await self._carry_out(_Job(shard, Kind.READ, what, deadline, timeout, at), first)

    async def _write(self, what: Write, number: int, deadline: float, timeout: float) -> Answer:
        shard = self._shards[number]
        kind = Kind.EXACTLY_ONCE if self._sessions else Kind.AT_MOST_ONCE
        ready = shard.begin_write(self._loop.time())
        if ready is None:
            answer, _ = await self._carry_out(_Job(shard, kind, what, deadline, timeout))
            return answer
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
        answer, _ = await self._carry_out(job, (leader, ticket, outcome))
        return answer

    async def topology(self, shard: int, timeout: float) -> Topology:
        """A fresh topology, as the leader of `shard` sees it."""
        answer = await self.command(GetTopology(), shard, Topology, timeout)
        self.finder.learn(answer)
        return answer

    async def command(self, what: Repeatable, number: int, answer_kind: type[_T], timeout: float) -> _T:
        """Asks the leader of shard `number` for something that may be asked for again."""
        job = _Job(self.shard(number), Kind.READ, what, self._loop.time() + timeout, timeout)
        answer, _ = await self._carry_out(job)
        if isinstance(answer, answer_kind):
            return answer
        raise odd(answer)

    def shard(self, number: int) -> Shard:
        """The shard with this number. ProtocolError: there is none."""
        if not 0 <= number < len(self._shards):
            raise ProtocolError(f"there is no shard {number}, this ring has {len(self._shards)}")
        return self._shards[number]

    # ---- everything else ----

    async def _carry_out(
        self, job: _Job, first: tuple[Connection, Ticket | None, Outcome] | None = None
    ) -> tuple[Answer, Connection]:
        """The loop. `first`: an attempt that was made already; its ticket is settled here."""
        shard = job.shard
        effort = Effort(job.kind)
        ticket: Ticket | None = None
        last: tuple[Connection, Outcome] | None = None
        why: tuple[str, Refusal | None] = ("the time was up before it could be sent", None)
        # Nodes that could not answer a read that a fresher one may.
        too_old = 0
        anywhere = job.reads_anywhere
        if first is not None:
            last, ticket = (first[0], first[2]), first[1]
        try:
            while True:
                if last is not None:
                    connection, outcome = last
                    last = None
                    if not isinstance(outcome, _FAILED):
                        connection.breaker.answered()
                        if anywhere:
                            shard.readers.answered(connection.address)
                        return outcome, connection
                    if (
                        outcome is Trouble.DEADLINE_PASSED
                        and job.waits_for_freshness
                        and self._loop.time() < job.deadline
                    ):
                        # Only this attempt's time is over: another node may be quicker, and fresher.
                        outcome = Lost(sent=True)
                    if isinstance(outcome, Refusal):
                        connection.breaker.refused(outcome, self._loop.time(), getrandbits(64))
                        if outcome.code is Code.NOT_LEADER:
                            shard.denied = connection.welcome.node
                    why = _why(connection, outcome)
                    step = effort.after(outcome, getrandbits(64))
                    if isinstance(step, Verdict):
                        raise _error(step, why, job, ticket)
                    if costs(outcome, step.leader, effort.attempts) and not self._may_retry():
                        raise _error(effort.out_of_time(), _spent(why), job, ticket, self._loop.time())
                    if step.leader is not Leader.SAME:
                        named = outcome.leader_address if isinstance(outcome, Refusal) else None
                        shard.not_leader(connection, named if step.leader is Leader.NAMED else None, self._loop.time())
                        if anywhere:
                            shard.readers.failed(connection.address, self._loop.time())
                        too_old += job.waits_for_freshness
                    if step.new_session and ticket is not None:
                        shard.session_expired(ticket.session)
                        shard.settle(ticket)
                        ticket = None
                    if self._loop.time() + step.after >= job.deadline:
                        raise _error(effort.out_of_time(), why, job, ticket)
                    if step.after > 0:
                        await asyncio.sleep(step.after)
                anywhere = job.reads_anywhere and too_old < FRESH_READERS_TRIED
                try:
                    if job.at is not None:
                        connection = await self.finder.node(shard, job.at, job.deadline)
                    elif anywhere:
                        connection = await self.finder.reader(shard, job.deadline)
                    else:
                        connection = await self.finder.leader(shard, job.deadline)
                except NotFound as nobody:
                    if too_old and why[1] is not None:
                        # What was refused before says more than that nobody else was found.
                        raise Refused(why[1]) from None
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
                now = job.deadline - remaining
                times = _attempt(job.what, job.deadline, now) if anywhere else (job.deadline, deadline_ms(remaining))
                last = (connection, await connection.call(job.body(ticket), *times))
        finally:
            if ticket is not None:
                shard.settle(ticket)

    async def _take_ticket(self, job: _Job, connection: Connection) -> Ticket | tuple[Connection, Refusal | Lost]:
        """A place in the shard's session, which is opened if need be; or where and how the opening failed."""
        shard = job.shard
        while True:
            taken = shard.begin(self._loop.time())
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

    def told(self, topology: Topology) -> None:
        """A node that this client follows tells what has changed."""
        if topology.ring != self.routes.ring:
            return
        self.finder.learn(topology)
        address = self.routes.address_of(topology.leader)
        if address is not None and topology.shard < len(self._shards):
            self._shards[topology.shard].told(topology.term, topology.leader, address, self._loop.time())

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
        self.finder.close(self._shards)
        for task in self._reconsidering:
            task.cancel()
        for shard in self._shards:
            leader = shard.open_leader()
            # A session that has answers which somebody may still ask for ends by itself.
            if leader is not None and shard.session.id and not shard.session.holds:
                leader.close(_WHY_CLOSED, CloseSession(shard.session.id))
        await self.pool.close(_WHY_CLOSED)


def _waits_for_freshness(what: What) -> bool:
    return isinstance(what, _READS) and what.consistency in (Consistency.SESSION, Consistency.BOUNDED)


def _attempt(what: What, deadline: float, now: float) -> tuple[float, int]:
    """Until when an attempt at a node that may not be fresh enough waits, and what the node is told: another one may be
    fresher."""
    remaining = deadline - now
    if remaining <= FRESH_PATIENCE or not _waits_for_freshness(what):
        return deadline, deadline_ms(remaining)
    return now + FRESH_PATIENCE, deadline_ms(FRESH_PATIENCE)


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
    elif isinstance(what, Extend):
        refuse(check_value(what.delta, connection.welcome.value_bytes_max))
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
        session, sequence = 0, 0
        if ticket is not None:
            session, sequence = ticket.session, ticket.sequence
            job.shard.hold(ticket, asyncio.get_running_loop().time() + OUTCOME_HELD)
        return Unknown(job.shard.number, session, sequence, text)
    if verdict is Verdict.REFUSED and refusal is not None:
        return Refused(refusal)
    return Timeout(job.timeout if given_up_at is None else given_up_at - (job.deadline - job.timeout), text)


def odd(answer: Outcome) -> ProtocolError:
    """A node answered something else than was asked."""
    return ProtocolError(f"a node answered with {type(answer).__name__}, which is no answer to this request")
