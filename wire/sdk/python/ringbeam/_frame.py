"""How bytes lie on a connection: the 16 bytes that open it, then frames.

    preamble  0         4          6     7     8         12        16
              | "RBM1"  | version  | kind|  0  | shard   | 0       |
    frame     0                        4                     8
              | payload length, bytes  | crc32 of payload    | payload (one flatbuffer) ...     all little-endian

Invariants
- A length beyond the limit is refused when its 8 bytes are there: memory is never committed on the word of the other
  side.
- After the first bad frame there is no next one: where it would begin is unknown.

Not here: sockets; what a payload means (`_wire.py`).
"""

from __future__ import annotations

from struct import Struct
from typing import Final
from zlib import crc32

VERSION: Final = 1
"""The protocol version that this package speaks."""

HEADER_BYTES: Final = 8

_PREAMBLE = Struct("<4sHBBII")
_HEADER = Struct("<II")


def preamble(shard: int, kind: int = 1) -> bytes:
    """The bytes that open a connection to `shard`. `kind`: 1 client, 2 peer."""
    return _PREAMBLE.pack(b"RBM1", VERSION, kind, 0, shard, 0)


def frame(payload: bytes) -> bytes:
    """A whole frame around `payload`, which has at least one byte."""
    return _HEADER.pack(len(payload), crc32(payload)) + payload


class FrameError(Exception):
    """A connection's bytes are not frames. The connection is of no more use."""


class Decoder:
    """Takes payloads out of one connection's bytes."""

    __slots__ = ("_buffer", "_failed", "_payload_bytes_max", "_wanted")

    def __init__(self, payload_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._buffer = bytearray()
        self._wanted = HEADER_BYTES
        self._failed: FrameError | None = None

    def feed(self, received: bytes) -> list[bytes]:
        """The whole payloads that are complete with `received`, their checksums verified. FrameError: after the last of
        those that were, and at every later call; the payloads before the bad frame are lost with their connection."""
        if self._failed is not None:
            raise self._failed
        whole: bytes | bytearray = received
        if self._buffer:
            self._buffer += received
            if len(self._buffer) < self._wanted:
                return []
            whole = self._buffer
        payloads = []
        at = 0
        end = len(whole)
        while end - at >= HEADER_BYTES:
            length, stated = _HEADER.unpack_from(whole, at)
            if length == 0:
                raise self._fail("a frame announces a payload of 0 bytes, no message is empty")
            if length > self._payload_bytes_max:
                limit = f"the limit of this connection is {self._payload_bytes_max}"
                raise self._fail(f"a frame announces a payload of {length} bytes, {limit}")
            begin = at + HEADER_BYTES
            if end - begin < length:
                break
            payload = bytes(whole[begin : begin + length])
            found = crc32(payload)
            if found != stated:
                damage = f"its header says {stated:08x}: it was damaged on the way"
                raise self._fail(f"a frame's payload has CRC32 {found:08x}, {damage}")
            payloads.append(payload)
            at = begin + length
        rest = end - at
        self._wanted = HEADER_BYTES
        if rest >= HEADER_BYTES:
            self._wanted += _HEADER.unpack_from(whole, at)[0]
        if whole is self._buffer:
            del self._buffer[:at]
        elif rest:
            self._buffer += received[at:] if at else received
        return payloads

    def _fail(self, why: str) -> FrameError:
        self._failed = FrameError(why)
        self._buffer = bytearray()
        return self._failed
