"""Calls against a ring of fakes in trouble: redirects, lost connections, deadlines, refusals, expired sessions,
silence."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
from fake import Act, ApplyAndClose, At, Close, Later, Ring, Silence

import ringbeam
from ringbeam import Code, Consistency
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, Delete, Get, GetTopology, Hello, OpenSession, Ping, Put
from ringbeam._slots import slot_of


def expired(session: int) -> Refusal:
    return Refusal(Code.SESSION_EXPIRED, message=f"session {session} is not known")


async def test_a_redirect_with_an_address_is_followed() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        ring.lead(3)
        asked = ring.count(GetTopology)
        await client.put("b", "2")
        await client.put("c", "3")
        seen = [(node, sequence) for node, _, sequence in ring.puts]
        assert seen == [(1, 1), (1, 2), (3, 2), (3, 3)], "the redirected write keeps its sequence"
        assert ring.count(GetTopology) == asked, "a redirect that names its leader needs no asking around"


async def test_who_calls_when_there_is_a_leader_waits_for_nothing_that_was_before() -> None:
    async with Ring(3, 1) as ring:
        clients = [await ringbeam.connect(ring.address(2)) for _ in range(8)]
        loop = asyncio.get_running_loop()
        for leader in (1, 3, 2):
            ring.lead(leader, tell=True)
            await asyncio.sleep(0.4)
            for client in clients:
                began = loop.time()
                await client.put("k", "v")
                assert loop.time() - began < 0.1
        for client in clients:
            await client.close()


async def test_no_leader_yet_is_waited_for_with_backoff() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        ring.lead(0)
        asyncio.get_running_loop().call_later(0.4, ring.lead, 2)
        asked = ring.count(GetTopology)
        started = time.monotonic()
        await asyncio.gather(*(client.put(str(n), "v") for n in range(100)))
        assert 0.4 <= time.monotonic() - started < 1.5
        assert ring.applied == 101
        questions = ring.count(GetTopology) - asked
        assert questions < 300, f"one task asks for all, not each for itself: {questions} questions"


async def test_without_a_leader_the_call_ends_as_a_timeout() -> None:
    async with Ring(3) as ring:
        ring.lead(0)
        async with await ringbeam.connect(ring.endpoints, timeout=0.3) as client:
            started = time.monotonic()
            with pytest.raises(ringbeam.Timeout, match="no leader of shard 0") as caught:
                await client.put("a", "1")
            assert caught.value.timeout == 0.3
            assert time.monotonic() - started < 0.5


async def test_a_leader_is_found_that_takes_longer_to_reach_than_a_call_may_last() -> None:
    """Between regions a handshake takes longer than a call may: the search ran on its callers' time, one after the
    other, so none of them ever ended one, and the client found its new leader only when it was restarted."""

    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Hello) and at.node == 2:
            return Later(0.4, ring.usual(at, body))
        return Close() if isinstance(body, Put) and at.node == 1 and ring.leader == 2 else None

    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.address(1), timeout=0.15) as client:
        await client.put("before", "1", timeout=5.0)
        ring.lead(2)
        for n in range(100):
            with suppress(ringbeam.Timeout, ringbeam.Unknown):
                await client.put(str(n), "v")
                break
        else:
            raise AssertionError("100 calls of 150 ms each did not find a leader that answers within 400 ms")


async def test_writes_cut_in_flight_are_repeated_at_the_new_leader_with_the_same_sequence() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Put) and body.key == b"cut" and at.node == 1:
            ring.lead(2)
            return Close()
        return None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("before", "1")
        assert not (await client.put("cut", "2")).duplicate
        assert ring.puts == [(1, 1, 1), (1, 1, 2), (2, 1, 2)]


async def test_an_applied_write_whose_answer_is_lost_is_applied_once() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Put | Delete) and ring.leader == at.node and next(writes) % 80 == 9:
            return ApplyAndClose()
        return None

    writes = count()
    async with Ring(3, 2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:

        async def work(task: int) -> int:
            return sum([(await client.put(f"{task}/{n}", "v")).duplicate for n in range(10)])

        duplicates = sum(await asyncio.gather(*(work(task) for task in range(32))))
        assert duplicates > 0, "some answers were lost and given again"
        assert ring.applied == 320, "each write was applied exactly once"


async def test_reads_cut_in_flight_are_repeated() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, Get) and next(reads) < 2 else None

    reads = count()
    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        assert await client.get("k") is None
        assert ring.count(Get) == 3


async def test_local_reads_go_elsewhere_when_their_node_is_lost() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, Get) and at.node == 2 else None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        assert await client.get("k", consistency=Consistency.LOCAL) is None
        assert ring.count(Get, node=2) == 1


async def test_the_deadline_is_honoured_and_says_what_is_certain() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put | Get) and body.key == b"slow" else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        started = time.monotonic()
        with pytest.raises(ringbeam.Unknown, match="in time") as unknown:
            await client.put("slow", "v", timeout=0.1)
        assert (unknown.value.shard, unknown.value.session, unknown.value.sequence) == (0, 1, 2)
        with pytest.raises(ringbeam.Timeout) as timeout:
            await client.get("slow", timeout=0.1)
        assert timeout.value.timeout == 0.1
        assert 0.2 <= time.monotonic() - started < 0.4
        await client.put("k", "v")
        last = [body for _, body in ring.asked if isinstance(body, Put)][-1]
        assert (last.sequence, last.answered_below) == (3, 2), "the lost write holds the floor"


async def test_a_server_that_says_too_late_makes_it_certain() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Put):
            return Later(at.deadline_ms / 1000, Refusal(Code.DEADLINE_EXCEEDED, message="too late in the queue"))
        return None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=0.4) as client:
        with pytest.raises(ringbeam.Timeout):
            await client.put("k", "v")


async def test_overloaded_is_retried_after_the_time_it_says() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Put) and next(puts) < 3:
            return Refusal(Code.OVERLOADED, message="the queue is full", retry_after_ms=60)
        return None

    puts = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        started = time.monotonic()
        await client.put("k", "v")
        assert time.monotonic() - started >= 0.18
        assert [sequence for _, _, sequence in ring.puts] == [1] * 4


async def test_a_refusal_until_the_deadline_ends_as_the_refusal() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(Code.DISK_FULL, message="no room", retry_after_ms=50) if isinstance(body, Put) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=0.2) as client:
        started = time.monotonic()
        with pytest.raises(ringbeam.Refused) as caught:
            await client.put("k", "v")
        assert caught.value.code is Code.DISK_FULL
        assert time.monotonic() - started < 0.35


async def test_an_expired_session_is_replaced_when_nothing_was_sent_before() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return expired(body.session) if isinstance(body, Put) and body.session <= gone else None

    gone = 0
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("a", "1")
        gone = 1
        await asyncio.gather(*(client.put(str(n), "v") for n in range(20)))
        assert ring.applied == 21
        assert ring.count(OpenSession) == 2, "one new session for all"


async def test_an_expired_session_makes_a_write_unknown_that_may_have_been_applied() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Put) and body.key == b"lost":
            return Close() if next(puts) == 0 else expired(body.session)
        return None

    puts = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Unknown, match="SessionExpired") as caught:
            await client.put("lost", "v")
        assert (caught.value.session, caught.value.sequence) == (1, 1)
        assert {session for _, session, _ in ring.puts} == {1}, "never repeated under another session"


async def test_a_session_that_cannot_be_opened_is_refused_and_nothing_was_sent() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        # "unknown" is about the opening, and must not make the write's outcome unknown.
        unknown = Refusal(Code.TOO_MANY_SESSIONS, unknown=True, message="1000 are open")
        return unknown if isinstance(body, OpenSession) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=0.2) as client:
        with pytest.raises(ringbeam.Refused, match="TooManySessions"):
            await client.put("k", "v")
        assert ring.puts == []


async def test_what_was_refused_is_said_also_when_one_more_try_comes_too_late() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if not isinstance(body, OpenSession):
            return None
        # The second try gets no answer before the deadline.
        return Refusal(Code.TOO_MANY_SESSIONS, message="1000 are open") if next(openings) == 0 else Silence()

    openings = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=0.3) as client:
        with pytest.raises(ringbeam.Refused, match="TooManySessions"):
            await client.put("k", "v")
        assert ring.puts == []


async def test_a_connection_lost_while_the_session_opens_is_no_lost_write() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, OpenSession) and next(openings) != 1 else None

    openings = count()
    async with Ring(1, 2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("a", "v")
        assert ring.count(OpenSession) == 2
        other = next(key for key in "bcdefgh" if slot_of(key.encode()) // 2048 != slot_of(b"a") // 2048)
        with pytest.raises(ringbeam.Timeout):
            await client.put(other, "v", timeout=0.2)


async def test_a_session_that_opens_too_late_for_its_caller_is_the_next_ones() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(0.3, ring.usual(at, body)) if isinstance(body, OpenSession) else None

    async with Ring(1, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        for _ in range(2):
            with pytest.raises(ringbeam.Timeout, match="opened no session in time"):
                await client.put("k", "v", timeout=0.05)
        gone = asyncio.create_task(client.put("k", "v"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await client.put("k", "v")
        assert ring.count(OpenSession) == 1, "no session is left behind in the ring"
        assert ring.puts == [(1, 1, 1)]


async def test_what_time_does_not_change_ends_the_call_at_once() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        lasting = Refusal(Code.UNSUPPORTED_VERSION, message="this shard speaks another version")
        return lasting if isinstance(body, Hello) and at.shard == 1 else None

    async with Ring(2, 2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        key = next(key for key in "abcdefgh" if slot_of(key.encode()) // 2048 == 1)
        started = time.monotonic()
        with pytest.raises(ringbeam.Refused) as caught:
            await client.put(key, "v")
        assert caught.value.code is Code.UNSUPPORTED_VERSION
        assert time.monotonic() - started < 1.0


async def test_without_sessions_a_lost_write_is_unknown_at_once() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, Put) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, exactly_once=False) as client:
        with pytest.raises(ringbeam.Unknown) as caught:
            await client.put("k", "v")
        assert (caught.value.session, caught.value.sequence) == (0, 0)
        assert len(ring.puts) == 1
        assert ring.count(OpenSession) == 0


async def test_a_write_that_never_left_is_repeated_even_without_a_session() -> None:
    async with Ring(2) as ring, await ringbeam.connect(ring.endpoints, exactly_once=False) as client:
        await client.put("a", "1")
        leader = client._core._shards[0].leader
        assert leader is not None
        leader.pause_writing()  # a socket that takes nothing: what is asked from here on stays in `out`
        write = asyncio.create_task(client.put("b", "2"))
        await asyncio.sleep(0.02)
        ring.lead(2)
        ring.cut(1)
        await write
        assert [node for node, *_ in ring.puts] == [1, 2]


async def test_a_dead_leader_is_left_for_the_next_while_many_write() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("a", "1")

        async def work(task: int) -> None:
            for n in range(20):
                await client.put(f"{task}/{n}", "v")
                await asyncio.sleep(0)

        async def kill() -> None:
            # In the middle of the writes, however quick this machine is.
            while ring.applied < 50:
                await asyncio.sleep(0)
            ring.lead(2)
            ring._servers[0].close()
            ring.cut(1)

        await asyncio.gather(kill(), *(work(task) for task in range(16)))
        assert ring.applied == 321
        assert 2 in {node for node, *_ in ring.puts}


async def test_a_silent_leader_is_left_and_its_writes_go_to_the_next() -> None:
    def script(_ring: Ring, at: At, _body: Body) -> Act | None:
        return Silence() if at.node == 1 and mute else None

    mute = False
    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        mute = True
        ring.lead(2)
        started = time.monotonic()
        await client.put("b", "2")
        assert 1.0 <= time.monotonic() - started < 4.0
        assert ring.count(Ping, node=1) == 1, "it was pinged before it was given up"
        assert [(node, sequence) for node, _, sequence in ring.puts] == [(1, 1), (1, 2), (2, 2)]


async def test_a_silent_connection_is_given_up_even_when_nobody_else_leads() -> None:
    """As after a host's restart that no reset told of: the same address answers a new connection."""

    def script(_ring: Ring, at: At, _body: Body) -> Act | None:
        return Silence() if mute and at.connection == 1 else None

    mute = False
    async with Ring(1, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("a", "1")
        mute = True
        started = time.monotonic()
        await client.put("b", "2")
        assert 2.0 <= time.monotonic() - started < 4.0
        connections = [at.connection for at, body in ring.asked if isinstance(body, Put)]
        assert connections == [1, 1, 2]


async def test_a_leader_cut_off_from_its_quorum_is_left_for_one_of_a_later_term() -> None:
    """Node 1 still believes in itself and answers everything but writes; after a while node 2 leads in a later term."""

    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if at.node != 1 or not cut:
            return None
        if isinstance(body, Put):
            return Silence()
        if isinstance(body, GetTopology):
            return replace(ring.topology(at.shard), leader=1, term=1)
        return None

    cut = False
    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        cut = True
        asyncio.get_running_loop().call_later(1.5, ring.lead, 2)
        started = time.monotonic()
        await client.put("b", "2")
        assert 1.5 <= time.monotonic() - started < 4.0
        assert [(node, sequence) for node, _, sequence in ring.puts] == [(1, 1), (1, 2), (2, 2)]


async def test_a_loop_that_was_blocked_is_not_the_nodes_silence() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(0.3, ring.usual(at, body)) if isinstance(body, Get) else None

    async with Ring(1, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        read = asyncio.create_task(client.get("k"))
        await asyncio.sleep(0.05)
        time.sleep(2.3)  # noqa: ASYNC251 - the application computes
        assert await read is not None
        assert ring.count(Get) == 1, "asked once: the connection was not given up"


async def test_members_that_come_and_go_are_learnt() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        everyone = ring.members
        ring.members = everyone[:2]
        ring.epoch += 1
        await client.topology()
        assert [member.node for member in client._core.routes.members] == [1, 2]
        ring.members = everyone
        await client.topology()
        assert len(client._core.routes.members) == 3
