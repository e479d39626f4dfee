"""What a call does after an attempt that did not succeed: give up, or try again, where and when.

    seen                              write with session         write without            read
    final refusal                     Refused                    Refused                  Refused
    busy refusal (nothing happened)   again, back-off            again, back-off          again, back-off
    NotLeader, leader given           again there, at once       same                     same
    NotLeader, no leader yet          search, back-off           same                     same
    connection lost, never sent       search, again              search, again            search, again
    connection lost after sending     search, same sequence      Unknown                  search, again
    refusal "outcome unknown"         again, same sequence       Unknown                  again
    SessionExpired, nothing sent yet  new session, again         -                        -
    SessionExpired after a lost send  Unknown                    -                        -
    deadline, nothing may have happened   Timeout, or the refusal that held it up
    deadline, or any final refusal, after a lost send   Unknown

Invariants
- REFUSED and TIMEOUT are said only when no copy of the request can have happened or can still happen.
- A write that may have happened is repeated only with the ticket it was first sent with.
- Waiting has full jitter, between BACKOFF_MS_MIN and at most BACKOFF_MS_MAX, never less than the server asked for.

Not here: clocks and randomness (`dice` is an argument), who leads (`_routing.py`), sequences (`_session.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ringbeam._limits import (
    BACKOFF_MS_MAX,
    BACKOFF_MS_MIN,
    FRESH_READERS_TRIED,
    REDIRECTS_AT_ONCE_MAX,
    SESSIONS_LOST_MAX,
)
from ringbeam._refusal import Code, Refusal


class Kind(Enum):
    """What may be done with a request whose fate is not known."""

    READ = auto()
    """Changes nothing: may be repeated at will."""
    EXACTLY_ONCE = auto()
    """A write with a ticket: may be repeated with the same ticket."""
    AT_MOST_ONCE = auto()
    """A write without a session: must not be repeated."""


@dataclass(frozen=True, slots=True)
class Lost:
    """No connection, or it ended."""

    sent: bool
    """Whether the node may have read the request."""


class Trouble(Enum):
    """How an attempt ended that nobody refused."""

    BUSY = auto()
    """Our own buffers are full; nothing left."""
    DEADLINE_PASSED = auto()
    """The deadline passed while waiting for the reply."""


Seen = Refusal | Lost | Trouble
"""How an attempt ended without success."""


class Verdict(Enum):
    """What to tell the caller."""

    REFUSED = auto()
    """The last refusal; nothing happened."""
    UNKNOWN = auto()
    """It may or may not have happened."""
    TIMEOUT = auto()
    """It certainly did not happen, time is up."""


class Leader(Enum):
    """Where the next attempt goes."""

    SAME = auto()
    """To the same node."""
    NAMED = auto()
    """To the node that the refusal names."""
    SEARCH = auto()
    """Unknown: ask around."""


@dataclass(frozen=True, slots=True)
class Again:
    """The call goes on."""

    after: float
    """Wait this many seconds first."""
    leader: Leader
    """Where to."""
    new_session: bool = False
    """With a new session and a new ticket."""


class Effort:
    """One call's history, as far as decisions need it."""

    __slots__ = ("_attempts", "_kind", "_may_have_happened", "_redirects", "_refused", "_sessions_lost")

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._may_have_happened = False
        self._refused = False
        self._attempts = 0
        self._redirects = 0
        self._sessions_lost = 0

    @property
    def attempts(self) -> int:
        """Attempts that have ended."""
        return self._attempts

    def after(self, seen: Seen, dice: int) -> Again | Verdict:
        """Decides what follows an attempt. `dice`: 64 random bits."""
        self._attempts += 1
        self._refused = isinstance(seen, Refusal) and seen.code is not Code.NOT_LEADER
        if isinstance(seen, Refusal):
            return self._after_refusal(seen, dice)
        if isinstance(seen, Lost):
            if self._fate_unknown(seen.sent):
                return Verdict.UNKNOWN
            return Again(0.0 if self._attempts <= 1 else backoff(self._attempts, dice), Leader.SEARCH)
        if seen is Trouble.BUSY:
            return Again(backoff(self._attempts, dice), Leader.SAME)
        self._may_have_happened |= self._kind is not Kind.READ
        return self.out_of_time()

    def out_of_time(self) -> Verdict:
        """What to say when the deadline comes before the next attempt."""
        if self._may_have_happened:
            return Verdict.UNKNOWN
        return Verdict.REFUSED if self._refused else Verdict.TIMEOUT

    def _after_refusal(self, refusal: Refusal, dice: int) -> Again | Verdict:
        if self._fate_unknown(refusal.unknown):
            return Verdict.UNKNOWN
        wait = max(refusal.retry_after_ms / 1000, backoff(self._attempts, dice))
        code = refusal.code
        if code is Code.NOT_LEADER:
            if not refusal.leader_address:
                return Again(wait, Leader.SEARCH)
            self._redirects += 1
            at_once = self._redirects <= REDIRECTS_AT_ONCE_MAX and refusal.retry_after_ms == 0
            return Again(0.0 if at_once else wait, Leader.NAMED)
        if code in _BUSY:
            return Again(wait, Leader.SAME)
        if code is Code.NOT_FRESH and self._attempts <= FRESH_READERS_TRIED:
            # It has waited already, and another node may be fresher.
            return Again(0.0, Leader.SEARCH)
        if code in _NOT_HERE:
            return Again(wait, Leader.SEARCH)
        if code is Code.SESSION_EXPIRED and self._kind is Kind.EXACTLY_ONCE and not self._may_have_happened:
            self._sessions_lost += 1
            if self._sessions_lost > SESSIONS_LOST_MAX:
                return Verdict.REFUSED
            return Again(0.0 if self._sessions_lost == 1 else wait, Leader.SAME, new_session=True)
        if code is Code.ALREADY_ANSWERED and self._kind is not Kind.READ:  # whoever asks for an outcome reads
            # Its answer was given once and is forgotten: whatever it was, we do not have it.
            self._may_have_happened = True
        if code is Code.DEADLINE_EXCEEDED:
            self._refused = False
        return self.out_of_time()

    def _fate_unknown(self, so: bool) -> bool:
        """A copy of the request may be on its way to happen, if `so`. True when the call must end because of it."""
        if not so or self._kind is Kind.READ:
            return False
        self._may_have_happened = True
        return self._kind is Kind.AT_MOST_ONCE


