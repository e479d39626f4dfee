"""A transaction: compares, then one of two lists of steps over keys of one shard, all at once or not at all.

    all compares of `when` hold?  -- yes -->  then:       gets, puts, deletes
                                  -- no --->  otherwise:  gets, puts, deletes

It reads before it writes: compares and gets see the keys as they were before it, and no list writes a key twice, so the
order within a list decides nothing but that of the answers. Compare-and-set is a transaction of one compare and one
put; "create only" compares the revision with ABSENT, which a key without a value has.

`check_*` refuse here what a node would refuse, in its words, before anything is sent.

Invariants
- Keys and values are bytes once a part exists; whatever cannot travel is refused when the part is made.

Not here: bytes on the wire (`_traffic.py`), retries (`_call.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING

from ringbeam._answers import Revision
from ringbeam._limits import TRANSACTION_PARTS_MAX
from ringbeam._octets import milliseconds, octets
from ringbeam._refusal import Code, Refusal, check_key
from ringbeam._slots import slot_of

if TYPE_CHECKING:
    from ringbeam._lease import Lease


@dataclass(frozen=True, slots=True, init=False)
class Txn:
    """What a transaction does: `then` when all compares of `when` hold (also when there are none), else `otherwise`.

    Every key must be of one shard: a `{tag}` in each keeps them together. At most 128 compares and steps, with keys and
    values that together are no longer than the longest value. The gets may find 64 KiB. A list may read a key that it
    writes, but write it only once.
    """

    when: tuple[Compare, ...] = ()
    """What must hold."""
    then: tuple[Step, ...] = ()
    """What is done when all of it holds."""
    otherwise: tuple[Step, ...] = ()
    """What is done when something does not."""

    def __init__(self, when: Iterable[Compare] = (), then: Iterable[Step] = (), otherwise: Iterable[Step] = ()) -> None:
        object.__setattr__(self, "when", _listed(when, "when", Compare))
        object.__setattr__(self, "then", _listed(then, "then", Get, Put, Delete))
        object.__setattr__(self, "otherwise", _listed(otherwise, "otherwise", Get, Put, Delete))

    @property
    def has_handles(self) -> bool:
        """Some of its puts have a `Lease`, whose id on their shard is to be found."""
        return any(isinstance(step, Put) and not isinstance(step.lease, int) for step in (*self.then, *self.otherwise))

    async def resolved(self, id_of: Callable[[int | Lease, bytes], Awaitable[int]]) -> Txn:
        """The same with ids instead."""

        async def one(step: Step) -> Step:
            if not isinstance(step, Put):
                return step
            ttl = step.ttl_ms / 1_000 if step.ttl_ms else None
            return Put(step.key, step.value, ttl=ttl, lease=await id_of(step.lease, step.key))

        then = [await one(step) for step in self.then]
        return Txn(self.when, then, [await one(step) for step in self.otherwise])

    @property
    def keys(self) -> list[bytes]:
        """Every key that it names, as often as it does."""
        return [part.key for part in (*self.when, *self.then, *self.otherwise)]


@dataclass(frozen=True, slots=True, init=False)
class Compare:
    """What must hold of a key: what it has stands in `relation` to `target`."""

    key: bytes
    relation: Relation
    target: Target

    def __init__(self, key: bytes | str, relation: Relation, target: Target) -> None:
        object.__setattr__(self, "key", octets(key, "key"))
        object.__setattr__(self, "relation", Relation(relation))
        object.__setattr__(self, "target", _checked(target))


class Relation(IntEnum):
    """How what a key has must stand to what is given: `LESS` holds for a key whose revision or value is less."""

    EQUAL = 0
    """The same."""
    NOT_EQUAL = 1
    """Another."""
    LESS = 2
    """Before; of values: in the order of their bytes."""
    GREATER = 3
    """After."""


@dataclass(frozen=True, slots=True, init=False)
class ValueIs:
    """A compare with a key's value. No relation holds of the value of a key that has none, `NOT_EQUAL` neither."""

    value: bytes

    def __init__(self, value: bytes | str) -> None:
        object.__setattr__(self, "value", octets(value, "value"))


Target = Revision | ValueIs
"""With what is compared: a key's revision, which is ABSENT when it has no value, or its value."""


@dataclass(frozen=True, slots=True, init=False)
class Get:
    """Reads a key, as it was before the transaction."""

    key: bytes

    def __init__(self, key: bytes | str) -> None:
        object.__setattr__(self, "key", octets(key, "key"))


