"""Reads of several keys, carried out: multi-gets and scans, over all shards that have a part in them.

    get_many -> batches per shard, some at once -> answers, each of one moment -> values in the order of the keys
    scan     -> first pages of all shards at once -> what is certain to be next -> a page where a shard ran out -> ...
                each pins its moment, if it does not                               of the shard's moment, from the node
                have all that is wanted of its shard                               that keeps it, whoever leads

A scan holds nothing between two items but the pages that it has loaded, and the moments that nodes keep for it: whoever
stops early leaves no task behind, and the nodes are told in passing.

    what is given out   a b c d e f ..   the program takes its time with each; 4 s after a page was asked for
                              ^          one key more is, of each node that keeps a moment: no other sign would reach it

Invariants
- A pinned moment whose id is known here is ended by one Unpin, when nothing more is to be asked of it, if there is a
  connection to its node then. Else its node gives it up, 5 s after its last page or 30 s after another one; and so one
  whose first page was lost.
- While items are taken from a scan, no moment of it rests for longer than PIN_ASKED_AGAIN and the time that one takes.
- What is loaded while items are given out is behind all of them.
- A scan of one page asks for nothing more than that page.

Not here: what goes into a request and in which order pages merge (`_ranges.py`), retries (`_call.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import replace

from ringbeam._answers import ABSENT, Item, Value
from ringbeam._call import Core, refuse
from ringbeam._consistency import Freshness, Marks, fresh
from ringbeam._errors import Compacted, ProtocolError, Refused
from ringbeam._leader import forget
from ringbeam._limits import GET_MANY_AT_ONCE_MAX, PIN_KEYS_MAX
from ringbeam._ranges import Part, again_at, batches, ready
from ringbeam._refusal import Code, Refusal, check_key, check_namespace
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
                answer, _ = await core.items(asked, shard, deadline, timeout, seen)
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
    page: int,
    pinned: bool,
    timeout: float,
    seen: Marks,
) -> AsyncGenerator[Item, None]:
    """The items of a range, of all these shards, in order. `what`: but for its consistency and its moment. `page`:
    items of each page at most. `pinned`: all items of a shard are of one moment. `timeout`: of each page."""
    loop = asyncio.get_running_loop()
    parts = [Part(shard, what.start, what.end, what.backward) for shard in shards]
    left = limit

    async def load(part: Part, items_max: int, deadline: float) -> None:
        part.asked_at = loop.time()
        await (load_pinned if part.pin else load_unpinned)(part, items_max, deadline)
        if part.whole:
            # Its node cannot know that the last page is here: it would have been asked for again.
            let_go(part)

    async def load_unpinned(part: Part, items_max: int, deadline: float) -> None:
        level, index_min, age_ms_max, stale_ok = fresh(consistency, seen.at[part.shard])
        wanted = min(PIN_KEYS_MAX if left is None else left, PIN_KEYS_MAX) if pinned else 0
        asked = replace(
            what,
            start=part.start,
            end=part.end,
            limit=items_max,
            consistency=level,
            index_min=index_min,
            age_ms_max=age_ms_max,
            stale_ok=stale_ok,
            pin=wanted,
        )
        answer, node = await core.items(asked, part.shard, deadline, timeout, seen)
        part.load(answer, node, wanted)

    async def load_pinned(part: Part, items_max: int, deadline: float) -> None:
        asked = replace(what, start=part.start, end=part.end, limit=items_max, pinned=part.pin, pinned_index=part.index)
        try:
            answer, _ = await core.items(asked, part.shard, deadline, timeout, seen, part.node)
        except Refused as refused:
            if refused.code is not Code.COMPACTED:
                raise
            # There is nothing to be ended.
            part.pin = 0
            raise _gone(refused.refusal, part.shard) from None
        part.load(answer)

    def let_go(*parts: Part) -> None:
        for part in parts:
            if part.pin:
                core.unpin(part.shard, part.node, part.pin)
                part.pin = 0

    try:
        while left != 0 and (under_way := [part for part in parts if not part.done]):
            now = loop.time()
            items_max = page if left is None else min(left, page)
            loads = [load(part, items_max, now + timeout) for part in under_way if part.hungry]
            # Of these enough is loaded; one key more, so that their nodes go on keeping their moments.
            loads += [load(part, 1, now + timeout) for part in under_way if part.rests(now) and not part.hungry]
            await together(loads)
            items = ready(under_way, what.backward)[:left]
            if len(items) == left:
                # The limit is reached with these: nothing more is asked for.
                let_go(*parts)
            again = again_at(parts)
            for item in items:
                if again is not None and (now := loop.time()) >= again:
                    # No page is due, but the program takes its time. One key will do for a part that has none left,
                    # too: who is that slow waits for no page yet, and is not to make us hold one more. If it fails, the
                    # program hears of it now, and not when it has worked through what is loaded.
                    await together([load(part, 1, now + timeout) for part in parts if part.rests(now)])
                    again = again_at(parts)
                yield item
                left = None if left is None else left - 1
    finally:
        let_go(*parts)


def _gone(refusal: Refusal, shard: int) -> Compacted:
    message = f"{refusal.message}; scan anew, or with pinned=False: then each page is of a moment of its own"
    return Compacted(replace(refusal, message=message), shard, ABSENT)


async def together(works: Sequence[Coroutine[None, None, None]]) -> None:
    """All at once; the first that fails ends the others."""
    if len(works) == 1:
        return await works[0]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        forget(tasks)
