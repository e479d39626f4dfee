"""The pure parts: sessions, retries, routes. They mirror the tests of the Rust SDK."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

import pytest

from ringbeam import Bounded, Code, Consistency, Member, Role, SlotRange, Topology
from ringbeam._limits import ASIDE_MAX, ASIDE_MIN, BACKOFF_MS_MAX, BACKOFF_MS_MIN, CHOICE_KEPT, SLOTS, SURVEY_INTERVAL
from ringbeam._policy import of_words, words_of
from ringbeam._readers import Candidate, Readers, Standing, choose
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


def test_a_lost_write_holds_the_floor_until_it_is_asked_for_or_its_time_is_over() -> None:
    for asked in (True, False):
        session = opened(40)
        lost = begin(session)
        session.hold(lost, 1.0)
        assert session.settle(lost) == 0, "its turn ends, and it stays held"
        for _ in range(5):
            later = begin(session)
            assert (later.answered_below, session.settle(later)) == (1, 0)
        assert session.release_before(0.999) == 0 and session.holds
        freed = session.release(7, 1) if asked else session.release_before(1.0)
        assert (freed, session.floor, session.holds) == (6, 7, False)
        assert session.release(7, 1) == 0


def test_lost_writes_hold_a_quarter_of_the_window_and_no_more() -> None:
    session = opened(40)
    lost = begin(session)
    session.hold(lost, 1e9)
    for _ in range(9):
        session.settle(begin(session))
    assert session.floor == 1
    assert begin(session).answered_below == 11, "the eleventh begins without it"
    assert not session.holds
    # Of a session that is no more, and in a window without a quarter, nothing is held.
    session.hold(Ticket(6, 1, 1), 1e9)
    assert not session.holds
    narrow = opened(3)
    lost = begin(narrow)
    assert (narrow.hold(lost, 1e9), narrow.settle(lost), narrow.floor) == (1, 0, 2)


def test_floor_is_the_minimum_of_the_unsettled() -> None:
    for seed in range(100):
        dice = Random(seed)
        window = dice.randrange(1, 130)
        session = opened(window)
        under_way: dict[int, Ticket] = {}
        held: dict[int, float] = {}
        now = 0.0
        for _ in range(500):
            floor, freed = session.floor, -1
            if dice.random() < 0.1:
                now += dice.random()
                freed = session.release_before(now)
                held = {sequence: until for sequence, until in held.items() if until > now}
            elif dice.random() < 0.1:
                sequence = dice.randrange(session.next + 1)
                freed = session.release(7, sequence)
                held.pop(sequence, None)
            elif dice.random() < 0.15 and under_way:
                ticket = under_way.pop(dice.choice(sorted(under_way)))
                freed = session.hold(ticket, now + 2.0)
                held[ticket.sequence] = now + 2.0
                assert session.settle(ticket) == 0, "its turn ends"
            elif dice.random() < 0.5:
                begun = session.begin()
                if isinstance(begun, Ticket):
                    assert begun.sequence not in under_way, "no sequence twice"
                    under_way[begun.sequence] = begun
                else:
                    assert begun is NoTicket.WINDOW_FULL
                    assert session.next - session.floor == window
            elif under_way:
                freed = session.settle(under_way.pop(dice.choice(sorted(under_way))))
            held = {sequence: until for sequence, until in held.items() if session.next - sequence <= window // 4}
            assert session.holds == bool(held)
            assert freed in (-1, session.floor - floor), "who waits for room is told of all of it"
            assert session.floor == min([*under_way, *held], default=session.next)


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


def test_reads_may_go_to_everyone_who_serves_and_at_last_to_the_endpoints() -> None:
    one, two, four = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4"
    assert routes("west").candidates() == [
        Candidate(one, near=False),
        Candidate(two, near=True),
        Candidate(four, near=False),
        Candidate("gate:1", near=False, last_resort=True),
    ]
    assert not any(one.near for one in routes().candidates()), "a client of no region is near to none"


# ---- readers ----

NOW = 100.0


def far(round_trip_us: float = 0.0, **known: Any) -> Standing:
    return Standing(round_trip=round_trip_us / 1e6, **known)


def near(round_trip_us: float) -> Standing:
    return far(round_trip_us, near=True)


def chosen(standings: list[Standing], now: float = NOW) -> set[int | None]:
    """Who is chosen, over many dice."""
    return {choose(standings, now, n * 0x9E37_79B9_7F4A_7C15 % (1 << 64)) for n in range(500)}


def test_the_own_region_comes_first_and_then_the_lowest_round_trip() -> None:
    assert chosen([far(300), near(9_000), far(100)]) == {1}
    assert chosen([far(30_000), far(90_000), far(10_000)]) == {2}
    assert choose([], NOW, 7) is None


def test_equals_share_and_the_busier_of_two_is_spared() -> None:
    assert chosen([far(10_000), far(10_900), far(30_000)]) == {0, 1}
    pair = [far(10_000, busy=9), far(10_100)]
    picks = [choose(pair, NOW, n * 0x9E37_79B9_7F4A_7C15 % (1 << 64)) for n in range(1_000)]
    assert picks.count(0) < 350, "the busier one is asked only when chance names it twice"


def test_a_follower_is_preferred_to_the_leader_where_it_is_as_near() -> None:
    leader = far(200, near=True, leads=True)
    assert chosen([leader, near(250)]) == {1}
    assert chosen([leader, far(250)]) == {0}, "the leader of the own region before a follower of another"


def test_one_that_fails_fast_attracts_nothing() -> None:
    fast, honest = far(10), far(5_000)
    for _ in range(20):
        fast.failed(NOW)
        assert chosen([fast, honest]) == {1}
    assert fast.aside_until == NOW + ASIDE_MAX, "it grows to a bound"
    assert chosen([fast, honest], NOW + ASIDE_MAX) == {0}, "then it is tried again"
    fast.failed(NOW + ASIDE_MAX)
    assert chosen([fast, honest], NOW + 1.5 * ASIDE_MAX) == {1}, "and set aside as long, as nothing ended the row"
    fast.answered()
    assert chosen([fast, honest]) == {0}


def test_when_all_fail_the_one_set_aside_for_the_shortest_time_is_tried() -> None:
    once, often = far(900), near(100)
    once.failed(NOW)
    for _ in range(5):
        often.failed(NOW)
    assert chosen([often, once]) == {1}


def test_an_unmeasured_node_is_tried_and_a_measurement_is_smoothed() -> None:
    assert 1 in chosen([far(20_000), far()])
    one = far()
    one.measured(0.0008)
    assert one.round_trip == 0.0008
    one.measured(0.008)
    assert 0.0008 < one.round_trip < 0.003, "one slow answer is not the rule"
    for _ in range(60):
        one.measured(0.008)
    assert one.round_trip > 0.007, "many are"


@dataclass
class Wire:
    is_open: bool = True
    busy: int = 0


def test_a_choice_is_kept_for_a_while_and_left_at_once_on_failure() -> None:
    readers: Readers[Wire] = Readers()
    gate = Candidate("gate:1", near=False, last_resort=True)
    readers.set([Candidate("a:1", True), Candidate("b:1", False), gate])

    def choose_now(now: float = NOW) -> tuple[str, Wire | None]:
        found = readers.choose(now, 5, None)
        assert found is not None
        return found

    wire = Wire()
    assert (choose_now(), readers.current(NOW)) == (("a:1", None), None)
    readers.connected("a:1", wire)
    assert readers.current(NOW) is wire
    assert readers.current(NOW + CHOICE_KEPT) is None, "it is made anew"
    readers.failed("a:1", NOW)
    assert readers.current(NOW) is None
    assert choose_now()[0] == "b:1"
    readers.failed("b:1", NOW)
    assert choose_now()[0] == "gate:1", "the last resort"
    assert choose_now(NOW + ASIDE_MIN)[0] == "a:1"
    readers.answered("a:1")
    readers.answered("b:1")
    # One who leaves and one who stays: what is known of him, and his connection.
    readers.set([Candidate("a:1", True), gate])
    assert choose_now() == ("a:1", wire)
    wire.is_open = False
    assert (readers.current(NOW), choose_now()) == (None, ("a:1", None)), "its connection has ended"


def test_only_those_that_may_be_chosen_are_measured_and_not_all_the_time() -> None:
    readers: Readers[Wire] = Readers()
    readers.set(
        [Candidate("a:1", True), Candidate("b:1", False), Candidate("c:1", False), Candidate("d:1", False, True)]
    )
    assert readers.to_survey(NOW) == ["a:1"]
    assert readers.to_survey(NOW) == []
    readers.failed("a:1", NOW + SURVEY_INTERVAL)
    assert readers.to_survey(NOW + SURVEY_INTERVAL) == ["b:1", "c:1"]


# ---- who leads ----


def test_the_latest_term_is_believed_and_there_the_leader_itself() -> None:
    deposed, news, own = Claim(1, 1, 4), Claim(3, 2, 5), Claim(2, 2, 5)
    voting = Claim(4, 0, 6)
    assert believe([deposed, news, voting]) == news
    assert believe([news, own, deposed]) == own
    assert believe([Claim(1, 1, 5), own]) == own, "in one term the greater id outranks"
    assert believe([voting]) is None


def test_who_denies_to_lead_is_not_believed_to_whoever_names_it() -> None:
    stale, restarted, follows = Claim(3, 2, 5), Claim(2, 0, 5), Claim(2, 1, 5)
    assert believe([stale, restarted]) is None
    assert believe([stale, follows]) == follows
    elected_since = Claim(1, 2, 6)
    assert believe([stale, restarted, elected_since]) == elected_since
    assert believe([stale, Claim(2, 0, 4)]) == stale


# ---- policies ----


def test_words_of_a_policy_say_what_was_said() -> None:
    for policy, words in (
        (Consistency.LINEARIZABLE, "linearizable"),
        (Consistency.SESSION, "session"),
        (Consistency.LOCAL, "local"),
        (Bounded(0.25), "bounded 250"),
        (Bounded(0.25, stale_ok=True), "bounded 250 stale-ok"),
    ):
        assert words_of(policy) == words
        assert of_words(words.encode()) == policy
    for wrong in (
        "",
        "strong",
        "bounded",
        "bounded 0",
        "bounded -1",
        "bounded 9 stale",
        "local 5",
        "session ",
        "bounded 5 stale-ok x",
    ):
        with pytest.raises(ValueError, match="bounded MILLISECONDS"):
            of_words(wrong.encode())
