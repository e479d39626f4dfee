"""What there is much of, laid out by hand: puts, gets, deletes, additions, deltas, transactions, multi-gets, and all
answers that carry values, a watch's events too. flatbuffers' Python builder and reader take three quarters of a call's
CPU time for them (a put 89 us, its answer 49 us; here 3 and 5). A request for 128 keys takes them half as long as 128
requests (1.3 ms; here 0.1), and a page of 1000 items would hold the loop for 39 ms (here 6).

    0          4                16              32                56            ..
    | root: 32 | vtable Request | vtable body   | table Request   | table body   | namespace, key, value
                                                 id at 40          fields below   each: length, bytes, padding to 4

What has more fields (a put with a life, a read with a bound, an addition) has a longer vtable, and its tables begin at
40. A multi-get and a transaction have the vtables of their parts there too (a transaction's tables begin at 72 for
them), and behind the namespace their vectors: length, offsets, then the tables, each at a multiple of 8 with its bytes
behind.

The bytes are flatbuffers of wire/schema.fbs, whose rule that fields are only added at the end keeps these offsets true.
The vectors' tests read what is written here with flatc's own code, and the other way round.

Invariants
- Eight-byte numbers lie at multiples of eight from the payload's start, lengths and offsets at multiples of four.
- Nothing is read at a negative place; a read beyond the end raises struct.error.

Not here: every other message (`_wire.py`), frames (`_frame.py`).
"""

from __future__ import annotations

from struct import Struct, pack
from typing import Final

from ringbeam._answers import Absent, Breakdown, Counted, Item, Items, Revision, Transacted, Value, Written
from ringbeam._events import Event, EventKind, Events, Fold
from ringbeam._limits import EVENTS_MAX, SCAN_ITEMS_MAX, TRANSACTION_PARTS_MAX
from ringbeam._transaction import Compare, Delete, Get, Put, Step, Txn

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from
_U64 = Struct("<Q").unpack_from
_I64 = Struct("<q").unpack_from
_LENGTH = Struct("<I").pack
_REVISION = Struct("<QI").unpack_from
_BREAKDOWN = Struct("<4I").unpack_from
_FIELDS = tuple(Struct(f"<{count}H").unpack_from for count in range(8))

_PUT, _DELETE, _GET, _TRANSACT, _GET_MANY, _ADD, _EXTEND = 2, 3, 4, 14, 16, 17, 18  # in the union RequestBody
WRITTEN: Final = 2  # in the union ReplyBody
VALUE: Final = 3
TRANSACTED: Final = 9
ITEMS: Final = 10
COUNTED: Final = 11
EVENTS: Final = 16
AGE_UNKNOWN: Final = (1 << 32) - 1
"""An age of this on the wire, which is its default: the node cannot say."""

# Of the table Request: id 8, deadline_ms 4, body_type 20, body 16.
_REQUEST = (12, 24, 8, 4, 20, 16)
# Per body: its vtable, then the fields from the root's table on; `I` where an offset or a length is filled in.
_TOP = Struct("<I6H").pack(32, *_REQUEST)
_PUT_TOP = _TOP + Struct("<8H").pack(16, 40, 4, 32, 36, 8, 16, 24)
_DELETE_TOP = _TOP + Struct("<7H2x").pack(14, 36, 4, 32, 8, 16, 24)
_GET_TOP = _TOP + Struct("<5H6x").pack(10, 13, 4, 8, 12)
_PUT_TABLES = Struct("<iIQIB3x iIQQQII").pack
_DELETE_TABLES = Struct("<iIQIB3x iIQQQI").pack
_GET_TABLES = Struct("<iIQIB3x iIIB3x").pack

# A multi-get is a get with a list of keys. Its keys' vtable lies where a get has padding.
_KEY_VTABLE = 26
_GET_MANY_TOP = _GET_TOP[:_KEY_VTABLE] + Struct("<3H").pack(6, 8, 4)
_KEY_TABLE = Struct("<II").pack

# A read that says more of its consistency: index_min, age_ms_max, stale_ok. A multi-get has its keys' vtable behind.
_FRESH = Struct("<8H").pack(16, 28, 4, 8, 12, 16, 24, 13)
_FRESH_GET_TOP = _TOP + _FRESH
_FRESH_KEY_VTABLE = 32
_FRESH_MANY_TOP = Struct("<I6H").pack(40, *_REQUEST) + _FRESH + Struct("<3H2x").pack(6, 8, 4)
_FRESH_TABLES = Struct("<iIQIB3x iIIBB2xQI").pack

