"""What a watch brings, as nodes say it: frozen values, each with its units.

    Watch -> WatchStarted -> [Events: what there is] -> Events -> Events -> .. -> WatchEnded

Not here: how they lie on the wire (`_traffic.py`, `_wire.py`), going on after a lost connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from ringbeam._answers import Item, Revision


class EventKind(IntEnum):
    """What happened to a key."""

    PUT = 0
    """It has a new value."""
    DELETE = 1
    """It was deleted."""
    EXPIRE = 2
    """Its time was up, or its lease's."""
    EXTEND = 3
    """Its value was changed by a delta, which is the event's value; `Event.fold` says how."""
    SNAPSHOT = 4
    """It is as it is: part of what a watch with a snapshot begins with."""


class Fold(IntEnum):
    """How a delta changes a value."""

    CONCATENATE = 0
    """It comes behind it."""
    MERGE_PATCH = 1
    """Both are JSON: a merge patch (RFC 7396)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key."""

    kind: EventKind
    """What happened."""
    key: bytes
    """The key."""
    value: bytes = b""
    """The new value, or the delta; empty when there is none."""
    revision: Revision = field(default_factory=Revision)
    """Of the change."""
    fold: Fold = Fold.CONCATENATE
    """EXTEND: how `value` changes what the key has."""
    previous: Item | None = None
    """What the key had before (its `key` is empty): when asked for, and known."""
    conflated: bool = False
    """Changes of this key before this one were left out."""


@dataclass(frozen=True, slots=True)
class Events:
    """Some events of a watch. Everything that happened up to `index` is sent with this one, or was before."""

    events: tuple[Event, ...] = ()
    index: int = 0
    ring_time_ms: int = 0
    """Ring time at that index, milliseconds."""
    snapshot_ends: bool = False
    """With this, all of the snapshot has been sent."""


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """The watch is on."""

    index: int = 0
    """What came up to this log index is not sent, or is in the snapshot."""
    oldest: Revision = field(default_factory=Revision)
    """The oldest revision that could be asked for."""


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The watch is over."""

    code: int = 0
    """Number of a `Code`."""
    message: str = ""
    """Why, for people."""
    index: int = 0
    """Everything up to this log index was sent: go on from there."""
    oldest: Revision = field(default_factory=Revision)
    """The oldest revision that could be asked for."""
