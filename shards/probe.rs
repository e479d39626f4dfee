//! A window into running shards, for whoever drives a simulated ring: what no client can ask, without a message.
//!
//! A shard offers it to its simulated process when it has opened ([`crate::io::sim::offer`]); it goes with the process. Only
//! with the cargo feature `sim`.
//!
//! **Invariants**
//! - Looking changes nothing: no clock is read, no task woken, no random number drawn.
//! - A window does not keep its shard alive.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use ringbeam_wire::client::Life;
use ringbeam_wire::peer::{Member, Role};

use crate::io::Env;
use crate::io::sim::{HostId, World, current_host, offer};
use crate::raft::{log_id_out, vote_out};
use crate::shard::Shard;
use crate::state::command::{Batch, Op};
use crate::state::{Answer, Denied, Revision};
use crate::wal::{LogId, Vote};

/// One shard on one node at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Node id.
    pub node: u64,
    /// Shard id.
    pub shard: u32,
    /// What the node does in the ring.
    pub role: Role,
    /// leader, follower, candidate, learner or shutdown, as raft says.
    pub raft_state: String,
    /// It leads, and takes writes.
    pub leads: bool,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// Its vote as raft holds it.
    pub vote: Vote,
    /// Its vote as the log has it, durable or on its way.
    pub vote_saved: Option<Vote>,
    /// The log's last entry, durable or on its way.
    pub last: Option<LogId>,
    /// Index of the log's newest entry that is durable, if that is known.
    pub flushed: Option<u64>,
    /// The last entry that is no longer in the log.
    pub purged: Option<LogId>,
    /// What it has in its log and knows to be committed.
    pub committed: Option<LogId>,
    /// Applied, as raft says; the state is never behind.
    pub applied: Option<LogId>,
    /// Index of the entry that the state has applied last.
    pub applied_index: u64,
    /// Position of the newest snapshot.
    pub snapshot: Option<LogId>,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Keys, sessions and bytes of the state.
    pub keys: u64,
    /// See `keys`.
    pub sessions: u64,
    /// See `keys`.
    pub state_bytes: u64,
    /// Bytes of writes that wait for raft.
    pub queue_bytes: usize,
    /// Batches in raft.
    pub batches_in_flight: usize,
    /// Reads that wait for their round.
    pub readings: usize,
    /// Pinned moments of scans.
    pub pins: usize,
    /// Bytes of the history that watches are told from.
    pub history_bytes: u64,
    /// A round of reads asks its quorum.
    pub confirming: bool,
    /// Client connections.
    pub connections: usize,
    /// All nodes of the newest membership.
    pub members: Vec<Member>,
    /// The sets of voters: two while the membership changes.
    pub voters: Vec<Vec<u64>>,
    /// Log index of that membership.
    pub membership_index: u64,
    /// Why it has stopped.
    pub fault: Option<String>,
    /// Why it takes no writes for want of room.
    pub full: Option<String>,
}

/// A window into one shard. `None`: the shard is gone.
pub trait Probe {
    /// How it is.
    fn view(&self) -> Option<View>;
    /// Term and leader of an entry that the log has, or of the last one purged.
    fn log_id_at(&self, index: u64) -> Option<LogId>;
    /// The applied index and the digest of the state as of it. Takes time in proportion to the state; a tie-breaker has none.
    fn digest(&self) -> Option<(u64, u64)>;
    /// A key's value in the state, applied or not known to be.
    fn read(&self, namespace: &str, key: &[u8]) -> Option<(Vec<u8>, Revision)>;
}

struct Window<E: Env>(Weak<Shard<E>>);

struct Offered(Rc<dyn Probe>);

/// Why a shard of a running process did not start.
struct Refused(String);

/// Offers a window into `shard`.
pub(crate) fn open<E: Env>(shard: &Rc<Shard<E>>) {
    offer(Rc::new(Offered(Rc::new(Window(Rc::downgrade(shard))))));
}

