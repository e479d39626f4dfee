"""Reads with a contract against a ring of fakes: sessions, bounds, nodes that are behind, and what nodes tell by
themselves."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from fake import RING, Act, At, Later, Ring, Silence

import ringbeam
from ringbeam import Bounded, Code, Consistency, Read, Token
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, FollowTopology, Get, GetMany, GetTopology, Put, Scan
from ringbeam._slots import slot_of


def asked(ring: Ring, *kinds: type[Any]) -> list[Any]:
    return [body for _, body in ring.asked if isinstance(body, kinds)]


# ---- sessions ----


async def test_a_session_asks_for_what_it_has_written_and_seen() -> None:
    async with Ring(3, 2) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        session = client.consistency(Consistency.SESSION)
        assert await session.get("k") is None
        written = await client.put("k", "v")
        assert (found := await session.get("k")) is not None and found.index >= written.revision.index
        other = next(f"o{n}" for n in range(100) if slot_of(f"o{n}".encode()) // 2048 != slot_of(b"k") // 2048)
        await session.get(other)
        await session.get_many(["k"])
        assert [item.key async for item in session.scan(prefix="k")] == [b"k"]
        gets = asked(ring, Get)
        assert [(body.key, body.index_min) for body in gets[:2]] == [(b"k", 0), (b"k", written.revision.index)]
        assert gets[2].index_min == 0, "of another shard nothing was seen"
        assert [body.index_min for body in asked(ring, GetMany)] == [1]
        assert sorted(body.index_min for body in asked(ring, Scan)) == [1, 1]
        assert {body.consistency for body in asked(ring, Get, GetMany, Scan)} == {Consistency.SESSION}
        linearizable = await session.get("k", consistency=Consistency.LINEARIZABLE)
        assert linearizable is not None and asked(ring, Get)[-1].consistency is Consistency.LINEARIZABLE


async def test_every_kind_of_write_is_seen_by_the_session() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints, consistency=Consistency.SESSION) as client:
        calls = [
            client.put("k", "v"),
            client.delete("k"),
            client.create("k", "v"),
            client.add("n", 1),
            client.append("k", "v"),
            client.delete_range(prefix="z"),
        ]
        for n, call in enumerate(calls):
            await call
            assert client.session_token().index_of(0) == n + 1


async def test_another_client_goes_on_where_a_token_is() -> None:
    async with Ring(2) as ring:
        async with await ringbeam.connect(ring.endpoints) as writer:
            await writer.put("k", "v")
            handed = writer.session_token().to_bytes()
        async with await ringbeam.connect(ring.endpoints, consistency=Consistency.SESSION, region="r2") as client:
            reader = client.with_token(Token.from_bytes(handed))
            assert await reader.get("k") is not None
            assert asked(ring, Get)[-1].index_min == 1
            assert await client.with_token(Token()).get("k") is not None, "a token that has seen nothing"
            assert asked(ring, Get)[-1].index_min == 0
            assert client.session_token() == Token(RING), "a session of its own"
            with pytest.raises(ValueError, match="the token is of ring 0000000000000007, this client's is"):
                client.with_token(Token(7))
            with pytest.raises(TypeError, match="right is Token"):
                client.with_token(handed)  # type: ignore[arg-type]


async def test_views_share_a_session_and_only_the_token_makes_another() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.namespace("n").with_timeout(3.0).consistency(Consistency.LOCAL).put("k", "v")
        assert client.session_token().index_of(0) == 1
        apart = client.with_token(client.session_token())
        await apart.put("k", "w")
        assert (client.session_token().index_of(0), apart.session_token().index_of(0)) == (1, 2)


async def test_what_is_behind_is_left_for_another_and_then_for_the_leader() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Get) and at.node != ring.leader:
            return Refusal(Code.NOT_FRESH, message="applied log index 0")
        return None

    async with Ring(4, script=script) as ring, await ringbeam.connect(ring.endpoints, region="r3") as client:
        await client.put("k", "v")
        session = client.consistency(Consistency.SESSION)
        assert (found := await session.get("k")) is not None and found.value == b"v"
        nodes = [at.node for at, body in ring.asked if isinstance(body, Get)]
        assert nodes[0] == 3 and nodes[-1] == 1 and len(nodes) <= 3, nodes


async def test_a_node_that_does_not_say_that_it_is_behind_is_left_after_a_while() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Get) and at.node != ring.leader else None

    async with Ring(4, script=script) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        await client.put("k", "v")
        began = time.monotonic()
        found = await client.get("k", consistency=Bounded(0.5), timeout=20.0)
        assert found is not None and time.monotonic() - began >= 0.4
        told = [(at.node, at.deadline_ms) for at, body in ring.asked if isinstance(body, Get)]
        assert told[0][0] == 2 and told[0][1] <= 400 and told[-1][0] == 1, "one is given a part of the time"


async def test_nobody_is_fresh_enough_and_the_refusal_says_so() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(Code.NOT_FRESH, message="its age is 9 s") if isinstance(body, Get) else None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Refused, match="its age is 9 s") as caught:
            await client.get("k", consistency=Bounded(0.25), timeout=0.5)
        assert caught.value.code is Code.NOT_FRESH


# ---- bounds and ages ----


async def test_a_bound_travels_and_the_age_comes_back() -> None:
    async with (
        Ring(2) as ring,
        await ringbeam.connect(ring.endpoints, consistency=Bounded(0.25, stale_ok=True)) as client,
    ):
        await client.put("k", "v")
        ring.age = 0.125
        found = await client.get("k")
        assert found is not None and (found.age, found.stale) == (0.125, False)
        assert await client.read("none") == Read(None, index=1, age=0.125)
        [value] = await client.get_many(["k"])
        assert value is not None and value.age == 0.125
        read = await client.read("k", consistency=Consistency.LINEARIZABLE)
        assert read.found is not None and read.found.value == b"v"
        sent = [(body.consistency, body.age_ms_max, body.stale_ok) for body in asked(ring, Get, GetMany)]
        assert sent == [(Consistency.BOUNDED, 250, True)] * 3 + [(Consistency.LINEARIZABLE, 0, False)]


async def test_a_stale_answer_says_so() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ringbeam.Value(b"old", index=3, age=9.0, stale=True) if isinstance(body, Get) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        read = await client.read("k", consistency=Bounded(0.25, stale_ok=True))
        assert (read.stale, read.age, read.index) == (True, 9.0, 3)


# ---- whom is read from ----


async def test_the_lowest_round_trip_is_found_and_preferred() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(0.05, ring.usual(at, body)) if at.node != 3 and not isinstance(body, GetTopology) else None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        shard = client._core._shards[0]
        async with asyncio.timeout(20.0):
            while any(not one.round_trip for one in shard.readers._standings.values()) or not shard.readers._standings:
                await client.get("k", consistency=Consistency.LOCAL)
        async with asyncio.timeout(20.0):
            # A loop that was held up while it measured finds all of them as far, until it measures again.
            while [at.node for at, body in ring.asked if isinstance(body, Get)][-5:] != [3] * 5:
                shard.readers._until = 0.0  # the choice is made anew
                await client.get("k", consistency=Consistency.LOCAL)


# ---- what nodes tell by themselves ----


async def test_a_new_leader_is_known_before_anybody_asks() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("k", "v")
        ring.lead(2, tell=True)
        async with asyncio.timeout(20.0):
            while client._core._shards[0].leader is not None:
                await asyncio.sleep(0.001)
        asked_before = ring.count(GetTopology)
        await client.put("k", "w")
        assert [node for node, *_ in ring.puts] == [1, 2], "no redirect"
        assert ring.count(GetTopology) == asked_before, "and nobody was asked"


async def test_news_ends_the_wait_between_two_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringbeam._leader.search_again", lambda *_: 3.0)
    async with Ring(2) as ring, await ringbeam.connect(ring.endpoints, timeout=20.0) as client:
        await client.put("k", "v")
        ring.leader = 0
        write = asyncio.create_task(client.put("k", "w"))
        while "no leader of shard 0 is known" not in client._core._shards[0].why:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        ring.lead(2, tell=True)
        await write
        assert time.monotonic() - began < 2.5
        assert [node for node, *_ in ring.puts][-1] == 2


async def test_old_news_and_news_of_another_ring_change_nothing() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        ring.term = 5
        await client.put("k", "v")
        core = client._core
        core.told(ring.topology(0))
        leader = core._shards[0].leader
        for leads, term, of in ((2, 4, RING), (2, 9, 7), (99, 9, RING)):
            told = ring.topology(0)
            core.told(ringbeam.Topology(told.epoch, of, 0, leads, term, told.slots, told.members))
            assert core._shards[0].leader is leader and leader is not None


async def test_a_node_whose_control_is_cut_is_asked_all_the_same() -> None:
    """Nobody answers who leads: the next one is taken for the leader, and it is."""

    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if cut and isinstance(body, GetTopology | FollowTopology) else None

    cut = False
    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1), timeout=20.0) as client:
        await client.put("k", "v")
        cut = True
        ring.lead(3)
        ring.cut(1)
        await client.put("k", "w")
        assert [node for node, *_ in ring.tickets(Put)][-1] == 3
