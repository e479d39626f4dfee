"""Where a request goes: which shard has the key, whom to ask who leads it, whom a read may go to.

    key -> slot (crc32 of {tag} or key) -> shard -> leader's address
                                    topology        claims, redirects

A shard's leader is a belief, learnt from that shard only: from a Topology it answers or from a NotLeader redirect.
Where claims differ, the later term wins, because a deposed leader that hears nobody still believes in itself.

Invariants
- The number of shards never changes: it is set when the ring is founded.
- A topology of a lower epoch, of another ring or with another number of shards changes nothing.
- Every member that serves clients is asked, and the endpoints too: they may be the only addresses that can be reached.

Not here: connections, time, waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringbeam._answers import Member, Role, SlotRange, Topology
from ringbeam._limits import SHARDS_MAX, SLOTS
from ringbeam._readers import Candidate


class Misfit(Exception):
    """A topology that is none, or not of this ring. The message says why."""


class Claim(NamedTuple):
    """What one node said about who leads a shard."""

    node: int
    """Who said it."""
    leader: int
    """The leader's node id; 0: none known."""
    term: int
    """In which term."""


class Routes:
    """What a client knows of its ring."""

    __slots__ = ("_endpoints", "_epoch", "_region", "_slots", "members", "ring", "shards", "table")

    def __init__(self, region: str, endpoints: Sequence[str], topology: Topology) -> None:
        """Starts from the first topology. Misfit: it covers not every slot."""
        self.shards = _shards_of(topology.slots)
        """Number of shards."""
        self.ring = topology.ring
        """Ring id."""
        self.members: tuple[Member, ...] = topology.members
        """All members."""
        self._region = region
        self._endpoints = tuple(endpoints)
        self._epoch = topology.epoch
        self._slots = topology.slots
        self.table: list[int] = _table_of(topology.slots)
        """The shard of every slot."""

    def learn(self, topology: Topology) -> bool:
        """Takes over a topology unless it is older. Says whether anything changed. Misfit: it is not of this ring."""
        if topology.ring != self.ring:
            raise Misfit(f"a node of ring {topology.ring:x} answered, this client belongs to {self.ring:x}")
        shards = _shards_of(topology.slots)
        if shards != self.shards:
            raise Misfit(f"a topology of {shards} shards, the ring was founded with {self.shards}")
        same = topology.members == self.members and topology.slots == self._slots
        if topology.epoch < self._epoch or same:
            return False
        self._epoch = topology.epoch
        self.members = topology.members
        self._slots = topology.slots
        self.table = _table_of(topology.slots)
        return True

    def address_of(self, node: int) -> str | None:
        """The client address of a node; None for a stranger or a member without one."""
        return next((member.client for member in self.members if member.node == node and member.client), None)

    def askable(self) -> list[str]:
        """Whom to ask who leads a shard: everyone who serves clients, then the endpoints."""
        return list(dict.fromkeys([*(member.client for member in self._serving()), *self._endpoints]))

    def candidates(self) -> list[Candidate]:
        """Whom reads may go to that any node may answer: see `_readers.py`."""
        members = {
            member.client: Candidate(member.client, bool(self._region) and member.region == self._region)
            for member in self._serving()
        }
        strangers = {at: Candidate(at, near=False, last_resort=True) for at in self._endpoints if at not in members}
        return [*members.values(), *strangers.values()]

    def _serving(self) -> list[Member]:
        return [member for member in self.members if member.role is not Role.TIE_BREAKER and member.client]


def believe(claims: Sequence[Claim]) -> Claim | None:
    """The claim to believe: of the latest term, there of the leader with the greatest id (a term can have a second
    leader, which outranks the first by its id), and there the leader's own. Who says itself that it does not lead is
    not believed to, unless in a later term: those who have not heard of its restart go on naming it."""
    denials = {own.node: own.term for own in claims if own.leader != own.node}
    named = (claim for claim in claims if claim.leader and denials.get(claim.leader, -1) < claim.term)
    return max(named, key=lambda claim: (claim.term, claim.leader, claim.node == claim.leader), default=None)


def _shards_of(slots: Sequence[SlotRange]) -> int:
    covered = 0
    shards = 0
    for part in sorted(slots, key=lambda part: part.first):
        if part.first != covered or part.end <= part.first:
            raise Misfit(f"slot {covered} is on no shard or on two")
        if part.shard >= SHARDS_MAX:
            raise Misfit(f"shard {part.shard} is beyond the last possible, {SHARDS_MAX - 1}")
        covered = part.end
        shards = max(shards, part.shard + 1)
    if covered != SLOTS:
        raise Misfit(f"slots from {covered} to {SLOTS} are on no shard")
    return shards


def _table_of(slots: Iterable[SlotRange]) -> list[int]:
    table = [0] * SLOTS
    for part in slots:
        table[part.first : part.end] = [part.shard] * (part.end - part.first)
    return table
