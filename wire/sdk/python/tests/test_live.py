"""The SDK against a real ring: the whole life of a key, many tasks, large values, transactions, scans and multi-gets
against models, and leaders killed among writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from live import LiveRing, needs_ring

import ringbeam
from ringbeam import ABSENT, Code, Compare, Consistency, Delete, Get, Put, Relation, Revision, Txn, ValueIs
from ringbeam._limits import GET_MANY_KEYS_MAX, ITEMS_BYTES_MAX, KEY_BYTES_MAX
from ringbeam._refusal import Refusal
from ringbeam._requests import GetMany, Transact
from ringbeam._slots import slot_of
from ringbeam._transaction import check_keys, check_size

pytestmark = needs_ring
# Long enough for a machine that does much else.
TIMEOUT = 30.0
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def ring() -> Iterator[LiveRing]:
    with LiveRing(shards=2) as ring:
        yield ring


def examples() -> list[str]:
    """The README's programs."""
    return [after.partition("```")[0] for after in README.read_text().split("```python\n")[1:]]


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

        await asyncio.gather(*(work(task) for task in range(4)))


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


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (0, "hello"),
        (1, "cart of 7: apples, pears"),
        (2, "stale False"),
        (3, "left 1\nOutOfBounds\ndeleted 1"),
        (4, "DELETE order:1"),
    ],
)
async def test_the_readmes_examples_run(ring: LiveRing, at: int, says: str) -> None:
    program = examples()[at].replace("127.0.0.1:7701", ring.endpoints[0])
    assert "ringbeam.connect" in program and ring.endpoints[0] in program
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


# ---- transactions ----


async def test_compare_and_set_and_create(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints[2], timeout=TIMEOUT, namespace="cas") as client:
        first = await client.create("k", "one")
        assert first.succeeded and not (await client.create("k", "two")).succeeded
        found = await client.get("k")
        assert found is not None and (found.value, found.revision) == (b"one", first.revision)
        second = await client.cas("k", first.revision, "two")
        assert second.succeeded and second.revision > first.revision
        assert not (await client.cas("k", first.revision, "three")).succeeded
        assert not (await client.cas("k", ValueIs("one"), "three")).succeeded
        assert (await client.cas("k", ValueIs("two"), b"")).succeeded
        assert (found := await client.get("k")) is not None and found.value == b""
        await client.delete("k")
        assert not (await client.cas("k", ValueIs(""), "four")).succeeded, (
            "no compare holds of a value that is not there"
        )
        assert (await client.cas("k", ABSENT, "four")).succeeded


async def test_transactions_do_what_a_model_does(ring: LiveRing) -> None:
    """Random transactions over few keys, one after the other, beside a map from keys to values and revisions."""
    dice = Random(5)
    keys = [b"{model}a", b"{model}b", b"{model}\xff", b"\x00{model}"]
    values = [b"", b"1", b"2", b"2\x00", b"\xff"]
    model: dict[bytes, tuple[bytes, Revision]] = {}

    def compare() -> Compare:
        key, relation = dice.choice(keys), dice.choice(list(Relation))
        if dice.random() < 0.5:
            return Compare(key, relation, ValueIs(dice.choice(values)))
        known = [revision for _, revision in model.values()]
        return Compare(key, relation, dice.choice([ABSENT, Revision(1), *known]))

    def steps() -> list[Get | Put | Delete]:
        written = dice.sample(keys, dice.randrange(4))
        writes = [Put(key, dice.choice(values)) if dice.random() < 0.6 else Delete(key) for key in written]
        mixed = [*writes, *(Get(dice.choice(keys)) for _ in range(dice.randrange(3)))]
        dice.shuffle(mixed)
        return mixed

    def holds(compare: Compare) -> bool:
        has = model.get(compare.key)
        pair: tuple[Revision, Revision] | tuple[bytes, bytes]
        if isinstance(compare.target, Revision):
            pair = (has[1] if has else ABSENT, compare.target)
        elif has is None:
            return False
        else:
            pair = (has[0], compare.target.value)
        signs = {Relation.EQUAL: (0,), Relation.NOT_EQUAL: (-1, 1), Relation.LESS: (-1,), Relation.GREATER: (1,)}
        sign = 0 if pair[0] == pair[1] else -1 if sorted(pair)[0] == pair[0] else 1
        return sign in signs[compare.relation]

    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="model") as client:
        succeeded = 0
        for n in range(300):
            txn = Txn([compare() for _ in range(dice.randrange(3))], steps() or [Get(keys[0])], steps())
            done = await client.txn(txn)
            held = all(holds(compare) for compare in txn.when)
            ran = txn.then if held else txn.otherwise
            before = [model.get(step.key) for step in ran if isinstance(step, Get)]
            assert done.succeeded is held, f"{n}: {txn}, {model}"
            assert [get and (get.value, get.revision) for get in done.gets] == before, f"{n}: {txn}"
            for step in ran:
                if isinstance(step, Put):
                    model[step.key] = (step.value, done.revision)
                elif isinstance(step, Delete):
                    model.pop(step.key, None)
            succeeded += held
        assert 50 < succeeded < 250, f"{succeeded} of 300 succeeded: both lists ran often"
        found = await client.get_many(keys)
        assert [value and (value.value, value.revision) for value in found] == [model.get(key) for key in keys]


