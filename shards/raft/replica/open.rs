//! A group from its directory, and a new ring's first membership.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::RaftError;
use openraft::{Config, Raft, SnapshotPolicy};
use ringbeam_wire::peer::{Member, Role};

use super::lease::Leases;
use super::{Replica, Timers};
use crate::io::{Env, channel};
use crate::raft::Site;
use crate::raft::link::PeerContext;
use crate::raft::log::LogStore;
use crate::raft::machine::{Machine, MachineSettings};
use crate::raft::network::{FullNodes, Network};
use crate::raft::read_index::Rounds;
use crate::wal::Wal;

impl<E: Env> Replica<E> {
    /// Recovers the group from its directory and starts it.
    pub async fn open(
        context: Rc<PeerContext<E>>,
        disk: E::Disk,
        wal: Wal<E>,
        machine: MachineSettings,
        timers: Timers,
        founders: Vec<Member>,
    ) -> Result<Rc<Self>, String> {
        let ms = |d: Duration| d.as_millis() as u64;
        let keeps_state = context.me.role != Role::TieBreaker || planted!(TieBreakerForgets);
        let config = Config {
            cluster_name: format!("{:016x}/{}", context.ring, context.shard),
            heartbeat_interval: ms(timers.heartbeat),
            election_timeout_min: ms(timers.election_timeout_min),
            election_timeout_max: ms(timers.election_timeout_max),
            // Entries are whole batches; what bounds a request is bytes (`READ_BYTES_MAX`).
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::Never,
            // A follower that is a little behind catches up by log, not by snapshot. A tie-breaker's log is dropped by
            // `snapshot_if_due` alone.
            max_in_snapshot_log_to_keep: if keeps_state { 1024 } else { u64::MAX },
            purge_batch_size: 256,
            install_snapshot_timeout: 600_000,
            broadcast_submitted_on_append: Some(true),
            enable_pre_vote: Some(true),
            // A leader that restarts must win again. Followers may hold, and have committed, entries that were never flushed
            // here: leading on in the same term would write others under the same term and index.
            enable_leader_restore: Some(false),
            backoff: "100ms".into(),
            // The leader's books may go back for a follower whose log did. On disks that keep what they called durable none does:
            // a follower acknowledges after the flush, a flush that recovery cuts was never acknowledged, and an empty disk is
            // another incarnation. What is left is a disk that lost its tail, which recovery cannot tell from a torn flush. The
            // danger of such a disk is its node's vote with the shorter log, and that is the same with and without this.
            // It takes nothing back at the leader: what a quorum has accepted stays committed (`reset_entry_with` in openraft's
            // `update_conflicting`), the follower's match becomes none, so it counts only for what it flushes and acknowledges
            // anew, and answers to appends from before the loss are dropped by their inflight id. openraft warns in the log.
            // Without it a build with assertions ends the leader with a panic, and any other goes on with books that contradict
            // themselves: one bad disk must not stop a good node. `allow_next_revert` is narrower only in name: it would have
            // to be given before the loss is seen, so to everybody.
            allow_log_reversion: Some(true),
            enable_elect: context.me.role == Role::Voter,
            ..Config::default()
        };
        let config = config.validate().map_err(|e| format!("timers: {e}"))?;
        let dir = machine.dir.clone();
        let machine = Machine::open(disk.clone(), machine).await.map_err(|e| e.to_string())?;
        let leases = Leases::open::<E>(&disk, &dir, timers.read_lease).await.map_err(|e| format!("{dir}: leases: {e}"))?;
        let full = FullNodes::default();
        let settled = Rc::new(Cell::new(if planted!(TieBreakerForgets) { u64::MAX } else { 0 }));
        let (to_peers, full_peers, settled_now) = (machine.clone(), full.clone(), settled.clone());
        let (context_of, leases_of) = (context.clone(), leases.clone());
        let network =
            Network { context: context_of, machine: to_peers, full: full_peers, settled: settled_now, leases: leases_of };
        let raft = Raft::new(context.me.node, Arc::new(config), network, LogStore::new(wal.clone()), machine.clone())
            .await
            .map_err(|e| e.to_string())?;
        let metrics = raft.metrics();
        Ok(Rc::new(Replica {
            context,
            raft,
            metrics,
            disk,
            incoming: channel::Mutex::new(None),
            led_by_transfer: Cell::new(false),
            rounds: Rounds::default(),
            full,
            settled,
            leases,
            machine,
            wal,
            dir,
            timers,
            heard: Cell::new(E::now()),
            electing: Cell::new(false),
            resting: Cell::new(false),
            changing: Cell::new(0),
            founders: RefCell::new(founders),
        }))
    }

    /// Writes the first membership, if this group has never held anything. Every founder does it, with the same members.
    pub async fn found(&self) -> Result<(), String> {
        let founders = self.founders.borrow().clone();
        let is_founder = founders.iter().any(|m| m.node == self.context.me.node);
        if !is_founder || self.wal.last().is_some() || self.wal.vote().is_some() {
            return Ok(());
        }
        let voters: BTreeMap<u64, Site> = founders.into_iter().map(|m| (m.node, Site::of(m))).collect();
        match self.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            // Another founder was faster and its vote or entry has arrived here: that is as good.
            Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }
}
