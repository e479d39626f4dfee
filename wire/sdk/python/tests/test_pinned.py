"""Scans of one moment, against a ring of fakes: whom pages are asked of, and what becomes of moments that are left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from itertools import chain, repeat
from typing import Any

import pytest
from fake import Act, ApplyAndClose, At, Close, Ring, Silence

import ringbeam
from ringbeam import ABSENT, Code, Consistency, Item, Revision
from ringbeam import _ranges as ranges
from ringbeam._answers import Items
from ringbeam._consistency import Freshness
from ringbeam._limits import PIN_KEYS_MAX
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, Ping, Scan, Unpin
from ringbeam._slots import slot_of

KEYS = [b"%03d" % n for n in range(100)]


def fill(ring: Ring) -> list[Item]:
    """All of KEYS, and what a scan of this moment finds."""
    for n, key in enumerate(KEYS):
        ring.store[key], ring.revisions[key] = b"of " + key, Revision(n + 1)
    written(ring)
    return [Item(key, ring.store[key], ring.revisions[key]) for key in KEYS]


def change(ring: Ring) -> None:
    """Every third key is another, every third is gone, and there are new ones."""
    for key in KEYS[::3]:
        ring.store[key], ring.revisions[key] = b"newer", Revision(1_000)
        ring.store[key + b"+"], ring.revisions[key + b"+"] = b"newer", Revision(1_000)
    for key in KEYS[1::3]:
        ring.store.pop(key, None)
        ring.revisions.pop(key, None)
    written(ring)


def written(ring: Ring) -> None:
    """The index is one more."""
    ring.answers[(9, len(ring.answers))] = ringbeam.Written()


def scans(ring: Ring) -> list[tuple[At, Scan]]:
    return [(at, body) for at, body in ring.asked if isinstance(body, Scan)]


def unpinned(ring: Ring) -> list[tuple[int, int, int]]:
    """Moments that were given back, as (node, shard, pin)."""
    return [(at.node, at.shard, body.pinned) for at, body in ring.asked if isinstance(body, Unpin)]


async def until_all_is_given_back(ring: Ring) -> None:
    async with asyncio.timeout(2):
        while ring.pins:
            await asyncio.sleep(0.002)


async def ended_once(ring: Ring, client: ringbeam.Client) -> int:
    """How many moments there were, each of which was given back, once, behind its last page."""
    await until_all_is_given_back(ring)
    # A connection is in order: what was said before this has arrived as well.
    deadline = asyncio.get_running_loop().time() + 2
    for shard in range(ring.shards):
        for address in ring.endpoints:
            if (connection := client._core.pool.connected(address, shard)) is not None:
                await connection.call(Ping(), deadline, 2_000)
    assert sorted(pin for _, _, pin in unpinned(ring)) == list(range(1, ring._pinned + 1))
    for pin in range(1, ring._pinned + 1):
        of_it = [body for _, body in ring.asked if isinstance(body, Scan | Unpin) and body.pinned == pin]
        assert isinstance(of_it[-1], Unpin)
    return ring._pinned


def keys_of_two_shards() -> tuple[list[bytes], list[bytes]]:
    """Of the first of two shards, and of the second, which are all behind them."""
    first, second = (next(t for t in (b"{%d}" % n for n in range(99)) if slot_of(t) // 2048 == s) for s in (0, 1))
    return [b"a" + first + key for key in KEYS], [b"b" + second + key for key in KEYS]


def have(ring: Ring, keys: list[bytes]) -> None:
    for n, key in enumerate(keys):
        ring.store[key], ring.revisions[key] = b"v", Revision(n + 1)


# ---- one moment ----


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
async def test_all_of_a_shard_is_as_of_one_index_whatever_is_written_and_whoever_leads(
    shards: int, backward: bool
) -> None:
    async with Ring(3, shards, page=7) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)[:: -1 if backward else 1]
        found = []
        async for item in client.scan(backward=backward):
            found.append(item)
            if len(found) % 10 == 1:
                change(ring)
                ring.lead(1 + len(found) % 3, tell=True)
        assert found == wanted
        for shard in range(shards):
            first, *others = [(at.node, body) for at, body in scans(ring) if at.shard == shard]
            assert (first[0], first[1].pin, first[1].pinned) == (1, PIN_KEYS_MAX, 0)
            assert others, "one page would show nothing"
            [pin] = {body.pinned for _, body in others}
            assert pin, "all of one moment"
            assert {(node, body.pin, body.pinned_index) for node, body in others} == {(1, 0, 1)}
            assert {body.consistency for _, body in others} == {Consistency.LINEARIZABLE}, "which says nothing more"
        assert await ended_once(ring, client) == shards, "each node was told, once"


@pytest.mark.parametrize("consistency", [Consistency.LOCAL, Consistency.SESSION])
async def test_a_reader_that_pinned_is_asked_for_all_pages_though_another_is_nearer_now(
    consistency: Freshness,
) -> None:
    async with Ring(3, page=10) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        wanted = fill(ring)
        found = []
        async for item in client.scan(consistency=consistency):
            found.append(item)
            change(ring)
            client._core.shard(0).readers.failed(ring.address(2), asyncio.get_running_loop().time())
        assert found == wanted
        assert [at.node for at, _ in scans(ring)] == [2] * 10


async def test_unpinned_pages_are_of_moments_of_their_own() -> None:
    async with Ring(3, page=10) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        found: list[Item] = []
        async for item in client.scan(pinned=False):
            found.append(item)
            if len(found) == 1:
                change(ring)
                ring.lead(2, tell=True)
        assert b"newer" not in {item.value for item in found[:10]} and b"newer" in {item.value for item in found[10:]}
        assert {(body.pin, body.pinned, body.pinned_index) for _, body in scans(ring)} == {(0, 0, 0)}
        assert [at.node for at, body in scans(ring)][-1] == 2, "any node will do"


async def test_what_one_page_has_is_asked_for_once_and_not_pinned() -> None:
    async with Ring(1, 3) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)
        assert [item async for item in client.scan()] == wanted
        assert sorted(at.shard for at, _ in scans(ring)) == [0, 1, 2]
        ring.asked.clear()
        assert [item async for item in client.scan(prefix="{a}", limit=1)] == []
        assert [item async for item in client.scan(limit=5)] == wanted[:5]
        assert {body.pin for _, body in scans(ring)} == {1, 5}
        assert (ring._pinned, unpinned(ring)) == (0, []), "enough is enough"


async def test_page_bounds_the_pages_and_limit_is_what_is_wanted() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)
        for limit, page, limits in [
            (None, 30, [30, 30, 30, 30]),
            (50, 30, [30, 20]),
            (50, None, [50]),
            (5_000, None, [1000]),
            (7, 1000, [7]),
        ]:
            for pinned in (True, False):
                ring.asked.clear()
                found = [item async for item in client.scan(limit=limit, page=page, pinned=pinned)]
                assert found == wanted[:limit]
                assert [body.limit for _, body in scans(ring)] == limits
                pins = [body.pin for _, body in scans(ring)]
                first = PIN_KEYS_MAX if limit is None else limit
                assert pins == [first if pinned else 0, *repeat(0, len(limits) - 1)]
                await until_all_is_given_back(ring)


async def test_a_part_that_waits_behind_others_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan over two shards, one of which has all the first keys: its pages took longer than the other's node keeps a
    moment that rests, and the scan ended in the middle although it never paused."""

    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Scan) and body.limit == 1:
            monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 1e9)
        return None

    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 1e9)
    keys = [key for of_shard in keys_of_two_shards() for key in of_shard]
    async with Ring(1, 2, page=20, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        have(ring, keys)
        found = []
        async for item in client.scan():
            found.append(item.key)
            if len(found) in (20, 40, 60, 80):
                monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 0.0)
        assert found == keys
        asked = [(at.shard, body.limit) for at, body in scans(ring)]
        assert asked[:2] == [(0, 1000), (1, 1000)]
        assert asked[2:10] == [(0, 1000), (1, 1)] * 4, "one key more, each time that a page is asked for"
        assert asked[10:] == [(1, 1000)] * 4
        assert await ended_once(ring, client) == 2


