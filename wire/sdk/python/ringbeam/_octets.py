"""Bytes from what an application gave as key, value or name: str is UTF-8."""

from __future__ import annotations


def octets(text: bytes | bytearray | memoryview | str, what: str) -> bytes:
    """`what` names it in the TypeError that anything else is."""
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytearray | memoryview):
        return bytes(text)
    raise TypeError(f"the {what} is of type {type(text).__name__}, right is bytes or str")
