"""How fresh a read must be, and what a session has seen.

    carts = client.namespace("carts").consistency(Consistency.SESSION)   # reads see what this client has written ..
    token = carts.session_token().to_bytes()                             # .. and so do those of who is given this
    elsewhere = client.with_token(Token.from_bytes(token))

A token's bytes, which are the same in every SDK (docs/format.md):

    | 1: u8 | ring: u64 | shards: u16 | for each: shard: u16, index: u64 | CRC32 of all before: u32 |     little-endian

Ages are shown by the node that answers, on its own clock; the way of the answer to the caller comes on top.

Invariants
- A session's marks only rise.

Not here: which node is asked (`_readers.py`), waiting and redirecting (`_call.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from types import MappingProxyType
from typing import Final
from zlib import crc32

from ringbeam._answers import Consistency
from ringbeam._limits import SHARDS_MAX
from ringbeam._octets import octets

_AGE_MS_MAX: Final = (1 << 32) - 2
_VERSION: Final = 1
_HEAD: Final = Struct("<BQH")
_MARK: Final = Struct("<HQ")
_TAIL: Final = Struct("<I")


@dataclass(frozen=True, slots=True)
class Bounded:
    """A read misses nothing that was acknowledged more than `max_age` seconds before it was made."""

    max_age: float
    """Seconds, in whole milliseconds, at least one; a fraction is cut off."""
    stale_ok: bool = False
    """When no node can show that: True, an answer that says that it may be older; False, a refusal, NOT_FRESH."""

    def __post_init__(self) -> None:
        if isinstance(self.max_age, bool) or not isinstance(self.max_age, int | float):
            raise TypeError(f"max_age is {self.max_age!r}, right is a number of seconds")
        if not self.max_age >= 0.001:
            raise ValueError(f"max_age is {self.max_age!r} s, right is a millisecond or more")

    @property
    def age_ms_max(self) -> int:
        """As the wire says it."""
        # Binary fractions: 0.029 * 1000 is a little less than 29.
        return int(min(self.max_age * 1_000 + 1e-6, _AGE_MS_MAX))


Freshness = Consistency | Bounded
"""What a read may ask for."""


def fresh(consistency: Freshness, seen: int) -> tuple[Consistency, int, int, bool]:
    """As the wire says it, of a session that has seen the shard up to the index `seen`: consistency, index_min,
    age_ms_max, stale_ok."""
    if isinstance(consistency, Bounded):
        return Consistency.BOUNDED, 0, consistency.age_ms_max, consistency.stale_ok
    return consistency, seen if consistency is Consistency.SESSION else 0, 0, False


def checked(consistency: Freshness) -> Freshness:
    """TypeError or ValueError: it is none."""
    if isinstance(consistency, Bounded):
        return consistency
    if consistency == Consistency.BOUNDED:
        raise ValueError("a bound needs its age: right is Bounded(seconds)")
    return Consistency(consistency)


@dataclass(frozen=True, slots=True)
class Token:
    """What a session has seen: a log index of each shard. To be handed to other processes as bytes."""

    ring: int = 0
    """The ring that it is of."""
    seen: Mapping[int, int] = field(default_factory=dict)
    """By shard: the log index up to which the session has seen it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", MappingProxyType(dict(sorted(self.seen.items()))))

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return (Token.from_bytes, (self.to_bytes(),))

    def index_of(self, shard: int) -> int:
        """The log index up to which the session has seen a shard; 0: nothing."""
        return self.seen.get(shard, 0)

    def join(self, other: Token) -> Token:
        """What either has seen. ValueError: they are of different rings."""
        if self.ring != other.ring:
            raise ValueError(f"a token of ring {self.ring:x} and one of ring {other.ring:x} have nothing in common")
        shards = self.seen.keys() | other.seen.keys()
        return Token(self.ring, {shard: max(self.index_of(shard), other.index_of(shard)) for shard in shards})

    def to_bytes(self) -> bytes:
        """Fifteen bytes, and ten for each shard that was used."""
        head = _HEAD.pack(_VERSION, self.ring, len(self.seen))
        body = head + b"".join(_MARK.pack(shard, index) for shard, index in self.seen.items())
        return body + _TAIL.pack(crc32(body))

    @staticmethod
    def from_bytes(token: bytes) -> Token:
        """From the bytes of `to_bytes`, of this or of another process or SDK. ValueError: they are no token."""
        given = octets(token, "token")
        if len(given) < _HEAD.size + _TAIL.size:
            raise ValueError(f"no session token: {len(given)} bytes; the shortest has {_HEAD.size + _TAIL.size}")
        body, tail = given[: -_TAIL.size], given[-_TAIL.size :]
        if _TAIL.unpack(tail)[0] != crc32(body):
            raise ValueError("no session token: its checksum does not fit: it was cut or changed")
        version, ring, shards = _HEAD.unpack_from(body)
        if version != _VERSION:
            raise ValueError(f"no session token: version {version}; known is {_VERSION}")
        rest = body[_HEAD.size :]
        if shards > SHARDS_MAX or len(rest) != shards * _MARK.size:
            size = f"{shards} shards in {len(rest)} bytes; each has {_MARK.size}, at most {SHARDS_MAX} there are"
            raise ValueError(f"no session token: {size}")
        seen: dict[int, int] = {}
        for shard, index in _MARK.iter_unpack(rest):
            if shard >= SHARDS_MAX or shard in seen:
                odd = f"shard {shard} is beyond the last possible, {SHARDS_MAX - 1}, or there twice"
                raise ValueError(f"no session token: {odd}")
            seen[shard] = index
        return Token(ring, seen)


class Marks:
    """What a session has seen, while it goes on: one index a shard, raised by every answer."""

    __slots__ = ("at",)

    def __init__(self, shards: int, token: Token | None = None) -> None:
        self.at = [0 if token is None else token.index_of(shard) for shard in range(shards)]
        """By shard: the log index up to which it was seen."""

    def saw(self, shard: int, index: int) -> None:
        """An answer has shown the shard as of this index."""
        if index > self.at[shard]:
            self.at[shard] = index

    def token(self, ring: int) -> Token:
        """As of now."""
        return Token(ring, {shard: index for shard, index in enumerate(self.at) if index})
