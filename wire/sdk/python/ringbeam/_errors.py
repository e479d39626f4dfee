"""How a call fails, by who must act.

    Refused        the ring said no, and nothing happened: change the request, or come back later when the code says so
    Unknown        it was sent and its answer was lost: it may have happened; read to see
    Timeout        the deadline passed, or the retry budget was spent, and it certainly did not happen: try again, with
                   more time if it was short
    ConnectError   no node could be reached: the operator or the list of endpoints must change
    ProtocolError  what answers is not a node of this ring, or a node with a defect

Arguments of a wrong type are Python's TypeError; times that are none, ValueError.
"""

from __future__ import annotations

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


class Unknown(Error):
    """The request was sent and its answer was lost: it may have happened, may happen shortly, or never. Read to see.

    Once a later write to the same shard through this client has succeeded, the outcome is final: the shard no longer
    accepts the lost one.
    """

    def __init__(self, shard: int, session: int, sequence: int, why: str) -> None:
        ticket = f" (session {session}, sequence {sequence})" if session else ""
        super().__init__(f"the outcome is unknown, read shard {shard} to see whether it happened{ticket}: {why}")
        self.shard = shard
        """The shard it was sent to."""
        self.session = session
        """The session it was sent in; 0: none."""
        self.sequence = sequence
        """Its sequence in the session; 0: none."""
        self.why = why
        """What was seen last."""

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
