//! A peer's snapshot arrives: offer, chunks, and a look at all of it before raft hears of it.
//!
//! ```text
//!   offer ─▶ room for it? ─▶ incoming.tmp ◀─ chunk, chunk, ... ─▶ sync ─▶ read through ─┬─ good ─▶ raft: install
//!                                │ goes on where it broke                              └─ not ──▶ removed, SnapshotDamaged
//! ```
//! To raft a snapshot that cannot be loaded is an error of storage, and it stops: a bit that rotted on the leader's disk would stop
//! every node that lags. So what raft is given has been read to its end, and is loaded already.
//!
//! **Invariants**
//! - Nothing is installed that was not read through after its last byte was durable here.
//! - Chunks of two nodes never meet in one file: each makes its own snapshots, with other bytes even at the same log index.
//! - What was refused is gone, so that the next offer begins at byte 0. So is what nobody has gone on with for [`INCOMING_IDLE_MAX`].

use std::io;

use openraft::SnapshotMeta;
use openraft::alias::SnapshotOf;
use ringbeam_wire::peer::{self, PeerReplyBody, Role};
use ringbeam_wire::refusal::Code;

use super::check::{Checked, read_through};
use super::{INCOMING, SnapshotFile};
use crate::io::{BLOCK_BYTES, Disk, Env, File, Instant, may_pass};
use crate::limits::INCOMING_IDLE_MAX;
use crate::raft::machine::meta_in;
use crate::raft::peers::refused;
use crate::raft::replica::Replica;
use crate::raft::{Types, log_id_in, vote_from_wire, wal_id, wire_vote};
use crate::wal::LogId;

/// A peer's snapshot that is arriving. It outlives its connection, so that the next one can go on where this one broke.
pub(crate) struct Incoming<E: Env> {
    from: u64,
    last: Option<LogId>,
    bytes: u64,
    offset: u64,
    file: <E::Disk as Disk>::File,
    vote: peer::Vote,
    /// Its sender was heard last.
    heard: Instant,
}

impl<E: Env> Replica<E> {
    /// Gives back the room of a snapshot with which nobody goes on: its sender is gone, or this node has caught up by the log.
    pub(crate) async fn give_up_idle_snapshot(&self) {
        let Some(mut slot) = self.incoming.try_lock() else { return };
        if slot.as_ref().is_some_and(|incoming| E::now().since(incoming.heard) > INCOMING_IDLE_MAX) {
            *slot = None;
            let _ = self.disk.remove(&self.file_path(INCOMING)).await;
        }
    }
}

pub(in crate::raft) async fn answer_offer<E: Env>(
    replica: &Replica<E>,
    from: u64,
    offer: peer::SnapshotOffer<'_>,
) -> io::Result<PeerReplyBody> {
    let stateless = replica.member(from).is_some_and(|m| m.role == Role::TieBreaker);
    if stateless && replica.context.me.role != Role::TieBreaker {
        return Ok(refused(Code::BadRequest, format!("node {from} is a tie-breaker: its snapshot holds no state")));
    }
    let last = offer.last.map(wal_id);
    if last.is_some_and(|last| (last.term, last.leader) > (offer.vote.term, offer.vote.node)) {
        let why = format!("a snapshot as of {last:?}, later than its sender leads: {:?}", offer.vote);
        return Ok(refused(Code::BadRequest, why));
    }
    let mut slot = replica.incoming.lock().await;
    let resumes = slot.as_ref().is_some_and(|i| i.from == from && i.last == last && i.bytes == offer.bytes);
    if !resumes {
        if offer.bytes == 0 || !offer.bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Ok(refused(Code::BadRequest, format!("a snapshot of {} bytes: not whole blocks", offer.bytes)));
        }
        let path = replica.file_path(INCOMING);
        *slot = None;
        let _ = replica.disk.remove(&path).await;
        let file = match replica.disk.reserve(&path, offer.bytes).await {
            Ok(file) => file,
            Err(e) if may_pass(&e) => {
                let _ = replica.disk.remove(&path).await;
                return Ok(refused(Code::DiskFull, format!("no room for a snapshot of {} bytes: {e}", offer.bytes)));
            }
            Err(e) => return Err(e),
        };
        *slot = Some(Incoming { from, last, bytes: offer.bytes, offset: 0, file, vote: offer.vote, heard: E::now() });
    }
    let Some(incoming) = slot.as_mut() else { return Err(io::Error::other("no snapshot is arriving")) };
    (incoming.vote, incoming.heard) = (offer.vote, E::now());
    Ok(PeerReplyBody::Snapshot { vote: offer.vote, resume_at: incoming.offset, installed: false })
}

