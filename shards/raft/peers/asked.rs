//! What a peer asks that is no append: who is there, votes, hand-overs, snapshots, how far the leader has committed.

use std::io;

use openraft::raft::{TransferLeaderRequest, VoteRequest};
use ringbeam_wire::peer::{self, PeerReplyBody, PeerRequestBody, Role, VoteReply};
use ringbeam_wire::preamble;
use ringbeam_wire::refusal::Code;

use super::{PeerWriter, parse, refused, send};
use crate::io::{Env, Writer};
use crate::limits::HELLO_TIMEOUT;
use crate::raft::link::{FrameReader, within};
use crate::raft::replica::Replica;
use crate::raft::snapshot::receive::{answer_chunk, answer_offer};
use crate::raft::{Types, log_id_in, log_id_out, vote_from_wire, wal_id, wire_id, wire_vote};

/// The answer to a request of an open session.
pub(super) async fn answer<E: Env>(replica: &Replica<E>, from: u64, body: PeerRequestBody<'_>) -> io::Result<PeerReplyBody> {
    match body {
        PeerRequestBody::Vote(vote) => answer_vote(replica, from, vote).await,
        PeerRequestBody::Transfer(transfer) => answer_transfer(replica, transfer).await,
        PeerRequestBody::SnapshotOffer(offer) => answer_offer(replica, from, offer).await,
        PeerRequestBody::SnapshotChunk { offset, data, last } => answer_chunk(replica, from, offset, data, last).await,
        PeerRequestBody::ReadIndex => Ok(replica.answer_read_index().await),
        PeerRequestBody::Identify => Ok(PeerReplyBody::Identity(Box::new(replica.identity()))),
        PeerRequestBody::WhoAmI { node, incarnation } => Ok(replica.who_is(node, incarnation)),
        _ => Ok(refused(Code::BadRequest, "not a request for an open session")),
    }
}

/// Answers questions that need no hello, until the hello. `None`: the peer left, or was refused.
pub(super) async fn greet<E: Env>(
    replica: &Replica<E>,
    frames: &mut FrameReader<E>,
    writer: &mut PeerWriter<E>,
) -> io::Result<Option<peer::PeerHello>> {
    loop {
        let Some(frame) = within::<E, _>(HELLO_TIMEOUT, frames.next()).await? else { return Ok(None) };
        let request = parse(&frame)?;
        let context = &replica.context;
        let answer = match request.body {
            PeerRequestBody::Hello(hello) => match replica.admit(&hello) {
                Ok(()) => {
                    let me = &context.me;
                    let welcome = peer::PeerWelcome {
                        version: preamble::VERSION,
                        node: me.node,
                        incarnation: me.incarnation,
                        ring: context.ring,
                    };
                    send::<E>(writer, request.id, &PeerReplyBody::Welcome(welcome)).await?;
                    return Ok(Some(hello));
                }
                Err((code, message)) => {
                    // Peers ask a shard that has stopped again and again; it has said so once.
                    if code != Code::ShardFault {
                        tracing::warn!(shard = context.shard, from = hello.from, "peer refused: {message}");
                    }
                    send::<E>(writer, request.id, &refused(code, message)).await?;
                    writer.shutdown().await?;
                    return Ok(None);
                }
            },
            PeerRequestBody::Identify | PeerRequestBody::Found { .. } => PeerReplyBody::Identity(Box::new(replica.identity())),
            PeerRequestBody::WhoAmI { node, incarnation } => replica.who_is(node, incarnation),
            _ => refused(Code::HelloFirst, "a peer's first request must be a hello"),
        };
        send::<E>(writer, request.id, &answer).await?;
    }
}

async fn answer_vote<E: Env>(replica: &Replica<E>, from: u64, request: peer::RequestVote) -> io::Result<PeerReplyBody> {
    if let Some(why) = replica.left_behind(from, request.last) {
        return Ok(refused(Code::Membership, why));
    }
    let mut rpc =
        VoteRequest::<Types<E>>::new(vote_from_wire::<E>(request.vote), request.last.map(|id| log_id_in::<E>(wal_id(id))));
    rpc.leadership_transfer = request.transfer;
    let answer = if request.pre { replica.raft.pre_vote(rpc).await } else { replica.raft.vote(rpc).await };
    let reply = answer.map_err(|e| io::Error::other(e.to_string()))?;
    Ok(PeerReplyBody::Vote(VoteReply {
        vote: if planted!(VoteGrantedUnasked) { request.vote } else { wire_vote::<E>(&reply.vote) },
        granted: reply.vote_granted || planted!(VoteGrantedUnasked),
        last: reply.last_log_id.as_ref().map(|id| wire_id(log_id_out::<E>(id))),
    }))
}

async fn answer_transfer<E: Env>(replica: &Replica<E>, request: peer::TransferLeader) -> io::Result<PeerReplyBody> {
    // One tie-breaker may have to lead in the place of another (`Replica::tie_break`).
    let by_tie_breaker = replica.member(request.from.node).is_some_and(|leader| leader.role == Role::TieBreaker);
    if request.to == replica.context.me.node && !replica.may_lead() && !by_tie_breaker {
        let message = "a tie-breaker does not lead where a voter can".to_string();
        return Ok(PeerReplyBody::Transfer { accepted: false, message });
    }
    let rpc = TransferLeaderRequest::<Types<E>>::new(
        vote_from_wire::<E>(request.from),
        request.to,
        request.last.map(|id| log_id_in::<E>(wal_id(id))),
    );
    let answer = replica.raft.handle_transfer_leader(rpc).await.map_err(|e| io::Error::other(e.to_string()))?;
    let (accepted, message) = match answer {
        Ok(()) => {
            replica.led_by_transfer.set(request.to == replica.context.me.node);
            (true, String::new())
        }
        Err(e) => (false, e.to_string()),
    };
    Ok(PeerReplyBody::Transfer { accepted, message })
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::raft::tests::with_lone_leader;

    /// A node that had once refused a hand-over, or had handed its leadership on, took every later election for a hand-over: its shard
    /// stayed there, also when it belonged elsewhere.
    #[test]
    fn only_a_hand_over_that_is_taken_counts_as_one() {
        with_lone_leader(async |replica| {
            let from = peer::Vote { term: 0, node: 2, committed: true };
            let old = peer::TransferLeader { from, to: 1, last: None };
            let answer = answer_transfer(&replica, old).await.expect("the group runs");
            assert!(matches!(answer, PeerReplyBody::Transfer { accepted: false, .. }), "{answer:?}");
            assert!(!replica.led_by_transfer.get(), "it was elected");
            replica.led_by_transfer.set(true);
            let _ = replica.hand_over(2).await;
            assert!(!replica.led_by_transfer.get(), "it has given away what it was given");
        });
    }
}
