"""The client's half of exactly-once: which sequence a write gets, and below which all are answered.

One session per (client, shard), opened at the shard's leader when the first write needs it. Every write takes the next
sequence; its retries keep it, so the shard applies it once however often it arrives.

    sequences   1 2 3 4 5 6 7 8 9 ...
                s s s . s . s
                      ^       ^
                      floor   next       next - floor <= window

A sequence is *settled* (s) when nobody will send it again: its caller has the answer, or was told that the outcome is
unknown, or has gone away. `answered_below` is the floor: the lowest sequence that is not settled. An abandoned write
holds no floor: the shard refuses sequences below a session's floor, so its late copy is applied before the next write
that carries the higher floor, or never.

Invariants
- floor <= next, and next - floor <= window: the shard never has to remember more than `window` answers.
- No sequence is given out twice in a session, and none below the floor.
- Sequences of an earlier session never move the floor of this one.

Not here: clocks, sockets, waiting. Who finds the window full waits in `_shard.py`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from ringbeam._limits import SESSION_WINDOW_DEFAULT, SESSION_WINDOW_MAX


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

    __slots__ = ("_settled", "_window", "floor", "id", "next")

    def __init__(self) -> None:
        self.id = 0
        """The open session, 0 when there is none."""
        self.next = 1
        """The sequence that the next write gets."""
        self.floor = 1
        """All sequences below this one are settled."""
        self._window = 0
        self._settled: set[int] = set()

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
        return ticket

    def settle(self, ticket: Ticket) -> int:
        """Nobody will send `ticket` again. Returns how many more writes may begin because of it."""
        sequence = ticket.sequence
        if ticket.session != self.id or not self.floor <= sequence < self.next:
            return 0
        if sequence != self.floor:
            self._settled.add(sequence)
            return 0
        before = self.floor
        self.floor += 1
        while self.floor in self._settled:
            self._settled.remove(self.floor)
            self.floor += 1
        return self.floor - before
