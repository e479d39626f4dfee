"""Calls against a good ring of fakes: routing, pipelining, order of replies, sessions, arguments, first contact,
closing."""

from __future__ import annotations

import asyncio
import pickle
import time
from itertools import count

import pytest
from fake import RING, VALUE_BYTES_MAX, Act, At, Close, Later, Raw, Ring, Silence, nobody

import ringbeam
from ringbeam import Code, Consistency, Value
from ringbeam._answers import Welcome
from ringbeam._connection import Connection
from ringbeam._frame import frame
from ringbeam._pool import OpenError, Pool
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, CloseSession, Delete, Get, Hello, OpenSession, Ping, Put
from ringbeam._session import Ticket
from ringbeam._shard import Shard
from ringbeam._slots import slot_of


def has(found: Value | None) -> bytes | None:
    return None if found is None else found.value


async def test_put_get_delete_from_any_one_endpoint() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(3)) as client:
        assert not (await client.put("k", "v")).existed
        assert has(await client.get(b"k")) == b"v"
        assert (await client.put("k", b"")).existed
        assert has(await client.get("k")) == b"", "an empty value is a value"
        assert (await client.delete("k")).existed
        assert await client.get("k") is None
        assert {node for node, *_ in ring.puts} == {1}, "writes go to the leader only"


async def test_many_tasks_share_one_client_and_one_connection_per_shard() -> None:
    async with Ring(3, 4) as ring, await ringbeam.connect(ring.endpoints) as client:

        async def work(task: int) -> None:
            for n in range(10):
                key = f"{task}/{n}"
                await client.put(key, key)
                found = await client.get(key)
                assert found is not None and found.value == key.encode()

        await asyncio.gather(*(work(task) for task in range(64)))
        assert ring.applied == 640
        for at, body in ring.asked:
            if isinstance(body, Put):
                assert at.shard == slot_of(body.key) * 4 // 4096
        for shard in range(4):
            here = [body for at, body in ring.asked if at.shard == shard and at.node == 1]
            assert sum(isinstance(body, Hello) for body in here) == 1, f"one connection to the leader of shard {shard}"
            assert sum(isinstance(body, OpenSession) for body in here) == 1, f"one session in shard {shard}"


async def test_requests_of_many_tasks_leave_in_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0
    write = asyncio.selector_events._SelectorSocketTransport.write  # type: ignore[attr-defined]

    def counted(transport: object, octets: bytes) -> None:
        nonlocal writes
        writes += 1
        write(transport, octets)

    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        slow = [asyncio.create_task(client.get("k")) for _ in range(100)]
        [connection] = [connection] if (connection := client._core._shards[0].leader) else []
        monkeypatch.setattr(type(connection._transport), "write", counted)
        await asyncio.gather(*slow)
        sent_by_client = writes - 100  # the fake node answers each with its own write
        assert 1 <= sent_by_client <= 5, f"{sent_by_client} writes for 100 calls"


async def test_large_values_fill_the_socket_and_all_arrive_whole() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:

        async def work(task: int) -> None:
            value = bytes([task]) * (300_000 + task * 1_000)
            await client.put(f"k{task}", value)
            found = await client.get(f"k{task}")
            assert found is not None and found.value == value

        await asyncio.gather(*(work(task) for task in range(24)))


async def test_what_was_asked_of_a_full_socket_leaves_when_it_drains() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        leader = client._core._shards[0].leader
        assert leader is not None
        leader.pause_writing()
        calls = asyncio.gather(client.put("k", "w"), client.get("k"))
        await asyncio.sleep(0.05)
        assert ring.count(Get) == 0
        leader.resume_writing()
        await asyncio.wait_for(calls, 0.3)  # sooner than the ping of a silent connection


async def test_sequences_are_dense_and_the_floor_follows_the_answers() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        for n in range(5):
            await client.put(str(n), "v")
        seen = [(body.sequence, body.answered_below) for _, body in ring.asked if isinstance(body, Put)]
        assert seen == [(n, n) for n in range(1, 6)]


async def test_replies_out_of_order_reach_their_calls() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        if not isinstance(body, Get):
            return None
        # Times that do not depend on when each was asked: a loop that is held up meanwhile changes no order.
        return Later(started + 0.5 - int(body.key) / 1000 - time.monotonic(), Value(body.key))

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        started = time.monotonic()
        finished: list[int] = []

        async def ask(n: int) -> None:
            assert await client.get(str(n)) == Value(str(n).encode())
            finished.append(n)

        await asyncio.gather(*(ask(n) for n in range(60)))
        assert finished[0] > finished[-1], "the later a read was asked, the sooner it was answered"