async def test_what_is_refused_here_is_refused_by_the_node_in_the_same_words(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT) as client:
        await client.put("a", "v")
        table = client._core.routes.table
        connection = client._core._shards[table[slot_of(b"a")]].leader
        assert connection is not None
        limit = connection.welcome.value_bytes_max
        other = next(key for key in map(str, range(100)) if table[slot_of(key.encode())] != table[slot_of(b"a")])
        odd = b"a\t\"'\\\xff{a}"
        for txn in (
            Txn(),
            Txn(then=[Get("a")] * 129),
            Txn(then=[Put("a", bytes(limit - 8))]),
            Txn([Compare("a", Relation.EQUAL, ABSENT)], [Put(other, "v")]),
            Txn(then=[Get("a"), Put(odd, "v"), Delete(odd)]),
            Txn(otherwise=[Delete("a"), Get("")]),
            Txn([Compare(b"k" * 4097, Relation.LESS, ValueIs("v"))]),
        ):
            here = check_keys(txn, table) or check_size(txn, limit)
            there = await connection.call(Transact(b"", txn), asyncio.get_running_loop().time() + TIMEOUT, 0)
            assert here is not None and isinstance(there, Refusal), f"{txn}: {here}, {there}"
            assert (there.code, there.message, there.unknown) == (here.code, here.message, False)
        exact = Txn(then=[Put("a", bytes(limit - 9))])
        assert check_size(exact, limit) is None
        assert (await client.txn(exact)).succeeded
        many = GetMany(b"", (b"a",) * (GET_MANY_KEYS_MAX + 1))
        there = await connection.call(many, asyncio.get_running_loop().time() + TIMEOUT, 0)
        assert isinstance(there, Refusal) and there.code is Code.BAD_REQUEST


async def test_gets_that_find_too_much_are_refused_and_nothing_changes(ring: LiveRing) -> None:
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="much") as client:
        await client.put("a{t}", bytes(40_000))
        await client.put("b{t}", bytes(40_000))
        with pytest.raises(ringbeam.Refused) as caught:
            await client.txn(Txn(then=[Get("a{t}"), Put("a{t}", "changed"), Get("b{t}")]))
        assert caught.value.code is Code.RESULT_TOO_LARGE
        assert (found := await client.get("a{t}")) is not None and len(found.value) == 40_000
        done = await client.txn(Txn(then=[Get("a{t}"), Put("a{t}", "changed")]))
        assert done.gets[0] is not None and len(done.gets[0].value) == 40_000


# ---- scans and multi-gets ----


async def test_scans_are_ranges_of_a_model(ring: LiveRing) -> None:
    dice = Random(7)
    keys = list({bytes(dice.choice(b"\x00ab\xfe\xff") for _ in range(dice.randrange(1, 7))) for _ in range(900)})
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="ranges") as client:
        revisions = {}

        async def put(part: list[bytes]) -> None:
            for key in part:
                revisions[key] = (await client.put(key, key * 3)).revision

        await asyncio.gather(*(put(keys[n::32]) for n in range(32)))
        await client.put("a", "of another namespace", namespace="other")
        for _ in range(40):
            backward, keys_only, limit = dice.random() < 0.5, dice.random() < 0.5, dice.choice([None, 1, 10, 200])
            start, end = (dice.choice([b"", *dice.sample(keys, 3)]) for _ in range(2))
            items = client.scan(start=start, end=end, backward=backward, keys_only=keys_only, limit=limit)
            within = sorted((key for key in keys if start <= key and (not end or key < end)), reverse=backward)
            assert [(item.key, item.value, item.revision) async for item in items] == [
                (key, b"" if keys_only else key * 3, revisions[key]) for key in within[:limit]
            ], f"{start!r} to {end!r}, backward {backward}, limit {limit}"
        for prefix in (b"", b"a", b"\xff", b"\xff\xff", b"b\xff", b"\x00", b"none"):
            found = [item.key async for item in client.scan(prefix=prefix)]
            assert found == sorted(key for key in keys if key.startswith(prefix))
        wanted = [*dice.choices(keys, k=500), b"none", b"\xff" * 9]
        values = await client.get_many(wanted)
        expected = [(key * 3, revisions[key]) if key in revisions else None for key in wanted]
        assert [value and (value.value, value.revision) for value in values] == expected


