"""What keeps clients from keeping a ring down: the retry budget, breakers, and the pace after an outage. The pure parts
on virtual time, as the Rust SDK's tests of them; then against fakes."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from fake import Act, At, Close, Ring

import ringbeam
from ringbeam import Code
from ringbeam._breaker import Breaker, admit
from ringbeam._budget import Budget, costs
from ringbeam._limits import BACKOFF_MS_MAX, BREAKER_FAILURES, BREAKER_MS_MAX, BREAKER_PROBE, RETRY_RESERVE, SPREAD_MAX
from ringbeam._pace import Flow, search_again, share, spread
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, Get, GetTopology, Put
from ringbeam._retry import Again, Effort, Kind, Leader, Lost, Trouble

DICE_MAX = (1 << 64) - 1

# ---- the budget ----


def arrivals_at_an_overloaded_ring(rate: int, budgeted: bool, seconds: int = 10) -> float:
    """Arrivals a second at a ring that refuses everything as overloaded, under `rate` calls a second."""
    busy = Refusal(Code.OVERLOADED)
    budget, dice = Budget(0.0), Random(7)
    # By the millisecond in which it tries again: calls with their effort and deadline.
    due: dict[int, list[tuple[Effort, int]]] = {}
    arrivals = 0
    for at in range(seconds * 1_000):
        fresh = at * rate // 1_000 - max(at - 1, 0) * rate // 1_000
        budget.earn(fresh, at / 1_000)
        calls = due.pop(at, []) + [(Effort(Kind.READ), at + 5_000) for _ in range(fresh)]
        arrivals += len(calls)
        for effort, deadline in calls:
            step = effort.after(busy, dice.getrandbits(64))
            assert isinstance(step, Again)
            again = at + max(1, int(step.after * 1_000))
            paid = not budgeted or not costs(busy, step.leader, 2) or budget.spend()
            if again < deadline and paid:
                due.setdefault(again, []).append((effort, deadline))
    return arrivals / seconds


def test_an_overloaded_ring_sees_a_tenth_more_and_not_a_multiple() -> None:
    assert 222 < arrivals_at_an_overloaded_ring(200, budgeted=True) < 240, "a tenth, and a reserve of 110"
    assert arrivals_at_an_overloaded_ring(200, budgeted=False) > 4_000, "without it this test would see nothing"
    assert arrivals_at_an_overloaded_ring(2, budgeted=True) < 15


def test_a_second_of_calls_in_flight_may_be_lost_at_once() -> None:
    budget = Budget(0.0)
    for second in range(1, 31):
        budget.earn(10_000, float(second))
    assert 9_000 <= sum(budget.spend() for _ in range(20_000)) <= 10_200


def test_calls_of_an_hour_ago_pay_for_nothing() -> None:
    budget = Budget(0.0)
    budget.earn(1_000_000, 0.0)
    budget.earn(0, 3_600.0)
    assert sum(budget.spend() for _ in range(1_000)) == RETRY_RESERVE
    budget.earn(0, 3_603.0)
    assert sum(budget.spend() for _ in range(10)) == 3


def test_a_clock_that_went_back_earns_nothing_twice() -> None:
    budget = Budget(100.0)
    while budget.spend():
        pass
    budget.earn(0, 50.0)
    budget.earn(0, 100.0)
    assert not budget.spend()


def test_redirects_to_a_named_leader_are_free() -> None:
    assert not costs(Refusal(Code.NOT_LEADER, leader=2, leader_address="127.0.0.1:2"), Leader.NAMED, 3)
    assert costs(Refusal(Code.NOT_LEADER), Leader.SEARCH, 9) and not costs(Refusal(Code.NOT_LEADER), Leader.SEARCH, 8)
    assert costs(Refusal(Code.OVERLOADED), Leader.SAME, 1)
    assert costs(Lost(sent=True), Leader.SEARCH, 2) and not costs(Lost(sent=False), Leader.SEARCH, 2)
    assert not costs(Lost(sent=True), Leader.SEARCH, 1), "a leader's death strikes all that is in flight"
    assert not costs(Trouble.BUSY, Leader.SAME, 3)


# ---- breakers ----


def failed(times: int, now: float = 0.0, dice: int = DICE_MAX) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker.failed(now, dice)
    return breaker


def test_a_node_is_left_alone_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(1, BREAKER_FAILURES):
            breaker.failed(0.0, 1)
            assert breaker.ask(0.0) is None
        breaker.answered()
    for _ in range(BREAKER_FAILURES):
        breaker.failed(0.0, 1)
    assert (until := breaker.ask(0.0)) is not None and until > 0.0


def test_one_probe_at_a_time_and_a_lost_one_is_replaced() -> None:
    breaker, later = failed(BREAKER_FAILURES), BREAKER_MS_MAX / 1_000
    assert breaker.ask(later) is None
    assert breaker.ask(later + 0.001) is not None, "somebody is on the way"
    assert breaker.ask(later + BREAKER_PROBE) is None, "who never came back"
    breaker.answered()
    assert breaker.ask(later + BREAKER_PROBE) is None and breaker.ask(later + BREAKER_PROBE) is None


def test_the_time_alone_grows_up_to_its_bound_and_has_jitter() -> None:
    times = [failed(n, dice=DICE_MAX).ask(0.0) or 0.0 for n in range(BREAKER_FAILURES, BREAKER_FAILURES + 30)]
    assert times == sorted(times) and times[-1] <= BREAKER_MS_MAX / 1_000
    spread_over = {failed(20, dice=dice * 0x9E37_79B9).ask(0.0) for dice in range(100)}
    assert len(spread_over) > 90 and all(until and until >= BREAKER_MS_MAX / 2_000 for until in spread_over)


def test_a_refusal_counts_only_when_the_node_cannot_serve() -> None:
    for code in Code:
        breaker = Breaker()
        for _ in range(BREAKER_FAILURES):
            breaker.refused(Refusal(code), 0.0, 1)
        unfit = code in {Code.SHARD_FAULT, Code.NOT_SERVING, Code.SHUTTING_DOWN}
        assert (breaker.ask(0.0) is not None) is unfit, code.label


def test_somebody_is_always_asked() -> None:
    assert admit([None, 5.0, None]) == [0, 2]
    assert admit([7.0, 3.0, 9.0]) == [1]
    assert admit([]) == []


# ---- the pace after an outage ----


def peak_over_steady(clients: int, tasks: int, jitter: bool) -> float:
    """Peak over steady arrivals, by 100 ms, of clients with `tasks` tasks each that think two seconds on the mean and
    call, through an outage of five."""
    dice = Random(3)
    flows, waiting = [Flow() for _ in range(clients)], [0] * clients
    lost = [0.0] * clients
    due: dict[int, list[int]] = {}
    arrivals = [0] * 40_000
    for task in range(clients * tasks):
        due.setdefault(dice.randrange(4_000), []).append(task % clients)
    for at in range(25_000):
        now = at / 1_000
        if at == 10_000:
            lost = [flow.per_second(now) for flow in flows]
        if at == 15_000:
            for client in range(clients):
                window = spread(waiting[client], lost[client], 5.0)
                for _ in range(waiting[client]):
                    wait = share(window, dice.getrandbits(64)) if jitter else 0.0
                    goes = at + int(wait * 1_000)
                    arrivals[goes] += 1
                    due.setdefault(goes + 1 + dice.randrange(4_000), []).append(client)
        for client in due.pop(at, []):
            flows[client].begin(now)
            if 10_000 <= at < 15_000:
                waiting[client] += 1
            else:
                arrivals[at] += 1
                due.setdefault(at + 1 + dice.randrange(4_000), []).append(client)
    windows = [sum(arrivals[at : at + 100]) for at in range(0, 25_000, 100)]
    return max(windows[100:]) / (sum(windows[50:100]) / 50)


def test_thousands_come_back_at_no_more_than_twice_the_steady_rate() -> None:
    assert peak_over_steady(10, 1_000, jitter=True) <= 2.0
    assert peak_over_steady(10, 1_000, jitter=False) > 10.0, "without jitter they are a herd, which this sees"


def test_a_busy_pipeline_is_let_go_at_once_and_nobody_waits_longer_than_the_outage() -> None:
    assert spread(64, 32_000.0, 0.1) == 0.002
    assert spread(64, 0.1, 0.1) == 0.1
    assert spread(64, 0.0, 3_600.0) == SPREAD_MAX
    assert share(0.0, DICE_MAX) == 0.0


def test_the_rate_is_that_of_late() -> None:
    flow = Flow()
    assert flow.per_second(0.0) == 0.0
    for ms in range(3_000):
        flow.begin(ms / 1_000)
    assert 950 <= flow.per_second(3.0) <= 1_050
    assert flow.per_second(60.0) < 20, "it has been quiet since"
    assert (flow.harvest(), flow.harvest()) == (3_000, 0)


def test_searches_come_seldom_when_there_has_been_no_leader_for_long() -> None:
    assert search_again(3, 0.3, DICE_MAX) <= BACKOFF_MS_MAX / 1_000
    dice = Random(5)
    mean = sum(search_again(20, 60.0, dice.getrandbits(64)) for _ in range(1_000)) / 1_000
    assert 0.45 < mean < 0.55


# ---- against fakes ----


async def test_a_ring_that_refuses_everything_sees_no_more_than_the_budget() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(Code.OVERLOADED, message="the queue is full") if isinstance(body, Get) else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints, timeout=60.0) as client:
        calls = [asyncio.create_task(client.get(str(n))) for n in range(50)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, ringbeam.Refused) for outcome in outcomes), "before their deadline of a minute"
        assert "not tried again, as this client's retry budget is spent" in str(outcomes[0])
        assert 50 < ring.count(Get) <= 50 + RETRY_RESERVE + 5 + 60, "calls, reserve, a tenth, a second's worth each"


async def test_a_write_whose_retries_are_not_paid_for_says_what_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Close() if isinstance(body, Put) else None

    monkeypatch.setattr("ringbeam._budget.Budget.spend", lambda _budget: False)
    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(ringbeam.Unknown, match="retry budget is spent"):
            await client.put("k", "v")
        assert ring.count(Put) == 2, "the first loss is repeated for nothing, the second would cost"


async def test_a_node_that_ends_every_connection_is_left_alone() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        return Close() if at.node == 2 and isinstance(body, GetTopology) else None

    async with Ring(3, script=script) as ring, await ringbeam.connect(ring.address(1), timeout=20.0) as client:
        await client.put("k", "v")
        ring.leader = 0
        waits = asyncio.create_task(client.put("k", "w"))
        while ring.count(GetTopology, node=3) < 12:
            await asyncio.sleep(0.01)
        asked = ring.count(GetTopology, node=2)
        ring.lead(1)
        await waits
        assert BREAKER_FAILURES <= asked < 12, "it was left alone after it had failed again and again"


async def test_a_reader_that_ends_every_connection_is_set_aside() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Close() if at.node == 2 and isinstance(body, Get) else None

    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        await client.put("k", "v")
        for _ in range(20):
            assert await client.get("k", consistency=ringbeam.Consistency.LOCAL) is not None
        assert 1 <= ring.count(Get, node=2) < 15, "it is of our region, and first until it had failed again and again"


async def test_those_who_waited_for_a_leader_go_by_and_by() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if isinstance(body, Get):
            reached.append(asyncio.get_running_loop().time())
        return None

    reached: list[float] = []
    async with Ring(1, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.get("k")
        shard = client._core._shards[0]
        loop = asyncio.get_running_loop()
        ring.leader = 0
        calls = [asyncio.create_task(client.get("k")) for _ in range(100)]
        while shard._leaderless is None or shard._searching < 100:
            await asyncio.sleep(0.001)
        # As if few had called before, and the outage had been longer than the test has time for.
        shard._leaderless = (loop.time() - 1.0, 100.0)
        reached.clear()
        ring.lead(1)
        await asyncio.gather(*calls)
        assert max(reached) - min(reached) > 0.3, "a second's worth of calls, spread over a second"