async def test_oversize_and_empty_are_refused_by_name_and_the_connection_lives_on() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        too_large = bytes(VALUE_BYTES_MAX + 1)

        async def refused(call: object) -> tuple[Code, str]:
            with pytest.raises(ringbeam.Refused) as caught:
                await call  # type: ignore[misc]
            return caught.value.code, caught.value.message

        large = (Code.VALUE_TOO_LARGE, "the value has 1048577 bytes, the limit is 1048576")
        assert await refused(client.put("k", too_large)) == large, "by the first write, which opens a session"
        assert (await refused(client.put("", "v")))[0] is Code.KEY_EMPTY
        assert (await refused(client.get(b"k" * 4097)))[0] is Code.KEY_TOO_LARGE
        assert (await refused(client.namespace("n" * 65).put("k", "v")))[0] is Code.BAD_NAMESPACE
        assert (await refused(client.delete("k", namespace="ü" * 33)))[0] is Code.BAD_NAMESPACE
        await client.put("k", too_large[1:])
        assert await refused(client.put("k", too_large)) == large, "by a later write too"
        await client.put("k", "v")
        sequences = [(body.sequence, body.answered_below) for _, body in ring.asked if isinstance(body, Put)]
        assert sequences == [(1, 1), (3, 3)], "what was refused here was not sent, and holds no floor"


async def test_arguments_of_a_wrong_kind_are_named() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints) as client:
        with pytest.raises(TypeError, match="the key is of type int, right is bytes or str"):
            await client.put(7, "v")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout is 0 s, right is more than 0"):
            await client.get("k", timeout=0)
        with pytest.raises(ValueError, match="more than 0"):
            client.with_timeout(float("nan"))
        with pytest.raises(TypeError, match="right is a number of seconds"):
            await client.get("k", timeout="5")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="client_name has 300 bytes, the limit is 256"):
            await ringbeam.connect(ring.endpoints, client_name="n" * 300)
        with pytest.raises(ringbeam.ConnectError, match="empty"):
            await ringbeam.connect(" , ")


async def test_namespaces_and_timeouts_reach_the_ring() -> None:
    async with Ring() as ring, await ringbeam.connect(ring.endpoints, namespace="first", client_name="t/1") as client:
        await client.put("k", "v")
        carts = client.namespace("carts").with_timeout(1.0)
        await carts.put("k", "v")
        await carts.put("k", "v", namespace="flags", timeout=0.4)
        await client.namespace("").delete("k")
        sent = [(at.deadline_ms, body.namespace) for at, body in ring.asked if isinstance(body, Put | Delete)]
        assert [namespace for _, namespace in sent] == [b"first", b"carts", b"flags", b""]
        for (told, _), most in zip(sent, [5_000, 1_000, 400, 5_000], strict=True):
            assert most * 7 // 8 - 60 <= told <= most, f"told {told} ms of {most}"
        assert {body.client for _, body in ring.asked if isinstance(body, Hello)} == {"t/1"}


async def test_local_reads_go_to_the_own_region() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.endpoints, region="r2") as client:
        await client.put("k", "v")
        for _ in range(5):
            assert has(await client.get("k", consistency=Consistency.LOCAL)) == b"v"
        assert ring.count(Get, node=2) == 5


async def test_a_full_window_waits_and_every_write_happens_once() -> None:
    def script(ring: Ring, at: At, body: Body) -> Act | None:
        if not isinstance(body, Put):
            return None
        open_now.append(body.sequence - body.answered_below)
        return Later(0.002, ring.usual(at, body))

    open_now: list[int] = []
    async with Ring(script=script, window=4) as ring, await ringbeam.connect(ring.endpoints) as client:
        await asyncio.gather(*(client.put(str(n), "v") for n in range(100)))
        assert ring.applied == 100
        assert max(open_now) == 3, "never more than the window, and all of it"


async def test_who_stops_waiting_for_room_gives_his_place_to_the_next() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put) and body.key == b"holds" else None

    async with Ring(script=script, window=1) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("first", "v")
        holds = asyncio.create_task(client.put("holds", "v"))
        await asyncio.sleep(0.02)
        waits = [asyncio.create_task(client.put(f"waits{n}", "v")) for n in range(3)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waits), "the window is full"
        with pytest.raises(ringbeam.Timeout, match="too many writes of this client are unanswered"):
            await client.put("late", "v", timeout=0.05)
        holds.cancel()
        waits[0].cancel()
        await asyncio.wait_for(asyncio.gather(*waits[1:]), 1.0)
        assert b"waits0" not in ring.store


