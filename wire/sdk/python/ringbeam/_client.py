"""The client: what applications hold, shared by any number of tasks of one event loop.

    connect -> asks all endpoints at once, takes the first that answers -> Client
    Client.namespace, Client.with_timeout -> another view of the same connections and sessions

Invariants
- One ring for life: every connection of a client is to nodes of the ring that its first endpoint belonged to.
- One session per shard, so all views together have one order of sequences per shard.

Not here: how a call is carried out (`_call.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final

from ringbeam._answers import ABSENT, Consistency, Item, Member, Role, Status, Topology, Transacted, Value, Written
from ringbeam._call import Core, refuse
from ringbeam._connection import Connection
from ringbeam._errors import ConnectError, Error, ProtocolError, Refused, Timeout
from ringbeam._leader import ask_topology, deadline_ms, forget
from ringbeam._limits import CLIENT_NAME_BYTES_MAX, PROBE_TIMEOUT, TIMEOUT_DEFAULT, TIMEOUT_MAX
from ringbeam._octets import octets
from ringbeam._pool import OpenError, Pool
from ringbeam._ranges import prefix_end, shards_of_prefix
from ringbeam._reads import get_many, scan
from ringbeam._refusal import Refusal, check_bound, check_namespace
from ringbeam._requests import Delete, Get, GetStatus, Put, Scan, Transact
from ringbeam._retry import Lost
from ringbeam._routing import Misfit, Routes
from ringbeam._transaction import Target, Txn, compare_and_set

VERSION: Final = "0.1.0"
_CLIENT_NAME: Final = f"ringbeam-sdk-python/{VERSION}"


async def connect(
    endpoints: str | Iterable[str],
    *,
    timeout: float = TIMEOUT_DEFAULT,
    namespace: str = "",
    region: str = "",
    client_name: str = _CLIENT_NAME,
    ring: int = 0,
    exactly_once: bool = True,
) -> Client:
    """Connects to a ring.

    endpoints      client addresses (host:port) of some of its nodes; each item may hold several, comma separated. One
    that
                   answers is enough, the rest of the ring is learnt from it
    timeout        deadline of every call and of connecting, seconds; kept to within 10 ms
    namespace      where keys are: at most 64 bytes of UTF-8, "" is the default one
    region         where this client is: local reads go to nodes of the same region first
    client_name    name and version of the application, for the operator's eyes: at most 256 bytes
    ring           the ring's id, nodes of another are refused; 0: the ring of the first node that answers
    exactly_once   False: a write whose reply is lost is Unknown at once, and no session is opened

    Tries each endpoint once: a ring that is not up is ConnectError as soon as that is certain.
    """
    addresses = _endpoints(endpoints)
    timeout = _seconds(timeout)
    named = len(octets(client_name, "client_name"))
    if named > CLIENT_NAME_BYTES_MAX:
        raise ValueError(f"client_name has {named} bytes, the limit is {CLIENT_NAME_BYTES_MAX}")
    core: Core | None = None

    def doubt(connection: Connection) -> None:
        if core is not None:
            core.doubt(connection)

    pool = Pool(client_name, ring, doubt)
    try:
        connection, topology = await _first_contact(pool, addresses, timeout)
        try:
            routes = Routes(region, addresses, topology)
        except Misfit as why:
            raise ProtocolError(f"{connection.address}: {why}") from None
    except BaseException:
        await pool.close("no ring was found")
        raise
    pool.ring = topology.ring
    address = routes.address_of(connection.welcome.node)
    if address is not None:
        pool.also_known_as(address, connection)
    core = Core(pool, routes, exactly_once)
    return Client(core, octets(namespace, "namespace"), timeout)


class Client:
    """A ring's client. Made by `connect`; `async with` closes it at the end."""

    __slots__ = ("_core", "_namespace", "_timeout")

    def __init__(self, core: Core, namespace: bytes, timeout: float) -> None:
        self._core = core
        self._namespace = namespace
        self._timeout = timeout

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the sessions and all connections, of every view of this client. Calls under way end at once: those whose
        request has left and that write are Unknown, the others ConnectError."""
        await self._core.close()

    def namespace(self, name: str) -> Client:
        """The same client, working in another namespace: at most 64 bytes of UTF-8, "" is the default one."""
        return Client(self._core, octets(name, "namespace"), self._timeout)

    def with_timeout(self, timeout: float) -> Client:
        """The same client with another deadline per call, seconds."""
        return Client(self._core, self._namespace, _seconds(timeout))

    async def put(
        self, key: bytes | str, value: bytes | str, *, timeout: float | None = None, namespace: str | None = None
    ) -> Written:
        """Sets a key. Returns once it is durable on a quorum and applied. str is UTF-8."""
        what = Put(self._namespace_of(namespace), octets(key, "key"), octets(value, "value"))
        return await self._core.write(what, self._timeout_of(timeout))

    async def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Value | None:
        """Reads a key. None: it has no value."""
        what = Get(self._namespace_of(namespace), octets(key, "key"), Consistency(consistency))
        return await self._core.read(what, self._timeout_of(timeout))

    async def delete(self, key: bytes | str, *, timeout: float | None = None, namespace: str | None = None) -> Written:
        """Removes a key. `Written.existed` says whether it was there."""
        what = Delete(self._namespace_of(namespace), octets(key, "key"))
        return await self._core.write(what, self._timeout_of(timeout))

    async def cas(
        self,
        key: bytes | str,
        expect: Target,
        value: bytes | str,
        *,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Transacted:
        """Compare-and-set: sets a key only if it has what is expected, which `Transacted.succeeded` says.

        expect   a `Revision`: it last changed then; `ABSENT`: it has no value; `ValueIs(b"..")`: it has this value
        """
        return await self.txn(compare_and_set(key, expect, value), timeout=timeout, namespace=namespace)

    async def create(
        self, key: bytes | str, value: bytes | str, *, timeout: float | None = None, namespace: str | None = None
    ) -> Transacted:
        """Sets a key only if it has no value, which `Transacted.succeeded` says."""
        return await self.cas(key, ABSENT, value, timeout=timeout, namespace=namespace)

    async def txn(self, txn: Txn, *, timeout: float | None = None, namespace: str | None = None) -> Transacted:
        """Compares, then one of two lists of steps, over keys of one shard: all at once or not at all, and once like a
        put. `Transacted.succeeded` says which list ran, `Transacted.gets` what its gets found."""
        if not isinstance(txn, Txn):
            raise TypeError(f"the transaction is of type {type(txn).__name__}, right is Txn")
        what = Transact(self._namespace_of(namespace), txn)
        return await self._core.transact(what, self._timeout_of(timeout))

    async def get_many(
        self,
        keys: Iterable[bytes | str],
        *,
        consistency: Consistency = Consistency.LINEARIZABLE,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> list[Value | None]:
        """Reads several keys, in their order. None: the key has no value.

        Any number of keys of any shards: one request per shard, or several where 128 keys, 8 KiB of keys or 256 KiB of
        answer are not enough. What one request finds is of one moment, and has the same `Value.index`; what several
        find need not be.
        """
        what = self._namespace_of(namespace), _keys(keys), Consistency(consistency)
        return await get_many(self._core, *what, self._timeout_of(timeout))

    def scan(
        self,
        *,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        backward: bool = False,
        keys_only: bool = False,
        consistency: Consistency = Consistency.LINEARIZABLE,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> AsyncIterator[Item]:
        """The keys of a range in the order of their bytes, over all shards: `async for item in client.scan(..)`.

        prefix         of all keys; or instead of it:
        start, end     the first key, and the first one that is not in the range; None or empty: no bound
        limit          items at most; None: all
        backward       from the last key down
        keys_only      without values
        timeout        of each page, seconds: how long the loop over the items takes does not matter

        Pages are fetched as the items are asked for, up to 1000 items or 256 KiB from each shard. A page is as of one
        log index of its shard. Pages of several shards are of different moments, and so are the pages of one: what is
        written while the scan is under way may be in it or not, what was there all the time is in it once. With
        `Consistency.LOCAL` a later page may come from a node that is further behind. A prefix with a whole `{tag}` is
        on one shard, and only that is asked. An error ends the iteration.
        """
        if prefix is not None and (start is not None or end is not None):
            raise ValueError("a scan is over a prefix, or from start to end, not both")
        name, consistency = self._namespace_of(namespace), Consistency(consistency)
        begin = octets(prefix if prefix is not None else start or b"", "prefix" if prefix is not None else "start")
        until = prefix_end(begin) if prefix is not None else octets(end or b"", "end")
        refuse(check_namespace(name) or check_bound(begin) or check_bound(until))
        routes = self._core.routes
        shards = list(range(routes.shards)) if prefix is None else shards_of_prefix(begin, routes.table, routes.shards)
        what = Scan(name, begin, until, bool(backward), bool(keys_only), 0, consistency)
        return scan(self._core, what, shards, _limit(limit), self._timeout_of(timeout))

    @property
    def shards(self) -> int:
        """The number of shards of the ring."""
        return self._core.routes.shards

    @property
    def ring(self) -> int:
        """The ring's id."""
        return self._core.routes.ring

    async def topology(self, shard: int = 0, *, timeout: float | None = None) -> Topology:
        """A fresh topology, as the leader of `shard` sees it: `leader` and `term` are that shard's."""
        return await self._core.topology(shard, self._timeout_of(timeout))

    async def status_of(self, address: str, shard: int = 0, *, timeout: float | None = None) -> Status:
        """How one shard is on the node at `address` (its client address, host:port). Asks once."""
        seconds = self._timeout_of(timeout)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            connection = await self._core.pool.open(address, shard, deadline)
        except OpenError as why:
            raise why.error() from None
        outcome = await connection.call(GetStatus(), deadline, deadline_ms(seconds))
        if isinstance(outcome, Status):
            return outcome
        if isinstance(outcome, Refusal):
            raise Refused(outcome)
        if isinstance(outcome, Lost):
            raise ConnectError(connection.why_closed())
        raise Timeout(seconds, f"{address} did not answer")

    async def status(self, *, timeout: float | None = None) -> list[tuple[int, int, Status | Error]]:
        """How every shard is on every member: (node, shard, status or why there is none), in that order. Members are
        taken from a fresh topology if one is to be had within half a second, else from the last one seen."""
        seconds = self._timeout_of(timeout)
        # Without a leader the status matters most, so a failure here is no failure of the whole.
        with suppress(Error):
            await self._core.topology(0, min(seconds, PROBE_TIMEOUT))
        members = sorted(self._core.routes.members, key=lambda member: member.node)
        places = [(member, shard) for member in members for shard in range(self.shards)]
        found = await asyncio.gather(*(self._status_at(member, shard, seconds) for member, shard in places))
        return [(member.node, shard, status) for (member, shard), status in zip(places, found, strict=True)]

    async def _status_at(self, member: Member, shard: int, seconds: float) -> Status | Error:
        role = member.role.name.lower().replace("_", "-")
        if not member.client:
            return ConnectError(f"node {member.node} ({role}) has no client address")
        try:
            return await self.status_of(member.client, shard, timeout=seconds)
        except ConnectError as error:
            if member.role is Role.TIE_BREAKER:
                return ConnectError(f"{error.why} (node {member.node} is a tie-breaker)")
            return error
        except Error as error:
            return error

    def _timeout_of(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _seconds(timeout)

    def _namespace_of(self, namespace: str | None) -> bytes:
        return self._namespace if namespace is None else octets(namespace, "namespace")


async def _first_contact(pool: Pool, addresses: list[str], timeout: float) -> tuple[Connection, Topology]:
    deadline = asyncio.get_running_loop().time() + timeout

    async def ask(address: str) -> tuple[Connection, Topology]:
        connection = await pool.open(address, 0, deadline)
        return connection, await ask_topology(connection, deadline)

    asking = {asyncio.create_task(ask(address)) for address in addresses}
    answered: set[asyncio.Task[tuple[Connection, Topology]]] = set()
    failures: list[OpenError] = []
    try:
        while asking:
            answered, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            while answered:
                try:
                    return answered.pop().result()
                except OpenError as failure:
                    failures.append(failure)
    finally:
        forget(asking | answered)
    raise _most_telling(failures)


def _most_telling(failures: list[OpenError]) -> Error:
    """A refusal says more than nonsense, and that more than silence. All are named when there is only silence."""
    failures.sort(key=lambda failure: 0 if failure.refusal is not None else 1 if failure.nonsense else 2)
    first = failures[0]
    if first.refusal is not None or first.nonsense:
        return first.error()
    return ConnectError("none of the endpoints answered: " + "; ".join(map(str, failures)))


def _endpoints(endpoints: str | Iterable[str]) -> list[str]:
    items = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    split = (part.strip() for item in items for part in item.split(","))
    addresses = list(dict.fromkeys(part for part in split if part))
    if not addresses:
        raise ConnectError("the list of endpoints is empty, give at least one host:port")
    return addresses


def _seconds(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout is {timeout!r}, right is a number of seconds")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r} s, right is more than 0")
    return min(float(timeout), TIMEOUT_MAX)


def _keys(keys: Iterable[bytes | str]) -> list[bytes]:
    if isinstance(keys, bytes | bytearray | memoryview | str) or not isinstance(keys, Iterable):
        raise TypeError(f"`keys` is of type {type(keys).__name__}, right is a list of bytes or str")
    return [octets(key, "key") for key in keys]


def _limit(limit: int | None) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"limit is {limit!r}, right is a number of items, or None for all")
    if limit is not None and limit < 0:
        raise ValueError(f"limit is {limit}, right is 0 or more, or None for all")
    return limit
