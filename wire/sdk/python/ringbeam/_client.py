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
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from ringbeam import _lease
from ringbeam._answers import (
    ABSENT,
    Absent,
    Consistency,
    Counted,
    Item,
    LeaseStatus,
    Member,
    Read,
    Resolved,
    Revision,
    Role,
    Status,
    Topology,
    Transacted,
    Value,
    Written,
)
from ringbeam._call import Core, refuse
from ringbeam._connection import Connection
from ringbeam._consistency import Freshness, Marks, Token, checked
from ringbeam._deletions import delete_range
from ringbeam._errors import ConnectError, Error, ProtocolError, Refused, Timeout
from ringbeam._events import Fold
from ringbeam._leader import ask_topology, deadline_ms, forget
from ringbeam._lease import Holder, Lease
from ringbeam._limits import (
    CLIENT_NAME_BYTES_MAX,
    COUNTER_MAX,
    COUNTER_MIN,
    PROBE_TIMEOUT,
    SCAN_ITEMS_MAX,
    TIMEOUT_DEFAULT,
    TIMEOUT_MAX,
    WATCH_PROGRESS,
)
from ringbeam._octets import milliseconds, octets
from ringbeam._outcome import Happened, Ticket, unknowable
from ringbeam._policy import POLICIES, of_words, words_of
from ringbeam._pool import OpenError, Pool
from ringbeam._ranges import prefix_end, shards_of_prefix
from ringbeam._reads import get_many, scan
from ringbeam._refusal import Refusal, check_bound, check_bounds, check_key, check_namespace
from ringbeam._requests import Add, Delete, DeleteRange, Extend, GetStatus, Put, Resolve, Scan, Transact
from ringbeam._requests import Watch as AskWatch
from ringbeam._retry import Lost
from ringbeam._routing import Misfit, Routes
from ringbeam._slots import slot_of
from ringbeam._transaction import Target, Txn, compare_and_set
from ringbeam._watch import Watch
from ringbeam._watch_token import Place, decode

VERSION: Final = "0.1.0"
_CLIENT_NAME: Final = f"ringbeam-sdk-python/{VERSION}"


