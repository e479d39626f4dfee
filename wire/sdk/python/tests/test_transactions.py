"""Transactions: what is refused before it is sent, how they are laid out, and calls against a ring of fakes, in trouble
too."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import Any

import pytest
from fake import VALUE_BYTES_MAX, Act, ApplyAndClose, At, Close, Ring, Silence
from fake_wire import encode_reply, parse_request
from flatbuffers.number_types import SOffsetTFlags

import ringbeam
from ringbeam import (
    ABSENT,
    Code,
    Compare,
    Delete,
    Get,
    Put,
    Relation,
    Revision,
    Transacted,
    Txn,
    Value,
    ValueIs,
    Written,
)
from ringbeam import _requests as requests
from ringbeam import _wire as wire
from ringbeam._answers import Item, Items
from ringbeam._frame import HEADER_BYTES
from ringbeam._limits import (
    FRAME_OVERHEAD_BYTES_MAX,
    GET_MANY_KEY_BYTES_MAX,
    GET_MANY_KEYS_MAX,
    KEY_BYTES_MAX,
    NAMESPACE_BYTES_MAX,
    SLOTS,
    TRANSACTION_PARTS_MAX,
)
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, OpenSession, Transact
from ringbeam._schema import schema_generated as schema
from ringbeam._slots import slot_of
from ringbeam._transaction import bytes_of, check_keys, check_size, compare_and_set

# ---- what a node would refuse; the same cases as in wire/client/transaction.rs ----


def table(shards: int) -> list[int]:
    return [slot * shards // SLOTS for slot in range(SLOTS)]


def check(txn: Txn, value_bytes_max: int, shards: int) -> tuple[Code, str] | None:
    refusal = check_keys(txn, table(shards)) or check_size(txn, value_bytes_max)
    return None if refusal is None else (refusal.code, refusal.message)


def refused(txn: Txn, value_bytes_max: int = 1000, shards: int = 1) -> tuple[Code, str]:
    told = check(txn, value_bytes_max, shards)
    assert told is not None, "it is to be refused"
    return told


def test_a_transaction_is_refused_by_what_is_wrong_with_it() -> None:
    sound = Txn(then=[Put("a{t}", "1"), Put("b{t}", "2")])
    assert check(sound, 26, 8) is None
    assert bytes_of(sound) == 26
    why = "the transaction has 26 bytes, the limit is that of one value, 25"
    assert refused(sound, 25, 8) == (Code.TRANSACTION_TOO_LARGE, why)
    assert refused(Txn()) == (Code.BAD_REQUEST, "the transaction is empty; it needs a compare or a step")
    why = "the transaction has 129 compares and steps, the limit is 128"
    assert refused(Txn(then=[Get("a")] * 129), 10_000) == (Code.TRANSACTION_TOO_LARGE, why)
    assert check(Txn(then=[Get("a")] * 128), 10_000, 1) is None
    assert refused(Txn(otherwise=[Delete("")])) == (Code.KEY_EMPTY, "the key is empty, it needs 1 to 4096 bytes")
    assert refused(Txn([Compare(b"k" * 4097, Relation.EQUAL, ABSENT)]))[0] is Code.KEY_TOO_LARGE


def test_every_part_counts_its_bytes() -> None:
    compares = [Compare("k", Relation.EQUAL, ABSENT), Compare("kk", Relation.LESS, ValueIs("val"))]
    assert bytes_of(Txn(compares)) == (8 + 1 + 12) + (8 + 2 + 3)
    assert bytes_of(Txn(then=[Get("k")], otherwise=[Put("k", "four"), Delete("kkk")])) == 9 + 13 + 11


def test_keys_of_two_shards_are_refused_and_both_are_named() -> None:
    apart = Txn(then=[Put("a", "1"), Put("b", "2")])
    assert check(apart, 1000, 1) is None
    shards = next(n for n in count(2) if table(n)[slot_of(b"a")] != table(n)[slot_of(b"b")])
    one, other = table(shards)[slot_of(b"a")], table(shards)[slot_of(b"b")]
    assert refused(apart, shards=shards) == (
        Code.CROSS_SHARD,
        f'the keys of a transaction must be of one shard: "a" is of shard {one}, "b" of shard {other}; '
        "a {tag} in both keeps them together",
    )
    for among in (Txn([Compare("a", Relation.EQUAL, ABSENT)], [Get("b")]), Txn(then=[Get("a")], otherwise=[Get("b")])):
        assert refused(among, shards=shards)[0] is Code.CROSS_SHARD


def test_a_key_is_written_once_in_a_list_but_may_be_in_both() -> None:
    assert check(Txn(then=[Put("a", "1")], otherwise=[Delete("a")]), 1000, 1) is None
    assert check(Txn(then=[Put("a", "1"), Get("a"), Get("a")]), 1000, 1) is None
    twice = Txn(otherwise=[Put("a", "1"), Put("b", "1"), Delete("a")])
    assert refused(twice) == (Code.DUPLICATE_KEY, 'the transaction writes "a" twice in its list `otherwise`')


def test_keys_are_printed_as_nodes_print_them() -> None:
    key = b"a~ \t\r\n\"'\\\x00\x7f\xff"
    _, why = refused(Txn(then=[Put(key, "1"), Delete(key)]))
    assert why == 'the transaction writes "a~ \\t\\r\\n\\"\\\'\\\\\\x00\\x7f\\xff" twice in its list `then`'


def test_what_is_no_part_is_named_when_the_part_is_made() -> None:
    kind: Any
    wrong: tuple[Any, ...]
    for kind, wrong, says in [
        (Txn, (Compare("k", Relation.EQUAL, ABSENT),), "`when` is of type Compare, right is a list of Compare"),
        (Txn, ([], [("k", "v")]), "`then` has a part of type tuple, right is Get or Put or Delete"),
        (Txn, ([Put("k", "v")],), "`when` has a part of type Put, right is Compare"),
        (Compare, ("k", Relation.EQUAL, b"v"), r"is of type bytes, right is ABSENT, a Revision, or ValueIs"),
        (Put, ("k", 7), "the value is of type int, right is bytes or str"),
        (Get, (7,), "the key is of type int"),
        (ValueIs, (None,), "the value is of type NoneType"),
    ]:
        with pytest.raises(TypeError, match=says):
            kind(*wrong)
    for revision in (Revision(-1, 0), Revision(1 << 64, 0), Revision(1, 1 << 32)):
        with pytest.raises(ValueError, match="is no revision"):
            Compare("k", Relation.LESS, revision)
    with pytest.raises(ValueError, match="7 is not a valid Relation"):
        Compare("k", 7, ABSENT)  # type: ignore[arg-type]


# ---- the bytes ----


def random_transaction(dice: Random) -> Txn:
    def octets(least: int) -> bytes:
        return dice.randbytes(dice.randrange(least, 20))

    def step() -> Get | Put | Delete:
        kinds: list[Get | Put | Delete] = [Get(octets(1)), Put(octets(1), octets(0)), Delete(octets(1))]
        return dice.choice(kinds)

    def compare() -> Compare:
        revision, value = Revision(dice.getrandbits(64), dice.getrandbits(32)), ValueIs(octets(0))
        return Compare(octets(1), dice.choice(list(Relation)), revision if dice.random() < 0.5 else value)

    when, then, otherwise = (range(dice.randrange(5)) for _ in range(3))
    return Txn([compare() for _ in when], [step() for _ in then], [step() for _ in otherwise])


def test_what_is_laid_out_by_hand_is_read_by_flatcs_code_and_aligned() -> None:
    """The format asks for alignment and readers may rely on it; flatbuffers' Python does not look."""
    for seed in range(300):
        dice = Random(seed)
        namespace = dice.randbytes(dice.randrange(9)).hex().encode()
        keys = tuple(dice.randbytes(dice.randrange(1, 20)) for _ in range(dice.randrange(6)))
        ticket = (dice.getrandbits(64), dice.getrandbits(64), dice.getrandbits(64))
        bodies: list[Body] = [Transact(namespace, random_transaction(dice), *ticket), requests.GetMany(namespace, keys)]
        for body in bodies:
            payload = wire.encode_request(dice.getrandbits(64), seed, body)[HEADER_BYTES:]
            assert parse_request(payload)[1:] == (seed, body), f"seed {seed}"
            crooked = misaligned(payload)
            assert not crooked, f"seed {seed}: {crooked}"