@dataclass(frozen=True, slots=True, init=False)
class Put:
    """Sets a key.

    ttl     it goes so many seconds of ring time after the transaction; None: it stays
    lease   it goes when this lease ends: a `Lease`, or the id of one of the key's shard
    """

    key: bytes
    value: bytes
    ttl_ms: int
    """0: it stays."""
    lease: int | Lease
    """0: none."""

    def __init__(
        self, key: bytes | str, value: bytes | str, *, ttl: float | None = None, lease: int | Lease | None = None
    ) -> None:
        object.__setattr__(self, "key", octets(key, "key"))
        object.__setattr__(self, "value", octets(value, "value"))
        object.__setattr__(self, "ttl_ms", 0 if ttl is None else milliseconds(ttl))
        object.__setattr__(self, "lease", 0 if lease is None else lease)


@dataclass(frozen=True, slots=True, init=False)
class Delete:
    """Removes a key."""

    key: bytes

    def __init__(self, key: bytes | str) -> None:
        object.__setattr__(self, "key", octets(key, "key"))


Step = Get | Put | Delete
"""One step of a transaction."""


def compare_and_set(key: bytes | str, expect: Target, value: bytes | str) -> Txn:
    """Sets a key if it has what is expected."""
    return Txn([Compare(key, Relation.EQUAL, expect)], [Put(key, value)])


# ---- what a node would refuse ----


def check_keys(txn: Txn, table: Sequence[int]) -> Refusal | None:
    """Refuses a transaction that cannot be sent to any one shard. `table`: the shard of every slot."""
    parts = len(txn.when) + len(txn.then) + len(txn.otherwise)
    if parts == 0:
        return Refusal(Code.BAD_REQUEST, message="the transaction is empty; it needs a compare or a step")
    if parts > TRANSACTION_PARTS_MAX:
        why = f"the transaction has {parts} compares and steps, the limit is {TRANSACTION_PARTS_MAX}"
        return Refusal(Code.TRANSACTION_TOO_LARGE, message=why)
    one, home = b"", -1
    for key in txn.keys:
        if (refusal := check_key(key)) is not None:
            return refusal
        shard = table[slot_of(key)]
        if home < 0:
            one, home = key, shard
        if shard != home:
            why = (
                f'the keys of a transaction must be of one shard: "{_printed(one)}" is of shard {home}, '
                f'"{_printed(key)}" of shard {shard}; a {{tag}} in both keeps them together'
            )
            return Refusal(Code.CROSS_SHARD, message=why)
    return None


def check_size(txn: Txn, value_bytes_max: int) -> Refusal | None:
    """Refuses a transaction that is too large for a node with this limit, or that writes a key twice."""
    size = bytes_of(txn)
    if size > value_bytes_max:
        why = f"the transaction has {size} bytes, the limit is that of one value, {value_bytes_max}"
        return Refusal(Code.TRANSACTION_TOO_LARGE, message=why)
    for name, steps in (("then", txn.then), ("otherwise", txn.otherwise)):
        written = sorted(step.key for step in steps if not isinstance(step, Get))
        for key, following in pairwise(written):
            if key == following:
                why = f'the transaction writes "{_printed(key)}" twice in its list `{name}`'
                return Refusal(Code.DUPLICATE_KEY, message=why)
    return None


def bytes_of(txn: Txn) -> int:
    """Bytes of its keys and values, and 8 for each part: what it counts against the longest value."""
    size = 0
    for compare in txn.when:
        target = compare.target
        size += 8 + len(compare.key) + (12 if isinstance(target, Revision) else len(target.value))
    for step in (*txn.then, *txn.otherwise):
        size += 8 + len(step.key)
        if isinstance(step, Put):
            size += len(step.value) + (16 if step.ttl_ms or step.lease else 0)
    return size


def _listed(parts: Iterable[object], name: str, *kinds: type) -> tuple[object, ...]:
    right = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(parts, Iterable):
        raise TypeError(f"`{name}` is of type {type(parts).__name__}, right is a list of {right}")
    listed = tuple(parts)
    for part in listed:
        if not isinstance(part, kinds):
            raise TypeError(f"`{name}` has a part of type {type(part).__name__}, right is {right}")
    return listed


def _checked(target: Target) -> Target:
    if isinstance(target, ValueIs):
        return target
    if not isinstance(target, Revision):
        wrong = type(target).__name__
        raise TypeError(f"what is expected is of type {wrong}, right is ABSENT, a Revision, or ValueIs(bytes or str)")
    if not (0 <= target.index < 1 << 64 and 0 <= target.position < 1 << 32):
        raise ValueError(f"{target} is no revision: its index has 64 bits, its position 32")
    return target


def _printed(key: bytes) -> str:
    """A key as nodes write it into a message."""
    return "".join(_ESCAPED[octet] for octet in key)


_ESCAPED = [chr(octet) if 0x20 <= octet <= 0x7E else f"\\x{octet:02x}" for octet in range(256)]
for _special, _written in ((9, "\\t"), (10, "\\n"), (13, "\\r"), (34, '\\"'), (39, "\\'"), (92, "\\\\")):
    _ESCAPED[_special] = _written