async def test_room_is_handed_on_by_who_was_woken_and_cancelled_at_once() -> None:
    shard = Shard(0)
    shard.session_opened(7, 1)
    ticket = shard.session.begin()
    assert isinstance(ticket, Ticket)
    soon = asyncio.get_running_loop().time() + 1.0
    first, second = (asyncio.create_task(shard.wait_for_room(soon)) for _ in range(2))
    await asyncio.sleep(0)
    shard.settle(ticket)
    first.cancel()
    await second
    assert first.cancelled()


async def test_many_tasks_that_need_one_node_dial_once() -> None:
    async with Ring(3) as ring, await ringbeam.connect(ring.address(1), region="r2") as client:
        await asyncio.gather(*(client.get(str(n), consistency=Consistency.LOCAL) for n in range(50)))
        assert ring.count(Hello, node=2) == 1


async def test_many_tasks_knock_once_at_a_dead_node(monkeypatch: pytest.MonkeyPatch) -> None:
    dial, dialled = Pool._dial, count()

    async def counted(pool: Pool, address: str, shard: int) -> Connection:
        next(dialled)
        return await dial(pool, address, shard)

    monkeypatch.setattr(Pool, "_dial", counted)
    pool = Pool("test", 0, lambda _: None, lambda _: None)
    dead, soon = await nobody(), asyncio.get_running_loop().time() + 1.0
    failures = await asyncio.gather(*(pool.open(dead, 0, soon) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(failure, OpenError) for failure in failures)
    assert next(dialled) < 5


async def test_an_endpoint_by_another_name_is_the_same_connection() -> None:
    async with Ring() as ring:
        async with await ringbeam.connect(ring.address(1).replace("127.0.0.1", "localhost")) as client:
            await client.put("k", "v")
        assert ring.count(Put) == 1
        writers = {at.connection for at, body in ring.asked if isinstance(body, Put)}
        greeted_first = next(at.connection for at, body in ring.asked if isinstance(body, Hello))
        assert writers == {greeted_first}, "the leader's own address needs no second connection"


async def test_a_cancelled_call_leaves_the_client_whole() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put | Get) and body.key == b"slow" else None

    async with Ring(script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        for call in (client.put("slow", "v"), client.get("slow")):
            task = asyncio.create_task(call)
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await client.put("k", "w")
        last = [body for _, body in ring.asked if isinstance(body, Put)][-1]
        assert (last.sequence, last.answered_below) == (3, 3), "the cancelled write holds no floor"
        assert client._core._shards[0].leader is not None
        assert not client._core._shards[0].leader._waiting


# ---- first contact ----


async def test_one_endpoint_that_answers_is_enough() -> None:
    async with Ring(3) as ring, await ringbeam.connect(f"{await nobody()}, {ring.address(2)},") as client:
        await client.put("k", "v")


async def test_endpoints_that_do_not_answer_are_named() -> None:
    one, other = await nobody(), await nobody()
    started = time.monotonic()
    with pytest.raises(ringbeam.ConnectError) as caught:
        await ringbeam.connect([one, other])
    assert one in str(caught.value) and other in str(caught.value)
    assert time.monotonic() - started < 1.0, "a refused connection is no reason to wait"
    for bad in ("nowhere", "host:", "host:99999", ":7701"):
        with pytest.raises(ringbeam.ConnectError, match="right is host:port"):
            await ringbeam.connect(bad)


@pytest.mark.parametrize("code", [Code.UNSUPPORTED_VERSION, Code.HELLO_FIRST, Code.WRONG_RING])
async def test_refusals_of_hello_reach_the_caller(code: Code) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Refusal(code, message="as the test wants it") if isinstance(body, Hello) else None

    async with Ring(script=script) as ring:
        with pytest.raises(ringbeam.Refused) as caught:
            await ringbeam.connect(ring.endpoints)
        assert caught.value.code is code


async def test_the_expected_ring_is_sent_and_checked() -> None:
    async with Ring(2) as ring:
        with pytest.raises(ringbeam.ProtocolError, match="expected was 7"):
            await ringbeam.connect(ring.endpoints, ring=7)
        assert [body.ring for _, body in ring.asked if isinstance(body, Hello)] == [7, 7]
        async with await ringbeam.connect(ring.endpoints, ring=RING) as client:
            assert client.ring == RING


async def test_later_connections_ask_for_the_ring_that_answered_first() -> None:
    async with Ring(2, 2) as ring, await ringbeam.connect(ring.address(1)) as client:
        for n in range(20):
            await client.put(str(n), "v")
        asked = {(at.shard, body.ring) for at, body in ring.asked if isinstance(body, Hello)}
        assert (1, RING) in asked


@pytest.mark.parametrize("wrong", [Welcome(version=2, ring=RING), Welcome(version=1, ring=RING, shard=5)])
async def test_a_welcome_that_does_not_fit_is_refused(wrong: Welcome) -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return wrong if isinstance(body, Hello) else None

    async with Ring(script=script) as ring:
        with pytest.raises(ringbeam.ProtocolError, match=r"version 2|shard 5"):
            await ringbeam.connect(ring.endpoints)


async def test_what_is_not_ringbeam_is_said_to_be_not() -> None:
    server = await asyncio.start_server(lambda _r, w: w.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ringbeam.ProtocolError, match=str(port)):
        await ringbeam.connect(f"127.0.0.1:{port}")
    server.close()


async def test_an_endpoint_that_says_nothing_costs_no_more_than_a_connect() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ringbeam.ConnectError):
        await ringbeam.connect(f"127.0.0.1:{port}", timeout=0.2)
    assert time.monotonic() - started < 0.6
    server.close()


