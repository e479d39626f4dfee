"""Writes that change what is there, against a ring of fakes, in trouble too: counters, range deletions."""

from __future__ import annotations

import asyncio
import json
from itertools import count

import pytest
from fake import VALUE_BYTES_MAX, Act, ApplyAndClose, At, Ring, Silence

import ringbeam
from ringbeam import Code, Revision
from ringbeam._answers import RangeDeleted
from ringbeam._events import Fold
from ringbeam._refusal import Refusal
from ringbeam._requests import Add, Body, CloseSession, DeleteRange, Extend, Put, Resolve, Transact

# ---- counters ----


async def test_additions_reach_their_shards_and_answer_with_the_sum() -> None:
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.address(2)) as client:
        for n in range(10):
            assert (await client.add(f"n{n}", n)).value == n
        assert (await client.add("n9", -19, namespace="other")).value == -10, "the fake knows no namespaces"
        asked = [body for at, body in ring.asked if isinstance(body, Add) and at.node == 1]
        assert (asked[-1].namespace, asked[-1].delta, asked[-1].session != 0) == (b"other", -19, True)


async def test_bounds_are_sent_and_what_is_none_is_refused_here() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        assert (await client.add("stock", 7, min=0, max=10)).value == 7
        with pytest.raises(ringbeam.Refused) as caught:
            await client.add("stock", -8, min=0)
        assert caught.value.code is Code.OUT_OF_BOUNDS
        assert (await client.add("stock", 0)).value == 7
        sent = [(body.min, body.max) for _, body in ring.asked if isinstance(body, Add)]
        assert sent == [(0, 10), (0, (1 << 63) - 1), (-(1 << 63), (1 << 63) - 1)]
        with pytest.raises(ringbeam.Refused, match="the counter's bounds are 5 to 4; the first must not be greater"):
            await client.add("stock", 1, min=5, max=4)
        with pytest.raises(TypeError, match=r"delta is 1\.5"):
            await client.add("stock", 1.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="delta is 9223372036854775808, which 64 bits do not hold"):
            await client.add("stock", 1 << 63)
        assert len(sent) == ring.count(Add)


async def test_an_addition_whose_answer_is_lost_counts_once() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, Add) and next(lost) % 3 == 0 else None

    lost = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        sums = [await client.add("n", 1) for _ in range(9)]
        assert [counted.value for counted in sums] == list(range(1, 10))
        assert any(counted.duplicate for counted in sums)


async def test_an_addition_without_a_session_whose_answer_is_lost_is_unknown() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, Add) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, exactly_once=False) as client:
        with pytest.raises(ringbeam.Unknown):
            await client.add("n", 1)
        assert ring.count(Add) == 1


# ---- values that grow ----


async def test_only_the_delta_is_sent() -> None:
    async with Ring(3, 2) as ring, await ringbeam.connect(ring.address(2)) as client:
        assert not (await client.append("log", "one")).existed
        assert (await client.append("log", b"two")).existed
        assert not (await client.merge_patch("state", {"dug": 3, "loot": {"gold": 1, "gem": 2}})).existed
        await client.merge_patch("state", '{"loot": {"gem": null}}')
        assert ring.store[b"log"] == b"onetwo"
        assert json.loads(ring.store[b"state"]) == {"dug": 3, "loot": {"gold": 1}}
        sent = [(body.fold, body.delta) for at, body in ring.asked if isinstance(body, Extend) and at.node == 1]
        assert sent == [
            (Fold.CONCATENATE, b"one"),
            (Fold.CONCATENATE, b"two"),
            (Fold.MERGE_PATCH, b'{"dug":3,"loot":{"gold":1,"gem":2}}'),
            (Fold.MERGE_PATCH, b'{"loot": {"gem": null}}'),
        ]


async def test_a_delta_whose_answer_is_lost_is_there_once() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, Extend) and next(lost) % 2 == 0 else None

    lost = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(6):
            await client.append("log", str(n))
        assert ring.store[b"log"] == b"012345"
        assert ring.count(Extend) > 6


async def test_a_delta_that_is_longer_than_a_value_may_be_is_refused_here() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Refused, match="the value has 1048577 bytes, the limit is 1048576"):
            await client.append("log", bytes(VALUE_BYTES_MAX + 1))
        with pytest.raises(TypeError, match="the patch is of type int"):
            await client.merge_patch("state", 7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not JSON serializable"):
            await client.merge_patch("state", {"a": b"bytes"})
        assert ring.count(Extend) == 0


# ---- ranges ----


async def test_a_range_goes_slice_by_slice_from_all_shards() -> None:
    async with Ring(3, 4, page=7) as ring, await ringbeam.connect(ring.address(3)) as client:
        await asyncio.gather(*(client.put(f"k{n:03}", "v") for n in range(100)))
        assert await client.delete_range(start="k010", end="k090") == 80
        assert sorted(ring.store) == [f"k{n:03}".encode() for n in range(100) if not 10 <= n < 90]
        slices = [body for at, body in ring.asked if isinstance(body, DeleteRange) and at.node == 1]
        assert len(slices) >= 80 / 7 and all(
            body.session and (body.start, body.end) == (b"k010", b"k090") for body in slices
        )
        assert await client.delete_range(prefix="k00") == 10
        assert await client.delete_range(start="") == 10
        assert ring.store == {}


async def test_a_range_of_one_tag_goes_from_its_shard_only() -> None:
    async with Ring(1, 4) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("{a}1", "v")
        await client.put("{a}2", "v")
        assert await client.delete_range(prefix="{a}") == 2
        assert ring.count(DeleteRange) == 1


async def test_which_keys_go_must_be_said_and_what_is_empty_is_not_asked_for() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ValueError, match="which keys"):
            await client.delete_range()
        with pytest.raises(ValueError, match="not both"):
            await client.delete_range(prefix="a", end="b")
        assert await client.delete_range(start="b", end="a") == 0
        with pytest.raises(ringbeam.Refused, match="the key has 4097 bytes"):
            await client.delete_range(start=b"k" * 4097)
        assert ring.count(DeleteRange) == 0