_BUSY = frozenset(
    {
        Code.OVERLOADED,
        Code.DISK_FULL,
        Code.SESSION_WINDOW_FULL,
        Code.TOO_MANY_SESSIONS,
        Code.TOO_MANY_LEASES,
        Code.TOO_MANY_WATCHES,
        Code.OUTCOME_UNKNOWN,
    }
)
_NOT_HERE = frozenset({Code.SHARD_FAULT, Code.NOT_SERVING, Code.SHUTTING_DOWN, Code.NOT_FRESH})
_LASTING = frozenset({Code.UNSUPPORTED_VERSION, Code.WRONG_RING, Code.HELLO_FIRST, Code.BAD_REQUEST, Code.WRONG_SHARD})


def backoff(attempts: int, dice: int) -> float:
    """Full jitter, seconds: uniform between BACKOFF_MS_MIN and a cap that doubles with each attempt up to
    BACKOFF_MS_MAX."""
    cap_ms = min(BACKOFF_MS_MIN << min(max(attempts, 1), 16), BACKOFF_MS_MAX)
    span_us = (cap_ms - BACKOFF_MS_MIN) * 1_000 + 1
    return (BACKOFF_MS_MIN * 1_000 + dice % span_us) / 1_000_000


def lasts(code: Code) -> bool:
    """Whether a node that refuses a connection with this code will do so for good."""
    return code in _LASTING
