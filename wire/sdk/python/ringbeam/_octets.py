"""What an application gave, as the wire has it: keys, values and names as bytes (str is UTF-8), times as
milliseconds."""

from __future__ import annotations

from math import ceil


def octets(text: bytes | bytearray | memoryview | str, what: str) -> bytes:
    """`what` names it in the TypeError that anything else is."""
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytearray | memoryview):
        return bytes(text)
    raise TypeError(f"the {what} is of type {type(text).__name__}, right is bytes or str")


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, a begun one too. TypeError or ValueError: it is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"the time is {seconds!r}, right is a number of seconds")
    if not 0 < seconds < 1e12:
        raise ValueError(f"the time is {seconds!r} s, right is more than 0")
    # Binary fractions: 1.1 * 1000 is a little more than 1100.
    return max(1, ceil(seconds * 1_000 - 1e-6))
