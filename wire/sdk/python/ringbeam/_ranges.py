"""Reads of several keys, the pure half: the end of a prefix, which keys go into which request, and how the pages of all
shards become one order, each shard's of one moment.

    part of shard 0   a c e |  more may follow e          ready: a b c d e, since every part that goes on has
    part of shard 1   b d f g |  more may follow g               items up to e; then shard 0 is asked for more
    part of shard 2   x        nothing follows

Invariants
- What was given out is before everything that is loaded or will be.
- Every page brings its part on: a scan of a finite range ends, whatever nodes answer.
- What a part has of a pinned moment is as of one log index: a page of another one is refused.
- A page that is loaded while what is ready is given out changes nothing of that: it is behind it.

Not here: asking (`_reads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from operator import attrgetter

from ringbeam._answers import Item, Items
from ringbeam._errors import ProtocolError
from ringbeam._limits import GET_MANY_KEY_BYTES_MAX, GET_MANY_KEYS_MAX, PIN_ASKED_AGAIN
from ringbeam._slots import slot_of, tag_of


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all those that begin with `prefix`; b"": there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


def shards_of_prefix(prefix: bytes, table: Sequence[int], shards: int) -> list[int]:
    """Where keys with this prefix may be: on one shard when it has a whole {tag}, which is then that of all of them."""
    return list(range(shards)) if tag_of(prefix) == prefix else [table[slot_of(prefix)]]


def batches(keys: Sequence[bytes], table: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """What is asked of whom: shards, and the places in `keys` of what one request may ask of each."""
    of_shard: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        of_shard.setdefault(table[slot_of(key)], []).append(place)
    for shard, places in of_shard.items():
        batch: list[int] = []
        size = 0
        for place in places:
            length = len(keys[place])
            if len(batch) == GET_MANY_KEYS_MAX or size + length > GET_MANY_KEY_BYTES_MAX:
                yield shard, batch
                batch, size = [], 0
            batch.append(place)
            size += length
        yield shard, batch


class Part:
    """One shard's part of a scan."""

    __slots__ = ("_backward", "_items", "asked_at", "end", "index", "node", "pin", "shard", "start", "whole")

    def __init__(self, shard: int, start: bytes, end: bytes, backward: bool) -> None:
        self.shard = shard
        self.start = start
        """What has not been loaded begins here."""
        self.end = end
        """And ends before this key; b"": with the last."""
        self._backward = backward
        # Loaded and not given out, in the order of the scan.
        self._items: list[Item] = []
        self.whole = self._nothing_left()
        """Nothing is left to load."""
        self.pin = 0
        """The moment that what is left is to be of, as its node calls it; 0: none is pinned. It stays when nothing is
        left, until whoever asks has told the node."""
        self.index = 0
        """Its log index."""
        self.node = ""
        """The node's address."""
        self.asked_at = 0.0
        """When a page was asked for last, in seconds of the loop's clock."""

    @property
    def hungry(self) -> bool:
        """A page must be loaded before anything can be said about what is next."""
        return not self.whole and not self._items

    @property
    def done(self) -> bool:
        """Everything was given out."""
        return self.whole and not self._items

    @property
    def last(self) -> bytes:
        """The last key that is loaded."""
        return self._items[-1].key

    @property
    def again_at(self) -> float:
        """When its node is asked again, if only for the sake of its moment, in seconds of the loop's clock."""
        return self.asked_at + PIN_ASKED_AGAIN

    def rests(self, now: float) -> bool:
        """Others have come before it, or the program has taken its time, for so long that its node may soon take it for
        given up."""
        return bool(self.pin) and not self.whole and now >= self.again_at

    def load(self, page: Items, node: str = "", wanted: int = 0) -> None:
        """Takes the page that was asked for, which `node` has answered. ProtocolError: it is none of this range, or not
        of the moment that was pinned. `wanted`: if it has fewer keys and is not the last, its moment is to be
        pinned."""
        items = [item for item in page.items if item is not None]
        keys = [item.key for item in items]
        ordered = keys[::-1] if self._backward else keys
        if len(items) < len(page.items) or any(key >= following for key, following in pairwise(ordered)):
            raise self._odd("a page that has no order, or keys without values")
        if ordered and (ordered[0] < self.start or (self.end and ordered[-1] >= self.end)):
            raise self._odd("keys that are not in the range")
        if page.more and not items:
            raise self._odd("an empty page that is said to go on")
        if self.pin and page.index != self.index:
            raise self._odd(f"a page as of log index {page.index}, the moment that it was asked of is {self.index}")
        if self.pin and page.more and page.pinned != self.pin:
            raise self._odd(f"a page of moment {page.pinned:#x}, asked was {self.pin:#x}")
        if page.more and len(items) < wanted and not page.pinned:
            raise self._odd("a page that is not pinned: its node is of an older version; scan with pinned=False")
        if wanted and page.more:
            self.pin, self.index, self.node = page.pinned, page.index, node
        self._items += items
        if items and self._backward:
            self.end = keys[-1]
        elif items:
            self.start = keys[-1] + b"\0"
        self.whole = not page.more or self._nothing_left()

    def take(self, bound: bytes | None) -> list[Item]:
        """Gives out what is loaded up to this key; None: all of it."""
        if bound is None:
            taken = self._items
        elif self._backward:
            taken = list(takewhile(lambda item: item.key >= bound, self._items))
        else:
            taken = list(takewhile(lambda item: item.key <= bound, self._items))
        self._items = self._items[len(taken) :]
        return taken

    def _nothing_left(self) -> bool:
        return bool(self.end) and self.start >= self.end

    def _odd(self, what: str) -> ProtocolError:
        return ProtocolError(f"shard {self.shard} answered a scan with {what}")


def again_at(parts: Sequence[Part]) -> float | None:
    """When the first of these nodes is asked again for the sake of its moment; None: none keeps one."""
    return min((part.again_at for part in parts if part.pin), default=None)


def ready(parts: Sequence[Part], backward: bool) -> list[Item]:
    """Gives out the items that are certain to be next, in order. No part may be hungry."""
    ends = [part.last for part in parts if not part.whole]
    bound = (max(ends) if backward else min(ends)) if ends else None
    taken = [item for part in parts for item in part.take(bound)]
    taken.sort(key=attrgetter("key"), reverse=backward)
    return taken
