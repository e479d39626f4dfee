//! Doors for fuzzers (`tests/fuzz`) into what a peer's bytes and a snapshot's file go through, without a ring around them. With
//! the cargo feature `sim` only: no binary has them.
//!
//! **Not here**: anything of its own. Each door calls what the shard calls.

use std::io;

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use ringbeam_wire::peer::{self, PeerRequestBody};

use super::machine::{Machine, MachineSettings};
use super::{log_id_in, membership_in, peers, vote_from_wire, wal_id};
use crate::io::Env;

/// A peer's request in raft's own types, as `peers.rs` makes them. The number of entries in it; the error is what ends the
/// connection or refuses the snapshot.
pub fn peer_request<E: Env>(frame: &Bytes) -> io::Result<usize> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let request = peer::parse_request(frame).map_err(|e| invalid(e.to_string()))?;
    match request.body {
        PeerRequestBody::Append(_) => return peers::append_in::<E>(frame).map(|(_, _, rpc)| rpc.entries.len()),
        PeerRequestBody::Vote(vote) => {
            let _ = (vote_from_wire::<E>(vote.vote), vote.last.map(|id| log_id_in::<E>(wal_id(id))));
        }
        PeerRequestBody::Transfer(transfer) => {
            let _ = (vote_from_wire::<E>(transfer.from), transfer.last.map(|id| log_id_in::<E>(wal_id(id))));
        }
        PeerRequestBody::SnapshotOffer(offer) => drop(membership_in(offer.membership).map_err(invalid)?),
        _ => {}
    }
    Ok(0)
}

/// A machine with the newest snapshot of its directory installed, as raft does when a shard starts.
pub async fn install_newest<E: Env>(disk: E::Disk, settings: MachineSettings) -> io::Result<Machine<E>> {
    let mut machine = Machine::<E>::open(disk, settings).await?;
    if let Some(newest) = machine.get_current_snapshot().await? {
        machine.install_snapshot(&newest.meta, newest.snapshot).await?;
    }
    Ok(machine)
}