# What has more than a put: 40 bytes before its tables.
_LONG_TOP = Struct("<I6H").pack(40, *_REQUEST)
_LIVE_PUT_TOP = _LONG_TOP + Struct("<10H4x").pack(20, 56, 4, 48, 52, 8, 16, 24, 32, 40)
_LIVE_PUT_TABLES = Struct("<iIQIB3x iIQQQQQII").pack
_ADD_TOP = _LONG_TOP + Struct("<10H4x").pack(20, 60, 4, 56, 32, 40, 48, 8, 16, 24)
_ADD_TABLES = Struct("<iIQIB3x iIQQQqqqI").pack
_EXTEND_TOP = _LONG_TOP + Struct("<9H6x").pack(18, 41, 4, 32, 40, 36, 8, 16, 24)
_EXTEND_TABLES = Struct("<iIQIB3x iIQQQIIB3x").pack

_STEP_VTABLE, _COMPARE_VTABLE, _LIVE_STEP_VTABLE = 34, 44, 58
_TRANSACT_TOP = (
    Struct("<I6H").pack(72, *_REQUEST)
    + Struct("<9H").pack(18, 44, 4, 32, 36, 40, 8, 16, 24)
    + Struct("<5H").pack(10, 13, 12, 4, 8)
    + Struct("<7H").pack(14, 30, 4, 28, 29, 8, 24)
    + Struct("<7H").pack(14, 32, 12, 4, 8, 16, 24)
)
_TRANSACT_TABLES = Struct("<iIQIB3x iIQQQIII").pack
_STEP_TABLE = Struct("<IIB3x").pack
_LIVE_STEP_TABLE = Struct("<IIB3xQQ").pack
_COMPARE_TABLE = Struct("<IQI4xIBB2x").pack
_OFFSET = Struct("<i").pack

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Bad(ValueError):
    """A payload points outside itself, has too much of something, or lacks what is required."""


def put(
    id: int, deadline_ms: int, namespace: bytes, key: bytes, value: bytes, session: int, sequence: int, below: int
) -> bytes:
    """The payload of a Put."""
    name, octets = _text(namespace), _octets(key)
    key_at = 96 + len(name)
    to_key, to_value = key_at - 88, key_at + len(octets) - 92
    tables = _PUT_TABLES(28, deadline_ms, id, 8, _PUT, 40, 36, session, sequence, below, to_key, to_value)
    return b"".join((_PUT_TOP, tables, name, octets, _LENGTH(len(value)), value))


def live_put(
    id: int,
    deadline_ms: int,
    namespace: bytes,
    key: bytes,
    value: bytes,
    session: int,
    sequence: int,
    below: int,
    ttl_ms: int,
    lease: int,
) -> bytes:
    """The payload of a Put of a key that does not stay for ever."""
    name, octets = _text(namespace), _octets(key)
    key_at = 120 + len(name)
    to_key, to_value = key_at - 112, key_at + len(octets) - 116
    ticket = (session, sequence, below)
    tables = _LIVE_PUT_TABLES(36, deadline_ms, id, 8, _PUT, 48, 52, *ticket, ttl_ms, lease, to_key, to_value)
    return b"".join((_LIVE_PUT_TOP, tables, name, octets, _LENGTH(len(value)), value))


def add(
    id: int,
    deadline_ms: int,
    namespace: bytes,
    key: bytes,
    delta: int,
    least: int,
    most: int,
    session: int,
    sequence: int,
    below: int,
) -> bytes:
    """The payload of an Add."""
    name = _text(namespace)
    to_key = 124 + len(name) - 120
    ticket = (session, sequence, below)
    tables = _ADD_TABLES(36, deadline_ms, id, 8, _ADD, 48, 56, *ticket, delta, least, most, to_key)
    return b"".join((_ADD_TOP, tables, name, _octets(key)))


def extend(
    id: int,
    deadline_ms: int,
    namespace: bytes,
    key: bytes,
    fold: int,
    delta: bytes,
    session: int,
    sequence: int,
    below: int,
) -> bytes:
    """The payload of an Extend."""
    name, octets = _text(namespace), _octets(key)
    key_at = 108 + len(name)
    to_key, to_delta = key_at - 96, key_at + len(octets) - 100
    ticket = (session, sequence, below)
    tables = _EXTEND_TABLES(36, deadline_ms, id, 8, _EXTEND, 48, 40, *ticket, to_key, to_delta, fold)
    return b"".join((_EXTEND_TOP, tables, name, octets, _LENGTH(len(delta)), delta))


