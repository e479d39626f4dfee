//! One client's connection: frames in, requests dispatched, answers out in the order in which they are ready.
//!
//! ```text
//! reader task: bytes ─▶ Decoder ─▶ parse ─▶ write::offer | what is neither put nor delete: connection/others.rs
//! writer task: Outbox ─▶ one send for all that is ready
//! ```
//!
//! **Invariants**
//! - The first request is a hello; nothing else is answered before it.
//! - A connection that does not take its answers is not read from: its outbox and its unanswered requests are bounded, to within
//!   one answer.
//! - A client that has ended its own direction gets the answers to all it asked before the connection ends.
//! - Bytes that are no valid request end the connection after a refusal that says why; they never stop the shard.
//!
//! **Not here**: peers (`raft/peers.rs`); accepting and handing over between cores (`io`).

mod meet;
mod others;

pub(crate) use meet::refuse;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{self, Encoder, Life, ReplyBody, Request, RequestBody};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::batcher::{Form, Waiter};
use crate::io::channel::Notify;
use crate::io::{Env, Instant, Net, Reader, Writer};
use crate::limits::{CONNECTION_REQUESTS_MAX, FAREWELL_MAX, HELLO_TIMEOUT, OUTBOX_BYTES_MAX, SEND_STALL_MAX};
use crate::raft::runtime::timeout;
use crate::shard::Shard;
use crate::state::command::{Op, Write};
use crate::watch::limits::EVENT_BYTES_MAX;
use crate::{watch, write};

/// Answers of one connection that wait to be sent.
pub(crate) struct Outbox {
    encoder: RefCell<Encoder>,
    bytes: RefCell<Vec<u8>>,
    ready: Notify,
    /// Requests that have no answer yet.
    unanswered: Cell<usize>,
    /// Bytes that answers to waiting reads will have, about: a read holds its room from the moment it is taken.
    promised: Cell<usize>,
    room: Notify,
    closed: Cell<bool>,
    /// It is told when the topology changes.
    pub follows: Cell<bool>,
    /// Bytes on their way into the socket.
    sending: Cell<usize>,
    /// Its number among the connections that watch; 0: it has never watched.
    pub watching: Cell<u64>,
}

impl Outbox {
    pub fn new() -> Rc<Self> {
        Rc::new(Outbox {
            encoder: RefCell::new(Encoder::new()),
            bytes: RefCell::new(Vec::new()),
            ready: Notify::new(),
            unanswered: Cell::new(0),
            promised: Cell::new(0),
            room: Notify::new(),
            closed: Cell::new(false),
            follows: Cell::new(false),
            sending: Cell::new(0),
            watching: Cell::new(0),
        })
    }

    /// Adds the answer to `request`. Answers that are added before the writer runs leave together.
    pub fn reply(&self, request: u64, body: &ReplyBody<'_>) {
        self.unanswered.set(self.unanswered.get().saturating_sub(1));
        if !self.closed.get() {
            self.encoder.borrow_mut().reply(&mut self.bytes.borrow_mut(), request, body);
        }
        self.ready.notify_one();
    }

    /// Adds one more answer to a request that has had its first; false when there is no room for it now.
    pub fn push(&self, request: u64, body: &ReplyBody<'_>) -> bool {
        let room = self.has_room() || self.closed.get();
        if room && !self.closed.get() {
            self.encoder.borrow_mut().reply(&mut self.bytes.borrow_mut(), request, body);
            self.ready.notify_one();
        }
        room
    }

    /// Nobody takes answers any more.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Adds what a watch has to be told; its caller has asked for [`Outbox::has_event_room`].
    pub fn tell(&self, request: u64, body: &ReplyBody<'_>) {
        if !self.closed.get() {
            self.encoder.borrow_mut().reply(&mut self.bytes.borrow_mut(), request, body);
            self.ready.notify_one();
        }
    }

    /// Whether the client takes what it is sent: otherwise its watches wait.
    pub fn has_event_room(&self) -> bool {
        self.bytes.borrow().len() + self.sending.get() < EVENT_BYTES_MAX
    }

    /// Keeps room for an answer of `bytes` that will be given later.
    pub fn promise(&self, bytes: usize) {
        self.promised.set(self.promised.get() + bytes);
    }

    /// That answer is given now.
    pub fn redeem(&self, bytes: usize) {
        self.promised.set(self.promised.get().saturating_sub(bytes));
    }

    fn close(&self) {
        self.closed.set(true);
        self.ready.notify_one();
        self.room.notify_one();
    }

    fn has_room(&self) -> bool {
        let waiting = self.bytes.borrow().len() + self.promised.get();
        waiting < OUTBOX_BYTES_MAX && self.unanswered.get() < CONNECTION_REQUESTS_MAX
    }

    /// Waits until every request has its answer, or the connection is closed.
    async fn all_answered(&self) {
        while !self.closed.get() && self.unanswered.get() > 0 {
            self.room.notified().await;
        }
    }

    /// Waits until the client has taken enough; false when the connection is closed.
    async fn room(&self) -> bool {
        while !self.closed.get() && !self.has_room() {
            self.room.notified().await;
        }
        !self.closed.get()
    }
}

