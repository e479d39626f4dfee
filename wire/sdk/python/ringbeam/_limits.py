"""Every bound of the SDK and of the wire as far as a client needs it, with its unit and its reason.

The same numbers as in the Rust SDK (wire/sdk/rust/src/limits.rs) and in wire/limits.rs; times are seconds here.
"""

from __future__ import annotations

from typing import Final

# ---- the SDK ----

TIMEOUT_DEFAULT: Final = 5.0
"""A call's deadline unless the caller says another. Longer than any healthy election (0.6 to 1.2 s) twice over."""

TIMEOUT_MAX: Final = 365 * 86_400.0
"""A longer timeout is no deadline in practice; a year is as good."""

DEADLINE_MARGIN_MAX: Final = 0.05
"""What is held back from the deadline that the server is told, so that its "too late, and certainly not done" still
arrives in time to be better news than our own "unknown": an eighth of what remains, at most this."""

BACKOFF_MS_MIN: Final = 5
"""Shortest wait of a back-off, milliseconds."""

BACKOFF_MS_MAX: Final = 100
"""Longest wait of a back-off, milliseconds: the extra time after a failover, so well under an election."""

REDIRECTS_AT_ONCE_MAX: Final = 2
"""Redirects that one call follows at once. More in a row are nodes that disagree during an election: back off."""

SEARCH_MS_MAX: Final = 1_000
"""Longest wait between two searches for a leader, milliseconds, when there has been none for long: every client asks
every node."""

RETRIES_PER_CALL: Final = 0.1
"""What a first attempt puts into the retry budget, retries: a ring in trouble sees a tenth more, not a multiple."""

LEADERLESS_FREE: Final = 8
"""So many repeats of a call cost no retry that met nodes which do not lead: two or three wrong ones in an election."""

RETRY_FADE: Final = 10.0
"""What first attempts put into the retry budget fades with this time constant: a failover's worth of seconds."""

RETRY_RESERVE: Final = 100.0
"""Retries that a client may make that has called seldom: those of a hundred writes whose connection is lost."""

RETRY_RESERVE_PER_SECOND: Final = 1.0
"""The reserve grows back by so many retries a second: whoever waits for a ring in trouble may knock once a second."""

RATE_WINDOW: Final = 1.0
"""The rate of calls is measured over this long: seconds-long outages are to be set against it."""

SPREAD_MAX: Final = 5.0
"""Calls that waited for a leader are let go within this long, whatever their number: a call's usual deadline."""

BREAKER_FAILURES: Final = 3
"""Failures in a row after which a node is left alone. One or two are what a restart looks like."""

BREAKER_MS_MIN: Final = 100
"""A node is left alone for at most this long at first, milliseconds: several searches for a leader."""

BREAKER_MS_MAX: Final = 2_000
"""A node is left alone for at most this long at last, milliseconds: it serves again so much later than it could."""

BREAKER_PROBE: Final = 1.0
"""Whoever finds out whether a node is back has this long before somebody else may: see CONNECT_TIMEOUT."""

SESSIONS_LOST_MAX: Final = 3
"""Sessions that one write may lose before it gives up: a ring that expires a session before its first write is
broken."""

SESSION_WINDOW_DEFAULT: Final = 1024
"""Unanswered writes of one session when the server does not say (`Welcome.session_window` 0)."""

SESSION_WINDOW_MAX: Final = 1 << 16
"""Most unanswered writes of one session, whatever the server allows."""

OUTCOME_HELD: Final = 60.0
"""How long the answer of a write whose outcome is unknown is held for whoever asks for it: time for a person to read an
error and type a command. The ring keeps the answers of all later writes of the session meanwhile."""

OUTCOME_WINDOW_PART: Final = 4
"""What such a write may hold of its session's window, as one part in so many: the rest is for writes that go on."""

CONNECT_TIMEOUT: Final = 1.0
"""Opening a connection (TCP and Hello) takes at most this; a dead host must not eat a whole deadline."""

PROBE_TIMEOUT: Final = 0.5
"""Asking one node who leads takes at most this."""

PROBE_GRACE: Final = 0.01
"""Once one node has named a leader, the others have this long to name one of a later term."""

CONNECT_FAILURE_SHARED: Final = 0.02
"""A failed attempt to connect answers all callers for this long, so that many tasks do not dial one dead node."""

SWEEP: Final = 0.01
"""Deadlines of calls in flight are looked at this often."""

BLOCKED_LOOP: Final = 0.1
"""A sweep later than this was held up by the application's own code: that time does not count as the node's silence."""

SILENCE_BEFORE_PING: Final = 0.5
"""A connection that owes replies and has been silent for this long is pinged; a live node answers without its log."""

SILENCE_MAX: Final = 2.0
"""A connection that owes replies and has been silent for this long is dead: its host vanished without a reset."""

STALL: Final = 1.0
"""A leader that completes none of its calls for this long makes the client ask the other nodes whether a later term has
another leader: it may be cut off from its quorum and not from us. Longer than a slow disk's usual hiccup."""

ABOUT_EQUAL: Final = 0.000_3
"""Round trips that differ by less are equal: what two measurements on one machine differ by."""

ROUND_TRIP_WEIGHT: Final = 8
"""A new round trip counts for one part of so many in the smoothed one."""

ASIDE_MIN: Final = 0.1
"""A node that failed is not read from for this long; twice as long with each further failure in a row."""

