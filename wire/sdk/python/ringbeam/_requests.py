"""What a client asks of a node: one frozen value per request of the client protocol, with the schema's units.

    Read     Get, GetMany, Scan                       may be repeated at will
    Write    Put, Delete, Transact, Add, Extend, ..   carries a place in a session: session, sequence, answered_below
    the rest commands about connections, sessions, leases, watches, pinned moments and the ring

Not here: how they lie on the wire (`_traffic.py`, `_wire.py`), their answers (`_answers.py`, `_events.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ringbeam._answers import Consistency, Revision
from ringbeam._events import Fold
from ringbeam._limits import COUNTER_MAX, COUNTER_MIN
from ringbeam._transaction import Txn

# ---- reads; index_min, age_ms_max and stale_ok of each say what its consistency needs ----


@dataclass(frozen=True, slots=True)
class Get:
    namespace: bytes
    key: bytes
    consistency: Consistency = Consistency.LINEARIZABLE
    index_min: int = 0
    """SESSION: the answer reflects at least this log index of the shard."""
    age_ms_max: int = 0
    """BOUNDED: the answer is at most this old."""
    stale_ok: bool = False
    """BOUNDED: when that cannot be shown, answer all the same, and say so."""


@dataclass(frozen=True, slots=True)
class GetMany:
    namespace: bytes
    keys: tuple[bytes, ...]
    consistency: Consistency = Consistency.LINEARIZABLE
    index_min: int = 0
    age_ms_max: int = 0
    stale_ok: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    namespace: bytes
    start: bytes = b""
    end: bytes = b""
    """b"": to the last key."""
    backward: bool = False
    keys_only: bool = False
    limit: int = 0
    """0: as many items as a page may have."""
    consistency: Consistency = Consistency.LINEARIZABLE
    index_min: int = 0
    age_ms_max: int = 0
    stale_ok: bool = False
    pin: int = 0
    """Keys that are still wanted of the shard: if the page ends before, its moment is pinned; 0: never."""
    pinned: int = 0
    """A page of a pinned moment, as `Items.pinned` said it: its consistency is of no matter."""
    pinned_index: int = 0
    """`Items.index` of the first page of that moment."""


# ---- writes ----


@dataclass(frozen=True, slots=True)
class Put:
    namespace: bytes
    key: bytes
    value: bytes
    session: int = 0
    sequence: int = 0
    answered_below: int = 0
    ttl_ms: int = 0
    """The key goes this long (ring time) after the put; 0: it stays."""
    lease: int = 0
    """The key goes when this lease of the same shard ends; 0: none."""


@dataclass(frozen=True, slots=True)
class Delete:
    namespace: bytes
    key: bytes
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Transact:
    namespace: bytes
    txn: Txn
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Add:
    """A sum outside of min..max is refused and changes nothing."""

    namespace: bytes
    key: bytes
    delta: int
    min: int = COUNTER_MIN
    max: int = COUNTER_MAX
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Extend:
    """Changes a value by a delta, which is all that goes through the log."""

    namespace: bytes
    key: bytes
    fold: Fold
    delta: bytes
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Deletes keys of a range from its first one on."""

    namespace: bytes
    start: bytes = b""
    end: bytes = b""
    """b"": to the last key."""
    limit: int = 0
    """Keys at most; 0: as many as may be at once."""
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class GrantLease:
    ttl_ms: int
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class RevokeLease:
    lease: int
    session: int = 0
    sequence: int = 0
    answered_below: int = 0


# ---- the rest ----


@dataclass(frozen=True, slots=True)
class KeepLease:
    lease: int


@dataclass(frozen=True, slots=True)
class GetLease:
    lease: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Settles what became of a write: if it was not applied, it never will be."""

    session: int
    sequence: int
    answered_below: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Answered by WatchStarted, then by Events until WatchEnded, all with the id of this request."""

    namespace: bytes
    start: bytes = b""
    end: bytes = b""
    after: Revision | None = None
    """Only what came behind it; None: from now on."""
    snapshot: bool = False
    """First what there is, then what changes."""
    no_puts: bool = False
    no_deletes: bool = False
    previous: bool = False
    """With the values from before."""
    conflate: bool = False
    """One who is slow gets the newest of each key."""
    progress_ms: int = 0
    """An empty Events at least this often; 0: none."""


@dataclass(frozen=True, slots=True)
class Unwatch:
    watch: int
    """The id of its request."""


@dataclass(frozen=True, slots=True)
class Unpin:
    """A pinned moment is not needed any more: its last page is here, or nobody wants it."""

    pinned: int
    """`Items.pinned` of a page of it."""


@dataclass(frozen=True, slots=True)
class FollowTopology:
    """The topology now and whenever it changes, each with the id of this request."""


@dataclass(frozen=True, slots=True)
class Hello:
    version_min: int
    version_max: int
    features: int
    ring: int
    client: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    pass


@dataclass(frozen=True, slots=True)
class CloseSession:
    session: int


@dataclass(frozen=True, slots=True)
class GetTopology:
    pass


@dataclass(frozen=True, slots=True)
class GetStatus:
    pass


@dataclass(frozen=True, slots=True)
class Ping:
    pass


Write = Put | Delete | Transact | Add | Extend | DeleteRange | GrantLease | RevokeLease
Read = Get | GetMany | Scan
Command = KeepLease | GetLease | Resolve | OpenSession | CloseSession | GetTopology | GetStatus | Ping | Hello | Unpin
Stream = Watch | Unwatch | FollowTopology
Body = Write | Read | Command | Stream
"""What a client asks."""
