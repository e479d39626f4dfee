"""Multi-gets and scans against a ring of fakes, in trouble too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from fake import Act, At, Close, Later, Ring, Silence

import ringbeam
from ringbeam import Code, Consistency, Item, Revision, Value
from ringbeam._answers import Items
from ringbeam._consistency import Bounded, Freshness
from ringbeam._limits import GET_MANY_AT_ONCE_MAX
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, GetMany, Scan
from ringbeam._slots import slot_of


def fill(ring: Ring, keys: list[bytes]) -> None:
    for n, key in enumerate(keys):
        ring.store[key], ring.revisions[key] = b"of " + key, Revision(n + 1)


def asked(ring: Ring, kind: type[Any]) -> list[Any]:
    return [body for _, body in ring.asked if isinstance(body, kind)]


# ---- multi-gets ----


async def test_values_come_in_the_order_of_the_keys() -> None:
    keys = [str(n).encode() for n in range(60)]
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.address(2)) as client:
        fill(ring, keys[::2])
        wanted = [*keys[::-1], keys[0], b"4"]
        found = await client.get_many([*wanted[:-1], "4"])
        for key, value in zip(wanted, found, strict=True):
            assert value == (Value(b"of " + key, ring.revisions[key]) if key in ring.store else None)
        shards = [at.shard for at, body in ring.asked if isinstance(body, GetMany) and at.node == 1]
        assert sorted(set(shards)) == [0, 1, 2, 3] and len(asked(ring, GetMany)) - len(shards) <= 4
        assert await client.get_many([]) == []
        assert len(asked(ring, GetMany)) == len(shards), "no keys are not asked for"


async def test_what_is_too_much_for_one_request_is_several_and_some_are_under_way_at_once() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, GetMany):
            return None
        now = asyncio.get_running_loop().time()
        due.append(now + 0.3)
        under_way.append(sum(then > now for then in due))
        return Later(0.3, ring.usual(at, body))

    due: list[float] = []
    under_way: list[int] = []
    keys = [b"%04d" % n + bytes(4092) for n in range(200)]
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, keys)
        found = await client.get_many(keys)
        assert [value.value if value else None for value in found] == [b"of " + key for key in keys]
        assert len(under_way) == 100, "two such keys fill a request"
        assert max(under_way) == GET_MANY_AT_ONCE_MAX


async def test_an_answer_that_is_full_is_followed_by_the_rest() -> None:
    keys = [str(n).encode() for n in range(100)]
    async with Ring(page=30) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, keys[:90])
        found = await client.get_many(keys)
        assert [value and value.value for value in found] == [b"of " + key for key in keys[:90]] + [None] * 10
        assert [len(body.keys) for body in asked(ring, GetMany)] == [100, 70, 40, 10]


async def test_a_multi_get_cut_in_flight_is_repeated() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, GetMany) and next(reads) < 2 else None

    reads = count()
    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        fill(ring, [b"a"])
        assert await client.get_many(["a", "b"]) == [Value(b"of a", Revision(1)), None]
        assert ring.count(GetMany) == 3


@pytest.mark.parametrize(
    "consistency", [Consistency.LINEARIZABLE, Consistency.LOCAL, Consistency.SESSION, Bounded(1.0)]
)
async def test_linearizable_reads_go_to_the_leader_others_to_the_own_region(consistency: Freshness) -> None:
    async with Ring(3, 2) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        fill(ring, [b"a", b"b", b"c"])
        for _ in range(3):
            assert None not in await client.get_many(["a", "b", "c"], consistency=consistency)
            assert [item.key async for item in client.scan(consistency=consistency)] == [b"a", b"b", b"c"]
        final = {at.node for at, body in ring.asked if isinstance(body, GetMany | Scan)}
        assert final == ({1} if consistency is Consistency.LINEARIZABLE else {2})


async def test_what_fails_for_one_request_ends_the_call_and_the_others() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, GetMany):
            return None
        return Refusal(Code.BAD_REQUEST, message="not this one") if at.shard == 1 else Silence()

    async with Ring(1, 4, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        before = len(asyncio.all_tasks())
        with pytest.raises(ringbeam.Refused, match="not this one"):
            await client.get_many([str(n) for n in range(40)])
        await asyncio.sleep(0.02)
        assert len(asyncio.all_tasks()) <= before + 4, "what is left are the fake's own, one per connection"
        for shard in client._core._shards:
            assert shard.leader is None or not shard.leader._waiting, "nobody waits any more"


async def test_the_deadline_is_that_of_the_whole_multi_get() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(0.12, ring.usual(at, body)) if isinstance(body, GetMany) else None

    async with Ring(page=1, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, [b"a", b"b", b"c"])
        started = time.monotonic()
        with pytest.raises(ringbeam.Timeout) as caught:
            await client.get_many(["a", "b", "c"], timeout=0.2)
        assert caught.value.timeout == 0.2
        assert 0.2 <= time.monotonic() - started < 0.4
        deadlines = [at.deadline_ms for at, body in ring.asked if isinstance(body, GetMany)]
        assert deadlines[1] < deadlines[0] - 100, "the second request is told what is left"


async def test_an_answer_that_does_not_fit_the_keys_is_said_to_be_none() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return next(answers) if isinstance(body, GetMany) else None

    answers: Iterator[Items | Value] = iter([Items((None,)), Items((), 1, True), Items((None,) * 3), Value(b"v")])
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        for _ in range(3):
            with pytest.raises(ringbeam.ProtocolError, match="items for 2 keys"):
                await client.get_many(["a", "b"])
        with pytest.raises(ringbeam.ProtocolError, match="Value"):
            await client.get_many(["a", "b"])


async def test_keys_that_are_none_are_refused_before_anything_is_sent() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        for key, code in [(b"", Code.KEY_EMPTY), (b"k" * 4097, Code.KEY_TOO_LARGE)]:
            with pytest.raises(ringbeam.Refused) as caught:
                await client.get_many(["a", key])
            assert caught.value.code is code
        with pytest.raises(ringbeam.Refused) as named:
            await client.get_many(["a"], namespace="n" * 65)
        assert named.value.code is Code.BAD_NAMESPACE
        for wrong in ("abc", b"abc", 7):
            with pytest.raises(TypeError, match="right is a list of bytes or str"):
                await client.get_many(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the key is of type int"):
            await client.get_many([7])  # type: ignore[list-item]
        assert ring.count(GetMany) == 0


# ---- scans ----

KEYS = sorted({b"%d" % (n * n % 1009) for n in range(300)} | {b"\x00", b"a\x00", b"a\x00\x00", b"\xff", b"\xff\xff"})


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("bounds", "first", "end"),
    [
        ({}, b"", b""),
        ({"prefix": "1"}, b"1", b"2"),
        ({"prefix": ""}, b"", b""),
        ({"prefix": b"\xff"}, b"\xff", b""),
        ({"start": "3", "end": b"55"}, b"3", b"55"),
        ({"start": b"a\x00"}, b"a\x00", b""),
        ({"end": "2"}, b"", b"2"),
        ({"start": "5", "end": "3"}, b"5", b"3"),
    ],
)
async def test_a_scan_is_the_range_in_order(bounds: dict[str, Any], first: bytes, end: bytes, backward: bool) -> None:
    async with Ring(3, 4, page=7) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, KEYS)
        wanted = [key for key in KEYS if first <= key and (not end or key < end)]
        wanted = wanted[::-1] if backward else wanted
        items = [item async for item in client.scan(**bounds, backward=backward)]
        assert items == [Item(key, b"of " + key, ring.revisions[key]) for key in wanted]
        bare = [item async for item in client.scan(**bounds, backward=backward, keys_only=True)]
        assert bare == [Item(key, b"", ring.revisions[key]) for key in wanted]
        for limit in {1, 6, 7, 8, len(wanted), len(wanted) + 1} - {0}:
            some = [item.key async for item in client.scan(**bounds, backward=backward, limit=limit)]
            assert some == wanted[:limit]
        assert all(at.node == 1 for at, body in ring.asked if isinstance(body, Scan))


async def test_pages_are_fetched_as_they_are_needed_and_no_larger() -> None:
    async with Ring(1, 2, page=50) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, KEYS)
        before = len(asyncio.all_tasks())
        async for item in client.scan():
            if item.key == KEYS[20]:
                break
        assert sorted(at.shard for at, body in ring.asked if isinstance(body, Scan)) == [0, 1], "a page of each shard"
        assert {body.limit for body in asked(ring, Scan)} == {1000}
        assert len(asyncio.all_tasks()) <= before + 1, (
            "but for the fake's connection to the second shard, no task is left"
        )
        ring.asked.clear()
        scan = client.scan(limit=70)
        assert ring.count(Scan) == 0, "nothing is asked before the first item is"
        assert len([item async for item in scan]) == 70
        limits = [body.limit for body in asked(ring, Scan)]
        assert limits[:2] == [70, 70] and all(0 < limit < 70 for limit in limits[2:]), "only what is left to give"
        ring.asked.clear()
        assert len([item async for item in client.scan(limit=5_000)]) == len(KEYS)
        assert max(body.limit for body in asked(ring, Scan)) == 1000, "no page is longer"


async def test_a_prefix_with_a_whole_tag_is_asked_of_its_shard_alone() -> None:
    keys = sorted(b"{user:7}.%d" % n for n in range(30))
    async with Ring(1, 8, page=10) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, [*keys, b"{user:70}", b"{user:7"])
        assert [item.key async for item in client.scan(prefix="{user:7}.")] == keys
        shards = {at.shard for at, body in ring.asked if isinstance(body, Scan)}
        assert shards == {slot_of(keys[0]) * 8 // 4096}


async def test_pages_of_their_own_moments_are_repeated_anywhere_and_nothing_is_twice() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Scan) and at.node == ring.leader:
            page = next(pages)
            if page % 5 == 1:
                return Close()
            if page % 5 == 3:
                ring.lead(3 - ring.leader)
        return None

    pages = count()
    async with Ring(2, 3, page=10, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, KEYS)
        assert [item.key async for item in client.scan(pinned=False)] == KEYS
        assert next(pages) > len(KEYS) / 10 * 1.2, "some pages were asked for again"
        assert len({at.node for at, body in ring.asked if isinstance(body, Scan)}) == 2


async def test_what_is_there_all_the_time_is_in_a_scan_once_whatever_is_written_beside_it() -> None:
    async with Ring(1, 3, page=4) as ring, await ringbeam.connect(ring.endpoints) as client:
        stays, goes = KEYS[::2], KEYS[1::2]
        fill(ring, KEYS)
        for backward in (False, True):
            seen: list[bytes] = []
            async for item in client.scan(backward=backward, pinned=False):
                seen.append(item.key)
                for key in goes[len(seen) % 7 :: 7]:
                    if key in ring.store:
                        del ring.store[key]
                    else:
                        ring.store[key] = b"again"
            assert seen == sorted(set(seen), reverse=backward), "in order, nothing twice"
            assert set(stays) <= set(seen)


async def test_the_deadline_of_a_scan_is_that_of_each_page() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Scan) and body.start > b"8" else None

    async with Ring(page=50, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring, KEYS)
        seen = []
        with pytest.raises(ringbeam.Timeout) as caught:
            async for item in client.scan(timeout=0.2):
                seen.append(item.key)
                if len(seen) % 50 == 0:
                    await asyncio.sleep(0.15)
        assert caught.value.timeout == 0.2
        assert seen == KEYS[: len(seen)] and len(seen) >= 100, "what the loop over the items takes does not count"


async def test_a_node_that_answers_a_scan_with_nonsense_ends_it() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return next(answers) if isinstance(body, Scan) else None

    the_same = Items((Item(b"k"),), 1, True, pinned=7)
    answers: Iterator[Items | Value] = iter([the_same, the_same, Items((), 1, True), Value(b"v")])
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        for says in ("not in the range", "empty page", "answered with Value"):
            with pytest.raises(ringbeam.ProtocolError, match=says):
                async for _ in client.scan(start="k"):
                    pass
        assert ring.count(Scan) == 4, "the same page again and again is no progress"


async def test_arguments_of_a_scan_are_checked_at_once() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ValueError, match="not both"):
            client.scan(prefix="a", end="b")
        with pytest.raises(ValueError, match="right is 0 or more, or None for all"):
            client.scan(limit=-1)
        assert [item async for item in client.scan(limit=0)] == []
        for wrong in (True, 1.5):
            with pytest.raises(TypeError, match="right is a number of items"):
                client.scan(limit=wrong)  # type: ignore[arg-type]
        for none in (0, -1, 1001):
            with pytest.raises(ValueError, match=f"page is {none}, right is 1 to 1000"):
                client.scan(page=none)
        with pytest.raises(TypeError, match="right is a number of keys"):
            client.scan(page=True)
        with pytest.raises(TypeError, match="the prefix is of type int"):
            client.scan(prefix=7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="more than 0"):
            client.scan(timeout=0)
        for bound in ("prefix", "start", "end"):
            bounds: dict[str, Any] = {bound: b"k" * 4097}
            with pytest.raises(ringbeam.Refused, match="the key has 4097 bytes, the limit is 4096"):
                client.scan(**bounds)
        with pytest.raises(ringbeam.Refused, match="the namespace has 65 bytes"):
            client.scan(namespace="n" * 65)
        assert ring.count(Scan) == 0


async def test_a_scan_of_a_closed_client_ends() -> None:
    async with Ring(page=10) as ring:
        client = await ringbeam.connect(ring.endpoints)
        fill(ring, KEYS)
        scan = client.scan()
        assert (await anext(scan)).key == KEYS[0]
        await client.close()
        with pytest.raises(ringbeam.ConnectError, match="closed"):
            async for _ in scan:
                pass
