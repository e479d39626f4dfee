"""Counters, deltas, ranges that go, scans of one moment, outcomes of lost writes, and reads with a contract, on a real
ring."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from live import LiveRing, needs_ring

import ringbeam
from ringbeam import Bounded, Code, Consistency, Token
from ringbeam import _ranges as ranges
from ringbeam._slots import slot_of

pytestmark = needs_ring
# Long enough for a machine that does much else.
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def ring() -> Iterator[LiveRing]:
    with LiveRing(shards=2) as ring:
        yield ring


# ---- counters ----


async def test_additions_of_many_tasks_are_exact_though_leaders_are_killed(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="counters") as client:
        done = 0

        async def work() -> list[int]:
            nonlocal done
            sums = []
            for _ in range(25):
                sums.append((await client.add("n", 1)).value)
                done += 1
            return sums

        tasks = [asyncio.create_task(work()) for _ in range(16)]
        while done < 100:
            await asyncio.sleep(0.005)
        await ring.kill_leader(client, client._core.routes.table[slot_of(b"n")])
        sums = [value for one in await asyncio.gather(*tasks) for value in one]
        ring.restart()
        assert sorted(sums) == list(range(1, 401)), "each counted once, and no two came to the same sum"
        found = await client.get("n")
        assert found is not None and found.value == b"400"


async def test_counters_keep_their_bounds(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="counters") as client:
        assert (await client.add("stock", 7, min=0, max=10)).value == 7
        for delta in (4, -8):
            with pytest.raises(ringbeam.Refused) as caught:
                await client.add("stock", delta, min=0, max=10)
            assert caught.value.code is Code.OUT_OF_BOUNDS
        assert (await client.add("stock", 0)).value == 7
        await client.put("stock", "seven")
        with pytest.raises(ringbeam.Refused) as caught:
            await client.add("stock", 1)
        assert caught.value.code is Code.NOT_A_NUMBER
        await client.put("stock", str((1 << 63) - 1))
        with pytest.raises(ringbeam.Refused, match="OutOfBounds"):
            await client.add("stock", 1)


# ---- ranges ----


async def test_a_range_goes_whole_over_both_shards_and_nothing_beside_it(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="ranges") as client:
        for begin in range(0, 2_400, 200):
            await asyncio.gather(*(client.put(f"k{n:04}", "v") for n in range(begin, begin + 200)))
        assert await client.delete_range(start="k0010", end="k2390") == 2_380, "more than two slices of each shard"
        assert [item.key async for item in client.scan()] == [
            f"k{n:04}".encode() for n in [*range(10), *range(2390, 2400)]
        ]
        assert await client.delete_range(prefix="k00") == 10
        assert await client.delete_range(prefix="k00") == 0
        assert await client.delete_range(start="") == 10


# ---- scans of one moment ----


@pytest.mark.parametrize("consistency", [Consistency.LINEARIZABLE, Consistency.SESSION])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("pinned", [True, False])
async def test_a_scan_is_of_its_beginning_if_it_is_pinned_and_else_shows_what_is_written_meanwhile(
    ring: LiveRing, pinned: bool, backward: bool, consistency: Consistency
) -> None:
    name = f"moment/{pinned}/{backward}/{consistency.name}"
    keys = [f"{{s}}{n:02}" for n in range(60)]
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace=name, region="r2") as client:

        async def look() -> dict[bytes, tuple[bytes, ringbeam.Revision]]:
            return {item.key: (item.value, item.revision) async for item in client.scan(prefix="{s}")}

        await asyncio.gather(*(client.put(key, "old") for key in keys))
        before = await look()
        assert list(before) == [key.encode() for key in keys]
        found = {}
        async for item in client.scan(prefix="{s}", page=7, pinned=pinned, backward=backward, consistency=consistency):
            found[item.key] = (item.value, item.revision)
            if len(found) == 3:
                await asyncio.gather(*(client.put(key, "new") for key in keys[::3]))
                await asyncio.gather(*(client.delete(key) for key in keys[1::3]))
                await asyncio.gather(*(client.put(f"{key}+", "new") for key in keys))
            if len(found) == 40:
                await client.delete_range(prefix="{s}")
        assert list(found) == sorted(found, reverse=backward)
        if pinned:
            assert found == before
        else:
            first = list(before)[::-1][:7] if backward else list(before)[:7]
            assert {key: found[key] for key in first} == {key: before[key] for key in first}, "of the first page"
            assert {value for key, (value, _) in found.items() if key.endswith(b"+")} == {b"new"}
            assert len(set(before) - set(found)) > 10, "what was deleted before its page was made is not in it"
        assert await look() == {}


@pytest.mark.parametrize("backward", [False, True])
async def test_a_scan_whose_nodes_are_asked_for_one_key_more_between_any_two_is_still_of_one_moment(
    ring: LiveRing, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 0.0)
    keys = [f"k{n:02}" for n in range(80)]
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace=f"slowly/{backward}") as client:
        await asyncio.gather(*(client.put(key, "old") for key in keys))
        found = []
        async for item in client.scan(page=12, backward=backward):
            found.append((item.key.decode(), item.value))
            if len(found) % 10 == 5:
                await client.put(f"{item.key.decode()}+", "new")
                await asyncio.gather(*(client.put(key, "new") for key in keys[::3]))
                await asyncio.gather(*(client.delete(key) for key in keys[1::3]))
        assert found == [(key, b"old") for key in keys][:: -1 if backward else 1]


async def test_a_scan_of_one_moment_goes_on_at_its_node_when_the_leader_is_killed(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="moved") as writer:
        keys = [f"{{s}}{n:02}" for n in range(60)]
        await asyncio.gather(*(writer.put(key, "old") for key in keys))
        leader = (await writer.topology(writer._core.routes.table[slot_of(b"{s}")])).leader
        region = f"r{leader % 3 + 1}"
        async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="moved", region=region) as client:
            reader = client.with_token(writer.session_token())
            scan = reader.scan(prefix="{s}", page=7, consistency=Consistency.SESSION)
            found = [await anext(scan)]
            ring.kill(leader)
            await writer.put(keys[30], "new")
            await writer.delete_range(start=keys[31], end=keys[50])
            found += [item async for item in scan]
        ring.restart()
        assert [(item.key.decode(), item.value) for item in found] == [(key, b"old") for key in keys]


async def test_a_scan_whose_node_is_killed_says_that_its_moment_is_gone(
    ring: LiveRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the killing takes: the node is asked when a page is due.
    monkeypatch.setattr(ranges, "PIN_ASKED_AGAIN", 1e9)
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="gone") as client:
        await asyncio.gather(*(client.put(f"{{s}}{n:02}", "v") for n in range(20)))
        shard = client._core.routes.table[slot_of(b"{s}")]
        leader = (await client.topology(shard)).leader
        scan = client.scan(prefix="{s}", page=7)
        found = [(await anext(scan)).key]
        ring.kill(leader)
        ring.restart()
        with pytest.raises(ringbeam.Compacted, match=r"scan anew, or with pinned=False") as caught:
            async for item in scan:
                found.append(item.key)
        assert (len(found), caught.value.shard) == (7, shard)
        assert len([item async for item in client.scan(prefix="{s}", page=7)]) == 20


# ---- outcomes ----


async def test_the_outcome_of_a_lost_write_is_settled_by_asking(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="outcomes") as client:
        before = await client.put("k", "0")
        ticket = None
        async with asyncio.timeout(2 * TIMEOUT):
            while ticket is None:
                leader = (await client.topology(client._core.routes.table[slot_of(b"k")])).leader
                with ring.stopped(node for node in (1, 2, 3) if node != leader):
                    try:
                        await client.put("k", "1", timeout=0.5)
                    except ringbeam.Unknown as lost:
                        ticket = lost.ticket
                    except ringbeam.Timeout:
                        continue  # another one led meanwhile
                    else:
                        raise AssertionError("a write without a quorum was acknowledged")
        done = await client.outcome(ticket)
        assert await client.outcome(ticket) == done
        found = await client.get("k")
        assert found is not None and found.value == (b"0" if done is None else b"1")
        if done is not None:
            assert done.existed and done.revision == found.revision > before.revision
        await client.put("k", "2")
        await client.put("k", "3")
        with pytest.raises(ringbeam.Refused, match="cannot be known any more"):
            await client.outcome(ticket)


# ---- reads with a contract ----


async def test_a_session_sees_its_writes_at_every_node_and_so_does_who_has_its_token(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="session") as writer:
        for region in ("r1", "r2", "r3"):
            async with await ringbeam.connect(
                ring.endpoints, timeout=TIMEOUT, namespace="session", region=region, consistency=Consistency.SESSION
            ) as client:
                for n in range(20):
                    await client.put(f"{region}/{n}", str(n))
                    found = await client.get(f"{region}/{n}")
                    assert found is not None and found.value == str(n).encode()
                await writer.put("handed", region)
                reader = client.with_token(Token.from_bytes(writer.session_token().to_bytes()))
                found = await reader.get("handed")
                assert found is not None and found.value == region.encode()
                [value, none] = await reader.get_many(["handed", "nothing"])
                assert value is not None and value.value == region.encode() and none is None
                assert "handed" in {item.key.decode() async for item in reader.scan(prefix="h")}


async def test_a_bound_is_kept_and_the_age_is_told(ring: LiveRing) -> None:
    for region in ("r1", "r2", "r3"):
        async with await ringbeam.connect(
            ring.endpoints, timeout=TIMEOUT, namespace="bounded", region=region
        ) as client:
            await client.put("k", region)
            await asyncio.sleep(0.6)
            read = await client.read("k", consistency=Bounded(0.5))
            assert read.age is not None and read.age <= 0.5 and not read.stale
            assert read.found is not None and read.found.value == region.encode(), "it is older than the bound"
            nothing = await client.read("nothing", consistency=Bounded(20.0, stale_ok=True))
            assert (nothing.found, nothing.stale) == (None, False) and nothing.index > 0


# ---- values that grow ----


async def test_deltas_are_folded_and_each_is_there_once(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="deltas") as client:
        for n in range(50):
            await client.append("log", f"{n},")
        found = await client.get("log")
        assert found is not None and found.value == b"".join(b"%d," % n for n in range(50))
        await client.put("state", json.dumps({"dug": 0, "loot": {"gem": 1}}))
        for n in range(30):
            await client.merge_patch("state", {"dug": n, "loot": {f"coin{n}": True}})
        await client.merge_patch("state", {"loot": {"gem": None}})
        state = await client.get("state")
        assert state is not None
        assert json.loads(state.value) == {"dug": 29, "loot": {f"coin{n}": True for n in range(30)}}
        with pytest.raises(ringbeam.Refused) as caught:
            await client.merge_patch("log", {"a": 1})
        assert caught.value.code is Code.NOT_JSON


# ---- policies ----


async def test_reads_are_as_the_namespaces_policy_says(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        assert await client.policy("profiles") is None
        for policy in (Consistency.SESSION, Bounded(0.25), Bounded(60.0, stale_ok=True)):
            await client.set_policy("profiles", policy)
            assert await client.policy("profiles") == policy
        profiles = client.namespace("profiles")
        await profiles.put("k", "v")
        # As any node knows it: a moment later.
        while (said := await client.namespace_by_policy("profiles"))._fresh(None) != Bounded(60.0, stale_ok=True):
            await asyncio.sleep(0.01)
        # A minute old is young enough, so it may not be there yet, at some node.
        while (found := await said.read("k")).found is None:
            await asyncio.sleep(0.01)
        assert found.age is not None
        assert (await client.namespace_by_policy("others"))._fresh(None) == Consistency.LINEARIZABLE
        assert await client.remove_policy("profiles") and not await client.remove_policy("profiles")
        await client.put("/odd", "as you like", namespace="ringbeam.policies")
        with pytest.raises(ringbeam.ProtocolError, match="as you like"):
            await client.policy("odd")
