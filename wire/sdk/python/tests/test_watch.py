"""Watches against a ring of fakes: what is given out, going on after every kind of disconnect, snapshots, and who is
slow."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pytest
from fake import RING, Act, At, Close, Ring, Silence

import ringbeam
from ringbeam import ABSENT, Batch, Code, Event, EventKind, Revision, Token
from ringbeam._events import Events, WatchEnded, WatchStarted
from ringbeam._limits import WATCH_EVENTS_MAX
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, Hello, Ping, Watch
from ringbeam._slots import slot_of
from ringbeam._watch_token import decode, encode

T = TypeVar("T")


async def take(source: AsyncIterator[T], count: int) -> list[T]:
    """The next so many."""
    async with asyncio.timeout(20.0):
        return [await anext(source) for _ in range(count)]


def asked(ring: Ring) -> list[Watch]:
    return [body for _, body in ring.asked if isinstance(body, Watch)]


def short(events: list[Event]) -> list[tuple[str, bytes, bytes]]:
    return [(event.kind.name, event.key, event.value) for event in events]


async def cut(ring: Ring) -> None:
    """Ends all connections that watch."""
    ended = {writer for writer, *_ in ring._watches}
    for writer in ended:
        writer.transport.abort()
    async with asyncio.timeout(20.0):
        while ended & {writer for writer, *_ in ring._watches}:
            await asyncio.sleep(0.001)


# ---- what is given out ----


async def test_changes_of_the_range_come_from_the_beginning_of_the_watch_on() -> None:
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.address(2)) as client:
        await client.put("a/before", "v")
        async with client.watch(prefix="a/") as watch:
            put = await client.put("a/1", "one")
            await client.put("b/1", "elsewhere")
            gone = await client.delete("a/1")
            events = await take(aiter(watch), 2)
        assert short(events) == [("PUT", b"a/1", b"one"), ("DELETE", b"a/1", b"")]
        assert [event.revision for event in events] == [put.revision, gone.revision]
        assert {at.shard for at, body in ring.asked if isinstance(body, Watch)} == {0, 1, 2, 3}


async def test_what_the_session_has_seen_is_no_change_at_a_node_that_lags_behind() -> None:
    async with Ring(3, 1) as ring, await ringbeam.connect(ring.address(1)) as client:
        first = await client.put("a/first", "v")
        # As if the session had seen two writes more than the node that is going to be asked.
        ahead = client.with_token(Token(client.ring, {0: first.revision.index + 2}))
        async with ahead.watch(prefix="a/") as watch:
            seen = [await client.put(f"a/{n}", "v") for n in range(4)]
            events = await take(aiter(watch), 2)
        assert [event.revision for event in events] == [put.revision for put in seen[2:]]


async def test_one_key_is_watched_on_its_shard_only() -> None:
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.address(2)) as client:
        async with client.watch(key="k", previous=True) as watch:
            await client.put("k", "1")
            await client.put("k2", "no")
            await client.put("k", "2")
            first, second = await take(aiter(watch), 2)
        assert (first.previous, second.previous and second.previous.value) == (None, b"1")
        [ask] = asked(ring)
        assert (ask.start, ask.end, ask.previous) == (b"k", b"k\0", True)


async def test_what_a_watch_wants_is_sent() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints, namespace="n") as client:
        async with client.watch(start="a", end="c", puts=False, conflate=True, progress=0.5) as watch:
            await client.put("b", "v")
            await client.delete("b")
            assert short(await take(aiter(watch), 1)) == [("DELETE", b"b", b"")]
        [ask] = asked(ring)
        assert ask == Watch(b"n", b"a", b"c", no_puts=True, conflate=True, progress_ms=500)
        async with client.watch(deletes=False):
            assert asked(ring)[1] == Watch(b"n", no_deletes=True, progress_ms=1_000)


async def test_wishes_that_make_no_sense_are_said_so() -> None:
    async with Ring(1, 2) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ValueError, match="given are key, prefix"):
            client.watch(key="k", prefix="p")
        with pytest.raises(ValueError, match="the range is of several: right is a token"):
            client.watch(prefix="p", after=Revision(7))
        with pytest.raises(ValueError, match="the token is of ring 7"):
            client.watch(after=encode(7, 2, {}))
        with pytest.raises(ValueError, match="not both"):
            client.watch(key="k", after=Revision(7), snapshot=True)
        with pytest.raises(ringbeam.Refused, match="the key is empty"):
            client.watch(key="")
        assert asked(ring) == []


async def test_a_refused_watch_says_why() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(Code.BAD_REQUEST, message="ends before it begins") if isinstance(body, Watch) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Refused, match="ends before it begins"):
            await take(aiter(client.watch(start="b", end="a")), 1)


async def test_a_watch_that_no_node_takes_in_time_is_a_timeout() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Watch) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Timeout, match="no node of shard 0 took the watch"):
            await client.watch(timeout=0.1).start()


# ---- going on ----


async def test_it_goes_on_behind_what_came_when_the_connection_is_lost() -> None:
    async with Ring(3, 2) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.watch() as watch:
            events = aiter(watch)
            await client.put("1", "v")
            seen = await take(events, 1)
            for n in range(2, 6):
                await cut(ring)
                await client.put(str(n), "v")  # while nobody watches, or after
                seen += await take(events, 1)
        assert [event.key for event in seen] == [b"1", b"2", b"3", b"4", b"5"]
        assert len({event.revision for event in seen}) == 5, "nothing twice, nothing missed"
        resumed = [ask.after for ask in asked(ring)[2:]]
        assert all(after is not None and after.position == (1 << 32) - 1 for after in resumed)


async def test_a_token_goes_on_in_another_client_with_what_was_not_given_out() -> None:
    async with Ring(1, 2) as ring:
        async with await ringbeam.connect(ring.endpoints) as client, client.watch() as watch:
            for n in range(6):
                await client.put(str(n), "v")
            seen = await take(aiter(watch), 3)
            handed = watch.token
        async with await ringbeam.connect(ring.endpoints) as client:
            await client.put("6", "v")
            async with client.watch(after=handed) as watch:
                seen += await take(aiter(watch), 4)
        assert sorted(event.key for event in seen) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_a_node_that_cannot_serve_is_left_for_another() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, Watch) or at.node == 3:
            return None
        return Refusal(Code.TOO_MANY_WATCHES, message="full") if at.node == 2 else Close()

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        async with client.watch(timeout=20.0) as watch:
            await client.put("k", "v")
            assert short(await take(aiter(watch), 1)) == [("PUT", b"k", b"v")]
        assert next(at.node for at, body in ring.asked if isinstance(body, Watch)) == 2


async def test_a_silent_node_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringbeam._connection.SILENCE_BEFORE_PING", 0.02)
    monkeypatch.setattr("ringbeam._connection.SILENCE_MAX", 0.08)

    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Silence() if mute and at.connection in mute and not isinstance(body, Hello) else None

    mute: set[int] = set()
    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.watch(timeout=20.0) as watch:
            mute |= {at.connection for at, body in ring.asked if isinstance(body, Watch)}
            async with asyncio.timeout(20.0):
                while len(asked(ring)) < 2:
                    await asyncio.sleep(0.005)
            await client.put("k", "v")
            assert short(await take(aiter(watch), 1)) == [("PUT", b"k", b"v")]
        assert any(isinstance(body, Ping) for at, body in ring.asked if at.connection in mute), "it was asked before"


async def test_a_node_that_keeps_less_is_left_for_one_that_keeps_more() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Watch) and body.after is not None and at.node != 3:
            return WatchEnded(Code.COMPACTED, "not kept here", body.after.index, Revision(99))
        return None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("0", "v")
        async with client.watch(after=Revision(0), timeout=20.0) as watch:
            assert short(await take(aiter(watch), 1)) == [("PUT", b"0", b"v")]


async def test_what_nobody_keeps_is_compacted_and_a_snapshot_is_the_way_out() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(5):
            await client.put(str(n), "v")
        ring.compacted = 4
        with pytest.raises(ringbeam.Compacted, match="not kept on node") as caught:
            await take(aiter(client.watch(after=Revision(2), timeout=20.0)), 1)
        assert (caught.value.shard, caught.value.oldest, caught.value.code) == (0, Revision(4), Code.COMPACTED)
        assert {at.node for at, body in ring.asked if isinstance(body, Watch)} == {1, 2, 3}, "everyone was asked"
        async with client.watch(snapshot=True) as watch:
            assert {event.key for event in await take(aiter(watch), 5)} == {b"0", b"1", b"2", b"3", b"4"}


def stop(ring: Ring, node: int) -> None:
    """Nobody listens there any more."""
    ring._servers[node - 1].close()
    ring.cut(node)


async def test_what_nobody_keeps_is_compacted_also_while_a_node_is_down() -> None:
    """The watch waited for the node that was down to say so, too, for ever."""
    async with Ring(3) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(5):
            await client.put(str(n), "v")
        stop(ring, 2)
        ring.compacted = 4
        with pytest.raises(ringbeam.Compacted, match="not kept on node"):
            await take(aiter(client.watch(after=Revision(2), timeout=20.0)), 1)
        assert {at.node for at, body in ring.asked if isinstance(body, Watch)} == {1, 3}, "whoever is there was asked"


async def test_a_watch_that_lost_changes_while_it_was_away_restarts_also_while_a_node_is_down() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.watch(restart=True, timeout=20.0) as watch:
            await client.put("0", "v")
            assert short(await take(aiter(watch), 1)) == [("PUT", b"0", b"v")]
            stop(ring, 3)
            ring.compacted = 9
            await cut(ring)
            copied: list[Batch] = []
            while not copied or not copied[-1].copy_ends:
                copied += await take(watch.batches(), 1)
        assert [event.key for batch in copied for event in batch.events] == [b"0"]


async def test_who_was_too_slow_asks_what_is_still_kept() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        slow = isinstance(body, Watch) and at.connection not in asked_again and not asked_again
        if not slow:
            return None
        asked_again.add(at.connection)
        return WatchEnded(Code.WATCH_TOO_SLOW, "too slow", 7, Revision(9))

    asked_again: set[int] = set()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.watch(timeout=20.0) as watch:
            await client.put("k", "v")
            assert short(await take(aiter(watch), 1)) == [("PUT", b"k", b"v")]
        assert len(asked(ring)) == 2


async def test_a_watch_that_restarts_gets_a_copy_when_changes_are_lost() -> None:
    async with Ring(2) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(5):
            await client.put(str(n), "v")
        ring.compacted = 4
        async with client.watch(after=Revision(2), restart=True, timeout=20.0) as watch:
            batches = await take(watch.batches(), 2)
        assert batches[0].copy_begins and batches[1].copy_ends
        assert {event.key for batch in batches for event in batch.events} == {b"0", b"1", b"2", b"3", b"4"}


async def test_a_large_batch_of_writes_that_came_in_part_is_gone_on_with_inside_of_it() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if not isinstance(body, Watch):
            return None
        asks.append(body)
        return WatchStarted(7)

    asks: list[Watch] = []
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.watch(timeout=20.0) as watch:
            [lane] = watch._lanes
            lane.hear(Events((Event(EventKind.PUT, b"a", b"1", Revision(9, 3)),), 8))
            assert lane.connection is not None
            lane.connection.close("cut between two messages of index 9")
            while len(asks) < 2:
                await asyncio.sleep(0.001)
            assert asks[1].after == Revision(9, 3)
            await take(aiter(watch), 1)
            assert watch.token == encode(RING, 1, {0: Revision(9, 3)})


# ---- snapshots ----


async def test_a_snapshot_comes_first_and_says_where_it_begins_and_ends() -> None:
    async with Ring(1, 2) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(4):
            await client.put(f"k{n}", "old")
        async with client.watch(prefix="k", snapshot=True) as watch:
            known: dict[int, dict[bytes, bytes]] = {}
            begun, ended = 0, 0
            batches = watch.batches()
            while ended < 2:
                [batch] = await take(batches, 1)
                begun, ended = begun + batch.copy_begins, ended + batch.copy_ends
                if batch.copy_begins:
                    known[batch.shard] = {}
                    place = decode(watch.token, RING, 2)[batch.shard]
                    assert (place is not None) is batch.copy_ends, "it begins with a copy as long as it was not whole"
                for event in batch.events:
                    assert event.kind is EventKind.SNAPSHOT
                    known[batch.shard][event.key] = event.value
            assert begun == 2 and None not in decode(watch.token, RING, 2).values()
            assert {key for shard in known.values() for key in shard} == {b"k0", b"k1", b"k2", b"k3"}
            await client.put("k0", "new")
            assert short(await take(aiter(watch), 1)) == [("PUT", b"k0", b"new")]


async def test_a_snapshot_that_was_interrupted_begins_anew() -> None:
    async with Ring(1, breaks_snapshots=2) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(4):
            await client.put(f"k{n}", "v")
        async with client.watch(snapshot=True, timeout=20.0) as watch:
            batches = watch.batches()
            seen: list[Batch] = []
            while not seen or not seen[-1].copy_ends:
                seen += await take(batches, 1)
            whole = seen[[n for n, batch in enumerate(seen) if batch.copy_begins][-1] :]
            assert sum(batch.copy_begins for batch in seen) == 3
            assert [event.key for batch in whole for event in batch.events] == [b"k0", b"k1", b"k2", b"k3"]
        assert [ask.snapshot for ask in asked(ring)] == [True] * 3
        assert [ask.after for ask in asked(ring)] == [None] * 3


async def test_a_slow_watch_that_was_left_behind_gets_a_new_copy_and_goes_on_with_it_after_a_disconnect() -> None:
    """As with `conflate`: after changes a copy comes, and is cut in its middle."""

    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, Watch):
            return None
        asks.append(body)
        return WatchStarted(7)

    def copy(*keys: bytes, ends: bool = False, index: int = 20) -> Events:
        items = tuple(Event(EventKind.SNAPSHOT, key, b"v", Revision(3), conflated=True) for key in keys)
        return Events(items, index, snapshot_ends=ends)

    asks: list[Watch] = []
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        watch = client.watch(conflate=True, timeout=20.0)
        async with watch:
            [lane] = watch._lanes
            lane.hear(Events((Event(EventKind.PUT, b"a", b"1", Revision(8)),), 8))
            lane.hear(copy(b"a"))
            assert lane.connection is not None
            lane.connection.close("cut in the middle of the copy")
            while len(asks) < 2 or lane.connection is None:
                await asyncio.sleep(0.001)
            assert (asks[1].snapshot, asks[1].after) == (True, None), "not behind what came before the copy"
            lane.hear(copy(b"a", b"b"))
            lane.hear(copy(b"c", ends=True, index=21))
            batches = await take(watch.batches(), 4)
            assert [batch.copy_begins for batch in batches] == [False, True, True, False]
            assert watch.token == encode(RING, 1, {0: Revision(21, (1 << 32) - 1)})
            lane.connection.close("cut")
            while len(asks) < 3:
                await asyncio.sleep(0.001)
            assert (asks[2].snapshot, asks[2].after) == (False, Revision(21, (1 << 32) - 1))


async def test_an_empty_range_has_a_snapshot_too() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        watch = client.watch(prefix="none", snapshot=True)
        async with watch:
            [batch] = [batch for batch in await take(watch.batches(), 1) if batch.copy_ends]
            assert (batch.events, batch.copy_begins) == ((), True)


# ---- who is slow, who goes away ----


async def test_who_does_not_take_events_makes_the_node_wait_and_misses_nothing() -> None:
    flood = WATCH_EVENTS_MAX + 5_000

    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return WatchStarted(0) if isinstance(body, Watch) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        watch = client.watch(timeout=20.0)
        async with watch:
            [lane] = watch._lanes
            connection = lane.connection
            assert connection is not None
            for n in range(flood):
                lane.hear(Events((Event(EventKind.PUT, b"k", b"", Revision(n + 1)),), n + 1))
            assert connection._held, "the node's socket is not read"
            await client.put("k", "v")  # nor does that hold up anything else
            events = await take(aiter(watch), flood)
            assert [event.revision.index for event in events] == list(range(1, flood + 1))
            assert not connection._held


async def test_a_watch_that_nobody_holds_ends() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        watch = client.watch()
        await watch.start()
        assert len(ring._watches) == 1
        del watch
        gc.collect()
        async with asyncio.timeout(20.0):
            while ring._watches:
                await asyncio.sleep(0.001)


async def test_the_end_of_the_client_is_the_end_of_its_watches() -> None:
    async with Ring(1, 2) as ring:
        client = await ringbeam.connect(ring.endpoints)
        watch = client.watch()
        await watch.start()
        waits = asyncio.ensure_future(anext(aiter(watch)))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ringbeam.ConnectError):
            await waits
        with pytest.raises(ringbeam.ConnectError):
            await anext(aiter(watch))


async def test_two_shards_take_turns() -> None:
    keys = [next(str(n) for n in range(99) if slot_of(str(n).encode()) // 2048 == shard) for shard in (0, 1)]
    async with Ring(1, 2) as ring, await ringbeam.connect(ring.endpoints) as client, client.watch() as watch:
        for _ in range(5):
            for key in keys:
                await client.put(key, "v")
        batches = [batch for batch in await take(watch.batches(), 10) if batch.events]
        assert {batch.shard for batch in batches[:2]} == {0, 1}, "the busier does not starve the other"


def test_errors_of_watches_survive_pickling() -> None:
    import pickle

    gone: Any = ringbeam.Compacted(Refusal(Code.COMPACTED, message="gone"), 3, ABSENT)
    again = pickle.loads(pickle.dumps(gone))
    assert (type(again), again.shard, again.oldest, again.message) == (ringbeam.Compacted, 3, ABSENT, "gone")


def test_the_bytes_of_a_token_are_those_of_every_sdk() -> None:
    token = encode(0x1234_5678_9ABC_DEF0, 3, {1: Revision(77, 5), 2: None})
    body = "72627774 01000000 f0debc9a78563412 03000000 00000000000000000000000000"
    assert token == bytes.fromhex(body + "4d00000000000000 05000000 01 0000000000000000 00000000 02")
    assert decode(token, 0x1234_5678_9ABC_DEF0, 3) == {1: Revision(77, 5), 2: None}
    with pytest.raises(ValueError, match="the token has 3 shards, the ring has 2"):
        decode(token, 0x1234_5678_9ABC_DEF0, 2)
    for cut_at in range(len(token)):
        with pytest.raises(ValueError):
            decode(token[:cut_at], 0x1234_5678_9ABC_DEF0, 3)
    for at in (0, 4, 16, 32):
        with pytest.raises(ValueError):
            decode(token[:at] + bytes([token[at] ^ 0x77]) + token[at + 1 :], 0x1234_5678_9ABC_DEF0, 3)
