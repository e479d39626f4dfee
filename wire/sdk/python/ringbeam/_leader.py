"""Finding the node to talk to: a task per shard looks for the leader while the callers wait for it.

    redirect names an address?  -> go there
    else ask everyone at once: "who leads this shard, in which term?"
         the latest term with a leader wins (_routing.py) -> go there
    nobody answers, though some can be reached -> take one of them for the leader: it is, or it redirects
    nobody knows -> wait 5 to 100 ms with full jitter (up to a second when there has been none for long), ask again
    found -> those who waited go by and by (_pace.py)

Asking brings the topology with it: after every change of leader the members are fresh.

Not here: which claim to believe (`_routing.py`), how long to wait (`_retry.py`), dialling (`_pool.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any

from ringbeam._answers import Done, Topology
from ringbeam._connection import Connection
from ringbeam._errors import Error
from ringbeam._limits import CONNECT_TIMEOUT, DEADLINE_MARGIN_MAX, PROBE_GRACE, PROBE_TIMEOUT, SURVEY_TIMEOUT
from ringbeam._pace import search_again
from ringbeam._pool import OpenError, Pool
from ringbeam._refusal import Refusal
from ringbeam._requests import GetTopology, Ping
from ringbeam._retry import Lost, Trouble, backoff, lasts
from ringbeam._routing import Claim, Misfit, Routes, believe
from ringbeam._shard import NotFound, Shard


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
        # The loop itself keeps only weak references.
        self._measuring: set[asyncio.Task[None]] = set()

    async def leader(self, shard: Shard, deadline: float) -> Connection:
        """The leader's connection. Raises NotFound."""
        if (connection := shard.open_leader()) is not None:
            return connection
        loop = asyncio.get_running_loop()
        with shard.search(loop.time()):
            while (connection := shard.open_leader()) is None:
                if shard.finding is None:
                    shard.why = f"no leader of shard {shard.number} was found in time"
                    shard.finding = loop.create_task(self._search(shard))
                finding = shard.finding
                ended, _ = await asyncio.wait({finding}, timeout=max(0.0, deadline - loop.time()))
                if not ended:
                    raise NotFound(shard.why)
                if finding.cancelled():
                    raise NotFound("the client was closed")
                if (nobody := finding.result()) is not None:
                    raise NotFound(nobody.why, nobody.lasting)
        now = loop.time()
        wait = min(shard.share(now, getrandbits(64)), max(0.0, deadline - now) / 2)
        if wait > 0:
            await asyncio.sleep(wait)
        return connection

    async def _search(self, shard: Shard) -> NotFound | None:
        """Until the leader is found, or cannot be, which it returns, or nobody waits for it any more. It has a time of
        its own: searches on their callers' time, one after the other, fail for ever once they have failed for as long
        as a call may take, as whoever has waited longest comes next."""
        loop = asyncio.get_running_loop()
        number = shard.number
        rounds = 0
        # Who has said that it does not lead, or was named and could not be reached.
        doubted = shard.denied
        try:
            while shard.open_leader() is None and shard.sought:
                shard.news.clear()
                deadline = loop.time() + PROBE_TIMEOUT + CONNECT_TIMEOUT
                if (named := shard.take_named()) is not None and await self._lead(shard, named, rounds, deadline):
                    break
                poll = await self._ask_everyone(number, deadline, doubted)
                try:
                    shard.lead_by(await self._go_to_leader(number, poll, deadline), rounds == 0, loop.time())
                    break
                except NotFound as nobody:
                    nobody.lasting = poll.hopeless()
                    shard.why = nobody.why
                    if nobody.lasting is not None or self._pool.closed:
                        return nobody
                believed = believe(poll.claims)
                doubted = 0 if believed is None else believed.leader
                if believed is None and not poll.claims and await self._guess(shard, rounds, deadline):
                    break
                rounds += 1
                wait = search_again(rounds, loop.time() - shard.leaderless_since, getrandbits(64))
                # News of another leader ends the wait.
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await shard.news.wait()
            return None
        finally:
            shard.finding = None

    async def _lead(self, shard: Shard, address: str, rounds: int, deadline: float) -> bool:
        """Takes the node at this address for the leader, if it can be reached."""
        try:
            connection = await self._pool.open(address, shard.number, deadline)
        except OpenError:
            return False
        shard.lead_by(connection, rounds == 0, asyncio.get_running_loop().time())
        return True

    async def _guess(self, shard: Shard, rounds: int, deadline: float) -> bool:
        """Nobody who was asked has answered, so their control may be cut, and nothing else: the next one is taken for
        the leader. If it is not, it refuses, and says who is."""
        askable = self._routes.askable()
        return await self._lead(shard, askable[rounds % len(askable)], rounds, deadline)

    async def reader(self, shard: Shard, deadline: float) -> Connection:
        """A node for reads that any may answer. Raises NotFound.

        The one chosen is kept for 250 ms; then `_readers.py` chooses anew, and each 2 s, beside the reads, those that
        may be chosen are pinged to see how far they are.
        """
        loop = asyncio.get_running_loop()
        if (chosen := shard.readers.current(loop.time())) is not None:
            return chosen
        candidates = self._routes.candidates()
        shard.readers.set(candidates)
        rounds = tries = 0
        why = f"no node serves reads of shard {shard.number}"
        while True:
            leader = None if shard.leader is None else shard.leader.address
            chosen_now = shard.readers.choose(loop.time(), getrandbits(64), leader)
            if chosen_now is not None:
                self._survey(shard)
                address, connection = chosen_now
                if connection is not None:
                    return connection
                try:
                    connection = await self._pool.open(address, shard.number, deadline)
                except OpenError as failure:
                    shard.readers.failed(address, loop.time())
                    why = f"no node serves reads of shard {shard.number}, the last asked: {failure}"
                else:
                    shard.readers.connected(address, connection)
                    return connection
            tries += 1
            if tries < len(candidates):
                continue
            rounds, tries = rounds + 1, 0
            wait = backoff(rounds, getrandbits(64))
            if loop.time() + wait >= deadline or self._pool.closed:
                raise NotFound(why)
            await asyncio.sleep(wait)

    async def node(self, shard: Shard, address: str, deadline: float) -> Connection:
        """This node and no other, which is tried until it can be reached. Raises NotFound."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        rounds = 0
        while True:
            try:
                return await self._pool.open(address, shard.number, deadline)
            except OpenError as failure:
                why = f"only one node has what shard {shard.number} is asked for: {failure}"
                lasting = failure.nonsense or (failure.refusal is not None and lasts(failure.refusal.code))
                if lasting or self._pool.closed:
                    raise NotFound(why, failure.error() if lasting else None) from None
            rounds += 1
            wait = search_again(rounds, loop.time() - began, getrandbits(64))
            if loop.time() + wait >= deadline:
                raise NotFound(why)
            await asyncio.sleep(wait)

    async def own(self, shard: Shard, failed: set[str]) -> Connection:
        """A connection of its own to a node for reads that any may answer, for whoever follows one. Goes on until there
        is one: raises NotFound only if that cannot be, or the client is closed. Puts into `failed` whose failed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        rounds = 0
        while True:
            candidates = self._routes.candidates()
            shard.readers.set(candidates)
            lasting: list[Error] = []
            for _ in candidates:
                leader = None if shard.leader is None else shard.leader.address
                chosen = shard.readers.choose(loop.time(), getrandbits(64), leader)
                if chosen is None:
                    break
                try:
                    return await self._pool.open_own(chosen[0], shard.number)
                except OpenError as failure:
                    failed.add(chosen[0])
                    shard.readers.failed(chosen[0], loop.time())
                    if failure.nonsense or (failure.refusal is not None and lasts(failure.refusal.code)):
                        lasting.append(failure.error())
                    if self._pool.closed:
                        raise NotFound(failure.args[0]) from None
            if lasting and len(lasting) == len(candidates):
                raise NotFound(str(lasting[0]), lasting[0])
            rounds += 1
            await asyncio.sleep(search_again(rounds, loop.time() - began, getrandbits(64)))

    def _survey(self, shard: Shard) -> None:
        """Measures the round trips to those that may be read from, beside whatever else is done."""
        for address in shard.readers.to_survey(asyncio.get_running_loop().time()):
            task = asyncio.create_task(self._measure(shard, address))
            self._measuring.add(task)
            task.add_done_callback(self._measuring.discard)

    async def _measure(self, shard: Shard, address: str) -> None:
        """One ping. That it is answered says how far the node is, not that it is well: one whose shard has stopped
        answers it, too."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SURVEY_TIMEOUT
        try:
            connection = await self._pool.open(address, shard.number, deadline)
        except OpenError:
            shard.readers.failed(address, loop.time())
            return
        shard.readers.connected(address, connection)
        asked = loop.time()
        if isinstance(await connection.call(Ping(), deadline, deadline_ms(SURVEY_TIMEOUT)), Done):
            shard.readers.measured(address, loop.time() - asked)

    def close(self, shards: Iterable[Shard]) -> None:
        """Ends what it does beside calls."""
        forget(self._measuring)
        forget(shard.finding for shard in shards if shard.finding is not None)

    async def reconsider(self, shard: Shard, connection: Connection) -> None:
        """`connection` completes nothing. If it is the leader's, and another node leads in a later term, its calls move
        there: a leader that is cut off from its quorum, but not from us, would keep them until their deadlines."""
        if shard.leader is not connection:
            return
        deadline = asyncio.get_running_loop().time() + CONNECT_TIMEOUT
        poll = await self._ask_everyone(shard.number, deadline, doubted=connection.welcome.node)
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

    async def _ask_everyone(self, number: int, deadline: float, doubted: int) -> _Poll:
        """Asks all nodes who leads the shard. Waits for all of them, but not long once one has named a leader, unless
        it is the node in doubt: the nearest node may be the last to hear of another."""
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
                    if topology.leader not in (0, doubted):
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
