"""How a call fails, by who must act.

    Refused        the ring said no, and nothing happened: change the request, or come back later when the code says so
    Compacted      the same of a watch or a scan: what it would go on with is no longer kept
    Unknown        it was sent and its answer was lost: it may have happened; `Client.outcome` tells
    Timeout        the deadline passed, or the retry budget was spent, and it certainly did not happen: try again, with
                   more time if it was short
    ConnectError   no node could be reached: the operator or the list of endpoints must change
    ProtocolError  what answers is not a node of this ring, or a node with a defect

Arguments of a wrong type are Python's TypeError; times that are none, ValueError.
"""

from __future__ import annotations

from ringbeam._answers import Revision
from ringbeam._outcome import Ticket
from ringbeam._refusal import Code, Refusal


class Error(Exception):
    """Why a call gave no answer. The base of all errors of this package."""


class Refused(Error):
    """The ring said no, and nothing happened."""

    def __init__(self, refusal: Refusal) -> None:
        text = f"the ring refused, nothing happened: {refusal}"
        if refusal.retry_after_ms > 0:
            text += f" (worth another try after {refusal.retry_after_ms} ms)"
        super().__init__(text)
        self.refusal = refusal

    @property
    def code(self) -> Code:
        """Why."""
        return self.refusal.code

    @property
    def message(self) -> str:
        """The node's sentence: the place, the value, and what would be right."""
        return self.refusal.message

    @property
    def retry_after(self) -> float | None:
        """When another try is worth it, in seconds from now; None: the node did not say."""
        return self.refusal.retry_after_ms / 1000 if self.refusal.retry_after_ms else None

    def __reduce__(self) -> tuple[type[Refused], tuple[Refusal]]:
        return (type(self), (self.refusal,))


class Compacted(Refused):
    """What a watch would go on with is no longer kept by any node. Begin anew: `client.watch(.., snapshot=True)` gives
    what there is, and then what changes, without a gap between them.

    Or the moment that a scan is of is no longer kept by its node: scan anew, or with `pinned=False`."""

    def __init__(self, refusal: Refusal, shard: int, oldest: Revision) -> None:
        super().__init__(refusal)
        self.shard = shard
        """The shard whose history is gone."""
        self.oldest = oldest
        """The oldest revision that the last node asked can go on behind; of a scan, ABSENT: there is none."""

    def __reduce__(self) -> tuple[type[Compacted], tuple[Refusal, int, Revision]]:  # type: ignore[override]
        return (type(self), (self.refusal, self.shard, self.oldest))


class Unknown(Error):
    """The request was sent and its answer was lost: it may have happened, may happen shortly, or never.

    Ask `Client.outcome` with its `ticket`: from the answer on the outcome is final. So it is without asking once a
    later write to the same shard has succeeded that began more than a minute, or a quarter of the session's window of
    writes, after this one ended: the shard no longer accepts the lost one then.
    """

    def __init__(self, shard: int, session: int, sequence: int, why: str) -> None:
        where = (
            f"Client.outcome(Ticket({shard}, {session}, {sequence})) tells" if session else f"read shard {shard} to see"
        )
        super().__init__(f"the outcome is unknown, {where} whether it happened: {why}")
        self.shard = shard
        """The shard it was sent to."""
        self.session = session
        """The session it was sent in; 0: none."""
        self.sequence = sequence
        """Its sequence in the session; 0: none."""
        self.why = why
        """What was seen last."""

    @property
    def ticket(self) -> Ticket | None:
        """What to ask `Client.outcome` with. None: it had no session, so nothing was kept."""
        return Ticket(self.shard, self.session, self.sequence) if self.session else None

    def __reduce__(self) -> tuple[type[Unknown], tuple[int, int, int, str]]:
        return (type(self), (self.shard, self.session, self.sequence, self.why))


class Timeout(Error):
    """The deadline passed, or the client's retry budget was spent, and the request certainly did not happen."""

    def __init__(self, timeout: float, why: str) -> None:
        super().__init__(f"not done within {timeout * 1000:.0f} ms, and it certainly did not happen: try again. {why}")
        self.timeout = timeout
        """For how long it was tried, seconds: the call's deadline, unless the budget was spent before (`why`)."""
        self.why = why
        """What held it up."""

    def __reduce__(self) -> tuple[type[Timeout], tuple[float, str]]:
        return (type(self), (self.timeout, self.why))


class ConnectError(Error):
    """No node could be reached at all, or the client is closed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no connection, check the endpoints and whether the nodes run: {why}")
        self.why = why

    def __reduce__(self) -> tuple[type[ConnectError], tuple[str]]:
        return (type(self), (self.why,))


class ProtocolError(Error):
    """A node answered with something that is no answer, or what listens there is not ringbeam."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not a sensible answer, check versions and what listens there: {why}")
        self.why = why

    def __reduce__(self) -> tuple[type[ProtocolError], tuple[str]]:
        return (type(self), (self.why,))