# ---- the last page ----


@pytest.mark.parametrize("backward", [False, True])
async def test_a_last_page_that_is_lost_is_asked_for_again_and_its_moment_ended_then(backward: bool) -> None:
    """A node ended a moment with its last page. When the reply was lost, nobody could answer it again, and a scan ended
    as Compacted although everybody was well."""

    def script(ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, Scan) and ring.count(Scan) in (4, 5) else None

    async with Ring(page=30, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)[:: -1 if backward else 1]
        found = []
        async for item in client.scan(backward=backward):
            found.append(item)
            change(ring)
        assert found == wanted
        asked = [body for _, body in scans(ring)]
        assert len(asked) == 6 and asked[3] == asked[4] == asked[5], "the last page, thrice"
        assert await ended_once(ring, client) == 1


async def test_a_moment_is_ended_when_its_last_page_is_here_though_the_scan_goes_on() -> None:
    first, second = keys_of_two_shards()
    async with Ring(1, 2, page=30) as ring, await ringbeam.connect(ring.endpoints) as client:
        have(ring, [*first, *second])
        scan = client.scan()
        found = [(await anext(scan)).key for _ in range(90)]
        assert (len(ring.pins), unpinned(ring)) == (2, [])
        found.append((await anext(scan)).key)
        async with asyncio.timeout(2):
            while len(ring.pins) > 1:
                await asyncio.sleep(0.002)
        assert [shard for _, shard, _ in unpinned(ring)] == [0]
        found += [item.key async for item in scan]
        assert found == [*first, *second]
        assert await ended_once(ring, client) == 2