/// Serves one client until it leaves.
pub(crate) async fn serve<E: Env>(shard: Rc<Shard<E>>, mut reader: <E::Net as Net>::Reader, writer: <E::Net as Net>::Writer) {
    let outbox = Outbox::new();
    shard.connections.set(shard.connections.get() + 1);
    E::spawn(send_replies(shard.clone(), outbox.clone(), writer));
    let mut decoder = Decoder::new(shard.settings.frame_bytes_max());
    let (mut greeted, accepted) = (false, E::now());
    'connection: while outbox.room().await {
        let read = reader.read(decoder.space());
        let read = if greeted {
            read.await
        } else {
            match timeout::<E, _>(HELLO_TIMEOUT.saturating_sub(E::now().since(accepted)), read).await {
                Ok(read) => read,
                Err(_) => break,
            }
        };
        match read {
            Ok(0) => {
                // The client has said all it has to say and may still listen.
                let _ = timeout::<E, _>(FAREWELL_MAX, outbox.all_answered()).await;
                break;
            }
            Err(_) => break,
            Ok(bytes) => decoder.filled(bytes),
        }
        // One look at the clock for all that came together.
        let arrived = E::now();
        // One receive holds hundreds of requests, each of which may ask for the largest value.
        while outbox.room().await {
            match decoder.next() {
                Ok(Some(frame)) => {
                    if !dispatch(&shard, &outbox, &frame, arrived, &mut greeted) {
                        break 'connection;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    outbox.reply(0, &ReplyBody::Refused(Refusal::new(Code::BadRequest, e.to_string())));
                    break 'connection;
                }
            }
        }
    }
    outbox.close();
    if outbox.watching.get() > 0 {
        watch::close(&shard, &outbox);
    }
    shard.connections.set(shard.connections.get() - 1);
}

async fn send_replies<E: Env>(shard: Rc<Shard<E>>, outbox: Rc<Outbox>, mut writer: <E::Net as Net>::Writer) {
    let mut sending = Vec::new();
    loop {
        outbox.ready.notified().await;
        std::mem::swap(&mut sending, &mut outbox.bytes.borrow_mut());
        if !sending.is_empty() {
            outbox.sending.set(sending.len());
            let sent = timeout::<E, _>(SEND_STALL_MAX, writer.write_all(&sending)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
            sending.clear();
            // One large value must not stay for the life of the connection.
            sending.shrink_to(64 << 10);
            outbox.sending.set(0);
            if outbox.watching.get() > 0 {
                watch::room(&shard, &outbox);
            }
        }
        outbox.room.notify_one();
        if outbox.closed.get() && outbox.bytes.borrow().is_empty() {
            break;
        }
    }
    outbox.close();
    let _ = writer.shutdown().await;
}

/// One request. False ends the connection.
fn dispatch<E: Env>(shard: &Rc<Shard<E>>, outbox: &Rc<Outbox>, frame: &Bytes, arrived: Instant, greeted: &mut bool) -> bool {
    outbox.unanswered.set(outbox.unanswered.get() + 1);
    let request = match client::parse_request(frame) {
        Ok(request) => request,
        Err(malformed) => {
            let refusal = Refusal::new(Code::BadRequest, malformed.to_string());
            outbox.reply(malformed.id.unwrap_or(0), &ReplyBody::Refused(refusal));
            return false;
        }
    };
    if let RequestBody::Hello(hello) = &request.body {
        let answer = meet::greet(shard, hello);
        *greeted = matches!(answer, ReplyBody::Welcome(_));
        outbox.reply(request.id, &answer);
        return *greeted;
    }
    if !*greeted {
        let refusal = Refusal::new(Code::HelloFirst, "the first request of a connection must be a hello");
        outbox.reply(request.id, &ReplyBody::Refused(refusal));
        return false;
    }
    carry_out(shard, outbox, frame, &request, arrived);
    true
}

fn carry_out<E: Env>(shard: &Rc<Shard<E>>, outbox: &Rc<Outbox>, frame: &Bytes, request: &Request<'_>, arrived: Instant) {
    let deadline = (request.deadline_ms > 0).then(|| arrived + Duration::from_millis(u64::from(request.deadline_ms)));
    let waiter = |form| Waiter { outbox: outbox.clone(), request: request.id, arrived, deadline, form };
    match &request.body {
        RequestBody::Put(put) if put.life == Life::default() => {
            let op = Op::Put { key: put.key, value: put.value };
            let command = Write {
                namespace: put.namespace,
                session: put.session,
                sequence: put.sequence,
                answered_below: put.answered_below,
                op,
            };
            write::offer(shard, &command, waiter(Form::Written));
        }
        RequestBody::Delete(delete) => {
            let op = Op::Delete { key: delete.key };
            let command = Write {
                namespace: delete.namespace,
                session: delete.session,
                sequence: delete.sequence,
                answered_below: delete.answered_below,
                op,
            };
            write::offer(shard, &command, waiter(Form::Written));
        }
        _ => others::carry_out(shard, &request.body, frame, waiter),
    }
}
