"""What a call is answered with: frozen values, each with its units.

Not here: how they lie on the wire (`_wire.py`), errors (`_errors.py`), refusals (`_refusal.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final


class Consistency(IntEnum):
    """How fresh a read must be."""

    LINEARIZABLE = 0
    """Sees every write that was acknowledged before the read began. Served by the leader."""
    LOCAL = 1
    """What the asked node has applied. Served by every node that keeps state."""
    SESSION = 2
    """Sees what this client has written, and never less than it has seen: over all nodes, in the order of its calls."""
    BOUNDED = 3
    """At most so old: `Bounded(seconds)` says it."""


class Role(IntEnum):
    """What a node does in the ring."""

    VOTER = 0
    """Votes, leads, serves."""
    TIE_BREAKER = 1
    """Votes and logs; keeps no state, serves no client, never leads."""
    OBSERVER = 2
    """Follows and serves reads; never votes."""


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """When a key last changed: totally ordered within a shard."""

    index: int = 0
    """Log index of the batch."""
    position: int = 0
    """Position in the batch."""


ABSENT: Final = Revision()
"""The revision of a key that has no value."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the time of a write went, microseconds. fsync runs beside quorum."""

    queue_us: int = 0
    """From arrival to the batch's append."""
    fsync_us: int = 0
    """From append to durable on the leader."""
    quorum_us: int = 0
    """From append to committed."""
    apply_us: int = 0
    """From committed to applied."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write is done: durable on a quorum and applied."""

    revision: Revision = field(default_factory=Revision)
    """Of the key, from this write."""
    ring_time_ms: int = 0
    """Ring time of the batch, milliseconds."""
    existed: bool = False
    """The key had a value before."""
    duplicate: bool = False
    """The answer of an earlier, identical request of this session: a repeated write that was applied once."""
    breakdown: Breakdown = field(default_factory=Breakdown)
    """Where the time went."""


@dataclass(frozen=True, slots=True)
class Value:
    """A key's value, as a read found it."""

    value: bytes
    """The bytes."""
    revision: Revision = field(default_factory=Revision)
    """When the key last changed."""
    index: int = 0
    """The applied log index of the shard that this answer reflects."""
    age: float | None = None
    """The answer reflects every write that was acknowledged so many seconds before it was made, or longer ago. None:
    not known."""
    stale: bool = False
    """It may be older than `Bounded` asked for."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a read found, if only that there is nothing."""

    found: Value | None
    """What the key has; None: nothing."""
    index: int = 0
    """As in `Value`."""
    age: float | None = None
    """As in `Value`."""
    stale: bool = False
    """As in `Value`."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A counter after an addition: durable on a quorum and applied."""

    revision: Revision = field(default_factory=Revision)
    """Of the key, from this addition."""
    ring_time_ms: int = 0
    """Ring time of the batch, milliseconds."""
    value: int = 0
    """The sum."""
    duplicate: bool = False
    """The answer of an earlier, identical request of this session: a repeated addition that was applied once."""
    breakdown: Breakdown = field(default_factory=Breakdown)
    """Where the time went."""


@dataclass(frozen=True, slots=True)
class RangeDeleted:
    """A slice of a range is gone: durable on a quorum and applied."""

    revision: Revision = field(default_factory=Revision)
    """Of the deletion."""
    ring_time_ms: int = 0
    """Ring time of the batch, milliseconds."""
    deleted: int = 0
    """Keys that went."""
    more: bool = False
    """The range had more: ask again."""
    duplicate: bool = False
    """The answer of an earlier, identical request of this session: a repeated deletion that was applied once."""
    breakdown: Breakdown = field(default_factory=Breakdown)
    """Where the time went."""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """A lease as it is."""

    lease: int = 0
    """Its id, unique in its shard."""
    ttl_ms: int = 0
    """It ends this long after it was kept alive last, milliseconds of ring time."""
    left_ms: int = 0
    """Ring time until it ends, milliseconds."""
    keys: int = 0
    """Keys that go with it."""
    revision: Revision = field(default_factory=Revision)
    """Of the write that granted or kept it; ABSENT when it was only asked for."""
    ring_time_ms: int = 0
    """Ring time of the answer, milliseconds."""
    duplicate: bool = False
    """The answer of an earlier, identical request of this session."""


@dataclass(frozen=True, slots=True)
class Transacted:
    """A transaction is done: durable on a quorum and applied."""

    revision: Revision = field(default_factory=Revision)
    """Of every key that it wrote, and its place in the log."""
    ring_time_ms: int = 0
    """Ring time of the batch, milliseconds."""
    succeeded: bool = False
    """All compares held: `then` has run, not `otherwise`."""
    duplicate: bool = False
    """The answer of an earlier, identical request of this session: a repeated transaction that was applied once."""
    breakdown: Breakdown = field(default_factory=Breakdown)
    """Where the time went."""
    gets: tuple[Value | None, ...] = ()
    """What the gets found that ran, in their order, as it was before the transaction; None: no value. Their `index` is
    that of the transaction."""