def misaligned(payload: bytes) -> list[str]:
    request = schema.Request.GetRootAs(payload)
    told = []

    def table(message: Any, name: str, vectors: tuple[int, ...], wide: tuple[int, ...] = ()) -> None:
        pos, tab = message._tab.Pos, message._tab
        told.extend([name] if pos % 4 or (pos - tab.Get(SOffsetTFlags, pos)) % 2 else [])
        told.extend(f"{name}.{slot}" for slot in vectors if tab.Offset(slot) and tab.Vector(tab.Offset(slot)) % 4)
        told.extend(f"{name}.{slot}" for slot in wide if (pos + tab.Offset(slot)) % 8)

    table(request, "request", (), (4,))
    many = request.BodyType() == schema.RequestBody.GetMany
    body: Any = schema.GetMany() if many else schema.Transact()
    body.Init(request.Body().Bytes, request.Body().Pos)
    if many:
        table(body, "get many", (4, 6))
        for at in range(body.KeysLength()):
            table(body.Keys(at), f"key {at}", (4,))
        return told
    table(body, "transact", (4, 6, 8, 10), (12, 14, 16))
    for at in range(body.ComparesLength()):
        table(body.Compares(at), f"compare {at}", (4, 12), (10,))
    for name, part, length in (
        ("then", body.Then, body.ThenLength()),
        ("else", body.Otherwise, body.OtherwiseLength()),
    ):
        for at in range(length):
            table(part(at), f"{name} {at}", (6, 8))
    return told


