//! One shard on one node: what it holds, the loops that drive it, and its life from recovery to hand-over.
//!
//! ```text
//!  accept ─┬─ client ─▶ connection.rs ─▶ write::offer ─▶ batcher ─▶ [batches] ─▶ write::carry
//!          │                          └▶ read::arrive ─▶ readings ─▶ [reads] ──▶ read::round
//!          │                                         └▶ waiting ──▶ [applied] ─▶ attest::settle
//!          └─ peer ───▶ raft/peers.rs
//!  [care]  snapshots due, leadership, membership changes left half done, room on the disk: shard/care.rs
//!  [pump]  what happens, to those who watch (watch/)
//!  [expire]  keys and leases whose time is up: leases.rs
//!  [waiting]  who has stopped waiting, or waits for nothing: shard/care.rs
//! ```
//! Loops are in brackets; all run on the shard's one executor, so nothing here is locked.
//!
//! **Invariants**
//! - No borrow of a `RefCell` lives across an await.
//! - Clean shutdown: leadership is handed over first, then nothing is accepted, then the log is sealed.

mod care;
mod fixed;
mod settings;
mod start;

pub use settings::Settings;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use ringbeam_wire::client::ReplyBody;
use ringbeam_wire::peer::Role;
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::{Names, Reason, Standing};
use crate::attest::Attest;
use crate::batcher::{Batch, Batcher};
use crate::error::{denied, overloaded};
use crate::io::channel::Notify;
use crate::io::{Env, Instant, Net};
use crate::limits::{BATCHES_IN_FLIGHT_MAX, COMPANY_WAIT, ROOM_PAUSE};
use crate::raft::replica::Replica;
use crate::read::Reading;
use crate::scan::Scans;
use crate::state::Answer;
use crate::topology::Followers;
use crate::wal::NoRoom;
use crate::watch::Hub;
use crate::{attest, connection, leases, raft, read, topology, watch, write};

/// A running shard.
pub(crate) struct Shard<E: Env> {
    pub settings: Settings,
    pub replica: Rc<Replica<E>>,
    pub batcher: RefCell<Batcher>,
    /// There is something to propose, or a batch has come back.
    pub work: Notify,
    pub readings: RefCell<Vec<Reading>>,
    /// Those that the round under way will answer.
    pub in_round: RefCell<Vec<Reading>>,
    pub attest: Attest,
    pub topology: Followers,
    /// A round of reads is under way.
    pub confirming: Cell<bool>,
    pub connections: Cell<usize>,
    pub watches: Hub,
    pub scans: Scans,
    pub started: Instant,
    pub in_flight: RefCell<Vec<Rc<Batch>>>,
    stopping: Cell<bool>,
    fault: RefCell<Option<String>>,
}

/// Runs a shard until its connections end (`Net::accept` yields `None`). The error says why it could not serve; by then it has
/// told so everybody who asked. `opened` is called once the shard has its log.
pub async fn run<E: Env>(
    settings: Settings,
    disk: E::Disk,
    net: E::Net,
    opened: impl FnOnce() + 'static,
) -> Result<(), String> {
    let shard = start::start::<E>(&settings, &disk, &net).await?;
    opened();
    #[cfg(feature = "sim")]
    crate::probe::open(&shard);
    E::spawn(propose_batches(shard.clone()));
    E::spawn(serve_reads(shard.clone()));
    E::spawn(attest::watch_applied(shard.clone()));
    E::spawn(topology::push(shard.clone()));
    E::spawn(care::watch_waiting(shard.clone()));
    E::spawn(watch::pump(shard.clone()));
    E::spawn(care::care(shard.clone()));
    E::spawn(leases::expire(shard.clone()));
    E::spawn(care::leave(shard.clone(), net.clone()));
    while let Some((preamble, reader, writer)) = net.accept().await {
        match Preamble::decode(&preamble).map(|p| p.kind) {
            Ok(Kind::Client) => E::spawn(connection::serve(shard.clone(), reader, writer)),
            Ok(Kind::Peer) => E::spawn(raft::peers::serve(shard.replica.clone(), reader, writer)),
            Err(_) => {}
        }
    }
    shard.replica.shutdown().await;
    shard.replica.wal().clone().close().await;
    Ok(())
}

// ---- loops ----

/// Takes what waits and carries it, a bounded number of batches at once. Nothing is proposed that the log has no room for.
async fn propose_batches<E: Env>(shard: Rc<Shard<E>>) {
    let mut company: Option<E::Sleep> = None;
    loop {
        match &mut company {
            None => shard.work.notified().await,
            Some(wait) => {
                if future::or(
                    async {
                        wait.await;
                        true
                    },
                    async {
                        shard.work.notified().await;
                        false
                    },
                )
                .await
                {
                    company = None;
                }
            }
        }
        while let Some(bytes) = shard.next_batch() {
            if let Some(wait) = shard.waits_for_company(bytes, E::now()) {
                company.get_or_insert_with(|| E::sleep(wait));
                break;
            }
            let room = match shard.replica.wal().claim(1, bytes) {
                Ok(room) => room,
                Err(NoRoom::Full(full)) => {
                    shard.refuse_queue(&shard.explain(Reason::DiskFull(full.to_string())));
                    continue;
                }
                Err(NoRoom::Soon) => {
                    E::sleep(ROOM_PAUSE).await;
                    continue;
                }
            };
            let Some(batch) = shard.batcher.borrow_mut().take(|| shard.replica.ring_time_ms(E::now())) else { break };
            company = None;
            shard.in_flight.borrow_mut().push(batch.clone());
            let shard = shard.clone();
            E::spawn(async move {
                write::carry(shard.clone(), batch.clone(), room).await;
                shard.in_flight.borrow_mut().retain(|b| !Rc::ptr_eq(b, &batch));
                shard.work.notify_one();
            });
        }
    }
}

