//! The newest snapshot goes to a peer that lacks what the log does not hold any more: offer, chunks, and what is done when the peer
//! says that it does not read back well.
//!
//! ```text
//!   offer ─▶ resume at ─▶ chunks ─┬─ installed
//!                                 ├─ refused as damaged ─▶ own file read through ─┬─ damaged, or refused twice ─▶ another is made
//!                                 │                                               └─ good: sent again, after a pause
//!                                 └─ own file cannot be read ─▶ the same
//! ```
//! **Invariant**: a file that two peers, or one peer twice, have refused is sent to nobody again.
//!
//! **Not here**: how another is made (`machine.rs`; `replica.rs` asks for it).

use std::io;

use openraft::alias::{SnapshotOf, VoteOf};
use ringbeam_wire::peer::{self, PeerReplyBody, PeerRequestBody, Purpose, Role};
use ringbeam_wire::refusal::Code;

use super::SnapshotFile;
use crate::io::{Disk, Env, File};
use crate::limits::{
    APPEND_STALL_MAX, PEER_TIMEOUT, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_REFUSED_PAUSE, SNAPSHOT_REFUSED_PAUSE_DOUBLINGS,
};
use crate::raft::link::within;
use crate::raft::network::Peer;
use crate::raft::{Types, log_id_out, membership_out, vote_from_wire, wire_id, wire_vote};

/// Why a snapshot did not arrive.
enum NotSent {
    /// The peer says no: its code, its words.
    Refused(u16, String),
    /// This node's own file does not let itself be read.
    Unreadable(io::Error),
    /// The way is broken, or slow.
    Link(io::Error),
}

impl From<io::Error> for NotSent {
    fn from(e: io::Error) -> NotSent {
        NotSent::Link(e)
    }
}

fn offset_in(reply: PeerReplyBody) -> Result<(peer::Vote, u64, bool), NotSent> {
    match reply {
        PeerReplyBody::Snapshot { vote, resume_at, installed } => Ok((vote, resume_at, installed)),
        PeerReplyBody::Refused { code, message } => Err(NotSent::Refused(code, message)),
        _ => Err(NotSent::Link(io::Error::other("the answer to a snapshot is no snapshot reply"))),
    }
}

impl<E: Env> Peer<E> {
    /// Sends a snapshot, and gives the peer's vote once it has installed it. An error is openraft's to retry, with whatever snapshot
    /// is the newest then.
    pub(in crate::raft) async fn send_snapshot(
        &mut self,
        vote: &VoteOf<Types<E>>,
        snapshot: &SnapshotOf<Types<E>, SnapshotFile>,
    ) -> io::Result<VoteOf<Types<E>>> {
        let stateless = self.context.me.role == Role::TieBreaker && self.member.role != Role::TieBreaker;
        if stateless {
            return Err(io::Error::other("a tie-breaker has no state to give: whoever leads next has"));
        }
        if self.machine.distrusts_snapshot() {
            self.machine.snapshot_made_again().await;
            return Err(io::Error::other("the newest snapshot was damaged; there is another now"));
        }
        let path = &snapshot.snapshot.path;
        match self.try_send(vote, snapshot).await {
            Ok(vote) => {
                self.refusals = 0;
                Ok(vote)
            }
            Err(NotSent::Link(e)) => Err(e),
            Err(NotSent::Unreadable(e)) => {
                self.machine.doubt_snapshot(path, &e.to_string()).await;
                Err(e)
            }
            Err(NotSent::Refused(code, why)) => {
                let damaged = code == Code::SnapshotDamaged as u16;
                if damaged {
                    self.machine.doubt_snapshot(path, &format!("node {}: {why}", self.member.node)).await;
                }
                // Another file is sent as soon as there is one. But a good one is not better next time, and a disk not less full.
                if damaged && !self.machine.distrusts_snapshot() {
                    let doubled = self.refusals.min(SNAPSHOT_REFUSED_PAUSE_DOUBLINGS);
                    self.refusals += 1;
                    E::sleep(SNAPSHOT_REFUSED_PAUSE * (1 << doubled)).await;
                } else if code == Code::DiskFull as u16 {
                    E::sleep(SNAPSHOT_REFUSED_PAUSE).await;
                }
                Err(io::Error::other(why))
            }
        }
    }

    async fn try_send(
        &mut self,
        vote: &VoteOf<Types<E>>,
        snapshot: &SnapshotOf<Types<E>, SnapshotFile>,
    ) -> Result<VoteOf<Types<E>>, NotSent> {
        let file = self.machine.disk().open(&snapshot.snapshot.path).await.map_err(NotSent::Unreadable)?;
        let bytes = if snapshot.snapshot.bytes == 0 { file.len() } else { snapshot.snapshot.bytes };
        let membership = membership_out(snapshot.meta.last_membership.membership()).encode();
        let offer = PeerRequestBody::SnapshotOffer(peer::SnapshotOffer {
            vote: wire_vote::<E>(vote),
            last: snapshot.meta.last_log_id.as_ref().map(|id| wire_id(log_id_out::<E>(id))),
            membership_at: snapshot.meta.last_membership.log_id().as_ref().map(|id| wire_id(log_id_out::<E>(id))),
            membership: &membership,
            snapshot: &snapshot.snapshot.path,
            bytes,
            crc: 0,
        });
        let mut link = self.link(Purpose::Snapshot).await?;
        let (mut peer_vote, mut offset, mut installed) = offset_in(within::<E, _>(PEER_TIMEOUT, link.call(&offer)).await?)?;
        while !installed {
            if offset >= bytes {
                let why = format!("the peer asks for byte {offset} of a snapshot of {bytes}");
                return Err(NotSent::Link(io::Error::other(why)));
            }
            let length = (bytes - offset).min(SNAPSHOT_CHUNK_BYTES as u64);
            let data = file.read_at(offset, length as usize).await.map_err(NotSent::Unreadable)?;
            let last = offset + length == bytes;
            // The last answer comes after the peer has loaded it all.
            let limit = if last { APPEND_STALL_MAX * 60 } else { APPEND_STALL_MAX };
            let chunk = PeerRequestBody::SnapshotChunk { offset, data: &data, last };
            (peer_vote, offset, installed) = offset_in(within::<E, _>(limit, link.call(&chunk)).await?)?;
        }
        self.link = Some(link);
        Ok(vote_from_wire::<E>(peer_vote))
    }
}
