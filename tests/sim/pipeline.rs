//! Clients with many writes of one session under way on one connection, as the SDK has them: one on each shard.
//!
//! ```text
//!   burst ─▶ [under way: DEPTH at most] ─ answered, in any order ─▶ settled
//!                 │ the connection ends, is silent, or something is refused
//!                 └────▶ all that has no answer is sent again, as it was, over the next one: to who is named, or to anybody
//! ```
//! So a shard sees sequences in any order, the same ones over several connections at once, and a floor with gaps behind it.
//!
//! **Invariants**
//! - A write is sent again only in the place of its session that it had first.
//! - It ends answered, or, when its time is over or its session is gone, unknown: nothing here is taken for "certainly not".
//!
//! **Not here**: how the SDK decides what to try next: `client.rs` has its decisions.

use std::collections::BTreeMap;
use std::time::Duration;

use ringbeam_sdk::limits::OUTCOME_HELD;
use ringbeam_sdk::session::{Session, Ticket};
use ringbeam_shards::io::sim::{Sim, SimNet, world_now_ns};
use ringbeam_shards::io::{Env, Instant, Reader, Writer};
use ringbeam_shards::raft::runtime::timeout;
use ringbeam_wire::client::{Encoder, ReplyBody, RequestBody, parse_reply};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::client::{Connection, Write, open};
use crate::history::{self, Op, Outcome, Tag, value_bytes};
use crate::load::{LOOK, Load, key_bytes, revision};
use crate::plan::Workload;
use crate::random::Random;
use crate::world::Ring;

/// They have numbers of their own, from here on.
const FIRST_ID: u32 = 7_000;
/// Writes under way, at most.
const DEPTH: usize = 24;
/// Between two bursts, microseconds.
const PAUSE_US: (u64, u64) = (5_000, 2_000_000);
/// A connection without an answer for so long, though some is due, is given up; so is one that is not there by then.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A write that has no answer by then has none for ever.
const LIMIT: Duration = Duration::from_secs(8);
/// Longest value.
const VALUE_BYTES_MAX: u64 = 2 << 10;
/// Before the next connection.
const REST_MS: (u64, u64) = (1, 200);
/// Requests of a connection: this one opens a session, a write has the number of its sequence behind it.
const OPENS: u64 = 1;

/// A write without an answer.
struct UnderWay {
    ticket: Ticket,
    asked: history::Ticket,
    key: u32,
    value: Vec<u8>,
    end: Instant,
}

struct Pipeline {
    id: u32,
    shard: u32,
    /// Of the load, and of its shard.
    keys: Vec<u32>,
    random: Random,
    pace: u64,
    load: Load,
    session: Session,
    /// By sequence.
    under_way: BTreeMap<u64, UnderWay>,
}

/// Starts them; they begin and pause with the load.
pub fn start(ring: &mut Ring, seed: u64, workload: &Workload, load: &Load) {
    for shard in 0..ring.shards() {
        let host = ring.add_client_host();
        let own = (2_000_000..).find(|key| load.shard_of(*key) == shard);
        let pipeline = Pipeline {
            id: FIRST_ID + shard,
            shard,
            keys: (0..workload.keys).filter(|key| load.shard_of(*key) == shard).chain(own).collect(),
            random: Random::new(seed).fork("pipeline").fork(&shard.to_string()),
            pace: workload.pace,
            load: load.share(),
            session: Session::new(),
            under_way: BTreeMap::new(),
        };
        ring.start_client(host, || pipeline.run());
    }
}

impl Pipeline {
    async fn run(mut self) {
        let net = SimNet::new();
        let mut named = None;
        loop {
            while !self.load.is_on() && self.under_way.is_empty() {
                Sim::sleep(LOOK).await;
            }
            let address = named.take().unwrap_or_else(|| self.random.pick(&self.load.addresses()).clone());
            let opened = timeout::<Sim, _>(SILENCE_MAX, open(&net, &address, self.shard)).await;
            if let Ok(Ok(connection)) = opened {
                named = self.serve(connection, &address).await;
            }
            self.give_up();
            Sim::sleep(Duration::from_millis(self.random.magnitude(REST_MS.0, REST_MS.1))).await;
        }
    }

