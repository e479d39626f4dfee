"""Leases: keys that go when the one who put them is gone.

    async with client.lease(10.0) as lease:          # kept alive from here on, until the end of the block
        await client.put("workers/7", "10.0.0.7:9000", lease=lease)
        ...
        await lease.lost()                           # perhaps the key is gone: stop working

A lease of the ring is of one shard. A `Lease` here is of as many shards as it is used on: it is granted on each when it
is first needed there, and kept alive on all of them, each by a task of its own, every third of its time.

How long is it alive? A shard ends a lease by ring time, of which no more passes than time does: it cannot end before
its time has passed since the last keep-alive that was answered *was sent*. So until then `is_alive` is certain,
whatever became of the ring, as long as this machine's clock runs. From then on it says no, and the handle is lost: all
of it, on every shard.

Not here: that a key is still held when a *write* arrives. Put what depends on it into one transaction with a compare of
the key.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from ringbeam._answers import LeaseStatus, Written
from ringbeam._call import Core
from ringbeam._errors import Error, Refused, Timeout
from ringbeam._limits import KEPT_ALIVE_TIMES
from ringbeam._octets import milliseconds
from ringbeam._refusal import Code, Refusal
from ringbeam._requests import GetLease, GrantLease, KeepLease, RevokeLease


@dataclass(slots=True)
class _Granted:
    """The lease on one shard."""

    id: int
    alive_until: float
    keeper: asyncio.Task[None]


class Lease:
    """A lease that is kept alive while it is there. Made by `Client.lease`; `async with` revokes it at the end."""

    __slots__ = ("__weakref__", "_core", "_granted", "_granting", "_lost", "_timeout", "ttl")

    def __init__(self, core: Core, ttl: float, timeout: float) -> None:
        self.ttl = ttl
        """Its time, seconds."""
        self._core = core
        self._timeout = timeout
        # By shard.
        self._granted: dict[int, _Granted] = {}
        # By shard: held by the one task that grants it there. A shard without a leader holds up nothing on the others.
        self._granting: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lost = asyncio.Event()

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What could not be said to the ring ends by itself.
        with suppress(Error):
            await self.revoke()

    def __del__(self) -> None:
        for granted in self._granted.values():
            if not granted.keeper.get_loop().is_closed():
                granted.keeper.cancel()

    @property
    def is_alive(self) -> bool:
        """Whether it is certain that it has not ended on any shard it is used on."""
        now = asyncio.get_running_loop().time()
        return not self._lost.is_set() and all(granted.alive_until > now for granted in self._granted.values())

    async def lost(self) -> None:
        """Returns when it is not certain any more that it has not ended; at once, if it was revoked."""
        await self._lost.wait()

    async def id_on(self, shard: int, timeout: float | None = None) -> int:
        """Its id on a shard; granted there if it was not yet, within `timeout`. Refused with `LEASE_NOT_FOUND` once it
        is lost."""
        if (known := self._granted.get(shard)) is not None and not self._lost.is_set():
            return known.id
        loop = asyncio.get_running_loop()
        timeout = self._timeout if timeout is None else timeout
        deadline = loop.time() + timeout
        granting = self._granting[shard]
        try:
            async with asyncio.timeout_at(deadline):
                await granting.acquire()
        except TimeoutError:
            raise Timeout(timeout, f"another task waits for this lease on shard {shard}") from None
        try:
            self._check_held()
            if (known := self._granted.get(shard)) is not None:
                return known.id
            sent = loop.time()
            id = (await grant(self._core, shard, self.ttl, max(deadline - sent, 0.001))).lease
            # One that was granted to a handle that was lost meanwhile ends by itself.
            self._check_held()
            keeper = loop.create_task(_keep(weakref.ref(self), self._core, shard, id, self.ttl))
            self._granted[shard] = _Granted(id, sent + self.ttl, keeper)
            return id
        finally:
            granting.release()

    def _check_held(self) -> None:
        if self._lost.is_set():
            why = "this lease was lost or revoked; make a new one"
            raise Refused(Refusal(Code.LEASE_NOT_FOUND, message=why))

    async def revoke(self) -> None:
        """Ends it on all shards: its keys go shortly, and the handle is lost."""
        self.lose()
        granted, self._granted = self._granted, {}
        ended = (revoke(self._core, shard, lease.id, self._timeout) for shard, lease in granted.items())
        # On each, also when it cannot be said to one of them.
        for outcome in await asyncio.gather(*ended, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def lose(self) -> None:
        """It is not certain any more that it has not ended."""
        self._lost.set()
        for granted in self._granted.values():
            if granted.keeper is not asyncio.current_task():
                granted.keeper.cancel()

    def kept(self, shard: int, until: float) -> None:
        """It was kept alive on this shard."""
        if (granted := self._granted.get(shard)) is not None:
            granted.alive_until = until

    def alive_until(self, shard: int) -> float:
        """Until when it is certain that it has not ended on this shard; 0: it is not used there."""
        return self._granted[shard].alive_until if shard in self._granted else 0.0


async def _keep(lease: weakref.ref[Lease], core: Core, shard: int, id: int, ttl: float) -> None:
    """Keeps the lease alive on one shard until it is lost or nobody has it any more."""
    loop = asyncio.get_running_loop()
    wait = ttl / KEPT_ALIVE_TIMES
    while True:
        await asyncio.sleep(wait)
        if (held := lease()) is None:
            return
        until = held.alive_until(shard)
        # It may be let go meanwhile.
        del held
        sent = loop.time()
        failure: Error | None = None
        try:
            await keep(core, shard, id, max(until - sent, 0.001))
        except Error as error:
            failure = error
        if (held := lease()) is None:
            return
        gone = isinstance(failure, Refused) and failure.code is Code.LEASE_NOT_FOUND
        left = held.alive_until(shard) - loop.time()
        if gone or (failure is not None and left <= 0):
            held.lose()
            return
        if failure is None:
            held.kept(shard, sent + ttl)
        wait = ttl / KEPT_ALIVE_TIMES if failure is None else min(left, ttl / 10)
        del held


# ---- leases of one shard; all may be repeated at will: the worst is a lease that nobody knows of, which ends ----


async def grant(core: Core, shard: int, ttl: float, timeout: float) -> LeaseStatus:
    """Grants a lease on one shard."""
    return await core.command(GrantLease(milliseconds(ttl)), shard, LeaseStatus, timeout)


async def keep(core: Core, shard: int, lease: int, timeout: float) -> LeaseStatus:
    """Keeps it alive for its time from now."""
    return await core.command(KeepLease(lease), shard, LeaseStatus, timeout)


async def status(core: Core, shard: int, lease: int, timeout: float) -> LeaseStatus:
    """A lease as it is."""
    return await core.command(GetLease(lease), shard, LeaseStatus, timeout)


async def revoke(core: Core, shard: int, lease: int, timeout: float) -> bool:
    """Ends it. False: it had ended, or never was."""
    return (await core.command(RevokeLease(lease), shard, Written, timeout)).existed


Holder = Lease | int
"""The lease with which a key goes: one that this process keeps alive, or the id of one of the key's shard."""
