"""The pure parts: sessions, retries, routes. They mirror the tests of the Rust SDK."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from ringbeam import Code, Member, Role, SlotRange, Topology
from ringbeam._limits import BACKOFF_MS_MAX, BACKOFF_MS_MIN, SLOTS
from ringbeam._refusal import Refusal
from ringbeam._retry import Again, Effort, Kind, Leader, Lost, Seen, Trouble, Verdict, backoff
from ringbeam._routing import Claim, Misfit, Routes, believe
from ringbeam._session import NoTicket, Session, Ticket

# ---- sessions ----


def opened(window: int) -> Session:
    session = Session()
    session.opened(7, window)
    return session


def begin(session: Session) -> Ticket:
    ticket = session.begin()
    assert isinstance(ticket, Ticket), "the window has room"
    return ticket


def test_nothing_begins_before_the_session_is_open() -> None:
    assert Session().begin() is NoTicket.NOT_OPEN


def test_floor_follows_the_lowest_unsettled_write() -> None:
    session = opened(8)
    tickets = [begin(session) for _ in range(4)]
    assert [ticket.sequence for ticket in tickets] == [1, 2, 3, 4]
    assert session.settle(tickets[1]) == 0
    assert session.settle(tickets[2]) == 0
    assert session.floor == 1
    assert session.settle(tickets[0]) == 3
    assert begin(session).answered_below == 4


def test_window_bounds_the_span_and_not_the_count() -> None:
    session = opened(3)
    first = begin(session)
    for _ in range(2):
        session.settle(begin(session))
    assert session.begin() is NoTicket.WINDOW_FULL, "one unanswered write still holds the floor"
    assert session.settle(first) == 3
    assert session.room == 3


def test_an_abandoned_write_does_not_hold_the_floor() -> None:
    session = opened(2)
    abandoned, kept = begin(session), begin(session)
    session.settle(abandoned)
    assert begin(session).answered_below == kept.sequence


def test_settling_twice_or_in_another_session_changes_nothing() -> None:
    session = opened(4)
    ticket = begin(session)
    assert session.settle(ticket) == 1
    assert session.settle(ticket) == 0
    session.expired(6)
    assert session.id == 7
    session.expired(7)
    assert session.begin() is NoTicket.NOT_OPEN
    session.opened(9, 4)
    assert session.settle(ticket) == 0
    assert begin(session) == Ticket(9, 1, 1)


def test_floor_is_the_minimum_of_the_unsettled() -> None:
    for seed in range(100):
        dice = Random(seed)
        window = dice.randrange(1, 130)
        session = opened(window)
        unsettled: dict[int, Ticket] = {}
        for _ in range(500):
            if dice.random() < 0.5:
                ticket = session.begin()
                if isinstance(ticket, Ticket):
                    assert ticket.sequence not in unsettled, "no sequence twice"
                    unsettled[ticket.sequence] = ticket
                else:
                    assert ticket is NoTicket.WINDOW_FULL
                    assert session.next - min(unsettled) == window
            elif unsettled:
                session.settle(unsettled.pop(dice.choice(sorted(unsettled))))
            assert session.floor == min(unsettled, default=session.next)


# ---- retries ----

LOST = Lost(sent=True)


def refused(code: Code, retry_after_ms: int = 0, unknown: bool = False) -> Refusal:
    return Refusal(code, unknown, "because", retry_after_ms=retry_after_ms)


def leader_of(step: Again | Verdict) -> Leader:
    assert isinstance(step, Again) and not step.new_session, step
    return step.leader


def test_a_lost_write_is_repeated_only_with_a_ticket() -> None:
    assert leader_of(Effort(Kind.EXACTLY_ONCE).after(LOST, 1)) is Leader.SEARCH
    assert leader_of(Effort(Kind.READ).after(LOST, 1)) is Leader.SEARCH
    assert Effort(Kind.AT_MOST_ONCE).after(LOST, 1) is Verdict.UNKNOWN
    assert leader_of(Effort(Kind.AT_MOST_ONCE).after(Lost(sent=False), 1)) is Leader.SEARCH


def test_an_expired_session_is_renewed_only_while_nothing_may_have_happened() -> None:
    expired = refused(Code.SESSION_EXPIRED)
    assert Effort(Kind.EXACTLY_ONCE).after(expired, 1) == Again(0.0, Leader.SAME, new_session=True)
    lost = Effort(Kind.EXACTLY_ONCE)
    lost.after(LOST, 1)
    assert lost.after(expired, 1) is Verdict.UNKNOWN


def test_sessions_that_never_live_end_the_call() -> None:
    effort = Effort(Kind.EXACTLY_ONCE)
    steps = [effort.after(refused(Code.SESSION_EXPIRED), 1) for _ in range(4)]
    assert steps[3] is Verdict.REFUSED
    assert all(isinstance(step, Again) for step in steps[:3])


def test_redirects_are_followed_at_once_and_then_with_backoff() -> None:
    redirect = Refusal(Code.NOT_LEADER, leader=2, leader_address="127.0.0.1:2")
    effort = Effort(Kind.EXACTLY_ONCE)
    steps = [effort.after(redirect, 77) for _ in range(4)]
    assert [leader_of(step) for step in steps] == [Leader.NAMED] * 4
    assert [isinstance(step, Again) and step.after > 0 for step in steps] == [False, False, True, True]
    nowhere = Effort(Kind.READ).after(Refusal(Code.NOT_LEADER), 1)
    assert leader_of(nowhere) is Leader.SEARCH
    assert isinstance(nowhere, Again) and nowhere.after > 0, "no leader yet is waited for"


def test_retry_after_is_a_lower_bound() -> None:
    step = Effort(Kind.EXACTLY_ONCE).after(refused(Code.OVERLOADED, retry_after_ms=700), 3)
    assert step == Again(0.7, Leader.SAME)


def test_verdict_at_the_deadline_says_what_is_certain() -> None:
    assert Effort(Kind.EXACTLY_ONCE).out_of_time() is Verdict.TIMEOUT
    effort = Effort(Kind.EXACTLY_ONCE)
    effort.after(refused(Code.OVERLOADED), 1)
    assert effort.out_of_time() is Verdict.REFUSED
    effort.after(LOST, 1)
    assert effort.out_of_time() is Verdict.UNKNOWN
    assert Effort(Kind.READ).after(Trouble.DEADLINE_PASSED, 1) is Verdict.TIMEOUT
    assert Effort(Kind.EXACTLY_ONCE).after(Trouble.DEADLINE_PASSED, 1) is Verdict.UNKNOWN
    assert Effort(Kind.EXACTLY_ONCE).after(refused(Code.DEADLINE_EXCEEDED), 1) is Verdict.TIMEOUT


def test_an_unknown_outcome_is_asked_again_with_the_same_ticket() -> None:
    unknown = refused(Code.OUTCOME_UNKNOWN, unknown=True)
    effort = Effort(Kind.EXACTLY_ONCE)
    assert leader_of(effort.after(unknown, 1)) is Leader.SAME
    assert effort.out_of_time() is Verdict.UNKNOWN
    assert Effort(Kind.AT_MOST_ONCE).after(unknown, 1) is Verdict.UNKNOWN
    assert leader_of(Effort(Kind.READ).after(unknown, 1)) is Leader.SAME


def test_nothing_certain_is_said_after_a_lost_copy() -> None:
    """Whatever is seen in whatever order: once a copy may have happened, nothing certain is ever said again."""
    for first, second in product(Code, Code):
        effort = Effort(Kind.EXACTLY_ONCE)
        effort.after(LOST, 1)
        effort.after(refused(first), 1)
        step = effort.after(refused(second), 1)
        assert step not in (Verdict.REFUSED, Verdict.TIMEOUT), f"{first.label} then {second.label}: {step}"
        assert effort.out_of_time() is Verdict.UNKNOWN
        assert not (isinstance(step, Again) and step.new_session), f"{first.label} then {second.label}"


def test_every_code_has_its_row() -> None:
    """The table at the head of _retry.py, for a write with a session of which nothing was sent."""
    again_same = {Code.OVERLOADED, Code.DISK_FULL, Code.SESSION_WINDOW_FULL, Code.TOO_MANY_SESSIONS}
    again_same |= {Code.TOO_MANY_LEASES, Code.TOO_MANY_WATCHES}
    elsewhere = {Code.NOT_LEADER, Code.SHARD_FAULT, Code.NOT_SERVING, Code.SHUTTING_DOWN, Code.NOT_FRESH}
    for code in Code:
        seen: Seen = refused(code, unknown=code is Code.OUTCOME_UNKNOWN)
        step = Effort(Kind.EXACTLY_ONCE).after(seen, 1)
        if code in again_same or code is Code.OUTCOME_UNKNOWN:
            assert leader_of(step) is Leader.SAME, code.label
        elif code in elsewhere:
            assert leader_of(step) is Leader.SEARCH, code.label
        elif code is Code.SESSION_EXPIRED:
            assert isinstance(step, Again) and step.new_session
        elif code is Code.ALREADY_ANSWERED:
            assert step is Verdict.UNKNOWN
        elif code is Code.DEADLINE_EXCEEDED:
            assert step is Verdict.TIMEOUT
        else:
            assert step is Verdict.REFUSED, code.label


def test_backoff_stays_in_its_bounds_and_spreads() -> None:
    for attempts, dice in product(range(40), [0, 1, 999, 2**64 // 3, 2**64 - 1]):
        assert BACKOFF_MS_MIN / 1000 <= backoff(attempts, dice) <= BACKOFF_MS_MAX / 1000, (attempts, dice)
    assert backoff(6, 12_345) != backoff(6, 54_321)
    assert max(backoff(1, dice) for dice in range(20_000)) <= 0.010, "the first wait is short"


# ---- routes ----


def member(node: int, region: str, role: Role) -> Member:
    return Member(node=node, client=f"127.0.0.1:{node}", region=region, role=role)


def topology(epoch: int, shards: int = 3, ring: int = 9) -> Topology:
    firsts = [-(-shard * SLOTS // shards) for shard in range(shards + 1)]
    return Topology(
        epoch=epoch,
        ring=ring,
        leader=1,
        term=1,
        slots=tuple(SlotRange(firsts[shard], firsts[shard + 1], shard) for shard in range(shards)),
        members=(
            member(1, "east", Role.VOTER),
            member(2, "west", Role.VOTER),
            member(3, "west", Role.TIE_BREAKER),
            member(4, "far", Role.OBSERVER),
        ),
    )


def routes(region: str = "") -> Routes:
    return Routes(region, ["127.0.0.1:2", "gate:1"], topology(5))


def without_last_member(whole: Topology) -> Topology:
    return Topology(whole.epoch, whole.ring, 0, 1, 1, whole.slots, whole.members[:-1])


def test_slot_table_is_the_wires_own_division() -> None:
    assert routes().table == [slot * 3 // SLOTS for slot in range(SLOTS)]


def test_an_older_or_foreign_topology_changes_nothing() -> None:
    known = routes()
    assert known.learn(without_last_member(topology(4))) is False
    assert known.address_of(4) == "127.0.0.1:4"
    with pytest.raises(Misfit, match="2 shards"):
        known.learn(topology(6, shards=2))
    with pytest.raises(Misfit, match="ring 8"):
        known.learn(topology(6, ring=8))
    assert known.learn(without_last_member(topology(6))) is True
    assert known.address_of(4) is None


def test_slots_that_move_are_learnt() -> None:
    known = routes()
    moved = topology(6)
    first, second, third = moved.slots
    swapped = (SlotRange(first.first, first.end, 1), SlotRange(second.first, second.end, 0), third)
    assert known.learn(Topology(6, 9, 0, 1, 1, swapped, moved.members)) is True
    assert (known.table[0], known.table[second.first]) == (1, 0)


def test_a_topology_with_holes_is_refused() -> None:
    holed = topology(1)
    with pytest.raises(Misfit, match="on no shard"):
        Routes("", [], Topology(1, 9, 0, 1, 1, (holed.slots[0], holed.slots[2]), holed.members))
    with pytest.raises(Misfit, match="on no shard"):
        Routes("", [], Topology())
    with pytest.raises(Misfit, match="beyond the last possible"):
        Routes("", [], Topology(slots=(SlotRange(0, SLOTS, 256),)))


def test_everyone_who_serves_is_asked_and_the_endpoints_too() -> None:
    assert routes().askable() == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4", "gate:1"]


def test_local_reads_prefer_the_own_region_then_the_connected() -> None:
    firsts = set()
    for dice in range(50):
        assert routes("west").readers(lambda _: False, dice)[0] == "127.0.0.1:2"
        readers = routes().readers(lambda address: address.endswith(":4"), dice)
        assert readers[0] == "127.0.0.1:4"
        assert "127.0.0.1:3" not in readers, "a tie-breaker serves no client"
        firsts.add(routes().readers(lambda _: False, dice)[0])
    assert len(firsts) > 1, "equals are spread"


def test_the_latest_term_is_believed_and_there_the_leader_itself() -> None:
    deposed, news, own = Claim(1, 1, 4), Claim(3, 2, 5), Claim(2, 2, 5)
    voting = Claim(4, 0, 6)
    assert believe([deposed, news, voting]) == news
    assert believe([news, own, deposed]) == own
    assert believe([Claim(1, 1, 5), own]) == own, "in one term the greater id outranks"
    assert believe([voting]) is None
