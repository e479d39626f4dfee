"""One connection to one shard on one node: many calls in flight, one protocol object that owns the socket.

    call: encode, append to `out`  --+           +-->  sets the calls' futures; their tasks run in the next round of
    call: encode, append  -----------+           |     the loop, so that their next requests leave in one write
    call: ...                        v           |
                  flush: one write of all of `out`  ->  data_received: decode, complete

Coalescing. The first call of a round of the loop plans a flush; until it runs, the others only append. A lone call on a
quiet connection is written at once.

Deadlines. No timer per call: waiting calls are looked at every SWEEP while there are any, so a deadline is kept to
within that. The same look finds a silent node: it is pinged, then given up. A loop that was blocked by the application
is not the node's silence.

Streams. What is answered again and again (a watch) has a sink, which gets every answer with the request's id until it
is dropped or the connection ends. While there are any, a silent node is pinged and then given up, as for calls; but
nobody hears a node while `hold` keeps its words in the socket.

Invariants
- Whoever waits is answered, swept, or told that the connection is lost: no outcome depends on another event.
- Lost(sent=False) is said only when the transport was never given the request. The transport takes no more than it can
  pass to the kernel: while anything lies in its buffer, requests stay in `out`.
- After `closed` is set, nothing is added to `out` and nobody waits.

Not here: which node, what to do when it fails (`_call.py`), how it is opened (`_pool.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import getrandbits
from typing import Final

from ringbeam._answers import Welcome
from ringbeam._breaker import Breaker
from ringbeam._frame import VERSION, Decoder, FrameError, preamble
from ringbeam._limits import (
    BLOCKED_LOOP,
    IN_FLIGHT_MAX,
    OUT_BYTES_MAX,
    REPLY_FRAME_BYTES_MAX,
    SILENCE_BEFORE_PING,
    SILENCE_MAX,
    STALL,
    SWEEP,
)
from ringbeam._refusal import Refusal
from ringbeam._requests import Body, CloseSession, Hello, Ping, Unpin, Unwatch
from ringbeam._retry import Lost, Trouble
from ringbeam._wire import NOBODY, Answer, Malformed, decode_reply, encode_request

Outcome = Answer | Lost | Trouble
"""How an attempt ended."""

Sink = Callable[[Answer | Lost], None]
"""Whom to tell what a stream brings, and that its connection is lost."""

Doubt = Callable[["Connection"], None]
"""Whom to tell that this node completes nothing."""

_NEVER: Final = float("inf")


class Connection(asyncio.Protocol):
    """See the head of this file."""

    def __init__(self, address: str, doubt: Doubt, breaker: Breaker) -> None:
        self.address = address
        self.breaker = breaker
        """Its node's, as all connections to this address see it."""
        self.welcome = Welcome()
        self.closed: str | None = None
        """Why there is no more connection."""
        self.nonsense = False
        """It was closed because the node sent what is no reply."""
        self.gone: asyncio.Event = asyncio.Event()
        """Set when the transport has let go of the socket."""
        self._doubt = doubt
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder(REPLY_FRAME_BYTES_MAX)
        # By request id: who waits, and until when.
        self._waiting: dict[int, tuple[asyncio.Future[Outcome], float]] = {}
        # By request id: who is told of every answer.
        self._sinks: dict[int, Sink] = {}
        # How many streams a silent node would be noticed by.
        self._attended = 0
        self._attending: asyncio.TimerHandle | None = None
        self._held = False
        self._next_id = 1
        # Encoded requests that the transport does not have; the first of them belongs to `_unsent_from`.
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._unsent_from = 1
        self._paused = False
        self._flush_planned = False
        # Replies in the last read.
        self._burst = 0
        self._sweep: asyncio.TimerHandle | None = None
        # No waiting call's deadline is earlier.
        self._deadline_min = _NEVER
        self._heard = False
        self._heard_at = 0.0
        self._pinged = False
        self._progress = False
        self._progress_at = 0.0

    # ---- what callers do ----

    @property
    def is_open(self) -> bool:
        """Whether calls can still be made."""
        return self.closed is None

    @property
    def busy(self) -> int:
        """How many calls wait for their answers."""
        return len(self._waiting)

    def why_closed(self) -> str:
        """Why it is closed, as the end of a sentence about this node."""
        return f"{self.address}: {self.closed or 'the connection is open'}"

    async def greet(self, shard: int, ring: int, client: str) -> Welcome | Refusal | str:
        """Preamble and Hello. Returns the node's answer, or in words why that is not one, or why there is none:
        `closed`."""
        welcomed: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting[NOBODY] = (welcomed, _NEVER)
        self._out.append(preamble(shard))
        self._append(NOBODY, 0, Hello(VERSION, VERSION, 0, ring, client))
        self._flush()
        try:
            answer = await welcomed
        finally:
            self._waiting.pop(NOBODY, None)
        if isinstance(answer, Welcome | Refusal):
            return answer
        if isinstance(answer, Lost):
            return f"the connection ended before Welcome: {self.closed}"
        return f"the answer to Hello is {type(answer).__name__}, neither Welcome nor Refused"

    async def call(self, body: Body, deadline: float, deadline_ms: int) -> Outcome:
        """Sends a request and waits for its outcome. A cancelled call forgets the reply, it does not take the request
        back."""
        if self.closed is not None:
            return Lost(sent=False)
        if self._out_bytes > OUT_BYTES_MAX or len(self._waiting) >= IN_FLIGHT_MAX:
            return Trouble.BUSY
        lone = not self._waiting and self._burst <= 1
        id = self._next_id
        self._next_id += 1
        self._append(id, deadline_ms, body)
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting[id] = (outcome, deadline)
        if deadline < self._deadline_min:
            self._deadline_min = deadline
        if self._sweep is None:
            self._begin_sweeping()
        if lone:
            self._flush()
        elif not self._flush_planned and not self._paused:
            self._flush_planned = True
            self._loop.call_soon(self._flush)
        try:
            return await outcome
        finally:
            self._waiting.pop(id, None)

    def follow(self, body: Body, sink: Sink, attended: bool = True) -> int:
        """Sends a request whose answers, as many as come, are the sink's. Returns its id, for `drop`. Not attended: a
        node that falls silent is noticed by others."""
        id = self._next_id
        self._next_id += 1
        if self.closed is not None:
            sink(Lost(sent=False))
            return id
        self._sinks[id] = sink
        self._append(id, 0, body)
        self._flush()
        self._attended += attended
        if attended and self._attending is None:
            self._heard = True
            self._attend(0)
        return id

    def drop(self, id: int, last_word: Unwatch | None = None) -> None:
        """The sink of this request is told nothing more. `last_word` needs no answer."""
        if self._sinks.pop(id, None) is not None and self.closed is None:
            self._attended -= 1
            if last_word is not None:
                self.say(last_word)

    def say(self, word: Unwatch | Unpin) -> None:
        """Sends what needs no answer, if there is room for it: the node can do without."""
        if self.closed is None and self._out_bytes <= OUT_BYTES_MAX:
            self._append(NOBODY, 0, word)
            self._flush()

    def hold(self, held: bool) -> None:
        """Whether what the node says stays in the socket, so that it is the node that must wait."""
        if held != self._held and self.closed is None and self._transport is not None:
            self._held = held
            self._heard = True
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def close(self, why: str, last_word: CloseSession | None = None) -> None:
        """Ends the connection and tells everyone who waits. `last_word` needs no answer; a failure to send it leaves
        the ring with a session that expires by itself."""
        if self.closed is None:
            self.closed = why
            for id, (outcome, _) in self._waiting.items():
                if not outcome.done():
                    outcome.set_result(Lost(sent=id < self._unsent_from or id == NOBODY))
            sinks = list(self._sinks.values())
            self._sinks.clear()
            for timer in (self._sweep, self._attending):
                if timer is not None:
                    timer.cancel()
            self._sweep = self._attending = None
            self._out.clear()
            self._out_bytes = 0
            if self._transport is not None:
                if last_word is None:
                    self._transport.abort()
                else:
                    self._transport.write(encode_request(NOBODY, 0, last_word))
                    self._transport.close()
            for sink in sinks:
                sink(Lost(sent=True))

    def abort(self) -> None:
        """Lets go of the socket, whatever it still holds."""
        if self._transport is not None:
            self._transport.abort()

    def _append(self, id: int, deadline_ms: int, body: Body) -> None:
        request = encode_request(id, deadline_ms, body)
        self._out.append(request)
        self._out_bytes += len(request)

    def _flush(self) -> None:
        self._flush_planned = False
        if self._paused or not self._out or self._transport is None:
            return
        piece = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._unsent_from = self._next_id
        self._transport.write(piece)

    # ---- what the transport says ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Any byte in the transport's buffer pauses us: so we know what the kernel has, and one write takes all the
        # rest.
        transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.closed is not None:
            return
        self._heard = True
        try:
            payloads = self._decoder.feed(data)
            for payload in payloads:
                id, answer = decode_reply(payload)
                waiting = self._waiting.get(id)
                if waiting is not None and not waiting[0].done():
                    waiting[0].set_result(answer)
                    self._progress = True
                elif (sink := self._sinks.get(id)) is not None:
                    sink(answer)
            self._burst = len(payloads)
        except (FrameError, Malformed) as why:
            self.nonsense = True
            self.close(f"the node sent no sensible reply: {why}")

    def eof_received(self) -> None:
        self._broke("the node closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._broke("the node closed the connection" if exc is None else f"the connection broke: {exc}")
        self.gone.set()

    def _broke(self, why: str) -> None:
        """It ended by itself: that is not so when we closed it. What happens before Welcome is a failure to open it,
        which `_pool.py` counts."""
        if self.closed is None:
            if self.welcome.version:
                self.breaker.failed(self._loop.time(), getrandbits(64))
            self.close(why)

    # ---- what time brings ----

    def _attend(self, pings: int) -> None:
        """Notices a node that streams and says nothing, not even to pings. Calls in flight are swept more often."""
        self._attending = None
        if not self._attended or self.closed is not None:
            return
        if self._heard or self._held or self._waiting:
            pings = 0
        elif pings >= SILENCE_MAX / SILENCE_BEFORE_PING:
            self._broke(f"the node streams and has been silent for {pings * SILENCE_BEFORE_PING * 1000:.0f} ms")
            return
        else:
            pings += 1
            self._append(NOBODY, 0, Ping())
            self._flush()
        self._heard = False
        self._attending = self._loop.call_later(SILENCE_BEFORE_PING, self._attend, pings)

    def _begin_sweeping(self) -> None:
        now = self._loop.time()
        self._heard = False
        self._heard_at = now
        self._pinged = False
        self._progress = False
        self._progress_at = now
        self._sweep = self._loop.call_at(now + SWEEP, self._look, now + SWEEP)

    def _look(self, planned: float) -> None:
        now = self._loop.time()
        self._sweep = None
        if now >= self._deadline_min:
            self._end_the_late(now)
        if not self._waiting:
            self._deadline_min = _NEVER
            return
        if now - planned > BLOCKED_LOOP:
            self._heard_at += now - planned
            self._progress_at += now - planned
        self._listen(now)
        if self.closed is None:
            self._sweep = self._loop.call_at(now + SWEEP, self._look, now + SWEEP)

    def _end_the_late(self, now: float) -> None:
        self._deadline_min = _NEVER
        for outcome, deadline in self._waiting.values():
            if outcome.done():
                continue
            if deadline <= now:
                outcome.set_result(Trouble.DEADLINE_PASSED)
            elif deadline < self._deadline_min:
                self._deadline_min = deadline

    def _listen(self, now: float) -> None:
        """Notices a node that owes replies and says nothing, or nothing but pongs."""
        if self._heard:
            self._heard = False
            self._heard_at = now
            self._pinged = False
        silence = now - self._heard_at
        if silence >= SILENCE_MAX:
            self._broke(f"the node owes replies and has been silent for {silence * 1000:.0f} ms")
            return
        if silence >= SILENCE_BEFORE_PING and not self._pinged:
            self._pinged = True
            self._append(NOBODY, 0, Ping())
            self._flush()
        if self._progress:
            self._progress = False
            self._progress_at = now
        if now - self._progress_at >= STALL:
            self._progress_at = now
            self._doubt(self)
