"""Which slot a key is in.

    key  ->  {tag} inside the key, or the whole key  ->  crc32 mod 4096 = slot  ->  topology: slot -> shard

Not here: which shard a slot is on (`_routing.py`); clients do not compute that, so that shards can be split later.
"""

from __future__ import annotations

from zlib import crc32

from ringbeam._limits import SLOTS


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC32 of `tag_of` the key, modulo SLOTS. Namespaces do not matter."""
    return crc32(tag_of(key)) % SLOTS


def tag_of(key: bytes) -> bytes:
    """The bytes between the first `{` and the first `}` after it if there are any, else the whole key."""
    opening = key.find(b"{")
    if opening < 0:
        return key
    closing = key.find(b"}", opening + 1)
    return key if closing <= opening + 1 else key[opening + 1 : closing]