async def test_a_moment_is_ended_when_what_is_loaded_reaches_the_limit() -> None:
    async with Ring(page=20) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)[:30]
        scan = client.scan(limit=30)
        found = [await anext(scan) for _ in range(21)]
        await until_all_is_given_back(ring)
        found += [item async for item in scan]
        assert found == wanted
        assert await ended_once(ring, client) == 1


# ---- programs that take their time ----


@pytest.mark.parametrize("limit", [None, 75])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("shards", "page"), [(1, 60), (3, 10)])
async def test_all_moments_are_asked_for_between_two_items_if_they_have_rested(
    shards: int, page: int, backward: bool, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 ms for each of the 1,000 items of a page: the next page was asked for after 50 s, of a moment that had been
    given up after 30, although the program had never paused."""
    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 0.0)
    async with Ring(3, shards, page=page) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)[:: -1 if backward else 1][:limit]
        found = []
        heard = 0
        async for item in client.scan(backward=backward, limit=limit):
            found.append(item)
            change(ring)
            # Patient for no longer than one item takes.
            asked_for = {body.pinned for _, body in scans(ring)[heard:]}
            ring.pins = {pin: of for pin, of in ring.pins.items() if pin in asked_for}
            heard = len(scans(ring))
        assert found == wanted
        assert 1 in {body.limit for _, body in scans(ring) if body.pinned}
        assert await ended_once(ring, client) == shards


@pytest.mark.parametrize("backward", [False, True])
async def test_one_key_more_is_asked_for_in_a_while_of_a_part_that_has_none_left_too(
    backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Scan) and body.limit == 1:
            monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 1e9)
        return None

    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 0.0)
    of_shard = keys_of_two_shards()
    keys = [key for keys in of_shard for key in keys][:: -1 if backward else 1]
    near, far = (1, 0) if backward else (0, 1)
    async with Ring(1, 2, page=40, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        have(ring, keys)
        scan = client.scan(backward=backward)
        found = [(await anext(scan)).key for _ in range(41)]
        asked = [(at.shard, body.limit) for at, body in scans(ring)]
        assert asked[:2] == [(0, 1000), (1, 1000)]
        assert sorted(asked[2:]) == [(0, 1), (1, 1)], "once, and what that gave comes before a page is asked for"
        found += [item.key async for item in scan]
        assert found == keys
        asked = [(at.shard, body.limit) for at, body in scans(ring)]
        assert asked[4:] == [(near, 1000)] * 2 + [(far, 1000)] * 2
        assert await ended_once(ring, client) == 2


# ---- trouble ----


async def test_a_pinned_page_that_is_lost_or_refused_as_too_much_is_asked_of_the_same_node() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return next(acts) if isinstance(body, Scan) else None

    busy = Refusal(Code.OVERLOADED, message="too many scans", retry_after_ms=5)
    acts: Iterator[Act | None] = chain([busy, busy, None, Close(), None, busy, Close(), Close(), None], repeat(None))
    async with Ring(3, page=20, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        wanted = fill(ring)
        found = []
        async for item in client.scan():
            found.append(item)
            change(ring)
            if len(found) == 50:
                ring.lead(3)
                ring.cut(1)
        assert found == wanted
        assert [at.node for at, _ in scans(ring)] == [1] * (5 + 3 + 3)
        assert len({at.connection for at, _ in scans(ring)}) == 5, "four times it was another connection"


async def test_a_node_that_cannot_be_reached_for_a_page_is_tried_until_the_deadline() -> None:
    async with Ring(2, page=10) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        scan = client.scan(timeout=0.3)
        await anext(scan)
        ring._servers[0].close()
        ring.cut(1)
        ring.lead(2)
        await asyncio.sleep(0.01)
        for _ in range(9):
            await anext(scan)
        began = time.monotonic()
        with pytest.raises(ringbeam.Timeout, match=r"only one node has what shard 0 is asked for: .*cannot connect"):
            await anext(scan)
        assert 0.2 < time.monotonic() - began < 1.0
        assert (ring.count(Scan, 2), unpinned(ring)) == (0, [])


async def test_a_silent_node_is_left_at_the_deadline_and_told() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Scan) and body.pinned else None

    async with Ring(page=10, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        with pytest.raises(ringbeam.Timeout):
            async for _ in client.scan(timeout=0.1):
                pass
        await until_all_is_given_back(ring)


@pytest.mark.parametrize("again", [1e9, 0.0])
async def test_a_moment_that_is_gone_is_compacted_and_the_others_are_given_back(
    again: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", again)
    async with Ring(1, 3, page=10) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        scan = client.scan()
        await anext(scan)
        [[gone, _]] = [(pin, of) for pin, of in ring.pins.items() if of.shard == 1]
        del ring.pins[gone]
        with pytest.raises(
            ringbeam.Compacted, match=r"does not keep moment . any more; scan anew, or with pinned=False"
        ) as caught:
            async for _ in scan:
                pass
        assert (caught.value.code, caught.value.shard, caught.value.oldest) == (Code.COMPACTED, 1, ABSENT)
        assert "; scan anew" in caught.value.message
        await until_all_is_given_back(ring)
        assert {shard for _, shard, _ in unpinned(ring)} == {0, 2}
        assert [item.key async for item in client.scan()] == KEYS


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (Items((Item(b"k"),), 41, False), "a page as of log index 41, the moment that it was asked of is 40"),
        (Items((Item(b"k"),), 40, True, pinned=8), "a page of moment 0x8, asked was 0x9"),
        (Items((Item(b"k"),), 40, True), "a page of moment 0x0, asked was 0x9"),
        (None, "a page that is not pinned: its node is of an older version; scan with pinned=False"),
    ],
)
async def test_a_page_of_another_moment_is_not_believed(page: Items | None, says: str) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if not isinstance(body, Scan):
            return None
        return page if body.pinned else Items((Item(b"a"),), 40, True, pinned=9 if page else 0)

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.ProtocolError, match=says):
            async for _ in client.scan():
                pass
        await client.get("a")
        assert unpinned(ring) == ([(1, 0, 9)] if page else [])


# ---- who leaves early ----


async def leave_by_break(scan: AsyncGenerator[Item, None]) -> None:
    async for _ in scan:
        break


async def leave_by_closing(scan: AsyncGenerator[Item, None]) -> None:
    await anext(scan)
    await scan.aclose()


async def leave_by_an_error(scan: AsyncGenerator[Item, None]) -> None:
    with suppress(KeyError):
        async for _ in scan:
            raise KeyError


async def leave_by_being_cancelled(scan: AsyncGenerator[Item, None]) -> None:
    async def all_of_it() -> None:
        async for _ in scan:
            pass

    task = asyncio.create_task(all_of_it())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_the_limit(scan: AsyncGenerator[Item, None]) -> None:
    assert len([item async for item in scan]) == 25


@pytest.mark.parametrize("again", [1e9, 0.0])
@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_closing, leave_by_an_error, leave_by_being_cancelled, leave_by_the_limit]
)
async def test_who_leaves_a_scan_gives_back_every_moment_and_waits_for_nothing(
    leave: Any, again: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", again)

    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Unpin):
            return Silence()
        is_page = isinstance(body, Scan) and body.pinned
        return Silence() if is_page and leave is leave_by_being_cancelled else None

    async with Ring(1, 3, page=10, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        await client.get_many(KEYS)
        before = len(asyncio.all_tasks())
        await leave(client.scan(limit=25))
        assert sorted(ring.pins) == [1, 2, 3]
        async with asyncio.timeout(2):
            while len(unpinned(ring)) < 3:
                await asyncio.sleep(0.002)
        assert sorted(unpinned(ring), key=lambda of: of[2]) == [(1, ring.pins[n].shard, n) for n in (1, 2, 3)]
        assert len(asyncio.all_tasks()) <= before, "no task waits for an answer"
        assert await client.get(KEYS[0]) is not None, "an answer that nobody waits for is no harm"


async def test_who_leaves_a_scan_whose_connections_are_gone_does_nothing() -> None:
    async with Ring(1, 3, page=10) as ring, await ringbeam.connect(ring.endpoints) as client:
        fill(ring)
        scan = client.scan()
        await anext(scan)
        ring.cut(1)
        await asyncio.sleep(0.02)
        connections = ring.connections
        await scan.aclose()
        await asyncio.sleep(0.02)
        assert (unpinned(ring), ring.connections) == ([], connections), "the node finds out by itself"
        ring.pins.clear()

        scan = client.scan()
        await anext(scan)
        await client.close()
        await scan.aclose()
        assert unpinned(ring) == []
