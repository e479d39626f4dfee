"""What became of a write whose answer was lost.

    try:
        await client.put("cart:7", "paid")
    except ringbeam.Unknown as lost:
        if lost.ticket is None:
            raise
        done = await client.outcome(lost.ticket)   # Happened, or None: it did not happen, and never will

To ask is to settle: from the answer on, a copy of the write that is still on its way somewhere is refused. Asking
again, by whomever, gives the same answer.

The ring keeps the answer until a later write of this client says that it is no longer needed. The client holds that
back for a minute, or until a quarter of the session's window has been used since, whichever comes first
(`_session.py`), and does not close the session when it ends. After that `outcome` is refused with ALREADY_ANSWERED
(later writes went on) or SESSION_EXPIRED (nobody used the session for long): then only a read can tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ringbeam._answers import Revision, Value
from ringbeam._refusal import Code, Refusal


@dataclass(frozen=True, slots=True)
class Ticket:
    """The place of a write whose outcome is unknown: three numbers, which may be kept and asked with later."""

    shard: int
    """The shard it was sent to."""
    session: int
    """The session it was sent in."""
    sequence: int
    """Its sequence in the session."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A write was applied, once: what its answer would have said."""

    revision: Revision = field(default_factory=Revision)
    """Of the write."""
    ring_time_ms: int = 0
    """Ring time of its batch, milliseconds."""
    existed: bool = False
    """The key had a value before; of a transaction: its compares held; of a range: it had keys."""
    gets: tuple[Value | None, ...] = ()
    """What the gets of a transaction found, in their order. Of a counter: what it became. Of a slice of a range: how
    many keys went, in decimal, and an empty value if there were more."""


def unknowable(refusal: Refusal) -> Refusal:
    """Says what a refusal means to whoever asked for an outcome."""
    why = _UNKNOWABLE.get(refusal.code)
    if why is None:
        return refusal
    return replace(refusal, message=f"whether it happened cannot be known any more, read to see: {why}")


_UNKNOWABLE = {
    Code.ALREADY_ANSWERED: "its answer is no longer kept, as later writes of the session went on",
    Code.SESSION_EXPIRED: "its session is gone, and the answers with it",
}