async def connect(
    endpoints: str | Iterable[str],
    *,
    timeout: float = TIMEOUT_DEFAULT,
    namespace: str = "",
    region: str = "",
    consistency: Freshness = Consistency.LINEARIZABLE,
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
    region         where this client is: reads that any node may answer go to nodes of the same region first
    consistency    how fresh reads must be, where a call does not say its own
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

    def told(topology: Topology) -> None:
        if core is not None:
            core.told(topology)

    pool = Pool(client_name, ring, doubt, told)
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
    return Client(core, octets(namespace, "namespace"), timeout, checked(consistency), Marks(routes.shards))


class Client:
    """A ring's client. Made by `connect`; `async with` closes it at the end."""

    __slots__ = ("_consistency", "_core", "_namespace", "_seen", "_timeout")

    def __init__(self, core: Core, namespace: bytes, timeout: float, consistency: Freshness, seen: Marks) -> None:
        self._core = core
        self._namespace = namespace
        self._timeout = timeout
        self._consistency = consistency
        self._seen = seen

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
        return Client(self._core, octets(name, "namespace"), self._timeout, self._consistency, self._seen)

    def with_timeout(self, timeout: float) -> Client:
        """The same client with another deadline per call, seconds."""
        return Client(self._core, self._namespace, _seconds(timeout), self._consistency, self._seen)

    def consistency(self, consistency: Freshness) -> Client:
        """The same client with another freshness of its reads, where a call does not say its own. Linearizable unless
        said: a `Consistency`, or `Bounded(seconds)`."""
        return Client(self._core, self._namespace, self._timeout, checked(consistency), self._seen)

    async def namespace_by_policy(self, name: str) -> Client:
        """The same client in a namespace, whose reads are as its policy says, if it has one: as any node knows it."""
        found = await self._policy(name, Consistency.LOCAL)
        client = self.namespace(name)
        return client if found is None else client.consistency(found)

    async def policy(self, name: str) -> Freshness | None:
        """How fresh reads of a namespace are to be that do not say so themselves, if anything is said. Linearizable:
        what was set before is seen."""
        return await self._policy(name, Consistency.LINEARIZABLE)

    async def set_policy(self, name: str, policy: Freshness) -> None:
        """Says how fresh reads of a namespace are to be. Programs that have asked for it before go on as they are."""
        await self.put(_policy_key(name), words_of(checked(policy)), namespace=POLICIES)

    async def remove_policy(self, name: str) -> bool:
        """Says nothing of a namespace any more. False: nothing was said."""
        return (await self.delete(_policy_key(name), namespace=POLICIES)).existed

    async def _policy(self, name: str, consistency: Consistency) -> Freshness | None:
        found = await self.get(_policy_key(name), namespace=POLICIES, consistency=consistency)
        try:
            return None if found is None else of_words(found.value)
        except ValueError as wrong:
            raise ProtocolError(f"the policy of namespace {name!r}: {wrong}") from None

    def session_token(self) -> Token:
        """What the session has seen so far: all views of this client share it."""
        return self._seen.token(self.ring)

    def with_token(self, token: Token) -> Client:
        """The same client with a session of its own, which goes on where the token's is. ValueError: the token is of
        another ring."""
        if not isinstance(token, Token):
            raise TypeError(f"the token is of type {type(token).__name__}, right is Token")
        # A token that has seen nothing is of no ring.
        if token.ring != self.ring and token != Token():
            raise ValueError(f"the token is of ring {token.ring:016x}, this client's is {self.ring:016x}")
        seen = Marks(self.shards, token)
        return Client(self._core, self._namespace, self._timeout, self._consistency, seen)

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        lease: Holder | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Written:
        """Sets a key. Returns once it is durable on a quorum and applied. str is UTF-8.

        ttl     the key goes so many seconds of ring time after the put; None: it stays. A later put without one ends
                that
        lease   the key goes when this lease ends: a `Lease`, or the id of one of the key's shard
        """
        octets_of_key, left, lease_id = octets(key, "key"), self._timeout_of(timeout), 0
        if lease is not None:
            deadline = asyncio.get_running_loop().time() + left
            lease_id = await self._lease_id(lease, octets_of_key, deadline)
            left = _left(deadline)
        what = Put(
            self._namespace_of(namespace),
            octets_of_key,
            octets(value, "value"),
            ttl_ms=0 if ttl is None else milliseconds(ttl),
            lease=lease_id,
        )
        return await self._core.write(what, Written, left, self._seen)

    async def get(
        self,
        key: bytes | str,
        *,
        consistency: Freshness | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Value | None:
        """Reads a key. None: it has no value.

        consistency   how fresh the answer must be; None: as the client's `consistency` says, linearizable unless said
        """
        found = await self._read(key, consistency, timeout, namespace)
        return found if isinstance(found, Value) else None

    async def read(
        self,
        key: bytes | str,
        *,
        consistency: Freshness | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Read:
        """Reads a key: also of one without a value it says what the answer reflects, and how old it may be."""
        found = await self._read(key, consistency, timeout, namespace)
        return Read(found if isinstance(found, Value) else None, found.index, found.age, found.stale)

    async def _read(
        self, key: bytes | str, consistency: Freshness | None, timeout: float | None, namespace: str | None
    ) -> Value | Absent:
        name, level = self._namespace_of(namespace), self._fresh(consistency)
        return await self._core.read(name, octets(key, "key"), level, self._timeout_of(timeout), self._seen)

    async def delete(self, key: bytes | str, *, timeout: float | None = None, namespace: str | None = None) -> Written:
        """Removes a key. `Written.existed` says whether it was there."""
        what = Delete(self._namespace_of(namespace), octets(key, "key"))
        return await self._core.write(what, Written, self._timeout_of(timeout), self._seen)

    async def add(
        self,
        key: bytes | str,
        delta: int,
        *,
        min: int | None = None,
        max: int | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Counted:
        """Adds to a number, exactly once; `Counted.value` is the sum. A counter's value is its number in ASCII, so
        `get` shows it and `put` sets it; a key without a value counts as 0.

        min, max   a sum outside of them is refused with `OUT_OF_BOUNDS`, and nothing changes; None: what 64 bits hold

        Refused with `NOT_A_NUMBER` if what the key has is none.
        """
        least, most = COUNTER_MIN if min is None else min, COUNTER_MAX if max is None else max
        for name, number in (("delta", delta), ("min", least), ("max", most)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name} is {number!r}, right is a number without a fraction")
            if not COUNTER_MIN <= number <= COUNTER_MAX:
                raise ValueError(f"{name} is {number}, which 64 bits do not hold")
        refuse(check_bounds(least, most))
        what = Add(self._namespace_of(namespace), octets(key, "key"), delta, least, most)
        return await self._core.write(what, Counted, self._timeout_of(timeout), self._seen)

    async def append(
        self, key: bytes | str, delta: bytes | str, *, timeout: float | None = None, namespace: str | None = None
    ) -> Written:
        """Puts bytes behind what a key has, exactly once. Only they go through the log, however long the value is. A
        key without a value begins with them. Refused with `VALUE_TOO_LARGE` if it would become too long."""
        return await self._extend(key, Fold.CONCATENATE, octets(delta, "delta"), timeout, namespace)

    async def merge_patch(
        self,
        key: bytes | str,
        patch: bytes | str | Mapping[str, Any],
        *,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Written:
        """Changes a JSON value by a merge patch (RFC 7396), exactly once. Only the patch goes through the log.

        patch   JSON text, or a mapping that becomes it; what it has as None goes

        A get gives the folded value, written anew: without blanks, members in the order of their names. Refused with
        `NOT_JSON` if what the key has, or the patch, is none; patches apply to JSON of at most 64 KiB. A key without a
        value is `null`.
        """
        delta = json.dumps(patch, separators=(",", ":")) if isinstance(patch, Mapping) else patch
        return await self._extend(key, Fold.MERGE_PATCH, octets(delta, "patch"), timeout, namespace)

    async def _extend(
        self, key: bytes | str, fold: Fold, delta: bytes, timeout: float | None, namespace: str | None
    ) -> Written:
        what = Extend(self._namespace_of(namespace), octets(key, "key"), fold, delta)
        return await self._core.write(what, Written, self._timeout_of(timeout), self._seen)

    async def delete_range(
        self,
        *,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> int:
        """Deletes the keys of a range, as in `scan`; returns how many there were. `start=""` alone is all keys.

        Slice by slice, on all shards at once: up to 1000 keys of a shard go at once and exactly once, the whole range
        does not. A key that is written meanwhile may go or stay. After an error some slices are gone; calling again
        deletes the rest. `timeout` is that of each slice.
        """
        if prefix is None and start is None and end is None:
            raise ValueError('which keys? right is a prefix, or start or end; start="" alone is all keys')
        begin, until, shards = self._range(prefix, start, end)
        name = self._namespace_of(namespace)
        refuse(check_namespace(name))
        if until and begin >= until:
            return 0
        what = DeleteRange(name, begin, until)
        return await delete_range(self._core, what, shards, self._timeout_of(timeout), self._seen)

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
        left = self._timeout_of(timeout)
        if txn.has_handles:
            deadline = asyncio.get_running_loop().time() + left
            txn = await txn.resolved(lambda lease, key: self._lease_id(lease, key, deadline))
            left = _left(deadline)
        what = Transact(self._namespace_of(namespace), txn)
        return await self._core.transact(what, left, self._seen)

    async def get_many(
        self,
        keys: Iterable[bytes | str],
        *,
        consistency: Freshness | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> list[Value | None]:
        """Reads several keys, in their order. None: the key has no value.

        Any number of keys of any shards: one request per shard, or several where 128 keys, 8 KiB of keys or 256 KiB of
        answer are not enough. What one request finds is of one moment, and has the same `Value.index`; what several
        find need not be.
        """
        what = self._namespace_of(namespace), _keys(keys), self._fresh(consistency)
        return await get_many(self._core, *what, self._timeout_of(timeout), self._seen)

    def scan(
        self,
        *,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        limit: int | None = None,
        backward: bool = False,
        keys_only: bool = False,
        pinned: bool = True,
        page: int | None = None,
        consistency: Freshness | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> AsyncGenerator[Item, None]:
        """The keys of a range in the order of their bytes, over all shards: `async for item in client.scan(..)`.

        prefix         of all keys; or instead of it:
        start, end     the first key, and the first one that is not in the range; None or empty: no bound
        limit          items at most; None: all
        backward       from the last key down
        keys_only      without values
        pinned         all of a shard is as of one log index; False: each page is of its own moment
        page           keys of a page at most, 1 to 1000; None: 1000, or `limit`
        timeout        of each page, seconds

        Pages are fetched as the items are asked for, up to 1000 items or 256 KiB from each shard. A prefix with a whole
        `{tag}` is on one shard, and only that is asked. An error ends the iteration.

        What is consistent: all that comes of one shard is as of one log index, that of its first page, which is as
        fresh as asked for; what is written meanwhile is not in it. Shards among each other are of different moments,
        close to each other: their first pages are asked for at once.

        What that takes: where one page is not enough, the node that answers the first one keeps what changes behind it,
        and gives all the others, whoever leads. It keeps 64 MiB for all scans of a shard, unless configured otherwise,
        and as long as the scan goes on: while an item is taken at least every 20 s or so, however long it takes in all.
        Where that was not enough, or the node has begun anew, the scan ends with `Compacted`: scan anew. The node is
        told when a scan ends early, which a `break` out of the loop does; of an iterator that is held, `await
        items.aclose()`.

        `pinned=False` is for exports that run for long: nothing is kept, any node will do, and how long the loop takes
        does not matter. Each page is as of a log index of its own: what is written meanwhile may be in the scan or not,
        what was there all the time is in it once. With `Consistency.LOCAL` a later page may come from a node that is
        further behind, with `SESSION` not.
        """
        name, level = self._namespace_of(namespace), self._fresh(consistency)
        begin, until, shards = self._range(prefix, start, end)
        refuse(check_namespace(name))
        what = Scan(name, begin, until, bool(backward), bool(keys_only))
        pages = _limit(limit), _page(page), bool(pinned)
        return scan(self._core, what, level, shards, *pages, self._timeout_of(timeout), self._seen)

    def watch(
        self,
        *,
        key: bytes | str | None = None,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        after: Revision | bytes | None = None,
        snapshot: bool = False,
        restart: bool = False,
        puts: bool = True,
        deletes: bool = True,
        previous: bool = False,
        conflate: bool = False,
        progress: float | None = None,
        timeout: float | None = None,
        namespace: str | None = None,
    ) -> Watch:
        """Every change of a key or a range, from now on or from a revision on, over any node: `async with
        client.watch(prefix="orders/") as watch`, `async for event in watch`. It goes on by itself after a disconnect.

        key            of one key; or instead of it a range as in `scan`; nothing: all keys
        after          only what came behind it: a revision, where the range is of one shard, or `Watch.token` of a
                       watch of the same range, of this or another process; None: from now on, behind what the
                       session has seen
        snapshot       first a copy of what there is, then what changes, without a gap between them
        restart        when changes are lost, begin anew with a copy instead of the error `Compacted`
        puts, deletes  whether there are events of puts and deltas, of deletes and expiries
        previous       with the values from before, where they are known
        conflate       who is slow gets the newest of each key, or a new copy, and not each change
        progress       `batches` gives one without events at least this often, seconds; at least 0.1
        timeout        of its beginning

        Events of one key, and of one shard, come in their order; of several shards there is none. The history that a
        node keeps has bounds: what is no longer kept is `Compacted`.
        """
        ranges = {"key": key, "prefix": prefix, "start or end": start if start is not None else end}
        given = [name for name, bound in ranges.items() if bound is not None]
        if len(given) > 1:
            raise ValueError(f"a watch is of one key, of a prefix, or from start to end; given are {', '.join(given)}")
        routes = self._core.routes
        if key is not None:
            begin = octets(key, "key")
            refuse(check_key(begin))
            until, shards = begin + b"\0", [routes.table[slot_of(begin)]]
        else:
            begin, until, shards = self._range(prefix, start, end)
        name = self._namespace_of(namespace)
        refuse(check_namespace(name))
        if after is not None and snapshot:
            raise ValueError("a watch begins behind a revision or a token, or with a snapshot, not both")
        places: dict[int, Place] = {}
        if isinstance(after, Revision):
            if len(shards) > 1:
                raise ValueError("a revision is of one shard, and the range is of several: right is a token")
            places[shards[0]] = after
        elif after is not None:
            places = decode(octets(after, "token"), self.ring, self.shards)
        pause = WATCH_PROGRESS if progress is None else progress
        what = AskWatch(
            name,
            begin,
            until,
            snapshot=bool(snapshot),
            no_puts=not puts,
            no_deletes=not deletes,
            previous=bool(previous),
            conflate=bool(conflate),
            progress_ms=milliseconds(pause),
        )
        idle = progress is not None
        return Watch(self._core, what, shards, places, self._seen, bool(restart), idle, self._timeout_of(timeout))

    def lease(self, ttl: float) -> Lease:
        """A lease of this time, seconds, at least one, that is kept alive until it is revoked or let go:
        `async with client.lease(10.0) as lease`. Nothing is granted before it is used, and nothing waits."""
        milliseconds(ttl)
        return Lease(self._core, float(ttl), self._timeout)

    async def grant_lease(self, shard: int, ttl: float, *, timeout: float | None = None) -> LeaseStatus:
        """Grants a lease on one shard, which nobody keeps alive but who calls `keep_lease`."""
        return await _lease.grant(self._core, shard, ttl, self._timeout_of(timeout))

    async def keep_lease(self, shard: int, lease: int, *, timeout: float | None = None) -> LeaseStatus:
        """Keeps a lease of one shard alive for its time from now."""
        return await _lease.keep(self._core, shard, lease, self._timeout_of(timeout))

    async def lease_status(self, shard: int, lease: int, *, timeout: float | None = None) -> LeaseStatus:
        """A lease of one shard as it is."""
        return await _lease.status(self._core, shard, lease, self._timeout_of(timeout))

    async def revoke_lease(self, shard: int, lease: int, *, timeout: float | None = None) -> bool:
        """Ends a lease of one shard: its keys go shortly. False: it had ended, or never was."""
        return await _lease.revoke(self._core, shard, lease, self._timeout_of(timeout))

    async def outcome(self, ticket: Ticket, *, timeout: float | None = None) -> Happened | None:
        """Settles what became of a write whose answer was lost: see `Unknown.ticket`. None: it did not happen, and
        never will. Refused with `ALREADY_ANSWERED` or `SESSION_EXPIRED` when that cannot be known any more."""
        if not isinstance(ticket, Ticket):
            raise TypeError(f"the ticket is of type {type(ticket).__name__}, right is Ticket")
        what = Resolve(ticket.session, ticket.sequence)
        try:
            told = await self._core.command(what, ticket.shard, Resolved, self._timeout_of(timeout))
        except Refused as error:
            raise Refused(unknowable(error.refusal)) from None
        self._core.shard(ticket.shard).release(ticket.session, ticket.sequence)
        return Happened(told.revision, told.ring_time_ms, told.existed, told.gets) if told.happened else None

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

    def _range(
        self, prefix: bytes | str | None, start: bytes | str | None, end: bytes | str | None
    ) -> tuple[bytes, bytes, list[int]]:
        """Where a range begins, where it ends, and the shards that have a part in it."""
        if prefix is not None and (start is not None or end is not None):
            raise ValueError("a range is a prefix, or from start to end, not both")
        begin = octets(prefix if prefix is not None else start or b"", "prefix" if prefix is not None else "start")
        until = prefix_end(begin) if prefix is not None else octets(end or b"", "end")
        refuse(check_bound(begin) or check_bound(until))
        routes = self._core.routes
        if prefix is None:
            return begin, until, list(range(routes.shards))
        return begin, until, shards_of_prefix(begin, routes.table, routes.shards)

    async def _lease_id(self, lease: Holder, key: bytes, deadline: float) -> int:
        """The id of a lease on a key's shard, where it is granted until `deadline` if it was not yet."""
        if isinstance(lease, int) and not isinstance(lease, bool):
            return lease
        if not isinstance(lease, Lease):
            raise TypeError(f"the lease is of type {type(lease).__name__}, right is Lease or an id")
        refuse(check_key(key))
        return await lease.id_on(self._core.routes.table[slot_of(key)], _left(deadline))

    def _fresh(self, consistency: Freshness | None) -> Freshness:
        return self._consistency if consistency is None else checked(consistency)

    def _timeout_of(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _seconds(timeout)

    def _namespace_of(self, namespace: str | None) -> bytes:
        return self._namespace if namespace is None else octets(namespace, "namespace")


def _left(deadline: float) -> float:
    """Of a call's time, seconds: never none, as the call itself says that it was not done in time."""
    return max(deadline - asyncio.get_running_loop().time(), 0.001)


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


def _page(page: int | None) -> int:
    if page is None:
        return SCAN_ITEMS_MAX
    if isinstance(page, bool) or not isinstance(page, int):
        raise TypeError(f"page is {page!r}, right is a number of keys, or None for {SCAN_ITEMS_MAX}")
    if not 1 <= page <= SCAN_ITEMS_MAX:
        raise ValueError(f"page is {page}, right is 1 to {SCAN_ITEMS_MAX}")
    return page


def _policy_key(name: str) -> bytes:
    namespace = octets(name, "namespace")
    refuse(check_namespace(namespace))
    return b"/" + namespace
