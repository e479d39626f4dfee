"""The pure half of reads of several keys: ends of prefixes, splitting, merging."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

import ringbeam
from ringbeam import Item
from ringbeam._answers import Items
from ringbeam._limits import GET_MANY_KEY_BYTES_MAX, GET_MANY_KEYS_MAX, PIN_ASKED_AGAIN, SLOTS
from ringbeam._ranges import Part, again_at, batches, prefix_end, ready, shards_of_prefix
from ringbeam._slots import slot_of


def table(shards: int) -> list[int]:
    return [slot * shards // SLOTS for slot in range(SLOTS)]


def words(dice: Random, alphabet: bytes, count: int) -> list[bytes]:
    return [bytes(dice.choice(alphabet) for _ in range(dice.randrange(6))) for _ in range(count)]


def test_the_end_of_a_prefix_is_the_first_key_behind_it() -> None:
    for prefix, end in [
        (b"a", b"b"),
        (b"ab\x00", b"ab\x01"),
        (b"a\xff", b"b"),
        (b"\xfe\xff\xff", b"\xff"),
        (b"\xff\xff", b""),
        (b"", b""),
    ]:
        assert prefix_end(prefix) == end
    dice = Random(1)
    for prefix in words(dice, b"\x00a\xfe\xff", 300):
        end = prefix_end(prefix)
        for key in words(dice, b"\x00a\xfe\xff", 100):
            assert key.startswith(prefix) is (prefix <= key and (not end or key < end)), (prefix, key)


def test_a_prefix_is_asked_of_every_shard_that_may_have_a_key_of_it() -> None:
    dice, shards = Random(2), 7
    slots = table(shards)
    alone = 0
    for prefix in words(dice, b"{}a", 300):
        asked = shards_of_prefix(prefix, slots, shards)
        alone += len(asked) == 1
        for rest in words(dice, b"{}ab", 50):
            assert slots[slot_of(prefix + rest)] in asked, (prefix, rest)
    assert alone > 10, "a whole tag needs one shard only"


@pytest.mark.parametrize("length", [1, 60, 64, 65, 500, 4096])
def test_keys_are_split_by_shard_number_and_bytes(length: int) -> None:
    dice, shards = Random(length), 3
    keys = [dice.randbytes(dice.randrange(1, length + 1)) for _ in range(1000)]
    split = list(batches(keys, table(shards)))
    assert sorted(place for _, places in split for place in places) == list(range(1000)), "each place once"
    for shard, places in split:
        assert {table(shards)[slot_of(keys[place])] for place in places} == {shard}
        assert 1 <= len(places) <= GET_MANY_KEYS_MAX
        assert sum(len(keys[place]) for place in places) <= GET_MANY_KEY_BYTES_MAX
    for (shard, places), (following, [first, *_]) in pairwise(split):
        full = len(places) == GET_MANY_KEYS_MAX
        room = GET_MANY_KEY_BYTES_MAX - sum(len(keys[place]) for place in places)
        assert shard != following or full or room < len(keys[first]), "as few as possible"


def test_no_keys_need_no_request() -> None:
    assert list(batches([], table(3))) == []


# ---- merging ----


def page_of(keys: list[bytes], part: Part, backward: bool, most: int) -> Items:
    """What a node would answer: the next page of a part whose shard has these keys."""
    within = sorted(key for key in keys if part.start <= key and (not part.end or key < part.end))
    ordered = within[::-1] if backward else within
    return Items(tuple(Item(key) for key in ordered[:most]), 1, len(ordered) > most)


@pytest.mark.parametrize("backward", [False, True])
def test_pages_of_all_shards_become_one_order(backward: bool) -> None:
    for seed in range(200):
        dice = Random(seed)
        everything = list({dice.randbytes(dice.randrange(1, 4)) for _ in range(dice.randrange(120))})
        start, end = (dice.choice([b"", dice.randbytes(1), dice.randbytes(2)]) for _ in range(2))
        shards = dice.randrange(1, 6)
        homes: list[list[bytes]] = [[] for _ in range(shards)]
        for key in everything:
            homes[dice.randrange(shards)].append(key)
        parts = [Part(shard, start, end, backward) for shard in range(shards)]
        found: list[bytes] = []
        for _ in range(1000):
            for part in parts:
                if part.hungry:
                    part.load(page_of(homes[part.shard], part, backward, dice.randrange(1, 8)))
            found += [item.key for item in ready(parts, backward)]
            if all(part.done for part in parts):
                break
        within = [key for key in everything if start <= key and (not end or key < end)]
        assert found == sorted(within, reverse=backward), f"seed {seed}"


def test_a_range_without_keys_is_done_before_anything_is_asked() -> None:
    assert Part(0, b"b", b"b", False).done
    assert Part(0, b"c", b"b", True).done
    assert Part(0, b"c", b"", False).hungry
    assert Part(0, b"", b"c", True).hungry


def test_a_page_that_ends_where_the_range_does_is_the_last() -> None:
    forward = Part(0, b"a", b"c\x00", False)
    forward.load(Items((Item(b"a"), Item(b"c")), 1, True))
    assert forward.whole
    backward = Part(0, b"a", b"c", True)
    backward.load(Items((Item(b"b"), Item(b"a")), 1, True))
    assert backward.whole


def test_a_part_with_a_moment_rests_while_it_has_more_to_load() -> None:
    part = Part(0, b"", b"", False)
    part.asked_at = 100.0
    part.load(Items((Item(b"a"), Item(b"b")), 7, True, pinned=9), "node", wanted=3)
    assert (part.pin, part.index, part.node) == (9, 7, "node")
    assert not part.rests(100.0 + PIN_ASKED_AGAIN - 0.1) and part.rests(100.0 + PIN_ASKED_AGAIN)
    part.take(None)
    assert part.hungry and part.rests(1_000.0), "whether or not it has keys"
    part.load(Items((Item(b"c"),), 7, True, pinned=9))
    assert (part.pin, part.rests(1_000.0)) == (9, True)
    part.load(Items((Item(b"d"),), 7, False))
    assert (part.pin, part.rests(1_000.0)) == (9, False), "its node is told that the last page is here, and not asked"
    assert [item.key for item in part.take(None)] == [b"c", b"d"]


def test_the_part_that_has_rested_longest_is_the_first_to_be_asked_again() -> None:
    parts = [Part(shard, b"", b"", False) for shard in range(3)]
    for part, asked_at in zip(parts, (30.0, 10.0, 20.0), strict=True):
        part.asked_at = asked_at
    assert again_at(parts) is None
    for part in (parts[0], parts[2]):
        part.load(Items((Item(b"a"),), 7, True, pinned=9), "node", wanted=3)
    assert again_at(parts) == 20.0 + PIN_ASKED_AGAIN


@pytest.mark.parametrize(
    ("keys", "more", "wanted"),
    [([b"a", b"b"], True, 2), ([b"a", b"b"], False, 3), ([b"a"], False, 0), ([b"a"], True, 0)],
)
def test_a_part_whose_page_is_enough_or_that_is_not_to_be_pinned_has_no_moment(
    keys: list[bytes], more: bool, wanted: int
) -> None:
    part = Part(0, b"", b"", False)
    part.load(Items(tuple(map(Item, keys)), 7, more), "node", wanted)
    assert not part.pin


@pytest.mark.parametrize(
    ("backward", "keys", "more", "says"),
    [
        (False, [b"c", b"b"], False, "no order"),
        (False, [b"b", b"b"], False, "no order"),
        (True, [b"b", b"c"], False, "no order"),
        (False, [b"b", None], False, "keys without values"),
        (False, [b"a"], False, "not in the range"),
        (False, [b"x"], False, "not in the range"),
        (True, [b"x"], False, "not in the range"),
        (True, [b"a"], False, "not in the range"),
        (False, [], True, "an empty page that is said to go on"),
    ],
)
def test_a_page_that_is_none_of_the_range_is_refused(
    backward: bool, keys: list[bytes | None], more: bool, says: str
) -> None:
    part = Part(3, b"b", b"x", backward)
    with pytest.raises(ringbeam.ProtocolError, match=f"shard 3 answered a scan with .*{says}"):
        part.load(Items(tuple(None if key is None else Item(key) for key in keys), 1, more))