/// A shard does not start, and says why to whoever asks.
pub(crate) fn refuses(shard: u32, why: &str) {
    offer(Rc::new(Refused(format!("shard {shard}: {why}"))));
}

/// Why shards of the process on a host did not start.
pub fn refused(world: &World, host: HostId) -> Vec<String> {
    let offered = world.offers(host);
    offered.into_iter().filter_map(|any| any.downcast::<Refused>().ok()).map(|refused| refused.0.clone()).collect()
}

/// The windows of the process on a host, in the order in which its shards opened.
pub fn probes(world: &World, host: HostId) -> Vec<Rc<dyn Probe>> {
    let offered = world.offers(host);
    offered.into_iter().filter_map(|any| any.downcast::<Offered>().ok()).map(|offered| offered.0.clone()).collect()
}

impl<E: Env> Probe for Window<E> {
    fn view(&self) -> Option<View> {
        let shard = self.0.upgrade()?;
        let replica = &shard.replica;
        let (m, wal) = (replica.metrics(), replica.wal());
        let membership = m.membership_config.membership();
        let (keys, sessions, state_bytes) = replica.machine().with_state(|s| (s.keys(), s.sessions(), s.bytes()));
        Some(View {
            node: shard.settings.node.node,
            shard: shard.settings.shard,
            role: shard.settings.node.role,
            raft_state: format!("{:?}", m.state).to_lowercase(),
            leads: replica.leads(),
            leader: m.current_leader,
            vote: vote_out::<E>(&m.vote),
            vote_saved: wal.vote(),
            last: wal.last(),
            flushed: wal.flushed_through(),
            purged: wal.purged(),
            committed: m.local_committed.as_ref().map(log_id_out::<E>),
            applied: m.last_applied.as_ref().map(log_id_out::<E>),
            applied_index: replica.machine().applied_index(),
            snapshot: m.snapshot.as_ref().map(log_id_out::<E>),
            log_bytes: wal.bytes(),
            keys,
            sessions,
            state_bytes,
            queue_bytes: shard.batcher.borrow().bytes(),
            batches_in_flight: shard.in_flight.borrow().len(),
            readings: shard.readings.borrow().len(),
            pins: shard.scans.count(),
            history_bytes: replica.machine().feed().bytes(),
            confirming: shard.confirming.get(),
            connections: shard.connections.get(),
            members: replica.members(),
            voters: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
            membership_index: m.membership_config.log_id().as_ref().map_or(0, |id| id.index),
            fault: shard.fault().or_else(|| replica.fault()),
            full: wal.has_room().err().map(|full| full.to_string()),
        })
    }

    fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.0.upgrade()?.replica.wal().id_at(index)
    }

    fn digest(&self) -> Option<(u64, u64)> {
        let shard = self.0.upgrade().filter(|shard| shard.keeps_state())?;
        Some(shard.replica.machine().with_state(|state| (state.applied(), state.hash())))
    }

    fn read(&self, namespace: &str, key: &[u8]) -> Option<(Vec<u8>, Revision)> {
        let shard = self.0.upgrade()?;
        shard.replica.machine().with_state(|state| {
            let found = state.get(namespace, key)?;
            Some((found.value.to_vec(), found.revision))
        })
    }
}

/// A write of a session, as a state machine ran it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The host whose process ran it.
    pub host: HostId,
    /// Directory of the shard.
    pub dir: String,
    /// The place of the log.
    pub index: u64,
    /// See `index`.
    pub position: u32,
    /// Session and sequence.
    pub session: u64,
    /// See `session`.
    pub sequence: u64,
    /// Its key.
    pub key: Vec<u8>,
    /// The answer, or none: it was denied.
    pub answer: Option<(Revision, bool)>,
    /// It changed its key: watches are to be told.
    pub changed: bool,
    /// The key has a value since.
    pub put: bool,
}

thread_local! {
    static RAN: RefCell<Vec<Ran>> = const { RefCell::new(Vec::new()) };
}

