"""How calls that waited for a leader are let go: at the rate at which calls came before, and not all at once.

    arrivals   ........|  no leader, calls wait  |::::::::..............   each waits its share, full jitter
                                                 ^ found
    without    ........|                         |#.....................   ten thousand clients, one millisecond

W calls wait after an outage of D, at a shard that this client called r times a second. Let go evenly within W / r they
are r a second, and those that come meanwhile are at most r again: twice the steady rate. Within D they are at most that
as well, as no more than r * D have come. The shorter of the two is taken: a pipeline of 64 writes that takes 2 ms is
let go within 2 ms. Who finds a leader at the first look waits for nothing: that call came when the outage was over.

Not here: clocks (`now` is an argument), waiting (`_leader.py`).
"""

from __future__ import annotations

from ringbeam._limits import BACKOFF_MS_MAX, BACKOFF_MS_MIN, RATE_WINDOW, SEARCH_MS_MAX, SPREAD_MAX
from ringbeam._retry import backoff


class Flow:
    """Counts first attempts. One comparison and one addition each."""

    __slots__ = ("_before", "_count", "_from", "_harvested", "_per_second")

    def __init__(self) -> None:
        # Ever, and what of it `harvest` has given.
        self._count = 0
        self._harvested = 0
        # The present window: since when, and how many came before it.
        self._from: float | None = None
        self._before = 0
        # In the last whole window.
        self._per_second = 0.0

    def begin(self, now: float) -> None:
        """A call begins."""
        if self._from is None:
            self._from, self._before = now, self._count
        self._count += 1
        if now - self._from >= RATE_WINDOW:
            self._per_second = _rate(self._count - self._before, now - self._from)
            self._from, self._before = now, self._count

    def harvest(self) -> int:
        """Calls that have begun since the last harvest."""
        fresh = self._count - self._harvested
        self._harvested = self._count
        return fresh

    def per_second(self, now: float) -> float:
        """Calls a second of late."""
        if self._from is None:
            return 0.0
        passed = max(0.0, now - self._from)
        if passed < RATE_WINDOW / 4 and self._per_second > 0.0:
            return self._per_second
        return max(_rate(self._count - self._before, passed), self._per_second if passed < RATE_WINDOW else 0.0)


def _rate(calls: int, passed: float) -> float:
    return calls / max(passed, 0.001)


def spread(waiting: int, per_second: float, outage: float) -> float:
    """Within how long `waiting` calls are let go, seconds."""
    most = min(outage, SPREAD_MAX)
    # Nothing is known of the rate: the outage decides alone.
    return min(waiting / per_second, most) if per_second > 0.0 else most


def share(window: float, dice: int) -> float:
    """When a call that waited is let go, seconds after the leader was found: full jitter. `dice`: 64 random bits."""
    return dice % (int(window * 1_000_000) + 1) / 1_000_000


def search_again(rounds: int, outage: float, dice: int) -> float:
    """The wait before the next search for a leader, seconds: full jitter, at most a quarter of the time that there has
    been none."""
    quarter_ms = min(int(outage * 1_000) // 4, SEARCH_MS_MAX)
    if quarter_ms <= BACKOFF_MS_MAX or rounds < 5:
        return backoff(rounds, dice)
    return (BACKOFF_MS_MIN * 1_000 + dice % ((quarter_ms - BACKOFF_MS_MIN) * 1_000 + 1)) / 1_000_000
