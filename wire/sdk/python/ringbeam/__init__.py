"""The Python SDK of ringbeam: an asyncio client of a replicated, durable, strongly consistent key-value store.

    async with await ringbeam.connect("127.0.0.1:7701,127.0.0.1:7702") as client:
        written = await client.put("greeting", "hello")   # durable on a quorum of disks and applied
        found = await client.get("greeting")              # sees every write that was acknowledged before

What it promises

- Every call ends by its deadline (5 s unless said otherwise, kept to within 10 ms) with an answer or with an Error that
  says what is certain. Refused and Timeout: it did not happen. Unknown: it may have.
- Exactly once. A write that is repeated after a lost connection carries the same session and sequence, and the shard
  applies it once. A transaction is a write.
- No configuration to keep. Leaders, members and redirects are followed; a dead leader is left as soon as its connection
  ends, one that has been deposed without noticing after one second, a silent one after two.
- One client for all tasks. Calls from many tasks share one connection per (node, shard) and leave in as few sends as
  possible. A cancelled call forgets its reply; the write may still happen.

What else there is: counters, deltas and lives of keys, leases, ranges that go (Client.add, append, merge_patch,
put(ttl=.., lease=..), lease, delete_range), reads with a contract (Consistency, Bounded, Token), watches
(Client.watch), and what became of a lost write (Client.outcome).

The way of a call

    key -> slot -> shard -> ticket (session, sequence) -> leader's connection -> encode, one write for many calls
       _client.py, _slots.py    _session.py, _shard.py       _call.py               _connection.py, _wire.py
    anything but success: _retry.py decides, _leader.py finds the leader, _pool.py connects

Transactions go the same way (_transaction.py); reads of several keys go it once per shard or page (_reads.py). A watch
has connections of its own (_watch.py).

Decisions are pure (_routing, _readers, _retry, _budget, _breaker, _pace, _session, _ranges: no asyncio, no clock, no
randomness inside); the rest carries them out.
"""

from ringbeam._answers import (
    ABSENT,
    Breakdown,
    Consistency,
    Counted,
    Item,
    LeaseStatus,
    Member,
    Progress,
    Read,
    Revision,
    Role,
    SlotRange,
    Status,
    Topology,
    Transacted,
    Value,
    Written,
)
from ringbeam._client import VERSION as __version__
from ringbeam._client import Client, connect
from ringbeam._consistency import Bounded, Token
from ringbeam._errors import Compacted, ConnectError, Error, ProtocolError, Refused, Timeout, Unknown
from ringbeam._events import Event, EventKind, Fold
from ringbeam._lease import Lease
from ringbeam._outcome import Happened, Ticket
from ringbeam._refusal import Code
from ringbeam._transaction import Compare, Delete, Get, Put, Relation, Txn, ValueIs
from ringbeam._watch import Batch, Watch

__all__ = [
    "connect",
    "Client",
    "Consistency",
    "Bounded",
    "Token",
    "Value",
    "Read",
    "Written",
    "Revision",
    "Breakdown",
    "Counted",
    "ABSENT",
    "ValueIs",
    "Txn",
    "Compare",
    "Relation",
    "Get",
    "Put",
    "Delete",
    "Transacted",
    "Watch",
    "Event",
    "EventKind",
    "Fold",
    "Batch",
    "Lease",
    "LeaseStatus",
    "Item",
    "Error",
    "Refused",
    "Compacted",
    "Code",
    "Unknown",
    "Ticket",
    "Happened",
    "Timeout",
    "ConnectError",
    "ProtocolError",
    "Topology",
    "Member",
    "Role",
    "SlotRange",
    "Status",
    "Progress",
    "__version__",
]