ASIDE_MAX: Final = 30.0
"""And at most this long: a node that is back is found again within it."""

CHOICE_KEPT: Final = 0.25
"""The node that reads go to is chosen for this long. Calls of one time leave together, which halves what each costs; a
node that has become slow is left soon enough."""

SURVEY_INTERVAL: Final = 2.0
"""Round trips to nodes that may be read from are measured this often, while there are such reads."""

SURVEYED_MAX: Final = 8
"""So many of them at most: more than a region has."""

SURVEY_TIMEOUT: Final = 0.5
"""One measurement takes at most this."""

FRESH_PATIENCE: Final = 0.4
"""How long a node that may not be fresh enough is given for a session's or a bounded read, before another is asked: a
round trip to a far leader and its quorum."""

FRESH_READERS_TRIED: Final = 2
"""Nodes that such a read is sent to before it goes to the leader."""

KEPT_ALIVE_TIMES: Final = 3
"""A lease is kept alive so many times in its time: one keep-alive may be lost, and the next still comes early
enough."""

WATCH_EVENTS_MAX: Final = 10_000
"""Events of one shard that wait for who watches. Beyond it the node has to wait, which has rules of its own for
that."""

WATCH_PROGRESS: Final = 1.0
"""A node says at least this often how far a watch is, seconds: so much history it goes through again after a
disconnect."""

PIN_ASKED_AGAIN: Final = 4.0
"""A shard's part of a scan that has asked for nothing for so long, seconds, asks its node for one key more when the
next item is taken: it waits behind others, or the program takes its time. A node gives up a moment that has rested for
30 s; for 5 s, if it has no room for another scan."""

IN_FLIGHT_MAX: Final = 1 << 16
"""Calls in flight on one connection; more than this is a queue, not a pipeline."""

OUT_BYTES_MAX: Final = 8 << 20
"""Bytes waiting for a socket that does not drain. Beyond it calls wait instead of memory growing."""

GET_MANY_AT_ONCE_MAX: Final = 64
"""Requests of one `get_many` in flight at once: a list of a million keys must not fill the queue in which the calls of
others wait."""

CLOSE_TIMEOUT: Final = 1.0
"""`Client.close` waits this long for its last words to leave. What is lost then is a session that expires by itself."""

CLIENT_NAME_BYTES_MAX: Final = 256
"""Longest client name, bytes: it must fit a Hello beside everything else."""

# ---- the wire ----

SLOTS: Final = 4096
"""Number of slots. A ring can never have more shards."""

KEY_BYTES_MAX: Final = 4096
"""Longest key, bytes."""

VALUE_BYTES_HARD_MAX: Final = 16 << 20
"""Longest value that a node may be configured to take, bytes. What it does take, it says in Welcome."""

NAMESPACE_BYTES_MAX: Final = 64
"""Longest namespace name, bytes of UTF-8."""

SHARDS_MAX: Final = 256
"""Most shards of a ring."""

MEMBERS_MAX: Final = 1024
"""Most members in one message."""

TRANSACTION_PARTS_MAX: Final = 128
"""Most compares and steps of a transaction, both lists together."""

GET_MANY_KEYS_MAX: Final = 128
"""Most keys of one request for several."""

GET_MANY_KEY_BYTES_MAX: Final = 8 << 10
"""All keys of one such request together, bytes."""

SCAN_ITEMS_MAX: Final = 1000
"""Most items of one page of a scan."""

PIN_KEYS_MAX: Final = (1 << 32) - 1
"""Keys wanted of a shard by a scan that has no limit, or a larger one."""

ITEMS_BYTES_MAX: Final = 256 << 10
"""Keys and values of one page, bytes; one item more may go beyond."""

DELETE_RANGE_KEYS_MAX: Final = 1000
"""Most keys of one slice of a range deletion."""

LEASE_TTL_MS_MAX: Final = 100 * 365 * 86_400_000
"""Longest time of a lease or a key, milliseconds."""

LEASE_TTL_MS_MIN: Final = 1000
"""Shortest time of a lease, milliseconds. Keys may go earlier."""

COUNTER_MIN: Final = -(1 << 63)
"""The least number that a counter can be."""

COUNTER_MAX: Final = (1 << 63) - 1
"""The greatest number that a counter can be."""

EVENTS_MAX: Final = 1 << 16
"""Most events in one message of a watch: more than fit a frame is what no node sends."""

FRAME_OVERHEAD_BYTES_MAX: Final = 16 << 10
"""What a frame may need beyond its namespace, key and value, bytes."""

REPLY_FRAME_BYTES_MAX: Final = (
    VALUE_BYTES_HARD_MAX + KEY_BYTES_MAX + ITEMS_BYTES_MAX + SCAN_ITEMS_MAX * 64 + FRAME_OVERHEAD_BYTES_MAX
)
"""Longest payload of a reply, bytes: a page and the largest value behind it, or a topology of MEMBERS_MAX members."""

assert BACKOFF_MS_MIN < BACKOFF_MS_MAX
assert SILENCE_BEFORE_PING < SILENCE_MAX
assert KEY_BYTES_MAX <= GET_MANY_KEY_BYTES_MAX, "the longest key can be asked for"
assert GET_MANY_KEYS_MAX <= SCAN_ITEMS_MAX, "one bound for the items of an answer"