async fn serve_reads<E: Env>(shard: Rc<Shard<E>>) {
    loop {
        shard.replica.rounds.wanted.notified().await;
        shard.confirming.set(true);
        read::round(&shard).await;
        shard.confirming.set(false);
    }
}

// ---- what connections ask ----

impl<E: Env> Shard<E> {
    pub fn names(&self) -> Names {
        let Settings { key_bytes_max, shard, shards, .. } = self.settings;
        Names { key_bytes_max, shard, shards }
    }

    pub fn keeps_state(&self) -> bool {
        self.settings.node.role != Role::TieBreaker
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Why the log takes no more writes, here or on so many nodes that there is no quorum.
    fn disk_full(&self) -> Option<String> {
        self.replica.wal().has_room().err().map(|full| full.to_string()).or_else(|| self.replica.quorum_full())
    }

    /// Why no write that waits here, or was proposed here, will be acknowledged by this node for now. A leader that is full alone
    /// still acknowledges what it has proposed.
    fn futile(&self) -> Option<Reason> {
        if !self.replica.leads() {
            return Some(Reason::NotLeader);
        }
        self.replica.quorum_full().map(Reason::DiskFull)
    }

    /// Bytes of the next batch, if one waits and there may be one more in flight.
    fn next_batch(&self) -> Option<usize> {
        let in_flight = self.in_flight.borrow();
        let bytes = self.batcher.borrow().next_bytes()?;
        let beside: usize = in_flight.iter().map(|batch| batch.payload().len()).sum();
        let fits = in_flight.is_empty() || beside + bytes <= self.settings.queue_bytes_max;
        (fits && in_flight.len() < BATCHES_IN_FLIGHT_MAX).then_some(bytes)
    }

    /// How much longer the next batch waits for company. A batch beside another one costs every node a flush and a wake-up of its
    /// own, so it has to be worth them: as large as the one before it. Until it is, or nothing is in flight, it grows; but no longer
    /// than its first write may wait, unless the disk could not take it yet anyway.
    fn waits_for_company(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let in_flight = self.in_flight.borrow();
        let before = in_flight.last()?;
        let since = self.batcher.borrow().growing_since()?;
        let wait = COMPANY_WAIT.saturating_sub(now.since(since));
        if bytes >= before.payload().len() || wait.is_zero() && !self.replica.wal().is_flushing() {
            return None;
        }
        Some(if wait.is_zero() { COMPANY_WAIT / 4 } else { wait })
    }

    /// Refuses the writes that were not proposed yet.
    fn refuse_queue(&self, refusal: &Refusal) {
        let mut batcher = self.batcher.borrow_mut();
        while let Some(batch) = batcher.take(|| 0) {
            batch.answer_all(|_, _| ReplyBody::Refused(refusal.clone()));
        }
    }

    /// Hands the shard's standing to `decide`.
    pub fn admit<T>(&self, queue_bytes: usize, decide: impl FnOnce(&Standing<'_>) -> T) -> T {
        let disk_full = self.disk_full();
        decide(&Standing {
            leads: self.replica.leads(),
            stopping: self.stopping.get(),
            fault: self.fault.borrow().as_deref(),
            queue_bytes,
            queue_bytes_max: self.settings.queue_bytes_max,
            disk_full: disk_full.as_deref(),
            names: self.names(),
            value_bytes_max: self.settings.value_bytes_max,
        })
    }

    pub fn session_opened(&self, answer: &Answer) -> ReplyBody<'static> {
        match answer.outcome {
            Ok(()) => ReplyBody::SessionOpened {
                session: answer.revision.session_id(),
                lifetime_ms: self.settings.state.session_lifetime_ms,
            },
            Err(why) => ReplyBody::Refused(denied(why)),
        }
    }

    /// A refusal in words, with the leader's address where that helps.
    pub fn explain(&self, reason: Reason) -> Refusal {
        match reason {
            Reason::Limit(code, why) => Refusal::new(code, why),
            Reason::NotLeader => self.not_leader(),
            Reason::Overloaded { queue_bytes, queue_bytes_max } => {
                overloaded("bytes that wait in the shard's queue", queue_bytes, queue_bytes_max)
            }
            Reason::DiskFull(why) => Refusal::new(Code::DiskFull, why),
            Reason::Stopping => Refusal::new(Code::ShuttingDown, "this node is shutting down"),
            Reason::Fault(why) => Refusal::new(Code::ShardFault, why),
        }
    }

    fn not_leader(&self) -> Refusal {
        let shard = self.settings.shard;
        let leader = self.replica.leadership().leader.filter(|m| m.node != self.settings.node.node);
        let mut refusal = match &leader {
            Some(m) => Refusal::new(Code::NotLeader, format!("node {} at {} leads shard {shard}", m.node, m.client)),
            None => Refusal::new(Code::NotLeader, format!("shard {shard} has no leader that this node knows of")),
        };
        if let Some(leader) = leader {
            refusal.leader = leader.node;
            refusal.leader_address = leader.client;
        }
        refusal
    }
}