pub(in crate::raft) async fn answer_chunk<E: Env>(
    replica: &Replica<E>,
    from: u64,
    offset: u64,
    data: &[u8],
    last: bool,
) -> io::Result<PeerReplyBody> {
    let mut slot = replica.incoming.lock().await;
    let Some(incoming) = slot.as_mut().filter(|incoming| incoming.from == from) else {
        return Ok(refused(Code::BadRequest, "a snapshot chunk without an offer before it"));
    };
    let end = offset.saturating_add(data.len() as u64);
    let fits = offset == incoming.offset && end <= incoming.bytes && !data.is_empty() && data.len().is_multiple_of(BLOCK_BYTES);
    if !fits || last != (end == incoming.bytes) {
        let message = format!(
            "snapshot chunk of {} bytes at {offset}: expected whole blocks at {} of {}",
            data.len(),
            incoming.offset,
            incoming.bytes
        );
        return Ok(refused(Code::BadRequest, message));
    }
    let mut buffer = incoming.file.buffer(data.len());
    buffer.copy_from_slice(data);
    incoming.file.write_at(offset, buffer).await?;
    (incoming.offset, incoming.heard) = (end, E::now());
    if !last {
        return Ok(PeerReplyBody::Snapshot { vote: incoming.vote, resume_at: end, installed: false });
    }
    // The slot stays locked: nobody else's offer takes the file away.
    let Some(whole) = slot.take() else { return Err(io::Error::other("no snapshot is arriving")) };
    let installed = install(replica, whole).await;
    // Renamed, if raft has taken it; of no use, if not.
    let _ = replica.disk.remove(&replica.file_path(INCOMING)).await;
    installed
}

async fn install<E: Env>(replica: &Replica<E>, whole: Incoming<E>) -> io::Result<PeerReplyBody> {
    let Incoming { from, last, bytes, file, vote, .. } = whole;
    if !planted!(SnapshotNotSynced) {
        file.sync().await?;
    }
    file.close().await?;
    let path = replica.file_path(INCOMING);
    let snapshot = match look(replica, &path, last, bytes).await {
        Ok(snapshot) => snapshot,
        Err(why) => {
            tracing::error!(shard = replica.context.shard, from, "a peer's snapshot is refused: {why}");
            return Ok(refused(Code::SnapshotDamaged, why.to_string()));
        }
    };
    let answer = replica.raft.install_full_snapshot(vote_from_wire::<E>(vote), snapshot).await;
    let answer = answer.map_err(|e| io::Error::other(e.to_string()))?;
    Ok(PeerReplyBody::Snapshot { vote: wire_vote::<E>(&answer.vote), resume_at: bytes, installed: true })
}

/// What raft is given: the file, if it is whole, is the one that was offered, and holds what this node needs.
async fn look<E: Env>(
    replica: &Replica<E>,
    path: &str,
    last: Option<LogId>,
    bytes: u64,
) -> io::Result<SnapshotOf<Types<E>, SnapshotFile>> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if planted!(RottenSnapshotInstalled) {
        let (_, meta) = super::Reader::<E>::open(&replica.disk, path).await?;
        let meta = SnapshotMeta { last_log_id: last.map(log_id_in::<E>), ..meta_in::<E>(&meta).map_err(bad)? };
        return Ok(openraft::Snapshot { meta, snapshot: SnapshotFile::new(path.to_string(), bytes) });
    }
    let checked: Checked = read_through::<E>(&replica.disk, path, replica.machine().limits()).await?;
    if (checked.meta.last, checked.bytes) != (last, bytes) {
        return Err(bad(format!(
            "snapshot {path} is of {} bytes and as of {:?}; {bytes} bytes as of {last:?} were offered",
            checked.bytes, checked.meta.last
        )));
    }
    let meta = meta_in::<E>(&checked.meta).map_err(bad)?;
    Ok(openraft::Snapshot { meta, snapshot: SnapshotFile::read(path.to_string(), checked) })
}
