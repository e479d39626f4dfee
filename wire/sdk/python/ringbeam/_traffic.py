"""Puts, gets, deletes and their answers, laid out by hand: flatbuffers' Python builder and reader take three quarters
of a call's CPU time for them (a put 89 us, its answer 49 us; here 3 and 5).

    0          4                16              32                56            ..
    | root: 32 | vtable Request | vtable body   | table Request   | table body   | namespace, key, value
                                                 id at 40          fields below   each: length, bytes, padding to 4

The bytes are flatbuffers of wire/schema.fbs, whose rule that fields are only added at the end keeps these offsets true.
The vectors' tests read what is written here with flatc's own code, and the other way round.

Invariants
- Eight-byte numbers lie at multiples of eight from the payload's start, lengths and offsets at multiples of four.
- Nothing is read at a negative place; a read beyond the end raises struct.error.

Not here: every other message (`_wire.py`), frames (`_frame.py`).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ringbeam._answers import Absent, Breakdown, Revision, Value, Written

_U16 = Struct("<H").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from
_U64 = Struct("<Q").unpack_from
_LENGTH = Struct("<I").pack
_REVISION = Struct("<QI").unpack_from
_BREAKDOWN = Struct("<4I").unpack_from
_FIELDS = tuple(Struct(f"<{count}H").unpack_from for count in range(6))

_PUT, _DELETE, _GET = 2, 3, 4  # in the union RequestBody
WRITTEN: Final = 2  # in the union ReplyBody
VALUE: Final = 3

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

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class BadOffset(ValueError):
    """A payload points outside itself."""


def put(
    id: int, deadline_ms: int, namespace: bytes, key: bytes, value: bytes, session: int, sequence: int, below: int
) -> bytes:
    """The payload of a Put."""
    name, octets = _text(namespace), _octets(key)
    key_at = 96 + len(name)
    to_key, to_value = key_at - 88, key_at + len(octets) - 92
    tables = _PUT_TABLES(28, deadline_ms, id, 8, _PUT, 40, 36, session, sequence, below, to_key, to_value)
    return b"".join((_PUT_TOP, tables, name, octets, _LENGTH(len(value)), value))


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
    found_at, value_at, revision_at, index_at = _fields(payload, at, 4)
    index = _U64(payload, at + index_at)[0] if index_at else 0
    if not (found_at and payload[at + found_at]):
        return Absent(index)
    if not revision_at:
        return None
    octets = b""
    if value_at:
        begin = _follow(payload, at + value_at)
        length = _U32(payload, begin)[0]
        octets = payload[begin + 4 : begin + 4 + length]
        if len(octets) != length:
            raise BadOffset(f"reply.body.value has {length} bytes, of which {len(octets)} are there")
    return Value(octets, Revision(*_REVISION(payload, at + revision_at)), index)


def _fields(payload: bytes, at: int, count: int) -> tuple[int, ...]:
    """Where the first `count` fields of the table at `at` lie, counted from there; 0: absent."""
    vtable = at - _I32(payload, at)[0]
    if vtable < 0:
        raise BadOffset(f"a table's fields are said to be described at {vtable}")
    stored: int = (_U16(payload, vtable)[0] - 4) // 2
    if stored >= count:
        return _FIELDS[count](payload, vtable + 4)
    if stored < 0:
        raise BadOffset("a table's description is shorter than its own head")
    return _FIELDS[stored](payload, vtable + 4) + (0,) * (count - stored)


def _follow(payload: bytes, at: int) -> int:
    place: int = at + _U32(payload, at)[0]
    return place


def _text(text: bytes) -> bytes:
    return _LENGTH(len(text)) + text + b"\0" + _PADDING[(len(text) + 1) & 3]


def _octets(octets: bytes) -> bytes:
    return _LENGTH(len(octets)) + octets + _PADDING[len(octets) & 3]
