"""How a node says no: a stable number, whether the write certainly did not happen, and a sentence for people.

The numbers are those of wire/refusal.rs. They are forever: added at the end, never reused.
`check_*` refuse locally what a node would refuse, in its words, before a frame that is too large ends the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ringbeam._limits import KEY_BYTES_MAX, NAMESPACE_BYTES_MAX


class Code(IntEnum):
    """Why a request was refused. The number is what travels."""

    NOT_LEADER = 1
    """The node does not lead the shard."""
    OVERLOADED = 2
    """A queue is full."""
    DEADLINE_EXCEEDED = 3
    """The deadline passed before the request was started."""
    OUTCOME_UNKNOWN = 4
    """The write was started and its fate is not known."""
    KEY_EMPTY = 5
    """A key has at least one byte."""
    KEY_TOO_LARGE = 6
    """The key is longer than 4096 bytes."""
    VALUE_TOO_LARGE = 7
    """The value is longer than the node's configured limit."""
    BAD_NAMESPACE = 8
    """Not a namespace name, or longer than 64 bytes."""
    BAD_REQUEST = 9
    """The bytes are not a request."""
    UNSUPPORTED_VERSION = 10
    """No protocol version that both sides speak."""
    WRONG_RING = 11
    """The caller expects another ring."""
    WRONG_SHARD = 12
    """The key belongs to another shard, or the shard does not exist."""
    SESSION_EXPIRED = 13
    """The session was closed or not used for its lifetime."""
    ALREADY_ANSWERED = 14
    """The client said that it has the answer of this sequence: it is forgotten."""
    SESSION_WINDOW_FULL = 15
    """Too many writes of the session are unanswered."""
    TOO_MANY_SESSIONS = 16
    """The shard holds as many sessions as it may."""
    DISK_FULL = 17
    """No room for the log; reads go on."""
    SHARD_FAULT = 18
    """The shard's log or state is broken on this node."""
    NOT_SERVING = 19
    """The node is not ready, or its role serves no clients."""
    SHUTTING_DOWN = 20
    """The node is stopping."""
    MEMBERSHIP = 21
    """The change of membership is impossible."""
    HELLO_FIRST = 22
    """The first request of a connection is Hello."""
    INCARNATION = 23
    """A data directory is not the one the ring knows."""
    SEQUENCE_REUSED = 24
    """The sequence was used before for another write."""
    INTERNAL = 25
    """A defect of the node."""
    CROSS_SHARD = 26
    """The keys of a transaction are of several shards."""
    TRANSACTION_TOO_LARGE = 27
    """A transaction of too many parts or bytes."""
    DUPLICATE_KEY = 28
    """A transaction writes a key twice."""
    RESULT_TOO_LARGE = 29
    """The gets of a transaction found more than its answer may have; it changed nothing."""
    OUT_OF_BOUNDS = 30
    """A counter would leave the bounds that its caller gave; it is unchanged."""
    NOT_A_NUMBER = 31
    """The value to add to is not a decimal number of 64 bits."""
    NOT_JSON = 32
    """The value to patch, or the patch, is not JSON."""
    LEASE_NOT_FOUND = 33
    """The lease is unknown: never granted in this shard, revoked, or not kept alive for its time."""
    TOO_MANY_LEASES = 34
    """The shard holds as many leases as it may."""
    NOT_FRESH = 35
    """This node cannot show that its answer would be as fresh as asked for; another one may."""
    COMPACTED = 36
    """What was asked for to be watched from, or the moment that a scan is of, is no longer kept."""
    WATCH_TOO_SLOW = 37
    """A watcher did not take its events for so long that they are no longer kept."""
    TOO_MANY_WATCHES = 38
    """The connection or the shard has as many watches as it may."""
    SNAPSHOT_DAMAGED = 39
    """Between nodes: the snapshot that was sent does not read back well, and nothing of it was installed."""

    @property
    def label(self) -> str:
        """The code's name as nodes, metrics and the other SDKs write it: `NotLeader`."""
        return self.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request."""

    code: Code
    unknown: bool = False
    """True: the write may or may not happen. False: it certainly did not and will not."""
    message: str = ""
    leader: int = 0
    """For NOT_LEADER: the leader's node id, 0 when none is known."""
    leader_address: str = ""
    """For NOT_LEADER: the leader's client address (host:port), "" when none is known."""
    retry_after_ms: int = 0
    """When to try again, milliseconds; 0: not said."""

    def __str__(self) -> str:
        return f"{self.code.label}: {self.message}"


def check_namespace(namespace: bytes) -> Refusal | None:
    """Refuses a namespace name that is too long; `namespace` is its UTF-8."""
    if len(namespace) <= NAMESPACE_BYTES_MAX:
        return None
    message = f"the namespace has {len(namespace)} bytes, the limit is {NAMESPACE_BYTES_MAX}"
    return Refusal(Code.BAD_NAMESPACE, message=message)


def check_key(key: bytes) -> Refusal | None:
    """Refuses a key that is empty or too long."""
    if not key:
        return Refusal(Code.KEY_EMPTY, message=f"the key is empty, it needs 1 to {KEY_BYTES_MAX} bytes")
    if len(key) <= KEY_BYTES_MAX:
        return None
    return Refusal(Code.KEY_TOO_LARGE, message=f"the key has {len(key)} bytes, the limit is {KEY_BYTES_MAX}")


def check_bound(bound: bytes) -> Refusal | None:
    """Refuses a bound of a scan that is longer than any key. Empty: none."""
    return check_key(bound) if bound else None


def check_bounds(least: int, most: int) -> Refusal | None:
    """Refuses bounds of a counter that no number is in."""
    if least <= most:
        return None
    message = f"the counter's bounds are {least} to {most}; the first must not be greater"
    return Refusal(Code.BAD_REQUEST, message=message)


def check_value(value: bytes, value_bytes_max: int) -> Refusal | None:
    """Refuses a value longer than `value_bytes_max`."""
    if len(value) <= value_bytes_max:
        return None
    return Refusal(Code.VALUE_TOO_LARGE, message=f"the value has {len(value)} bytes, the limit is {value_bytes_max}")
