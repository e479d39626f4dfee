"""The circuit breaker of one node: one that fails again and again is left alone for a while that grows.

    closed -- 3 failures in a row --> open for 0.1 .. 2 s, jittered -- time is up --> half open: one tries
       ^                                        ^                                          |          |
       |                                        +---------- it failed: twice as long ------+          |
       +----------------------------------- it answered ---------------------------------------------+

A failure is a connection that could not be opened or ended by itself, and a refusal that says that the node cannot
serve; a refusal that is about the request is an answer like any other.

Invariants
- While it is half open, one attempt is under way, or it has been given up after BREAKER_PROBE.
- `admit` never leaves a shard without anybody to ask.

Not here: clocks and randomness. A leader that its peers have named is asked, whatever its breaker says (`_leader.py`):
that is news, and nobody else could answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ringbeam._limits import BREAKER_FAILURES, BREAKER_MS_MAX, BREAKER_MS_MIN, BREAKER_PROBE
from ringbeam._refusal import Code, Refusal


class Breaker:
    """See the head of this file."""

    __slots__ = ("_failures", "_until")

    def __init__(self) -> None:
        # In a row.
        self._failures = 0
        # Not asked before; None: closed.
        self._until: float | None = None

    def ask(self, now: float) -> float | None:
        """None: it may be asked now, which after a failure is told to one only, for BREAKER_PROBE. Otherwise: not
        before this moment."""
        if self._until is None:
            return None
        if self._until > now:
            return self._until
        self._until = now + BREAKER_PROBE
        return None

    def answered(self) -> None:
        """It gave a good answer."""
        if self._failures:
            self._failures, self._until = 0, None

    def failed(self, now: float, dice: int) -> None:
        """`dice`: 64 random bits."""
        self._failures += 1
        beyond = self._failures - BREAKER_FAILURES
        if beyond >= 0:
            most_us = min(BREAKER_MS_MIN << min(beyond, 16), BREAKER_MS_MAX) * 1_000
            # Half of it at least: one that is dead for long must not be tried often by the luck of the dice.
            self._until = now + (most_us // 2 + dice % (most_us // 2 + 1)) / 1_000_000

    def refused(self, refusal: Refusal, now: float, dice: int) -> None:
        """Health is good answers, not quick ones: a node that refuses as it cannot serve has failed."""
        if refusal.code in _CANNOT_SERVE:
            self.failed(now, dice)


def admit(leaves: Sequence[float | None]) -> list[int]:
    """Who is asked, of nodes whose breakers said this, in their order; when none may be, the one whose time is up
    first."""
    asked = [at for at, until in enumerate(leaves) if until is None]
    if asked or not leaves:
        return asked
    return [min(range(len(leaves)), key=lambda at: leaves[at] or 0.0)]


_CANNOT_SERVE = frozenset({Code.SHARD_FAULT, Code.NOT_SERVING, Code.SHUTTING_DOWN})