# ---- the end ----


async def test_close_says_goodbye_to_every_session() -> None:
    async with Ring(1, 3) as ring:
        async with await ringbeam.connect(ring.endpoints) as client:
            for n in range(30):
                await client.put(str(n), "v")
        for _ in range(100):
            if ring.count(CloseSession) == 3 and not ring._writers:
                break
            await asyncio.sleep(0.01)
        closed = sorted(body.session for _, body in ring.asked if isinstance(body, CloseSession))
        assert closed == [1, 2, 3]
        assert not ring._writers, "no connection stays open"
        with pytest.raises(ringbeam.ConnectError, match="closed"):
            await client.put("k", "v")
        with pytest.raises(ringbeam.ConnectError, match="closed"):
            await client.get("k")
        await client.close()


async def test_close_ends_calls_under_way() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Silence() if isinstance(body, Put | Get) and body.key == b"slow" else None

    async with Ring(script=script) as ring:
        client = await ringbeam.connect(ring.endpoints)
        await client.put("k", "v")
        write, read = asyncio.create_task(client.put("slow", "v")), asyncio.create_task(client.get("slow"))
        await asyncio.sleep(0.02)
        started = time.monotonic()
        await client.close()
        with pytest.raises(ringbeam.Unknown):
            await write
        with pytest.raises(ringbeam.ConnectError, match="closed"):
            await read
        assert time.monotonic() - started < 0.5


async def test_nonsense_on_an_open_connection_is_a_lost_connection() -> None:
    def script(_ring: Ring, _at: At, body: Body) -> Act | None:
        return Raw(frame(b"\x04\0\0\0nonsense")) if isinstance(body, Get) and next(reads) == 0 else None

    reads = count()
    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        await client.put("k", "v")
        assert has(await client.get("k")) == b"v"
        assert ring.count(Get) == 2


async def test_topology_and_status_are_told() -> None:
    async with Ring(2, 2) as ring, await ringbeam.connect(ring.endpoints) as client:
        assert client.shards == 2
        topology = await client.topology(1)
        assert (topology.leader, topology.shard, len(topology.members)) == (1, 1, 2)
        status = await client.status()
        assert [(node, shard) for node, shard, _ in status] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        assert all(isinstance(told, ringbeam.Status) and told.node == node for node, _, told in status)
        with pytest.raises(ringbeam.ProtocolError, match="there is no shard 2, this ring has 2"):
            await client.topology(2)
        with pytest.raises(ringbeam.ConnectError):
            await client.status_of(await nobody())
        assert ring.count(Ping) == 0


async def test_a_status_that_is_cut_off_is_said() -> None:
    def script(_ring: Ring, at: At, body: Body) -> Act | None:
        return Close() if type(body).__name__ == "GetStatus" and at.node == 2 else None

    async with Ring(2, script=script) as ring, await ringbeam.connect(ring.endpoints) as client:
        [(_, _, first), (_, _, second)] = await client.status()
        assert isinstance(first, ringbeam.Status)
        assert isinstance(second, ringbeam.ConnectError)


def test_errors_survive_a_pickle() -> None:
    refusal = Refusal(Code.DISK_FULL, message="no room", retry_after_ms=250)
    for error in (
        ringbeam.Refused(refusal),
        ringbeam.Unknown(3, 8, 5, "the connection ended"),
        ringbeam.Timeout(0.05, "no leader is known"),
        ringbeam.ConnectError("x"),
        ringbeam.ProtocolError("y"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert ringbeam.Refused(refusal).retry_after == 0.25
    assert str(ringbeam.Refused(refusal)).endswith("DiskFull: no room (worth another try after 250 ms)")
    assert "Client.outcome(Ticket(3, 8, 5)) tells whether it happened: lost" in str(ringbeam.Unknown(3, 8, 5, "lost"))
    assert "certainly did not happen" in str(ringbeam.Timeout(0.05, "no leader is known"))
