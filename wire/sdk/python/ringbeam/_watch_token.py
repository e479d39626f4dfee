"""Where a watch is, as bytes, which are the same in every SDK:

0      4         8      16       20
| rbwt | version | ring | shards | for each shard: index u64, position u32, state u8 |      little-endian
|      | u32 = 1 | u64  | u32    |                                                   |

state: 0 not watched yet, or not by this watch; 1 goes on behind this revision; 2 begins with a copy
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from ringbeam._answers import Revision
from ringbeam._limits import SHARDS_MAX

_MAGIC: Final = b"rbwt"
_VERSION: Final = 1
_HEAD: Final = Struct("<4sIQI")
_PLACE: Final = Struct("<QIB")

Place = Revision | None
"""Behind which revision a shard goes on; None: it begins with a copy."""


def encode(ring: int, shards: int, places: Mapping[int, Place]) -> bytes:
    """The places of those shards that are watched."""
    parts = [_HEAD.pack(_MAGIC, _VERSION, ring, shards)]
    for shard in range(shards):
        place = places.get(shard)
        if place is not None:
            parts.append(_PLACE.pack(place.index, place.position, 1))
        else:
            parts.append(_PLACE.pack(0, 0, 2 if shard in places else 0))
    return b"".join(parts)


def decode(token: bytes, ring: int, shards: int) -> dict[int, Place]:
    """The same back. ValueError: these bytes are no token of a watch of this ring."""
    if len(token) < _HEAD.size:
        raise ValueError(f"no token of a watch: {len(token)} bytes are too few")
    magic, version, of_ring, count = _HEAD.unpack_from(token)
    rest = token[_HEAD.size :]
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(
            f"no token of a watch: it begins with {token[:8].hex()}, not with {_MAGIC.hex()} and version 1"
        )
    if not 1 <= count <= SHARDS_MAX or len(rest) != count * _PLACE.size:
        size = f"{len(rest)} bytes for {count} shards, each has {_PLACE.size}, and there are 1 to {SHARDS_MAX}"
        raise ValueError(f"no token of a watch: {size}")
    if of_ring != ring:
        raise ValueError(f"the token is of ring {of_ring:x}, this client is of ring {ring:x}")
    if count != shards:
        raise ValueError(f"the token has {count} shards, the ring has {shards}")
    places: dict[int, Place] = {}
    for shard, (index, position, state) in enumerate(_PLACE.iter_unpack(rest)):
        if state > 2:
            raise ValueError("no token of a watch: a shard is in a state that is not 0, 1 or 2")
        if state:
            places[shard] = Revision(index, position) if state == 1 else None
    return places