def test_the_largest_requests_fit_the_largest_frame() -> None:
    namespace, ticket = b"n" * NAMESPACE_BYTES_MAX, ((1 << 64) - 1,) * 3
    keys = [str(n).encode() for n in range(1000, 1000 + TRANSACTION_PARTS_MAX)]
    for txn in (
        Txn(then=[Put(key, b"v" * 4096) for key in keys]),
        Txn([Compare(key, Relation.EQUAL, ValueIs("")) for key in keys]),
        Txn([Compare(key, Relation.EQUAL, ABSENT) for key in keys]),
    ):
        frame = wire.encode_request(1, 1, Transact(namespace, txn, *ticket))
        room = bytes_of(txn) + KEY_BYTES_MAX + NAMESPACE_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX
        assert len(frame) - HEADER_BYTES <= room, "on a node whose values are no longer than this transaction"
    many = (b"k" * (GET_MANY_KEY_BYTES_MAX // GET_MANY_KEYS_MAX),) * GET_MANY_KEYS_MAX
    frame = wire.encode_request(1, 1, requests.GetMany(namespace, many))
    assert len(frame) - HEADER_BYTES <= 1 + KEY_BYTES_MAX + NAMESPACE_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX


def test_answers_beyond_their_limits_are_malformed() -> None:
    beyond: list[tuple[wire.Answer, str]] = [
        (Items((Item(b"k"),) * 1001), "the reply has 1001 items, the limit is 1000"),
        (Transacted(gets=(None,) * 129), "the reply has 129 items, the limit is 128"),
    ]
    for answer, says in beyond:
        with pytest.raises(wire.Malformed, match=says):
            wire.decode_reply(encode_reply(7, answer)[HEADER_BYTES:])


# ---- against a good ring ----


async def test_compare_and_set_sets_what_is_as_expected() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(3)) as client:
        first = await client.create("k", "one")
        assert first.succeeded and ring.store[b"k"] == b"one"
        again = await client.create("k", "two")
        assert (again.succeeded, again.gets, ring.store[b"k"]) == (False, (), b"one")
        assert not (await client.cas("k", ABSENT, "two")).succeeded
        assert not (await client.cas("k", Revision(first.revision.index + 1), "two")).succeeded
        second = await client.cas("k", first.revision, "two")
        assert second.succeeded and second.revision > first.revision
        assert not (await client.cas("k", ValueIs("one"), b"three")).succeeded
        assert (await client.cas("k", ValueIs(b"two"), b"three")).succeeded
        assert ring.store[b"k"] == b"three"
        assert {node for node, *_ in ring.transactions} == {1}, "transactions go to the leader only"


async def test_one_of_two_lists_runs_and_its_gets_see_what_was_before() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("cart{7}", "full")
        when = [Compare("cart{7}", Relation.EQUAL, ValueIs("full"))]
        checkout = Txn(
            when, [Get("cart{7}"), Put("cart{7}", "empty"), Get("order{7}"), Put("order{7}", "1")], [Get("order{7}")]
        )
        done = await client.txn(checkout)
        assert done.succeeded and ring.store == {b"cart{7}": b"empty", b"order{7}": b"1"}
        assert done.gets == (Value(b"full", Revision(1), done.revision.index), None)
        late = await client.txn(checkout, timeout=1.0, namespace="")
        assert not late.succeeded
        assert late.gets == (Value(b"1", done.revision, late.revision.index),)


async def test_a_transaction_goes_to_the_shard_of_its_keys() -> None:
    async with Ring(2, 8) as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(20):
            keys = [f"{kind}{{{n}}}" for kind in "abc"]
            txn = Txn([Compare(keys[0], Relation.EQUAL, ABSENT)], [Put(keys[1], "v")], [Delete(keys[2])])
            assert (await client.txn(txn)).succeeded
        reached = {at.shard for at, body in ring.asked if isinstance(body, Transact)}
        assert len(reached) > 4, "the fake ring checks each"


async def test_what_is_refused_here_is_not_sent_and_holds_no_floor() -> None:
    async with Ring(1, 8) as ring, await ringbeam.connect(ring.endpoints) as client:

        async def code(txn: Txn, namespace: str = "") -> Code:
            with pytest.raises(ringbeam.Refused) as caught:
                await client.txn(txn, namespace=namespace)
            return caught.value.code

        small = compare_and_set("k", ABSENT, "v")
        large = Txn(then=[Put("k", bytes(VALUE_BYTES_MAX - 8))])  # one byte too many: the key's
        for first in (True, False):  # the second time in an open session
            assert await code(large) is Code.TRANSACTION_TOO_LARGE
            assert await code(Txn(then=[Put("k", "v"), Delete("k")])) is Code.DUPLICATE_KEY
            assert await code(Txn(then=[Get(str(n)) for n in range(9)])) is Code.CROSS_SHARD
            assert await code(Txn()) is Code.BAD_REQUEST
            assert await code(small, "n" * 65) is Code.BAD_NAMESPACE
            assert (await client.txn(small)).succeeded is first
        assert await code(Txn(then=[Put("k", bytes(VALUE_BYTES_MAX))])) is Code.TRANSACTION_TOO_LARGE
        await client.txn(Txn(then=[Put("k", bytes(VALUE_BYTES_MAX - 9))]))
        sent = [(body.sequence, body.answered_below) for _, body in ring.asked if isinstance(body, Transact)]
        # What is refused in an open session has taken a sequence, which is settled at once.
        assert [sequence == below for sequence, below in sent] == [True] * 3
        with pytest.raises(TypeError, match="the transaction is of type list, right is Txn"):
            await client.txn([])  # type: ignore[arg-type]


async def test_an_answer_that_does_not_fit_the_transaction_is_said_to_be_none() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return answer if isinstance(body, Transact) else None

    answer: Written | Transacted = Transacted(succeeded=True)
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.ProtocolError, match="a transaction of 1 gets with what 0 found"):
            await client.txn(Txn(then=[Get("k")]))
        answer = Written()
        with pytest.raises(ringbeam.ProtocolError, match="Written"):
            await client.create("k", "v")
        answer = Transacted(succeeded=False)
        assert not (await client.txn(Txn(then=[Get("k")]))).succeeded, "the other list has no gets"


