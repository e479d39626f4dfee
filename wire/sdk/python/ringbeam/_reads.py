"""Reads of several keys, carried out: multi-gets and scans, over all shards that have a part in them.

    get_many -> batches per shard, some at once -> answers, each of one moment -> values in the order of the keys
    scan     -> first pages of all shards at once -> what is certain to be next -> a page where a shard ran out -> ...

A scan holds nothing between two items but the pages that it has loaded: whoever stops early leaves no task behind.

Not here: what goes into a request and in which order pages merge (`_ranges.py`), retries (`_call.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace

from ringbeam._answers import Item, Value
from ringbeam._call import Core, refuse
from ringbeam._consistency import Freshness, Marks, fresh
from ringbeam._errors import ProtocolError
from ringbeam._leader import forget
from ringbeam._limits import GET_MANY_AT_ONCE_MAX, SCAN_ITEMS_MAX
from ringbeam._ranges import Part, batches, ready
from ringbeam._refusal import check_key, check_namespace
from ringbeam._requests import GetMany, Scan


async def get_many(
    core: Core, namespace: bytes, keys: Sequence[bytes], consistency: Freshness, timeout: float, seen: Marks
) -> list[Value | None]:
    """The values of all keys, in their order."""
    deadline = asyncio.get_running_loop().time() + timeout
    refuse(check_namespace(namespace))
    for key in keys:
        refuse(check_key(key))
    found: list[Value | None] = [None] * len(keys)
    unasked = list(batches(keys, core.routes.table))

    async def work() -> None:
        while unasked:
            shard, places = unasked.pop()
            while places:
                wanted = tuple(keys[place] for place in places)
                asked = GetMany(namespace, wanted, *fresh(consistency, seen.at[shard]))
                answer = await core.items(asked, shard, deadline, timeout, seen)
                if not 0 < len(answer.items) <= len(places) or (len(answer.items) < len(places) and not answer.more):
                    told = f"{len(answer.items)} items for {len(places)} keys"
                    raise ProtocolError(f"shard {shard} answered a request for several keys with {told}")
                for place, item in zip(places, answer.items, strict=False):
                    if item is not None:
                        found[place] = Value(item.value, item.revision, answer.index, answer.age, answer.stale)
                # The answer was full before the list was: the rest is asked for again.
                places = places[len(answer.items) :]

    await together([work() for _ in range(min(len(unasked), GET_MANY_AT_ONCE_MAX))])
    return found


async def scan(
    core: Core,
    what: Scan,
    consistency: Freshness,
    shards: Sequence[int],
    limit: int | None,
    timeout: float,
    seen: Marks,
) -> AsyncIterator[Item]:
    """The items of a range, of all these shards, in order. `timeout`: of each page."""
    loop = asyncio.get_running_loop()
    parts = [Part(shard, what.start, what.end, what.backward) for shard in shards]
    left = limit

    async def load(part: Part, items_max: int, deadline: float) -> None:
        level, index_min, age_ms_max, stale_ok = fresh(consistency, seen.at[part.shard])
        asked = replace(
            what,
            start=part.start,
            end=part.end,
            limit=items_max,
            consistency=level,
            index_min=index_min,
            age_ms_max=age_ms_max,
            stale_ok=stale_ok,
        )
        part.load(await core.items(asked, part.shard, deadline, timeout, seen))

    while left != 0 and (parts := [part for part in parts if not part.done]):
        hungry = [part for part in parts if part.hungry]
        items_max = 0 if left is None else min(left, SCAN_ITEMS_MAX)
        deadline = loop.time() + timeout
        await together([load(part, items_max, deadline) for part in hungry])
        for item in ready(parts, what.backward)[:left]:
            yield item
            left = None if left is None else left - 1


async def together(works: Sequence[Coroutine[None, None, None]]) -> None:
    """All at once; the first that fails ends the others."""
    if len(works) == 1:
        return await works[0]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        forget(tasks)