def delete(id: int, deadline_ms: int, namespace: bytes, key: bytes, session: int, sequence: int, below: int) -> bytes:
    """The payload of a Delete."""
    name = _text(namespace)
    to_key = 92 + len(name) - 88
    tables = _DELETE_TABLES(28, deadline_ms, id, 8, _DELETE, 40, 32, session, sequence, below, to_key)
    return b"".join((_DELETE_TOP, tables, name, _octets(key)))


def get(id: int, deadline_ms: int, namespace: bytes, key: bytes, consistency: int) -> bytes:
    """The payload of a Get."""
    name = _text(namespace)
    to_key = 72 + len(name) - 64
    tables = _GET_TABLES(28, deadline_ms, id, 8, _GET, 40, 12, to_key, consistency)
    return b"".join((_GET_TOP, tables, name, _octets(key)))


def get_many(id: int, deadline_ms: int, namespace: bytes, keys: tuple[bytes, ...], consistency: int) -> bytes:
    """The payload of a GetMany."""
    name = _text(namespace)
    keys_at = 72 + len(name)
    tables = _GET_TABLES(28, deadline_ms, id, 8, _GET_MANY, 40, 12, keys_at - 64, consistency)
    listed = _vector(keys_at, [(_KEY_VTABLE, _KEY_TABLE(4, len(key)) + key) for key in keys])
    return b"".join((_GET_MANY_TOP, tables, name, listed))


def fresh_get(
    id: int, deadline_ms: int, namespace: bytes, key: bytes, consistency: int, index: int, age_ms: int, stale: bool
) -> bytes:
    """The payload of a Get whose consistency needs more than its name."""
    name = _text(namespace)
    to_key = 84 + len(name) - 64
    tables = _FRESH_TABLES(28, deadline_ms, id, 8, _GET, 40, 24, to_key, consistency, stale, index, age_ms)
    return b"".join((_FRESH_GET_TOP, tables, name, _octets(key)))


def fresh_get_many(
    id: int,
    deadline_ms: int,
    namespace: bytes,
    keys: tuple[bytes, ...],
    consistency: int,
    index: int,
    age_ms: int,
    stale: bool,
) -> bytes:
    """The payload of a GetMany whose consistency needs more than its name."""
    name = _text(namespace)
    keys_at = 92 + len(name)
    to_keys = keys_at - 72
    tables = _FRESH_TABLES(36, deadline_ms, id, 8, _GET_MANY, 48, 24, to_keys, consistency, stale, index, age_ms)
    listed = _vector(keys_at, [(_FRESH_KEY_VTABLE, _KEY_TABLE(4, len(key)) + key) for key in keys])
    return b"".join((_FRESH_MANY_TOP, tables, name, listed))


def transact(id: int, deadline_ms: int, namespace: bytes, txn: Txn, session: int, sequence: int, below: int) -> bytes:
    """The payload of a Transact."""
    name = _text(namespace)
    when_at = 140 + len(name)
    when = _vector(when_at, [(_COMPARE_VTABLE, _compare(compare)) for compare in txn.when])
    then_at = when_at + len(when)
    then = _vector(then_at, [_step(step) for step in txn.then])
    otherwise_at = then_at + len(then)
    otherwise = _vector(otherwise_at, [_step(step) for step in txn.otherwise])
    to_lists = (when_at - 128, then_at - 132, otherwise_at - 136)
    ticket = (session, sequence, below)
    tables = _TRANSACT_TABLES(68, deadline_ms, id, 8, _TRANSACT, 80, 40, *ticket, *to_lists)
    return b"".join((_TRANSACT_TOP, tables, name, when, then, otherwise))


def reply(payload: bytes) -> tuple[int, int, int]:
    """A reply's id, and its body's type and place; 0 where there is none."""
    at = _U32(payload, 0)[0]
    id_at, kind_at, body_at = _fields(payload, at, 3)
    id = _U64(payload, at + id_at)[0] if id_at else 0
    kind = payload[at + kind_at] if kind_at else 0
    return id, kind, _follow(payload, at + body_at) if body_at else 0


