"""Lives of keys, leases and watches on a real ring."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from live import LiveRing, needs_ring

import ringbeam
from ringbeam import Code, EventKind, Txn
from ringbeam._slots import slot_of

pytestmark = needs_ring
# Long enough for a machine that does much else.
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def ring() -> Iterator[LiveRing]:
    with LiveRing(shards=2) as ring:
        yield ring


async def until_gone(client: ringbeam.Client, key: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while await client.get(key) is not None:
            await asyncio.sleep(0.02)


# ---- lives and leases ----


async def test_a_key_goes_at_its_time_and_a_later_put_lets_it_stay(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="ttl") as client:
        await client.put("long", "v", ttl=3_600)
        await client.put("short", "v", ttl=0.3)
        await client.put("kept", "v", ttl=0.3)
        await client.put("kept", "w")
        await client.txn(Txn(then=[ringbeam.Put("{t}short", "v", ttl=0.3), ringbeam.Put("{t}long", "v")]))
        await until_gone(client, "short")
        await until_gone(client, "{t}short")
        assert [value is not None for value in await client.get_many(["long", "kept", "{t}long"])] == [True] * 3


async def test_keys_of_a_lease_are_there_while_it_is_alive_and_go_when_it_is_revoked(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="lease") as client:
        async with client.lease(2.0) as lease:
            for n in range(8):
                await client.put(f"worker/{n}", "here", lease=lease)
            await client.txn(Txn(then=[ringbeam.Put("{w}tagged", "here", lease=lease)]))
            states = [await client.lease_status(shard, await lease.id_on(shard)) for shard in range(2)]
            assert sum(state.keys for state in states) == 9 and {state.ttl_ms for state in states} == {2_000}
            # Longer than its time: it is kept alive, or knows that it is not.
            await asyncio.sleep(3.0)
            found = [item.key async for item in client.scan()]
            assert len(found) == 9 or not lease.is_alive
        for n in range(8):
            await until_gone(client, f"worker/{n}")
        await until_gone(client, "{w}tagged")


async def test_a_lease_that_nobody_keeps_alive_ends(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="alone") as client:
        granted = await client.grant_lease(client._core.routes.table[slot_of(b"k")], 1.0)
        await client.put("k", "v", lease=granted.lease)
        await until_gone(client, "k")
        with pytest.raises(ringbeam.Refused) as caught:
            await client.put("k", "v", lease=granted.lease)
        assert caught.value.code is Code.LEASE_NOT_FOUND
        with pytest.raises(ringbeam.Refused, match="it must be 1000 to"):
            await client.grant_lease(0, 0.5)


# ---- watches ----


async def test_a_watch_sees_every_change_of_both_shards_in_order_and_expiry_too(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="watch") as client:
        async with client.watch(prefix="w", previous=True) as watch, asyncio.timeout(TIMEOUT):
            wanted = 0
            for n in range(20):
                await client.put(f"w{n % 5}", str(n))
                wanted += 1
            await client.delete("w0")
            await client.put("other", "v")
            await client.put("w9", "soon gone", ttl=0.2)
            wanted += 3
            seen = []
            async for event in watch:
                seen.append(event)
                if len(seen) == wanted:
                    break
        of = {key: [event for event in seen if event.key == key] for key in {event.key for event in seen}}
        assert b"other" not in of
        for n in range(1, 5):
            events = of[f"w{n}".encode()]
            assert [event.value for event in events] == [str(at).encode() for at in range(n, 20, 5)]
            assert [event.previous and event.previous.value for event in events[1:]] == [e.value for e in events[:-1]]
            assert events == sorted(events, key=lambda event: event.revision)
        assert of[b"w0"][-1].kind is EventKind.DELETE
        assert [event.kind for event in of[b"w9"]] == [EventKind.PUT, EventKind.EXPIRE]


async def test_a_mirror_by_snapshot_and_watch_is_what_there_is_though_leaders_are_killed(ring: LiveRing) -> None:
    """Kept over killed leaders, in two halves: the second goes on by the token of the first, in another client."""
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="mirror") as client:
        for n in range(50):
            await client.put(f"m{n}", "before")
        mirror: dict[int, dict[bytes, bytes]] = {}
        stop = asyncio.Event()

        async def write() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                if n % 4:
                    await client.put(f"m{n % 70}", str(n))
                else:
                    await client.delete(f"m{n % 70}")
            await client.put("m-last", "0")
            await client.put("{1}m-last", "1")

        async def follow(watch: ringbeam.Watch, until: int) -> int:
            ends = changes = 0
            async for batch in watch.batches():
                if batch.copy_begins:
                    mirror[batch.shard] = {}
                known = mirror[batch.shard]
                for event in batch.events:
                    if event.kind in (EventKind.PUT, EventKind.SNAPSHOT):
                        known[event.key] = event.value
                    else:
                        known.pop(event.key, None)
                    changes += 1
                    ends += event.key.endswith(b"m-last")
                if ends == 2 or (until and changes >= until):
                    break
            return changes

        writing = asyncio.create_task(write())
        async with asyncio.timeout(4 * TIMEOUT):
            async with client.watch(snapshot=True) as watch:
                killing = asyncio.create_task(ring.kill_leader(client, 0))
                await follow(watch, until=200)
                await killing
                token = watch.token
            ring.restart()
            async with (
                await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="mirror") as other,
                other.watch(after=token) as watch,
            ):
                await follow(watch, until=100)
                await ring.kill_leader(client, 1)
                ring.restart()
                stop.set()
                await writing
                await follow(watch, until=0)
        there = {item.key: item.value async for item in client.scan()}
        assert {key: value for known in mirror.values() for key, value in known.items()} == there
