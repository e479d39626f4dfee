"""The client's half of exactly-once: which sequence a write gets, and below which all are answered.

One session per (client, shard), opened at the shard's leader when the first write needs it. Every write takes the next
sequence; its retries keep it, so the shard applies it once however often it arrives.

    sequences   1 2 3 4 5 6 7 8 9 ...
                s s s . s . s
                      ^       ^
                      floor   next       next - floor <= window

A sequence is *settled* (s) when nobody will send it again: its caller has the answer, or has gone away.
`answered_below` is the floor: the lowest sequence that is not settled.

Lost writes. A caller that was told that the outcome is unknown may ask for it, and the shard forgets all answers below
the floor. So the sequence is *held*: it stays unsettled until its outcome is known (`release`), until its time is over,
or until the window has gone on by a quarter, so that writes which nobody asks about never stop those that go on. What a
held write costs is order: a late copy of it may be applied after later writes of the session, as it may after those
that were under way with it; never twice. To ask settles it, and so does the first write that carries a floor above it.
A caller that has gone away leaves its sequence at once: nobody has the numbers to ask with.

Invariants
- floor <= next, and next - floor <= window: the shard never has to remember more than `window` answers.
- No sequence is given out twice in a session, and none below the floor.
- Sequences of an earlier session never move the floor of this one.
- What is held is neither settled nor below the floor, and begins less than a quarter of the window before `next`.

Not here: clocks, sockets, waiting. Who finds the window full waits in `_shard.py`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from ringbeam._limits import OUTCOME_WINDOW_PART, SESSION_WINDOW_DEFAULT, SESSION_WINDOW_MAX


class Ticket(NamedTuple):
    """The place of one write in a session. Its retries carry the same ticket."""

    session: int
    """The session, as the shard named it."""
    sequence: int
    """From 1, unique in the session."""
    answered_below: int
    """All sequences below this one were settled when the ticket was made."""


class NoTicket(Enum):
    """Why there is no ticket now."""

    NOT_OPEN = auto()
    """No session is open: open one, tell `Session.opened`, come again."""
    WINDOW_FULL = auto()
    """Come again when a write is settled."""


class Session:
    """One shard's session. See the head of this file."""

    __slots__ = ("_held", "_settled", "_window", "floor", "id", "next")

    def __init__(self) -> None:
        self.id = 0
        """The open session, 0 when there is none."""
        self.next = 1
        """The sequence that the next write gets."""
        self.floor = 1
        """All sequences below this one are settled."""
        self._window = 0
        self._settled: set[int] = set()
        # Writes whose answers may be asked for, in the order of their sequences: until when.
        self._held: dict[int, float] = {}

    @property
    def room(self) -> int:
        """Writes that could begin now."""
        return max(0, self._window - (self.next - self.floor))

    def opened(self, id: int, window: int) -> None:
        """The shard opened session `id`, in which `window` writes may be unanswered (0: not said)."""
        self.__init__()  # type: ignore[misc]
        self.id = id
        self._window = min(window, SESSION_WINDOW_MAX) if window else SESSION_WINDOW_DEFAULT

    def expired(self, id: int) -> None:
        """The shard does not know session `id` any more. News of an older session changes nothing."""
        if self.id == id:
            self.__init__()  # type: ignore[misc]

    def begin(self) -> Ticket | NoTicket:
        """A ticket for a new write."""
        if self.id == 0:
            return NoTicket.NOT_OPEN
        if self.next - self.floor >= self._window:
            return NoTicket.WINDOW_FULL
        ticket = Ticket(self.id, self.next, self.floor)
        self.next += 1
        if self._held:
            self._release_beyond_part()
            ticket = Ticket(self.id, ticket.sequence, self.floor)
        return ticket

    def settle(self, ticket: Ticket) -> int:
        """Nobody will send `ticket` again; one that is held stays so. Returns how many more writes may begin because of
        it."""
        if not self._is_open(ticket.session, ticket.sequence) or ticket.sequence in self._held:
            return 0
        return self._settle(ticket.sequence)

    def hold(self, ticket: Ticket, until: float) -> int:
        """The outcome of `ticket` is unknown, and its answer is to be kept until then, as long as there is room.
        Returns how many more writes may begin."""
        if not self._is_open(ticket.session, ticket.sequence):
            return 0
        self._held[ticket.sequence] = until
        return self._release_beyond_part()

    @property
    def holds(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def release(self, session: int, sequence: int) -> int:
        """Nobody asks any more for the outcome of this write. Returns how many more may begin."""
        if session != self.id or self._held.pop(sequence, None) is None:
            return 0
        return self._settle(sequence)

    def release_before(self, now: float) -> int:
        """What was held until now or before is held no more. Returns how many more writes may begin."""
        over = [sequence for sequence, until in self._held.items() if until <= now]
        return sum([self.release(self.id, sequence) for sequence in over])

    def _release_beyond_part(self) -> int:
        """What is held begins within its part of the window."""
        far = [sequence for sequence in self._held if (self.next - sequence) * OUTCOME_WINDOW_PART > self._window]
        return sum([self.release(self.id, sequence) for sequence in far])

    def _is_open(self, session: int, sequence: int) -> bool:
        """Whether somebody may still settle this sequence."""
        return session == self.id and self.floor <= sequence < self.next and sequence not in self._settled

    def _settle(self, sequence: int) -> int:
        if sequence != self.floor:
            self._settled.add(sequence)
            return 0
        before = self.floor
        self.floor += 1
        while self.floor in self._settled:
            self._settled.remove(self.floor)
            self.floor += 1
        return self.floor - before