def written(payload: bytes, at: int) -> Written | None:
    """The Written at this place; None: it has no revision."""
    revision_at, time_at, existed_at, duplicate_at, breakdown_at = _fields(payload, at, 5)
    if not revision_at:
        return None
    return Written(
        Revision(*_REVISION(payload, at + revision_at)),
        _U64(payload, at + time_at)[0] if time_at else 0,
        bool(existed_at and payload[at + existed_at]),
        bool(duplicate_at and payload[at + duplicate_at]),
        Breakdown(*_BREAKDOWN(payload, at + breakdown_at)) if breakdown_at else Breakdown(),
    )


def value(payload: bytes, at: int) -> Value | Absent | None:
    """The Value at this place; None: it is found and has no revision."""
    found_at, value_at, revision_at, index_at, age_at, stale_at = _fields(payload, at, 6)
    index = _U64(payload, at + index_at)[0] if index_at else 0
    age = _age(payload, at + age_at) if age_at else None
    stale = bool(stale_at and payload[at + stale_at])
    if not (found_at and payload[at + found_at]):
        return Absent(index, age, stale)
    if not revision_at:
        return None
    octets = _bytes_at(payload, at + value_at) if value_at else b""
    return Value(octets, Revision(*_REVISION(payload, at + revision_at)), index, age, stale)


def counted(payload: bytes, at: int) -> Counted | None:
    """The Counted at this place; None: it has no revision."""
    revision_at, time_at, value_at, duplicate_at, breakdown_at = _fields(payload, at, 5)
    if not revision_at:
        return None
    return Counted(
        Revision(*_REVISION(payload, at + revision_at)),
        _U64(payload, at + time_at)[0] if time_at else 0,
        _I64(payload, at + value_at)[0] if value_at else 0,
        bool(duplicate_at and payload[at + duplicate_at]),
        Breakdown(*_BREAKDOWN(payload, at + breakdown_at)) if breakdown_at else Breakdown(),
    )


def transacted(payload: bytes, at: int) -> Transacted | None:
    """The Transacted at this place; None: it has no revision."""
    revision_at, time_at, succeeded_at, duplicate_at, breakdown_at, gets_at = _fields(payload, at, 6)
    if not revision_at:
        return None
    revision = Revision(*_REVISION(payload, at + revision_at))
    gets = _items(payload, at + gets_at, TRANSACTION_PARTS_MAX) if gets_at else ()
    return Transacted(
        revision,
        _U64(payload, at + time_at)[0] if time_at else 0,
        bool(succeeded_at and payload[at + succeeded_at]),
        bool(duplicate_at and payload[at + duplicate_at]),
        Breakdown(*_BREAKDOWN(payload, at + breakdown_at)) if breakdown_at else Breakdown(),
        tuple(None if item is None else Value(item.value, item.revision, revision.index) for item in gets),
    )


def items(payload: bytes, at: int) -> Items:
    """The Items at this place."""
    items_at, index_at, more_at, age_at, stale_at, pinned_at = _fields(payload, at, 6)
    return Items(
        _items(payload, at + items_at, SCAN_ITEMS_MAX) if items_at else (),
        _U64(payload, at + index_at)[0] if index_at else 0,
        bool(more_at and payload[at + more_at]),
        _age(payload, at + age_at) if age_at else None,
        bool(stale_at and payload[at + stale_at]),
        _U64(payload, at + pinned_at)[0] if pinned_at else 0,
    )


def events(payload: bytes, at: int) -> Events:
    """The Events at this place."""
    events_at, index_at, time_at, ends_at = _fields(payload, at, 4)
    places = _places(payload, at + events_at, "events", EVENTS_MAX) if events_at else []
    return Events(
        tuple(_event(payload, place) for place in places),
        _U64(payload, at + index_at)[0] if index_at else 0,
        _U64(payload, at + time_at)[0] if time_at else 0,
        bool(ends_at and payload[at + ends_at]),
    )


def _event(payload: bytes, at: int) -> Event:
    kind_at, key_at, value_at, revision_at, fold_at, previous_at, conflated_at = _fields(payload, at, 7)
    if not revision_at:
        raise Bad("an event has no revision, it is required")
    return Event(
        EventKind(payload[at + kind_at] if kind_at else 0),
        _bytes_at(payload, at + key_at) if key_at else b"",
        _bytes_at(payload, at + value_at) if value_at else b"",
        Revision(*_REVISION(payload, at + revision_at)),
        Fold(payload[at + fold_at] if fold_at else 0),
        _item(payload, _follow(payload, at + previous_at)) if previous_at else None,
        bool(conflated_at and payload[at + conflated_at]),
    )


