"""Ranges that are deleted: slice by slice, on all shards that have a part of it at once.

    delete_range -> per shard: DeleteRange -> RangeDeleted, more -> DeleteRange -> .. -> no more

A slice (up to 1000 keys of one shard, some 4 MiB) goes at once and exactly once; the whole range does not. A key that
is written meanwhile may go or stay. After an error some slices are gone, and calling again deletes the rest.

Not here: retries (`_call.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ringbeam._answers import RangeDeleted
from ringbeam._call import Core
from ringbeam._consistency import Marks
from ringbeam._errors import ProtocolError
from ringbeam._reads import together
from ringbeam._requests import DeleteRange


async def delete_range(core: Core, what: DeleteRange, shards: Sequence[int], timeout: float, seen: Marks) -> int:
    """Deletes a range on these shards. `timeout`: of each slice. Returns how many keys there were."""
    gone = 0

    async def delete_of(shard: int) -> None:
        nonlocal gone
        more = True
        while more:
            slice = await core.write_to(what, shard, RangeDeleted, timeout, seen)
            gone += slice.deleted
            more = slice.more
            if more and not slice.deleted:
                raise ProtocolError(f"shard {shard} deleted nothing of a range that has more")

    await together([delete_of(shard) for shard in shards])
    return gone
