"""The retry budget of a client: what first attempts put in, retries take out.

    a first attempt       + 1/10, which fades within about 10 s
    a retry               - 1
    + 1 a second, up to 100 in reserve: who calls seldom may retry, too

A ring that refuses everything then sees about a tenth more than what its clients want, and not each call repeated until
its deadline: retries cannot keep a ring down that would recover without them. The loss of a connection with a second's
worth of calls in flight is paid for by the calls themselves.

Invariants
- What is in the budget is at most RETRY_FADE's worth of first attempts, by RETRIES_PER_CALL, and RETRY_RESERVE.
- Following a redirect to a leader that was named costs nothing, and neither does what never left this process, nor the
  first repeat of a call whose node was lost, and the first LEADERLESS_FREE of one that met a node that does not lead
  (`costs`).

Not here: clocks (`now` is an argument), what a call without budget says (`_call.py`).
"""

from __future__ import annotations

from math import exp

from ringbeam._limits import LEADERLESS_FREE, RETRIES_PER_CALL, RETRY_FADE, RETRY_RESERVE, RETRY_RESERVE_PER_SECOND
from ringbeam._refusal import Code, Refusal
from ringbeam._retry import Leader, Lost, Seen


class Budget:
    """See the head of this file."""

    __slots__ = ("_at", "_earned", "_reserve")

    def __init__(self, now: float) -> None:
        # From first attempts, and from time; both in retries.
        self._earned = 0.0
        self._reserve = RETRY_RESERVE
        self._at = now

    def earn(self, first_attempts: int, now: float) -> None:
        """So many first attempts were made since the last time."""
        passed = max(0.0, now - self._at)
        self._at = max(self._at, now)
        left = exp(-passed / RETRY_FADE)
        # As if they had come evenly: what came long ago has faded.
        share = RETRY_FADE / passed * (1.0 - left) if passed > 0.0 else 1.0
        self._earned = self._earned * left + first_attempts * RETRIES_PER_CALL * share
        self._reserve = min(self._reserve + passed * RETRY_RESERVE_PER_SECOND, RETRY_RESERVE)

    def spend(self) -> bool:
        """Takes a retry out. False: there is none."""
        if self._earned >= 1.0:
            self._earned -= 1.0
            return True
        if self._reserve >= 1.0:
            self._reserve -= 1.0
            return True
        return False


def costs(seen: Seen, following: Leader, attempts: int) -> bool:
    """Whether what follows this attempt takes from the budget: the node had work with it, and named nobody who would do
    better. The first repeat after a lost connection is free: the leader's end strikes all that is in flight, each of it
    once. So are the first LEADERLESS_FREE that met a node that does not lead: one task looks for the leader for all.
    `attempts`: of this call, this one included."""
    if isinstance(seen, Refusal):
        if seen.code is Code.NOT_LEADER:
            return following is not Leader.NAMED and attempts > LEADERLESS_FREE
        return True
    return isinstance(seen, Lost) and seen.sent and attempts > 1