def _age(payload: bytes, at: int) -> float | None:
    age_ms: int = _U32(payload, at)[0]
    return None if age_ms == AGE_UNKNOWN else age_ms / 1_000


def _items(payload: bytes, at: int, count_max: int) -> tuple[Item | None, ...]:
    return tuple(_item(payload, place) for place in _places(payload, at, "items", count_max))


def _places(payload: bytes, at: int, what: str, count_max: int) -> list[int]:
    """Where the tables of the vector at `at` lie."""
    begin = _follow(payload, at)
    count = _U32(payload, begin)[0]
    if count > count_max:
        raise Bad(f"the reply has {count} {what}, the limit is {count_max}")
    return [_follow(payload, begin + 4 + 4 * n) for n in range(count)]


def _item(payload: bytes, at: int) -> Item | None:
    key_at, found_at, value_at, revision_at = _fields(payload, at, 4)
    if not (found_at and payload[at + found_at]):
        return None
    if not revision_at:
        raise Bad("a found item has no revision, it is required")
    return Item(
        _bytes_at(payload, at + key_at) if key_at else b"",
        _bytes_at(payload, at + value_at) if value_at else b"",
        Revision(*_REVISION(payload, at + revision_at)),
    )


def _bytes_at(payload: bytes, at: int) -> bytes:
    begin = _follow(payload, at)
    length = _U32(payload, begin)[0]
    octets = payload[begin + 4 : begin + 4 + length]
    if len(octets) != length:
        raise Bad(f"a value is said to have {length} bytes, of which {len(octets)} are there")
    return octets


def _compare(compare: Compare) -> bytes:
    key, target = _octets(compare.key), compare.target
    if isinstance(target, Revision):
        index, position, kind, value = target.index, target.position, 0, b""
    else:
        index, position, kind, value = 0, 0, 1, target.value
    table = _COMPARE_TABLE(28, index, position, 8 + len(key), kind, compare.relation)
    return b"".join((table, key, _LENGTH(len(value)), value))


def _step(step: Step) -> tuple[int, bytes]:
    key = _octets(step.key)
    value = step.value if isinstance(step, Put) else b""
    kind = _STEP_KINDS[type(step)]
    if isinstance(step, Put) and (step.ttl_ms or step.lease):
        assert isinstance(step.lease, int), "a handle was not resolved"
        vtable, table = _LIVE_STEP_VTABLE, _LIVE_STEP_TABLE(28, 24 + len(key), kind, step.ttl_ms, step.lease)
    else:
        vtable, table = _STEP_VTABLE, _STEP_TABLE(12, 8 + len(key), kind)
    return vtable, b"".join((table, key, _LENGTH(len(value)), value))


_STEP_KINDS = {Get: 0, Put: 1, Delete: 2}


def _vector(at: int, tables: list[tuple[int, bytes]]) -> bytes:
    """A vector at this place, of tables with the place of their vtable, the offset to which is all that they lack. Its
    end is a multiple of 8."""
    head = 4 + 4 * len(tables)
    place = at + head + (-(at + head) & 7)
    numbers, pieces = [len(tables)], [bytes(place - at - head)]
    for vtable, table in tables:
        numbers.append(place - at - 4 * len(numbers))
        padding = -(4 + len(table)) & 7
        pieces += (_OFFSET(place - vtable), table, bytes(padding))
        place += 4 + len(table) + padding
    return b"".join((pack(f"<{len(numbers)}I", *numbers), *pieces))


def _fields(payload: bytes, at: int, count: int) -> tuple[int, ...]:
    """Where the first `count` fields of the table at `at` lie, counted from there; 0: absent."""
    vtable = at - _I32(payload, at)[0]
    if vtable < 0:
        raise Bad(f"a table's fields are said to be described at {vtable}")
    stored: int = (_U16(payload, vtable)[0] - 4) // 2
    if stored >= count:
        return _FIELDS[count](payload, vtable + 4)
    if stored < 0:
        raise Bad("a table's description is shorter than its own head")
    return _FIELDS[stored](payload, vtable + 4) + (0,) * (count - stored)


def _follow(payload: bytes, at: int) -> int:
    place: int = at + _U32(payload, at)[0]
    return place


def _text(text: bytes) -> bytes:
    return _LENGTH(len(text)) + text + b"\0" + _PADDING[(len(text) + 1) & 3]


def _octets(octets: bytes) -> bytes:
    return _LENGTH(len(octets)) + octets + _PADDING[len(octets) & 3]