@dataclass(frozen=True, slots=True)
class Item:
    """A key with what it has, as a scan found it."""

    key: bytes
    """The key."""
    value: bytes = b""
    """The bytes; empty also when only keys were asked for."""
    revision: Revision = field(default_factory=Revision)
    """When the key last changed."""


@dataclass(frozen=True, slots=True)
class SlotRange:
    """A half-open range of slots on one shard."""

    first: int
    end: int
    shard: int


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the ring knows it. Addresses are host:port."""

    node: int = 0
    """Node id, from 1."""
    incarnation: int = 0
    """Random, made with the node's data directory: an empty disk is another member."""
    peer: str = ""
    """Address of the peer protocol."""
    client: str = ""
    """Address of the client protocol."""
    admin: str = ""
    """Address of HTTP health and metrics."""
    region: str = ""
    """Region label."""
    role: Role = Role.VOTER
    """What the node does."""


@dataclass(frozen=True, slots=True)
class Topology:
    """What a client routes by."""

    epoch: int = 0
    """Log index of the membership: a higher one is newer."""
    ring: int = 0
    """Ring id."""
    shard: int = 0
    """The shard that answered; `leader` and `term` are its."""
    leader: int = 0
    """Node id of the leader; 0: none known."""
    term: int = 0
    """The leader's term."""
    slots: tuple[SlotRange, ...] = ()
    """Which slots are on which shard."""
    members: tuple[Member, ...] = ()
    """All nodes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a member's log is."""

    node: int = 0
    role: Role = Role.VOTER
    matched: int = 0
    """Last log index known to be on it; only from the leader."""
    lag: int = 0
    """Entries behind the leader; only from the leader."""
    learner: bool = False
    """It does not vote (yet)."""


@dataclass(frozen=True, slots=True)
class Status:
    """How one shard on one node is. Indices are the shard's log indices."""

    node: int = 0
    ring: int = 0
    shard: int = 0
    shards: int = 0
    """Number of shards in the ring."""
    version: str = ""
    """Version of the node's software."""
    role: Role = Role.VOTER
    uptime_ms: int = 0
    raft_state: str = ""
    """leader, follower, candidate, learner or stopped."""
    leader: int = 0
    """Node id; 0: none known."""
    term: int = 0
    last_index: int = 0
    committed_index: int = 0
    applied_index: int = 0
    snapshot_index: int = 0
    """Last index in the newest snapshot; 0: none."""
    purged_index: int = 0
    """Last index no longer in the log; 0: none."""
    keys: int = 0
    state_bytes: int = 0
    state_hash: int = 0
    """Hash of all replicated state; 0 unless it is small enough to hash on demand."""
    log_bytes: int = 0
    sessions: int = 0
    connections: int = 0
    voters: tuple[Progress, ...] = ()
    voters_joint: bool = False
    """A membership change is under way."""
    fault: str | None = None
    """Why the shard does not serve."""
    ring_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Welcome:
    """A node's side of the agreement at the start of a connection."""

    version: int = 0
    features: int = 0
    ring: int = 0
    node: int = 0
    shard: int = 0
    key_bytes_max: int = 0
    value_bytes_max: int = 0
    session_window: int = 0
    """Writes of one session that may be unanswered at once; 0: not said."""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """A read's answer: the key has no value."""

    index: int = 0
    age: float | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """The answer to a page of a scan, or to a request for several keys; everything in it as of one log index."""

    items: tuple[Item | None, ...] = ()
    """Those of the range in the order asked for; or one for each key, in the order of the request and without it. None:
    the key has no value."""
    index: int = 0
    """The applied log index that all of them reflect."""
    more: bool = False
    """The answer is full: what is behind its last item is to be asked for again."""
    age: float | None = None
    stale: bool = False
    pinned: int = 0
    """What follows can be read as of the same index, from the same node, until Unpin or while it is asked for; 0: it
    cannot, or nothing follows."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a write."""

    happened: bool = False
    """It was applied. False: it was not, and never will be."""
    existed: bool = False
    """Of a transaction: its compares held. Of other writes: the key had a value before."""
    revision: Revision = field(default_factory=Revision)
    """Of the write."""
    ring_time_ms: int = 0
    """Ring time of its batch, milliseconds."""
    gets: tuple[Value | None, ...] = ()
    """What the gets of a transaction found, in their order."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session's id, and how long it lives without a write, milliseconds of ring time."""

    session: int
    lifetime_ms: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, for people."""

    message: str