async def test_a_slice_whose_answer_is_lost_counts_once() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, DeleteRange) and next(lost) % 2 == 0 else None

    lost = count()
    async with Ring(script=script, page=3) as ring, await ringbeam.connect(ring.endpoints) as client:
        await asyncio.gather(*(client.put(f"k{n}", "v") for n in range(10)))
        assert await client.delete_range(prefix="k") == 10, (
            "a slice that was asked for twice is counted as the first time"
        )
        assert ring.count(DeleteRange) > 4


async def test_a_node_that_deletes_nothing_and_has_more_is_not_asked_without_end() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return RangeDeleted(Revision(1), deleted=0, more=True) if isinstance(body, DeleteRange) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.ProtocolError, match="deleted nothing of a range that has more"):
            await client.delete_range(prefix="k")


async def test_a_refused_slice_ends_the_others() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, DeleteRange):
            return None
        return (
            Refusal(Code.INTERNAL, message="no") if at.shard == 2 else RangeDeleted(Revision(1), deleted=1, more=True)
        )

    async with Ring(1, 4, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Refused):
            await client.delete_range(prefix="k")
        asked = ring.count(DeleteRange)
        await asyncio.sleep(0.05)
        assert ring.count(DeleteRange) <= asked + 4, "at most what was on the way"


# ---- outcomes ----


async def lose(client: ringbeam.Client, key: str = "k", value: str = "lost") -> ringbeam.Ticket:
    with pytest.raises(ringbeam.Unknown) as caught:
        await client.put(key, value, timeout=0.1)
    assert caught.value.ticket is not None
    return caught.value.ticket


async def test_the_outcome_of_a_lost_write_is_told_and_then_final() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, Put) or body.value != b"lost":
            return None
        if applies:
            ring.usual(at, body)
        return Silence()

    for applies in (True, False):
        async with Ring(3, 2, script=script) as ring, await ringbeam.connect(ring.address(2)) as client:
            before = await client.put("k", "v")
            ticket = await lose(client)
            other = await client.put("{k}2", "v")
            assert other.revision > before.revision
            done = await client.outcome(ticket)
            assert (done is not None) is applies
            assert await client.outcome(ticket) == done, "asking again changes nothing"
            if done is not None:
                assert done.existed and before.revision < done.revision < other.revision
            last = await client.put("k", "w")
            assert last.existed
            floors = [
                body.answered_below
                for at, body in ring.asked
                if isinstance(body, Put) and body.session == ticket.session
            ]
            assert floors == [1, 2, 2, 4], "held until it was asked for"


async def test_a_transaction_and_a_counter_can_be_asked_for_too() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Add | Transact):
            ring.usual(at, body)
            return Silence()
        return None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        for call in (client.add("n", 1, timeout=0.1), client.create("new", "v", timeout=0.1)):
            with pytest.raises(ringbeam.Unknown) as caught:
                await call
            assert caught.value.ticket is not None
            assert await client.outcome(caught.value.ticket) is not None


async def test_what_cannot_be_known_any_more_is_said_so() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Resolve):
            return Refusal(codes.pop(), message="the node's words")
        return Silence() if isinstance(body, Put) and body.value == b"lost" else None

    codes = [Code.INTERNAL, Code.SESSION_EXPIRED, Code.ALREADY_ANSWERED]
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        ticket = await lose(client)
        for says in (
            "cannot be known any more, read to see: its answer",
            "any more, read to see: its session",
            "words",
        ):
            with pytest.raises(ringbeam.Refused, match=says):
                await client.outcome(ticket)
        with pytest.raises(ringbeam.ProtocolError, match="there is no shard 9"):
            await client.outcome(ringbeam.Ticket(9, 1, 1))
        with pytest.raises(TypeError, match="right is Ticket"):
            await client.outcome(None)  # type: ignore[arg-type]


async def test_a_lost_write_is_held_for_its_time_and_the_session_is_not_closed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put) and body.value == b"lost" else None

    async with Ring(script=script) as ring:
        for held in (60.0, 0.0):
            monkeypatch.setattr("ringbeam._call.OUTCOME_HELD", held)
            async with await ringbeam.connect(ring.endpoints) as client:
                await client.put("k", "v")
                await lose(client)
                await client.put("k", "v")
            last = [body for _, body in ring.asked if isinstance(body, Put)][-1]
            assert last.answered_below == (2 if held else 3)
            assert ring.count(CloseSession) == (0 if held else 1), "somebody may still ask, or nobody can"


async def test_a_held_write_stops_nobody() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put) and body.value == b"lost" else None

    async with Ring(script=script, window=8) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        ticket = await lose(client)
        waits = [asyncio.create_task(client.put("k", "lost", timeout=5.0)) for _ in range(6)]
        while ring.count(Put) < 8:
            await asyncio.sleep(0.001)
        # Six are under way behind the held one, which is beyond its part of the window: it holds nothing any more.
        done = asyncio.create_task(client.put("k", "v", timeout=5.0))
        assert (await done).existed
        assert await client.outcome(ticket) is None
        for wait in waits:
            wait.cancel()
