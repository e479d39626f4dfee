"""Finding the node to talk to: one task per shard looks for the leader while the others wait for it.

    redirect names an address?  -> go there
    else ask everyone at once: "who leads this shard, in which term?"
         the latest term with a leader wins (_routing.py) -> go there
    nobody knows -> wait 5 to 100 ms with full jitter (up to a second when there has been none for long), ask again
    found -> those who waited go by and by (_pace.py)

Asking brings the topology with it: after every change of leader the members are fresh.

Not here: which claim to believe (`_routing.py`), how long to wait (`_retry.py`), dialling (`_pool.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from ringbeam._answers import Topology
from ringbeam._connection import Connection
from ringbeam._errors import Error
from ringbeam._limits import CONNECT_TIMEOUT, DEADLINE_MARGIN_MAX, PROBE_GRACE, PROBE_TIMEOUT
from ringbeam._pace import search_again
from ringbeam._pool import OpenError, Pool
from ringbeam._refusal import Refusal
from ringbeam._requests import GetTopology
from ringbeam._retry import Lost, Trouble, backoff, lasts
from ringbeam._routing import Claim, Misfit, Routes, believe
from ringbeam._shard import Shard


class NotFound(Exception):
    """No node to talk to before the deadline. `lasting`: set when waiting longer would not have helped."""

    def __init__(self, why: str, lasting: Error | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.lasting = lasting


@dataclass(slots=True)
class _Poll:
    """What asking everyone brought."""

    asked: int
    left_alone: int
    """By their breakers."""
    claims: list[Claim] = field(default_factory=list)
    failures: list[OpenError] = field(default_factory=list)

    def hopeless(self) -> Error | None:
        """Everyone was asked, and everyone said something that time does not change."""
        if not self.failures or len(self.failures) < self.asked or self.left_alone:
            return None
        for failure in self.failures:
            if not failure.nonsense and (failure.refusal is None or not lasts(failure.refusal.code)):
                return None
        return self.failures[0].error()


class Finder:
    """Finds leaders and readers by asking the ring."""

    def __init__(self, pool: Pool, routes: Routes) -> None:
        self._pool = pool
        self._routes = routes

    async def leader(self, shard: Shard, deadline: float) -> Connection:
        """The leader's connection. Raises NotFound."""
        if (connection := shard.open_leader()) is not None:
            return connection
        loop = asyncio.get_running_loop()
        with shard.search(loop.time()) as since:
            try:
                async with asyncio.timeout_at(deadline):
                    await shard.finding.acquire()
            except TimeoutError:
                raise NotFound(f"no leader of shard {shard.number} was found in time") from None
            try:
                connection = await self._search(shard, since, deadline)
            finally:
                shard.finding.release()
        now = loop.time()
        wait = min(shard.share(now, getrandbits(64)), max(0.0, deadline - now) / 2)
        if wait > 0:
            await asyncio.sleep(wait)
        return connection

    async def _search(self, shard: Shard, since: float, deadline: float) -> Connection:
        """`since`: how long there has been no leader."""
        loop = asyncio.get_running_loop()
        rounds = 0
        while True:
            if (connection := shard.open_leader()) is not None:
                return connection
            if (named := shard.take_named()) is not None:
                try:
                    found = await self._pool.open(named, shard.number, deadline)
                except OpenError:
                    pass
                else:
                    shard.lead_by(found, loop.time())
                    return found
            poll = await self._ask_everyone(shard.number, deadline)
            try:
                found = await self._go_to_leader(shard.number, poll, deadline)
                shard.lead_by(found, loop.time())
                return found
            except NotFound as nobody:
                nobody.lasting = poll.hopeless()
                rounds += 1
                now = loop.time()
                wait = search_again(rounds, now - since, getrandbits(64))
                late = now + wait >= deadline
                if nobody.lasting is not None or late or self._pool.closed:
                    raise
            await asyncio.sleep(wait)

    async def reader(self, shard: Shard, avoid: str | None, deadline: float) -> Connection:
        """A node for local reads: own region first, then the connected; `avoid` failed just now and is tried last.
        Raises NotFound."""
        if shard.reader is not None and shard.reader.is_open:
            return shard.reader
        number = shard.number
        order = self._routes.readers(lambda at: self._pool.connected(at, number) is not None, getrandbits(64))
        order.sort(key=lambda address: address == avoid)
        rounds = 0
        why = f"no node serves reads of shard {number}"
        while True:
            for address in self._pool.admit(order):
                try:
                    shard.reader = await self._pool.open(address, number, deadline)
                    return shard.reader
                except OpenError as failure:
                    why = f"no node serves reads of shard {number}, the last asked: {failure}"
            rounds += 1
            wait = backoff(rounds, getrandbits(64))
            if asyncio.get_running_loop().time() + wait >= deadline or self._pool.closed:
                raise NotFound(why)
            await asyncio.sleep(wait)

    async def reconsider(self, shard: Shard, connection: Connection) -> None:
        """`connection` completes nothing. If it is the leader's, and another node leads in a later term, its calls move
        there: a leader that is cut off from its quorum, but not from us, would keep them until their deadlines."""
        if shard.leader is not connection:
            return
        deadline = asyncio.get_running_loop().time() + CONNECT_TIMEOUT
        poll = await self._ask_everyone(shard.number, deadline)
        believed = believe(poll.claims)
        if believed is None or believed.leader == connection.welcome.node:
            return
        try:
            next_leader = await self._go_to_leader(shard.number, poll, deadline)
        except NotFound:
            return
        if shard.leader is connection:
            shard.leader = next_leader
        connection.close("another node leads in a later term")

    async def topology_from(self, address: str, shard: int, deadline: float) -> tuple[Connection, Topology]:
        """One node's topology of one shard. Raises OpenError."""
        connection = await self._pool.open(address, shard, deadline)
        return connection, await ask_topology(connection, deadline)

    async def _go_to_leader(self, number: int, poll: _Poll, deadline: float) -> Connection:
        claim = believe(poll.claims)
        if claim is None:
            why = f"no leader of shard {number} is known to {poll.asked} nodes asked"
            if poll.failures:
                why += f", {len(poll.failures)} of them could not be asked: {poll.failures[0]}"
            if poll.left_alone:
                why += f"; {poll.left_alone} more are left alone for a moment, as they failed again and again"
            raise NotFound(why)
        address = self._routes.address_of(claim.leader)
        if address is None:
            missing = "but the topology has no client address of it"
            raise NotFound(f"node {claim.leader} leads shard {number}, {missing}")
        try:
            return await self._pool.open(address, number, deadline)
        except OpenError as failure:
            poll.failures.append(failure)
            raise NotFound(f"node {claim.leader} leads shard {number}, but {failure}") from None

    async def _ask_everyone(self, number: int, deadline: float) -> _Poll:
        """Asks all nodes who leads the shard. Waits for all of them, but not long once one has named a leader."""
        loop = asyncio.get_running_loop()
        everyone = self._routes.askable()
        askable = self._pool.admit(everyone)
        until = min(deadline, loop.time() + PROBE_TIMEOUT)
        poll = _Poll(asked=len(askable), left_alone=len(everyone) - len(askable))
        asking = {asyncio.create_task(self.topology_from(address, number, until)) for address in askable}
        try:
            while asking and (left := until - loop.time()) > 0:
                answered, asking = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in answered:
                    try:
                        connection, topology = task.result()
                    except OpenError as failure:
                        poll.failures.append(failure)
                        continue
                    self.learn(topology)
                    poll.claims.append(Claim(connection.welcome.node, topology.leader, topology.term))
                    if topology.leader:
                        until = min(until, loop.time() + PROBE_GRACE)
        finally:
            forget(asking)
        return poll

    def learn(self, topology: Topology) -> None:
        """Takes over a topology if it is news. One that does not fit is ignored: its sender is not of this ring."""
        try:
            self._routes.learn(topology)
        except Misfit:
            return


def forget(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Ends tasks whose answers nobody wants any more, also those that have failed by now."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def ask_topology(connection: Connection, deadline: float) -> Topology:
    """The topology that one node knows. Raises OpenError."""
    told = deadline_ms(deadline - asyncio.get_running_loop().time())
    outcome = await connection.call(GetTopology(), deadline, told)
    if isinstance(outcome, Topology):
        connection.breaker.answered()
        return outcome
    if isinstance(outcome, Refusal):
        raise OpenError(outcome, connection.address)
    if isinstance(outcome, Lost):
        raise OpenError(str(connection.closed), connection.address, nonsense=connection.nonsense)
    if isinstance(outcome, Trouble):
        raise OpenError("no answer to GetTopology in time", connection.address)
    wrong = f"{type(outcome).__name__} is no answer to GetTopology"
    raise OpenError(wrong, connection.address, nonsense=True)


def deadline_ms(remaining: float) -> int:
    """What the server is told of `remaining` seconds: see DEADLINE_MARGIN_MAX."""
    told = remaining - min(remaining / 8, DEADLINE_MARGIN_MAX)
    return min(max(int(told * 1000), 1), (1 << 32) - 1)
