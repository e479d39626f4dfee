"""Lives of keys and leases against a ring of fakes, where nothing ends by itself but what a script ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from fake import Act, ApplyAndClose, At, Later, Ring, Silence

import ringbeam
from ringbeam import Code, LeaseStatus, Txn
from ringbeam._octets import milliseconds
from ringbeam._requests import Body, GrantLease, KeepLease, Put, RevokeLease, Transact
from ringbeam._slots import slot_of


def asked(ring: Ring, kind: type[Any]) -> list[Any]:
    return [body for _, body in ring.asked if isinstance(body, kind)]


def test_times_are_whole_milliseconds_and_a_begun_one_counts() -> None:
    assert [milliseconds(time) for time in (1.1, 0.001, 0.0001, 2, 0.0021)] == [1100, 1, 1, 2000, 3]
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="right is more than 0"):
            milliseconds(wrong)
    with pytest.raises(TypeError, match="right is a number of seconds"):
        milliseconds("1")  # type: ignore[arg-type]


async def test_a_time_to_live_travels_with_puts_and_steps() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v", ttl=1.5)
        await client.put("k", "v")
        await client.txn(Txn(then=[ringbeam.Put("a", "1", ttl=90), ringbeam.Put("b", "2", lease=7)]))
        assert [(body.ttl_ms, body.lease) for body in asked(ring, Put)] == [(1500, 0), (0, 0)]
        [txn] = [body.txn for body in asked(ring, Transact)]
        assert txn.then == (ringbeam.Put("a", "1", ttl=90), ringbeam.Put("b", "2", lease=7))
        with pytest.raises(ValueError, match="right is more than 0"):
            await client.put("k", "v", ttl=0)


async def test_a_lease_is_granted_on_each_shard_when_it_is_used_there_and_revoked_at_the_end() -> None:
    keys = [
        next(f"{shard}/{n}" for n in range(99) if slot_of(f"{shard}/{n}".encode()) // 1024 == shard)
        for shard in range(4)
    ]
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.address(2)) as client:
        async with client.lease(10.0) as lease:
            assert ring.count(GrantLease) == 0, "not before it is used"
            await asyncio.gather(*(client.put(key, "v", lease=lease) for key in keys[:3] * 5))
            await client.txn(Txn(then=[ringbeam.Put(keys[0], "w", lease=lease, ttl=2.0)]))
            granted = [at.shard for at, body in ring.asked if isinstance(body, GrantLease) and at.node == 1]
            assert sorted(granted) == [0, 1, 2]
            [txn] = [body.txn for at, body in ring.asked if isinstance(body, Transact) and at.node == 1]
            assert txn.then == (ringbeam.Put(keys[0], "w", lease=await lease.id_on(0), ttl=2.0),)
            assert lease.is_alive and len(ring.store) == 3
        assert ring.store == {} and not lease.is_alive
        await lease.lost()
        with pytest.raises(ringbeam.Refused, match="this lease was lost or revoked; make a new one") as caught:
            await client.put(keys[3], "v", lease=lease)
        assert caught.value.code is Code.LEASE_NOT_FOUND


def keys_of(shards: int) -> list[str]:
    """A key of each."""
    each = 4096 // shards
    return [next(str(n) for n in range(999) if slot_of(str(n).encode()) // each == shard) for shard in range(shards)]


async def test_a_shard_that_grants_nothing_holds_up_its_own_puts_until_their_deadline_and_no_others() -> None:
    """The grant had the client's time instead of the put's, and one lock for all shards."""

    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, GrantLease) and at.shard == 0 else None

    here, there = keys_of(2)
    async with Ring(1, 2, script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=60.0) as client:
        lease = client.lease(10.0)
        stuck = asyncio.ensure_future(client.put(here, "v", lease=lease))
        async with asyncio.timeout(20.0):
            while ring.count(GrantLease) == 0:
                await asyncio.sleep(0.001)
            with pytest.raises(ringbeam.Timeout):
                await client.put(here, "v", lease=lease, timeout=0.1)
            with pytest.raises(ringbeam.Timeout):
                await client.txn(Txn(then=[ringbeam.Put(here, "v", lease=lease)]), timeout=0.1)
            await client.put(there, "v", lease=lease)
            assert not stuck.done() and lease.is_alive
            await lease.revoke()
        assert ring.store == {}
        stuck.cancel()


async def test_a_put_with_a_lease_has_what_the_grant_has_left_of_its_time() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(1.0, ring.usual(at, body)) if isinstance(body, GrantLease) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v", lease=client.lease(10.0), timeout=20.0)
        [told] = [at.deadline_ms for at, body in ring.asked if isinstance(body, Put)]
        assert told <= 19_000


async def test_a_lease_that_was_revoked_while_it_was_granted_is_not_used() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Later(0.2, ring.usual(at, body)) if isinstance(body, GrantLease) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        lease = client.lease(10.0)
        put = asyncio.ensure_future(client.put("k", "v", lease=lease, timeout=20.0))
        while ring.count(GrantLease) == 0:
            await asyncio.sleep(0.001)
        await lease.revoke()
        with pytest.raises(ringbeam.Refused, match="this lease was lost or revoked"):
            await put
        assert ring.store == {}


async def test_what_one_shard_does_not_hear_is_revoked_on_the_others() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, RevokeLease) and at.shard == 0 else None

    here, there = keys_of(2)
    async with Ring(1, 2, script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=1.0) as client:
        lease = client.lease(10.0)
        for key in (here, there):
            await client.put(key, "v", lease=lease, timeout=20.0)
        with pytest.raises(ringbeam.Timeout):
            await lease.revoke()
        assert list(ring.store) == [here.encode()]


async def test_a_lease_is_kept_alive_until_it_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringbeam._lease.KEPT_ALIVE_TIMES", 3_000)
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        lease = client.lease(30.0)
        await client.put("k", "v", lease=lease)
        async with asyncio.timeout(20.0):
            while ring.count(KeepLease) < 5:
                await asyncio.sleep(0.005)
        keeper = lease._granted[0].keeper
        del lease
        gc.collect()
        async with asyncio.timeout(20.0):
            while not keeper.done():
                await asyncio.sleep(0.005)
        assert b"k" in ring.store, "nobody revoked it: it ends by itself"


async def test_a_lease_that_the_ring_does_not_know_any_more_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringbeam._lease.KEPT_ALIVE_TIMES", 3_000)
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        lease = client.lease(30.0)
        await client.put("k", "v", lease=lease)
        ring.leases.clear()
        async with asyncio.timeout(20.0):
            await lease.lost()
        assert not lease.is_alive


async def test_a_lease_is_lost_when_nobody_answers_for_its_time() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, KeepLease) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        async with client.lease(0.3) as lease:
            began = asyncio.get_running_loop().time()
            await client.put("k", "v", lease=lease)
            async with asyncio.timeout(20.0):
                await lease.lost()
            assert asyncio.get_running_loop().time() - began >= 0.3
        assert b"k" not in ring.store, "revoked all the same"


async def test_what_cannot_be_revoked_at_the_end_of_the_block_ends_by_itself() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, RevokeLease) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=0.2) as client:
        async with client.lease(10.0) as lease:
            await client.put("k", "v", lease=lease, timeout=5.0)
        with pytest.raises(ringbeam.Timeout):
            await client.revoke_lease(0, 1)


async def test_leases_of_one_shard_for_who_keeps_them_alive_himself() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return ApplyAndClose() if isinstance(body, GrantLease) and ring.count(GrantLease) == 1 else None

    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.address(2)) as client:
        granted = await client.grant_lease(0, 2.0)
        assert (granted.lease, granted.ttl_ms) == (2, 2_000), "asked for twice: nobody knows of the first, which ends"
        await client.put("k", "v", lease=granted.lease)
        assert await client.keep_lease(0, granted.lease) == LeaseStatus(2, 2_000, 2_000, keys=1)
        assert (await client.lease_status(0, granted.lease)).keys == 1
        assert await client.revoke_lease(0, granted.lease)
        assert not await client.revoke_lease(0, granted.lease)
        assert ring.store == {}
        with pytest.raises(ringbeam.Refused, match="there is no lease 2") as caught:
            await client.keep_lease(0, granted.lease)
        assert caught.value.code is Code.LEASE_NOT_FOUND
        with pytest.raises(TypeError, match="right is Lease or an id"):
            await client.put("k", "v", lease="7")  # type: ignore[arg-type]