/// All that state machines of this thread ran since the last call.
pub fn take_ran() -> Vec<Ran> {
    RAN.take()
}

/// A write of a namespace other than the default one, or of a lease, as a state machine ran it. Not one that was only answered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lived {
    /// As in [`Ran`].
    pub host: HostId,
    /// As in [`Ran`].
    pub dir: String,
    /// The place of the log.
    pub revision: Revision,
    /// Ring time there, milliseconds.
    pub ring_time_ms: u64,
    /// What was asked.
    pub what: LifeOp,
    /// It was denied.
    pub denied: bool,
}

/// What was asked that has to do with the lives of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are those of the log")]
pub enum LifeOp {
    Put { namespace: String, key: Vec<u8>, life: Life, existed: bool },
    Grant { lease: u64, ttl_ms: u64 },
    Keep { lease: u64 },
    Revoke { lease: u64 },
}

thread_local! {
    static LIVED: RefCell<Vec<Lived>> = const { RefCell::new(Vec::new()) };
}

/// All of these that state machines of this thread ran since the last call.
pub fn take_lived() -> Vec<Lived> {
    LIVED.take()
}

fn lived(host: HostId, dir: &str, index: u64, batch: &Batch<'_>, answers: &[Answer]) {
    for ((position, write), answer) in (0..).zip(batch.iter()).zip(answers) {
        let revision = Revision { index, position };
        let what = match write.op {
            Op::Put { key, .. } if !write.namespace.is_empty() => LifeOp::Put {
                namespace: write.namespace.into(),
                key: key.to_vec(),
                life: Life::default(),
                existed: answer.existed,
            },
            Op::PutFor { key, life, .. } => {
                LifeOp::Put { namespace: write.namespace.into(), key: key.to_vec(), life, existed: answer.existed }
            }
            Op::GrantLease { ttl_ms } => LifeOp::Grant { lease: revision.session_id(), ttl_ms },
            Op::KeepLease { lease } => LifeOp::Keep { lease },
            Op::RevokeLease { lease } => LifeOp::Revoke { lease },
            _ => continue,
        };
        // A session that is not there, or its window, says nothing of a life.
        let denied = match answer.outcome {
            Ok(()) => false,
            Err(Denied::LeaseNotFound) => true,
            Err(_) => continue,
        };
        if !answer.duplicate {
            let (dir, ring_time_ms) = (dir.to_string(), answer.ring_time_ms);
            LIVED.with_borrow_mut(|all| all.push(Lived { host, dir, revision, ring_time_ms, what, denied }));
        }
    }
}

/// A state machine has run a batch.
pub(crate) fn ran(dir: &str, index: u64, batch: &Batch<'_>, answers: &[Answer]) {
    let Some(host) = current_host() else { return };
    lived(host, dir, index, batch, answers);
    RAN.with_borrow_mut(|ran| {
        for ((position, write), answer) in (0..).zip(batch.iter()).zip(answers) {
            // A transaction that found another state than it expected wrote nothing.
            let (key, ran_it) = match write.op {
                Op::Put { key, .. } | Op::Delete { key } => (key, true),
                Op::Transact(transaction) => (transaction.keys().next().unwrap_or_default(), answer.existed),
                // Of counters and ranges the sums say how often they ran; a resolve runs nothing.
                _ => continue,
            };
            if write.session == 0 || !write.namespace.is_empty() {
                continue;
            }
            let changed = answer.outcome.is_ok() && !answer.duplicate && ran_it;
            let changed = changed && (answer.existed || !matches!(write.op, Op::Delete { .. }));
            let put = !matches!(write.op, Op::Delete { .. });
            let answer = (answer.outcome.is_ok() && ran_it).then_some((answer.revision, answer.duplicate));
            let (session, sequence) = (write.session, write.sequence);
            ran.push(Ran {
                host,
                dir: dir.to_string(),
                index,
                position,
                session,
                sequence,
                key: key.to_vec(),
                answer,
                changed,
                put,
            });
        }
    });
}
