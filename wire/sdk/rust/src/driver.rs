//! The task that owns a connection's socket: writes what callers appended, reads replies, sweeps deadlines.
//!
//! One turn is: write, read, sweep, sleep. Writing comes first: after a burst of replies the callers have appended by then
//! what they ask next, and a stream of replies without end cannot hold requests back. Nor deadlines: reads that complete something are
//! followed by a sweep only each so often, as the next read mostly finds nothing.
//!
//! **Not here**: what callers do (`connection.rs`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ringbeam_wire::client::RequestBody;
use ringbeam_wire::frame::Decoder;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Sleep;

use crate::answer::{self, Answer, Outcome};
use crate::connection::{Connection, FOLLOWING, NOBODY};
use crate::limits::{OUT_BYTES_KEPT, READS_PER_SWEEP, REPLIES_PER_LOCK, SILENCE_BEFORE_PING, SILENCE_MAX, STALL, SWEEP};

/// See the head of this file.
pub(crate) struct Driver {
    connection: Arc<Connection>,
    reader: OwnedReadHalf,
    decoder: Decoder,
    /// Decoded, not handed to their calls yet. Empty between turns.
    replies: Vec<(u64, Outcome)>,
    /// Calls to wake once the lock is released. Empty between turns.
    wakers: Vec<Waker>,
    /// Taken out of `out`, and how much of it the kernel has.
    piece: Vec<u8>,
    piece_sent: usize,
    sweep: Pin<Box<Sleep>>,
    /// Reads that completed something since the last look at it.
    unswept: u32,
    /// Bytes came since the last sweep.
    heard: bool,
    heard_at: Instant,
    pinged: bool,
    /// A call was completed since the last sweep.
    progress: bool,
    progress_at: Instant,
}

impl Driver {
    /// Drives the connection until it is closed from either side.
    pub(crate) async fn run(connection: Arc<Connection>, reader: OwnedReadHalf, decoder: Decoder) {
        let mut driver = Driver::new(connection, reader, decoder);
        loop {
            match poll_fn(|cx| driver.turn(cx)).await {
                Ok(burst) if burst > 1 => tokio::task::yield_now().await,
                Ok(_) => {}
                Err(why) => {
                    // Not when we closed it ourselves.
                    if driver.connection.is_open() {
                        driver.connection.health.failed();
                        let client = driver.connection.doubt.get().and_then(Weak::upgrade);
                        if let Some(metrics) = client.and_then(|client| client.hooks.0.clone()) {
                            let welcome = &driver.connection.welcome;
                            metrics.connection_lost(welcome.node, welcome.shard, &why);
                        }
                    }
                    return driver.connection.close_by_driver(&why);
                }
            }
        }
    }

    fn new(connection: Arc<Connection>, reader: OwnedReadHalf, decoder: Decoder) -> Driver {
        Driver {
            connection,
            reader,
            decoder,
            replies: Vec::with_capacity(REPLIES_PER_LOCK),
            wakers: Vec::new(),
            piece: Vec::new(),
            piece_sent: 0,
            sweep: Box::pin(tokio::time::sleep(SWEEP)),
            unswept: 0,
            heard: false,
            heard_at: Instant::now(),
            pinged: false,
            progress: false,
            progress_at: Instant::now(),
        }
    }

