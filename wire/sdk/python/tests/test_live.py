"""The SDK against a real ring: the whole life of a key, many tasks, large values, and leaders killed among writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from live import LiveRing, needs_ring

import ringbeam
from ringbeam import Code, Consistency
from ringbeam._slots import slot_of

pytestmark = needs_ring
# Long enough for a machine that does much else.
TIMEOUT = 30.0
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def ring() -> Iterator[LiveRing]:
    with LiveRing(shards=2) as ring:
        yield ring


def example() -> str:
    """The README's program."""
    _, _, after = README.read_text().partition("```python\n")
    return after.partition("```")[0]


async def test_put_get_delete_and_revisions(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints[1], timeout=TIMEOUT) as client:
        first = await client.put("life", "one")
        assert (first.existed, first.duplicate) == (False, False)
        found = await client.get("life")
        assert found is not None
        assert (found.value, found.revision) == (b"one", first.revision)
        second = await client.put(b"life", b"two")
        assert second.existed and second.revision > first.revision
        assert second.ring_time_ms >= first.ring_time_ms
        gone = await client.delete("life")
        assert gone.existed and gone.revision > second.revision
        assert await client.get("life") is None


async def test_many_tasks_write_and_read_their_own(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="many") as client:

        async def work(task: int) -> None:
            for n in range(10):
                written = await client.put(f"{task}/{n}", f"{task * n}")
                found = await client.get(f"{task}/{n}")
                assert found is not None
                assert (found.value, found.revision) == (str(task * n).encode(), written.revision)

        await asyncio.gather(*(work(task) for task in range(200)))
        topologies = [await client.topology(shard) for shard in range(client.shards)]
        assert [topology.shard for topology in topologies] == [0, 1]


async def test_large_values_of_many_tasks(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, namespace="large", timeout=TIMEOUT) as client:

        async def work(task: int) -> None:
            value = bytes([task]) * (1 << 20)
            await client.put(f"large{task}", value)
            found = await client.get(f"large{task}")
            assert found is not None and found.value == value
            assert (await client.delete(f"large{task}")).existed

        await asyncio.gather(*(work(task) for task in range(8)))


async def test_refusals_and_deadlines(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        with pytest.raises(ringbeam.Refused, match="the limit is 1048576") as caught:
            await client.put("k", bytes((1 << 20) + 1))
        assert caught.value.code is Code.VALUE_TOO_LARGE
        with pytest.raises(ringbeam.Refused) as foreign:
            await ringbeam.connect(ring.endpoints, ring=7)
        assert foreign.value.code is Code.WRONG_RING
        # A deadline that has passed when it is looked at: answered in time or not, and never a wrong answer.
        with suppress(ringbeam.Timeout, ringbeam.Unknown):
            await client.put("k", "late", timeout=0.000_01)
        await client.put("k", "v")
        assert (found := await client.get("k")) is not None and found.value == b"v"


async def test_status_of_all_nodes(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        await client.put("k", "v")
        status = await client.status()
        assert [(node, shard) for node, shard, _ in status] == [(node, shard) for node in (1, 2, 3) for shard in (0, 1)]
        states = [told.raft_state for _, _, told in status if isinstance(told, ringbeam.Status)]
        assert sorted(states) == ["follower"] * 4 + ["leader"] * 2


async def test_goodbye_ends_the_sessions(ring: LiveRing) -> None:
    async def sessions(client: ringbeam.Client) -> int:
        leaders = [(await client.topology(shard)).leader for shard in range(2)]
        told = {(node, shard): status for node, shard, status in await client.status()}
        statuses = [told[(leader, shard)] for shard, leader in enumerate(leaders)]
        return sum(status.sessions for status in statuses if isinstance(status, ringbeam.Status))

    async def until_no_session(client: ringbeam.Client) -> None:
        async with asyncio.timeout(TIMEOUT):
            while await sessions(client):
                await asyncio.sleep(0.02)

    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, exactly_once=False) as watcher:
        await until_no_session(watcher)  # those of the tests before
        async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
            for shard in (0, 1):
                key = next(key for key in map(str, range(100)) if slot_of(key.encode()) // 2048 == shard)
                await client.put(key, "v")
            assert await sessions(watcher) == 2
        await until_no_session(watcher)


async def test_a_session_that_the_ring_forgot_is_replaced(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        await client.put("k", "1")
        for shard in client._core._shards:
            if shard.session.id:
                shard.session.opened(shard.session.id + 1_000_000, 16)  # one that the ring never opened
        written = await client.put("k", "2")
        assert written.existed and not written.duplicate


async def test_local_reads_of_every_node_see_a_write_in_the_end(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        await client.put("near", "here")
    for region in ("r1", "r2", "r3"):
        async with (
            await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, region=region) as client,
            asyncio.timeout(TIMEOUT),
        ):
            while (found := await client.get("near", consistency=Consistency.LOCAL)) is None:
                await asyncio.sleep(0.01)
            assert found.value == b"here"


async def test_the_readmes_example_runs(ring: LiveRing) -> None:
    program = example().replace("127.0.0.1:7701", ring.endpoints[0])
    assert "ringbeam.connect" in program and ring.endpoints[0] in program
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" in done.stdout


async def test_exactly_once_when_leaders_are_killed_among_writes() -> None:
    """Each task puts and deletes its own key in turn. `existed` of each answer must alternate: a write that happened
    twice, or not at all, or whose answer was another's, breaks the row."""
    with LiveRing(shards=2) as ring:
        async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
            answered = 0
            duplicates = 0
            enough = False

            async def work(task: int) -> int:
                nonlocal answered, duplicates
                key, pairs = f"toggle{task}", 0
                while not enough:
                    for written, existed in ((await client.put(key, "v"), False), (await client.delete(key), True)):
                        assert written.existed is existed, f"{key}, pair {pairs}: {written}"
                        duplicates += written.duplicate
                        answered += 1
                    pairs += 1
                return pairs

            async def counter() -> int:
                """One task counts in a key: what it reads is what it wrote."""
                n = 0
                while not enough:
                    await client.put("counter", str(n))
                    found = await client.get("counter")
                    assert found is not None and int(found.value) == n
                    n += 1
                return n

            async def kill() -> None:
                nonlocal enough
                for shard in (0, 1, 0):
                    before = answered
                    while answered < before + 300:
                        await asyncio.sleep(0.005)
                    await ring.kill_leader(client, shard)
                    before = answered
                    while answered < before + 300:
                        await asyncio.sleep(0.005)
                    ring.restart()
                enough = True

            async with asyncio.timeout(50):
                counting = asyncio.gather(counter(), *(work(task) for task in range(64)))
                await asyncio.gather(kill(), counting)
            counted, *pairs = counting.result()
            assert sum(pairs) * 2 == answered
            assert counted > 0
            for task in range(64):
                assert await client.get(f"toggle{task}") is None
            last = await client.get("counter")
            assert last is not None and int(last.value) == counted - 1
            print(f"{answered} writes answered, {duplicates} of them for the second time, {counted} counted")