    /// As long as the connection is of use. The node to turn to then, if one is known.
    async fn serve(&mut self, mut connection: Connection, address: &str) -> Option<String> {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        if self.session.id() == 0 {
            encoder.request(&mut out, OPENS, 0, &RequestBody::OpenSession);
        }
        for write in self.under_way.values() {
            write.send(&mut encoder, &mut out);
        }
        let (mut heard, mut burst) = (Sim::now(), Sim::now());
        loop {
            self.session.release_before(world_now_ns() / 1_000_000);
            if self.load.is_on() && self.session.id() != 0 && Sim::now() >= burst {
                for _ in 0..self.random.magnitude(1, DEPTH as u64) {
                    self.begin(&mut encoder, &mut out);
                }
                burst = Sim::now() + Duration::from_micros(self.random.magnitude(PAUSE_US.0, PAUSE_US.1) * self.pace);
            }
            if !out.is_empty() {
                connection.writer.write_all(&out).await.ok()?;
                out.clear();
            }
            self.give_up();
            let due = !self.under_way.is_empty() || self.session.id() == 0;
            if !due {
                heard = Sim::now();
            }
            if Sim::now().since(heard) >= SILENCE_MAX {
                return None;
            }
            let wait = if self.load.is_on() { burst.since(Sim::now()).min(SILENCE_MAX) } else { LOOK };
            match timeout::<Sim, _>(wait.max(Duration::from_millis(1)), connection.reader.read(connection.decoder.space()))
                .await
            {
                Ok(Ok(bytes)) if bytes > 0 => connection.decoder.filled(bytes),
                Ok(_) => return None,
                Err(_) => continue,
            }
            heard = Sim::now();
            while let Some(frame) = connection.decoder.next().ok()? {
                let reply = parse_reply(&frame).ok()?;
                match reply.body {
                    ReplyBody::SessionOpened { session, .. } => self.session.opened(session, connection.window),
                    ReplyBody::Written(written) => {
                        if let Some(write) = self.under_way.remove(&reply.id.wrapping_sub(OPENS)) {
                            let (existed, duplicate) = (written.existed, written.duplicate);
                            self.session.settle(write.ticket);
                            self.load.end(
                                write.asked,
                                Outcome::Written { revision: revision(written.revision), existed, duplicate },
                            );
                        }
                    }
                    ReplyBody::Refused(refusal) => return self.refused(&refusal, address),
                    _ => return None,
                }
            }
        }
    }

    fn begin(&mut self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        if self.under_way.len() >= DEPTH {
            return;
        }
        let Ok(ticket) = self.session.begin() else { return };
        let (key, value) = (*self.random.pick(&self.keys), self.load.new_value());
        let asked = self.load.begin(self.id, key, Op::Put { value });
        self.load.history.borrow_mut().tag(&asked, Tag { session: ticket.session, sequence: ticket.sequence });
        let value = value_bytes(value, self.random.magnitude(8, VALUE_BYTES_MAX) as usize);
        let write = UnderWay { ticket, asked, key, value, end: Sim::now() + LIMIT };
        write.send(encoder, out);
        self.under_way.insert(ticket.sequence, write);
    }

    /// Nothing that was refused is taken back: it is sent again like all the rest, unless there is no session to send it in.
    fn refused(&mut self, refusal: &Refusal, address: &str) -> Option<String> {
        match refusal.code {
            Code::SessionExpired => {
                self.session.expired(self.session.id());
                for (_, write) in std::mem::take(&mut self.under_way) {
                    self.load.end(write.asked, Outcome::Unknown);
                }
                Some(address.to_string())
            }
            Code::Overloaded | Code::DiskFull => Some(address.to_string()),
            _ => Some(refusal.leader_address.to_string()).filter(|named| !named.is_empty()),
        }
    }

    /// Whose time is over has no answer.
    fn give_up(&mut self) {
        let now = Sim::now();
        let over: Vec<u64> =
            self.under_way.iter().filter(|(_, write)| write.end <= now).map(|(sequence, _)| *sequence).collect();
        for write in over.into_iter().filter_map(|sequence| self.under_way.remove(&sequence)) {
            self.session.hold(write.ticket, world_now_ns() / 1_000_000 + OUTCOME_HELD.as_millis() as u64);
            self.load.end(write.asked, Outcome::Unknown);
        }
    }
}

impl UnderWay {
    fn send(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let left = self.end.since(Sim::now()).as_millis().max(1) as u32;
        let key = key_bytes(self.key);
        let body = Write::Put(key.as_bytes(), &self.value);
        encoder.request(out, self.ticket.sequence + OPENS, left, &body.body(self.ticket));
    }
}
