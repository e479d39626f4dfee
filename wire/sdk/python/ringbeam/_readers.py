"""Whom a read goes to that any node may answer.

    of own region? -> those that are well -> the nearest, and who is about as near -> two by chance -> the one
         none is well: the others, in the same way      none at all: whoever is set aside for the      less busy,
                                                        shortest time                                  and nearer
Pure: time and chance are arguments.

Invariants
- Well is who answers right. One that fails is set aside for a time that doubles with each failure in a row, however
  fast it fails; only a right answer ends the row.
- A node that was never measured counts as near: so it is measured.

Not here: opening connections, measuring (`_leader.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from ringbeam._limits import (
    ABOUT_EQUAL,
    ASIDE_MAX,
    ASIDE_MIN,
    CHOICE_KEPT,
    ROUND_TRIP_WEIGHT,
    SURVEY_INTERVAL,
    SURVEYED_MAX,
)


class Line(Protocol):
    """What is to be known of a connection."""

    @property
    def is_open(self) -> bool:
        """Whether calls can still be made."""

    @property
    def busy(self) -> int:
        """How many calls wait for their answers."""


class Candidate(NamedTuple):
    """A node that may be read from."""

    address: str
    """Its client address."""
    near: bool
    """In the client's own region."""
    last_resort: bool = False
    """An address that the client was given, of no member that is known: tried when nobody else answers."""


@dataclass(slots=True)
class Standing:
    """What a client knows of a node as one to read from."""

    near: bool = False
    """In the client's own region."""
    leads: bool = False
    """It leads the shard: the others are preferred where they are as near, as it has writes to do."""
    round_trip: float = 0.0
    """Smoothed, seconds; 0: never measured."""
    busy: int = 0
    """Calls on their way."""
    failures: int = 0
    """In a row."""
    aside_until: float = 0.0
    """Not before this, unless there is nobody else."""

    def measured(self, round_trip: float) -> None:
        """A round trip was measured."""
        sample = max(round_trip, 1e-6)
        if self.round_trip:
            self.round_trip += (sample - self.round_trip) / ROUND_TRIP_WEIGHT
        else:
            self.round_trip = sample

    def failed(self, now: float) -> None:
        """It did not answer, or not what was asked."""
        self.aside_until = now + min(ASIDE_MIN * (1 << min(self.failures, 16)), ASIDE_MAX)
        self.failures += 1

    def answered(self) -> None:
        """It answered what was asked."""
        self.failures, self.aside_until = 0, 0.0

    def is_well(self, now: float) -> bool:
        """It is not set aside."""
        return self.aside_until <= now


def choose(standings: Sequence[Standing], now: float, dice: int) -> int | None:
    """The place of the one to ask. `dice`: 64 random bits. None only for nobody."""
    well = [at for at, one in enumerate(standings) if one.is_well(now)]
    candidates = [at for at in well if standings[at].near] or well
    if not candidates:
        return min(range(len(standings)), key=lambda at: standings[at].aside_until, default=None)
    best = min(standings[at].round_trip for at in candidates)
    # A quarter more, and what a measurement on one machine is off.
    about = best * 1.25 + ABOUT_EQUAL
    equals = [at for at in candidates if standings[at].round_trip <= about]
    equals = [at for at in equals if not standings[at].leads] or equals
    first, second = dice % len(equals), dice // len(equals) % len(equals)
    return min(equals[first], equals[second], key=lambda at: (standings[at].busy, standings[at].round_trip, at))


_Connection = TypeVar("_Connection", bound=Line)


class Readers(Generic[_Connection]):
    """The nodes of a shard to read from, and the one chosen for now."""

    __slots__ = ("_chosen", "_connections", "_standings", "_survey_at", "_until")

    def __init__(self) -> None:
        # By address, in the order of the candidates.
        self._standings: dict[str, Standing] = {}
        self._connections: dict[str, _Connection] = {}
        self._chosen: str | None = None
        # When the choice is made anew.
        self._until = 0.0
        # When the round trips are measured anew.
        self._survey_at = 0.0

    def set(self, candidates: Sequence[Candidate]) -> None:
        """Those that there are now; what is known of one that stays is kept."""
        if [one.address for one in candidates] == list(self._standings):
            return
        known, self._standings = self._standings, {}
        for address, near, last_resort in candidates:
            standing = known.get(address) or Standing()
            standing.near = near
            if last_resort or standing.round_trip == _FAR:
                standing.round_trip = _FAR if last_resort else 0.0
            self._standings[address] = standing
        self._connections = {at: line for at, line in self._connections.items() if at in self._standings}
        self._chosen = None

    def current(self, now: float) -> _Connection | None:
        """The connection to use, while the choice holds and it is open."""
        if self._chosen is None or now >= self._until:
            return None
        connection = self._connections.get(self._chosen)
        return connection if connection is not None and connection.is_open else None

    def choose(self, now: float, dice: int, leader: str | None) -> tuple[str, _Connection | None] | None:
        """Chooses, for CHOICE_KEPT. `leader`: the address of the one that leads. None: there is nobody."""
        for address, standing in self._standings.items():
            connection = self._connections.get(address)
            if connection is not None and not connection.is_open:
                del self._connections[address]
                connection = None
            standing.busy = 0 if connection is None else connection.busy
            standing.leads = address == leader
        at = choose(list(self._standings.values()), now, dice)
        if at is None:
            return None
        self._chosen, self._until = list(self._standings)[at], now + CHOICE_KEPT
        return self._chosen, self._connections.get(self._chosen)

    def to_survey(self, now: float) -> list[str]:
        """Whose round trip is to be measured now, by whoever asks: those that may be chosen; all of them, when none is
        of the own region."""
        if now < self._survey_at or len(self._standings) < 2:
            return []
        self._survey_at = now + SURVEY_INTERVAL
        well = {address: one for address, one in self._standings.items() if one.is_well(now)}
        near = any(one.near for one in well.values())
        worth = [address for address, one in well.items() if (one.near or not near) and one.round_trip != _FAR]
        return worth[:SURVEYED_MAX]

    def connected(self, address: str, connection: _Connection) -> None:
        """A connection to this one is open."""
        if address in self._standings:
            self._connections[address] = connection

    def measured(self, address: str, round_trip: float) -> None:
        """See `Standing.measured`."""
        if (standing := self._standings.get(address)) is not None:
            standing.measured(round_trip)

    def answered(self, address: str) -> None:
        """See `Standing.answered`."""
        if (standing := self._standings.get(address)) is not None and standing.failures:
            standing.answered()

    def failed(self, address: str, now: float) -> None:
        """See `Standing.failed`; another is chosen next."""
        if (standing := self._standings.get(address)) is not None:
            standing.failed(now)
            if self._chosen == address:
                self._chosen = None


_FAR = float("inf")