    /// Ready with the number of calls completed, pending when there is nothing to do, an error at the end.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, String>> {
        loop {
            let blocked = match self.write(cx) {
                Ok(blocked) => blocked,
                Err(why) => return Poll::Ready(Err(why)),
            };
            let burst = match self.read(cx) {
                Ok(burst) => burst,
                Err(why) => return Poll::Ready(Err(why)),
            };
            // A stream of replies without end must not hold deadlines back. Usually the socket is empty before so many reads.
            self.unswept = if burst > 0 { self.unswept + 1 } else { READS_PER_SWEEP };
            if self.unswept >= READS_PER_SWEEP {
                self.unswept = 0;
                if let Err(why) = self.sweep(cx) {
                    return Poll::Ready(Err(why));
                }
            }
            if burst > 0 {
                return Poll::Ready(Ok(burst));
            }
            let mut shared = self.connection.lock();
            if let Some(why) = &shared.closed {
                return Poll::Ready(Err(why.to_string()));
            }
            // A call that came after the sweep and wrote itself has woken nobody: without a sweep ahead it might wait for ever.
            let timed = shared.sweeping || shared.slab.waiting() == 0;
            if timed && (shared.out.is_empty() || blocked) {
                shared.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }

    /// Writes until nothing is left (false) or the socket takes no more (true).
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let connection = self.connection.clone();
        // The rest of a piece: whoever closed the connection meanwhile has told its calls.
        if self.piece_sent < self.piece.len() && !connection.is_open() {
            return Ok(false);
        }
        let mut taken = 0;
        loop {
            if self.piece_sent == self.piece.len() {
                self.piece.clear();
                self.piece_sent = 0;
                if self.piece.capacity() > OUT_BYTES_KEPT {
                    self.piece = Vec::new();
                }
                let mut shared = connection.lock();
                shared.sent += std::mem::take(&mut taken);
                shared.writing = !shared.out.is_empty();
                if !shared.writing {
                    return Ok(false);
                }
                std::mem::swap(&mut self.piece, &mut shared.out);
            }
            let rest = self.piece.get(self.piece_sent..).unwrap_or_default();
            let why = match connection.writer.try_write(rest) {
                Ok(bytes) => {
                    self.piece_sent += bytes;
                    taken += bytes as u64;
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    match connection.writer.as_ref().poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => continue,
                        Poll::Ready(Err(error)) => Some(error),
                        Poll::Pending => None,
                    }
                }
                Err(error) => Some(error),
            };
            connection.lock().sent += taken;
            return match why {
                None => Ok(true),
                Some(error) => Err(format!("sending failed: {error}")),
            };
        }
    }

    /// Reads until at least one call is completed or nothing more is there.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<usize, String> {
        loop {
            let mut space = ReadBuf::new(self.decoder.space());
            match Pin::new(&mut self.reader).poll_read(cx, &mut space) {
                Poll::Pending => return Ok(0),
                Poll::Ready(Err(error)) => return Err(format!("receiving failed: {error}")),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = space.filled().len();
            if bytes == 0 {
                return Err("the node closed the connection".into());
            }
            self.heard = true;
            self.decoder.filled(bytes);
            let burst = self.take_replies()?;
            if burst > 0 {
                return Ok(burst);
            }
        }
    }

    fn take_replies(&mut self) -> Result<usize, String> {
        let mut burst = 0;
        loop {
            let payload = self.decoder.next().map_err(|error| error.to_string())?;
            let more = match payload {
                Some(payload) => {
                    match answer::decode(&payload)? {
                        (FOLLOWING, outcome) => self.told(outcome),
                        reply => self.replies.push(reply),
                    }
                    true
                }
                None => false,
            };
            if self.replies.len() == REPLIES_PER_LOCK || !more {
                burst += self.replies.len();
                self.hand_over(burst);
            }
            if !more {
                return Ok(burst);
            }
        }
    }

    /// A topology that was not asked for again. A node that knows no such stream refuses it, which changes nothing.
    fn told(&self, outcome: Outcome) {
        if let Outcome::Answer(Answer::Topology(topology)) = outcome
            && let Some(client) = self.connection.doubt.get().and_then(Weak::upgrade)
        {
            client.told(&topology);
        }
    }

    fn hand_over(&mut self, burst: usize) {
        if self.replies.is_empty() {
            return;
        }
        let mut shared = self.connection.lock();
        for (id, outcome) in self.replies.drain(..) {
            self.wakers.extend(shared.slab.complete(id, outcome));
        }
        shared.burst = burst;
        drop(shared);
        self.progress |= !self.wakers.is_empty();
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Ends calls whose deadline has passed, as long as anybody waits. Fails when the node is silent for too long.
    fn sweep(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        let connection = self.connection.clone();
        let mut shared = connection.lock();
        if !shared.sweeping {
            if shared.slab.waiting() == 0 {
                return Ok(());
            }
            shared.sweeping = true;
            self.heard = true;
            self.sweep.as_mut().reset(tokio::time::Instant::now() + SWEEP);
        }
        drop(shared);
        while self.sweep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let mut shared = connection.lock();
            let due = |deadline, _| (deadline <= now).then_some(Outcome::DeadlinePassed);
            shared.slab.sweep(&mut self.wakers, due);
            shared.sweeping = shared.slab.waiting() > 0;
            let sweeping = shared.sweeping;
            drop(shared);
            self.wakers.drain(..).for_each(Waker::wake);
            if !sweeping {
                return Ok(());
            }
            self.listen(now)?;
            self.sweep.as_mut().reset(tokio::time::Instant::now() + SWEEP);
        }
        Ok(())
    }

    /// Notices a node that owes replies and says nothing, or nothing but pongs.
    fn listen(&mut self, now: Instant) -> Result<(), String> {
        if std::mem::take(&mut self.heard) {
            self.heard_at = now;
            self.pinged = false;
        }
        let silence = now.saturating_duration_since(self.heard_at);
        if silence >= SILENCE_MAX {
            return Err(format!("the node owes replies and has been silent for {} ms", silence.as_millis()));
        }
        if silence >= SILENCE_BEFORE_PING && !self.pinged {
            self.pinged = true;
            self.connection.lock().append(NOBODY, 0, &RequestBody::Ping);
        }
        if std::mem::take(&mut self.progress) {
            self.progress_at = now;
        }
        if now.saturating_duration_since(self.progress_at) >= STALL {
            self.progress_at = now;
            if let Some(client) = self.connection.doubt.get().and_then(Weak::upgrade) {
                tokio::spawn(client.reconsider(self.connection.clone()));
            }
        }
        Ok(())
    }
}

impl Drop for Driver {
    /// Also when the runtime ends and drops the task: nobody may wait for ever.
    fn drop(&mut self) {
        self.connection.close_by_driver("the runtime that drove this connection has ended");
    }
}

#[cfg(test)]
mod tests;