# ---- in trouble ----


async def test_a_transaction_cut_in_flight_is_repeated_with_its_sequence() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Transact) and at.node == 1:
            ring.lead(2)
            return Close()
        return None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("before", "1")
        done = await client.create("k", "v")
        assert done.succeeded and not done.duplicate
        assert ring.transactions == [(1, 1, 2), (2, 1, 2)]
        [first, second] = [body for _, body in ring.asked if isinstance(body, Transact)]
        assert first == second, "the same in everything, the floor too"


async def test_an_applied_transaction_whose_answer_is_lost_is_applied_once() -> None:
    """Each increment is a compare-and-set of what was read. Repeated as another transaction it would fail, and applied
    twice it would not be counted."""

    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if isinstance(body, Transact) and ring.leader == at.node and next(writes) % 80 == 9:
            return ApplyAndClose()
        return None

    writes = count()
    async with Ring(3, 2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        duplicates = 0

        async def increment(key: str) -> None:
            nonlocal duplicates
            for n in range(20):
                done = await client.cas(key, ValueIs(str(n - 1)) if n else ABSENT, str(n))
                assert done.succeeded, f"{key} at {n}"
                duplicates += done.duplicate

        await asyncio.gather(*(increment(f"n{task}") for task in range(16)))
        assert duplicates > 0, "some answers were lost and given again"
        assert ring.applied == 320, "each was applied exactly once"


async def test_a_redirected_transaction_keeps_its_sequence() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1)) as client:
        await client.put("a", "1")
        ring.lead(3)
        assert (await client.create("b", "2")).succeeded
        assert ring.transactions == [(1, 1, 2), (3, 1, 2)]