async def test_scans_of_more_than_a_page_go_on(ring: LiveRing) -> None:
    """By count, with a key that is the very next one behind the page; by bytes; and behind the longest key, whose
    successor is longer than a key may be."""
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="pages") as client:
        small = [b"{s}", *(b"{s}%04d" % (n // 2) + bytes(n % 2) for n in range(2_500))]
        large = [b"{l}%02d" % n + bytes(KEY_BYTES_MAX - 5) for n in range(12)]
        medium = [b"{m}%02d" % n for n in range(12)]

        async def put(part: list[bytes], value: bytes) -> None:
            for key in part:
                await client.put(key, value)

        await asyncio.gather(*(put(small[n::64], b"v") for n in range(64)))
        await asyncio.gather(*(put((large + medium)[n::4], bytes(ITEMS_BYTES_MAX // 2)) for n in range(4)))
        for backward in (False, True):
            found = [item.key async for item in client.scan(prefix="{s}", backward=backward)]
            assert found == sorted(small, reverse=backward)
            lengths = [(item.key, len(item.value)) async for item in client.scan(prefix="{l}", backward=backward)]
            assert lengths == [(key, ITEMS_BYTES_MAX // 2) for key in sorted(large, reverse=backward)]
            everything = [item.key async for item in client.scan(backward=backward, keys_only=True)]
            assert everything == sorted(small + large + medium, reverse=backward)
        values = await client.get_many(large + medium)
        assert [value and len(value.value) for value in values] == [ITEMS_BYTES_MAX // 2] * 24
        values = await client.get_many(small)
        assert [value and value.value for value in values] == [b"v"] * 2_501


async def test_local_reads_of_several_keys_see_a_write_in_the_end(ring: LiveRing) -> None:
    keys = [b"%d" % n for n in range(20)]
    async with await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, namespace="near") as client:
        for key in keys:
            await client.put(key, "here")
    for region in ("r1", "r2", "r3"):
        async with (
            await ringbeam.connect(ring.endpoints, timeout=TIMEOUT, region=region, namespace="near") as client,
            asyncio.timeout(TIMEOUT),
        ):
            while None in await client.get_many(keys, consistency=Consistency.LOCAL):
                await asyncio.sleep(0.01)
            found = [item.key async for item in client.scan(consistency=Consistency.LOCAL)]
            assert found == sorted(keys)
            asked = {
                line.welcome.node for shard in client._core._shards for line in shard.readers._connections.values()
            }
            assert len(asked) == 1, "one node of the region has answered all of it"


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
                enough = bank.closed = True

            bank = Bank(client)
            await bank.open()
            async with asyncio.timeout(50):
                counting = asyncio.gather(counter(), *(work(task) for task in range(16)))
                banking = asyncio.gather(bank.audit(), *(bank.transfer(task) for task in range(4)))
                await asyncio.gather(kill(), counting, banking)
            await bank.close()
            counted, *pairs = counting.result()
            assert sum(pairs) * 2 == answered
            assert counted > 0
            for task in range(16):
                assert await client.get(f"toggle{task}") is None
            last = await client.get("counter")
            assert last is not None and int(last.value) == counted - 1
            print(f"{answered} writes answered, {duplicates} of them for the second time, {counted} counted")
            print(f"{bank.moved} transfers, {bank.refused} too late, {bank.audits} audits")


class Bank:
    """Accounts of one shard, between which money is moved by compare-and-set of what was read. A transfer that was done
    and reported as not done, or done by half, or twice, breaks a balance."""

    def __init__(self, client: ringbeam.Client) -> None:
        self.client = client
        self.balance = {f"{{bank}}{n}": 0 for n in range(8)}
        self.closed = False
        self.moved = self.refused = self.audits = 0

    async def open(self) -> None:
        for account in self.balance:
            assert (await self.client.create(account, "0")).succeeded

    async def transfer(self, task: int) -> None:
        dice = Random(task)
        while not self.closed:
            names = dice.sample(list(self.balance), 2)
            held = await self.client.get_many(names)
            payer, payee = (value for value in held if value is not None)
            when = [
                Compare(names[0], Relation.EQUAL, payer.revision),
                Compare(names[1], Relation.EQUAL, payee.revision),
            ]
            paid = [Put(names[0], str(int(payer.value) - 1)), Put(names[1], str(int(payee.value) + 1))]
            done = await self.client.txn(Txn(when, paid, [Get(names[0])]))
            assert len(done.gets) == (not done.succeeded)
            if done.succeeded:
                self.balance[names[0]] -= 1
                self.balance[names[1]] += 1
                self.moved += 1
            self.refused += not done.succeeded

    async def audit(self) -> None:
        """What one request finds is of one moment: no transfer by half."""
        while not self.closed:
            values = await self.client.get_many(self.balance)
            assert sum(int(value.value) for value in values if value is not None) == 0, f"{values}"
            items = [item async for item in self.client.scan(prefix="{bank}")]
            assert [item.key.decode() for item in items] == list(self.balance)
            assert sum(int(item.value) for item in items) == 0, f"{items}"
            self.audits += 1

    async def close(self) -> None:
        values = await self.client.get_many(self.balance)
        assert [int(value.value) for value in values if value is not None] == list(self.balance.values())
        assert self.moved > 0 and self.audits > 0
