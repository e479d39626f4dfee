"""What the ring says of a namespace: how fresh its reads are to be where a program does not say so itself.

    await client.set_policy("profiles", Bounded(0.5))               # or: ringbeam namespace set profiles ..
    profiles = await client.namespace_by_policy("profiles")         # its reads are as was said there

A policy is a value like others, in the namespace POLICIES, under "/" and the name of the namespace it is for. Words,
apart by one space, the same in every SDK:

    linearizable | session | local | bounded MILLISECONDS | bounded MILLISECONDS stale-ok

It is advice for clients: a node answers what it is asked for.

Not here: reading and writing it (`_client.py`).
"""

from __future__ import annotations

from typing import Final

from ringbeam._answers import Consistency
from ringbeam._consistency import Bounded, Freshness

POLICIES: Final = "ringbeam.policies"
"""The namespace in which policies are. Names that begin with `ringbeam.` are the ring's own."""

_AGE_MS_MAX: Final = (1 << 32) - 1
_PLAIN: Final = {
    Consistency.LINEARIZABLE: "linearizable",
    Consistency.SESSION: "session",
    Consistency.LOCAL: "local",
}


def words_of(policy: Freshness) -> str:
    """The words that are stored."""
    if isinstance(policy, Bounded):
        return f"bounded {policy.age_ms_max}{' stale-ok' if policy.stale_ok else ''}"
    return _PLAIN[policy]


def of_words(stored: bytes) -> Freshness:
    """What these words say. ValueError: nothing that is known here."""
    text = stored.decode("utf-8", "replace")
    for freshness, word in _PLAIN.items():
        if text == word:
            return freshness
    match text.split(" "):
        case ["bounded", ms, *rest] if rest in ([], ["stale-ok"]) and ms.isascii() and ms.isdigit():
            if 0 < int(ms) <= _AGE_MS_MAX:
                return Bounded(int(ms) / 1_000, stale_ok=bool(rest))
    raise ValueError(
        f"{text!r} is no policy: right is linearizable, session, local, bounded MILLISECONDS or bounded MILLISECONDS "
        "stale-ok; or it is of a newer version"
    )