@pytest.mark.parametrize(
    "code", [Code.CROSS_SHARD, Code.TRANSACTION_TOO_LARGE, Code.DUPLICATE_KEY, Code.RESULT_TOO_LARGE]
)
async def test_what_the_node_refuses_reaches_the_caller_at_once(code: Code) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(code, message="as the test wants it") if isinstance(body, Transact) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Refused, match="as the test wants it") as caught:
            await client.create("k", "v")
        assert caught.value.code is code
        assert len(ring.transactions) == 1


async def test_overloaded_is_retried_with_the_same_sequence() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        full = Refusal(Code.OVERLOADED, message="the queue is full", retry_after_ms=10)
        return full if isinstance(body, Transact) and next(asked) < 3 else None

    asked = count()
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        assert (await client.create("k", "v")).succeeded
        assert ring.transactions == [(1, 1, 1)] * 4


async def test_a_transaction_whose_answer_never_comes_is_unknown() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Transact) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        with pytest.raises(ringbeam.Unknown, match="in time") as unknown:
            await client.create("slow", "v", timeout=0.1)
        assert (unknown.value.session, unknown.value.sequence) == (1, 2)
        await client.put("k", "v")
        last = [body for _, body in ring.asked if isinstance(body, requests.Put)][-1]
        assert (last.sequence, last.answered_below) == (3, 2), "the lost transaction holds the floor"


async def test_an_expired_session_is_replaced_or_makes_a_lost_transaction_unknown() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if not isinstance(body, Transact):
            return None
        if body.txn.then[0].key == b"lost" and next(lost) == 0:
            return Close()
        return Refusal(Code.SESSION_EXPIRED, message="it is not known") if body.session <= gone else None

    lost, gone = count(), 0
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("a", "1")
        gone = 1
        assert (await client.create("k", "v")).succeeded
        assert ring.transactions == [(1, 1, 2), (1, 2, 1)]
        assert ring.count(OpenSession) == 2
        gone = 2
        with pytest.raises(ringbeam.Unknown, match="SessionExpired"):
            await client.create("lost", "v")
        assert {session for _, session, _ in ring.transactions} == {1, 2}, "never repeated under another session"


async def test_without_sessions_a_lost_transaction_is_unknown_at_once() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, Transact) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, exactly_once=False) as client:
        with pytest.raises(ringbeam.Unknown):
            await client.create("k", "v")
        assert ring.transactions == [(1, 0, 0)]
