//! What is asked of a peer beside appends and snapshots: votes and hand-overs.

use std::io;

use openraft::errors::RPCError;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use ringbeam_wire::peer::{self, PeerReplyBody, PeerRequestBody, Purpose};
use ringbeam_wire::refusal::Code;

use super::{Peer, unreachable};
use crate::io::Env;
use crate::limits::PEER_TIMEOUT;
use crate::raft::link::within;
use crate::raft::{Types, log_id_in, log_id_out, vote_from_wire, wal_id, wire_id, wire_vote};

impl<E: Env> Peer<E> {
    /// One request and its reply on a kept connection.
    async fn ask(&mut self, purpose: Purpose, body: &PeerRequestBody<'_>) -> io::Result<PeerReplyBody> {
        let mut link = self.link(purpose).await?;
        let reply = within::<E, _>(PEER_TIMEOUT, link.call(body)).await?;
        self.link = Some(link);
        if let PeerReplyBody::Refused { code, message } = &reply {
            if *code == Code::Membership as u16 {
                *self.context.outvoted.borrow_mut() = Some(message.clone());
            }
            return Err(io::Error::other(format!("node {}: {message}", self.member.node)));
        }
        Ok(reply)
    }

    pub(super) async fn ask_vote(
        &mut self,
        rpc: VoteRequest<Types<E>>,
        pre: bool,
    ) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        let request = PeerRequestBody::Vote(peer::RequestVote {
            vote: wire_vote::<E>(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(|id| wire_id(log_id_out::<E>(id))),
            pre,
            transfer: rpc.leadership_transfer,
        });
        match self.ask(Purpose::Election, &request).await.map_err(|e| unreachable::<E>(&e))? {
            PeerReplyBody::Vote(reply) => Ok(VoteResponse::new(
                vote_from_wire::<E>(reply.vote),
                reply.last.map(|id| log_id_in::<E>(wal_id(id))),
                reply.granted,
            )),
            _ => Err(unreachable::<E>(&io::Error::other("the answer to a vote request is no vote reply"))),
        }
    }

    pub(super) async fn ask_transfer(
        &mut self,
        request: TransferLeaderRequest<Types<E>>,
    ) -> Result<TransferLeaderResponse<Types<E>>, RPCError<Types<E>>> {
        let body = PeerRequestBody::Transfer(peer::TransferLeader {
            from: wire_vote::<E>(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(|id| wire_id(log_id_out::<E>(id))),
        });
        match self.ask(Purpose::Election, &body).await.map_err(|e| unreachable::<E>(&e))? {
            // Why it was not accepted matters to nobody: the leader goes on, and tries again when asked.
            PeerReplyBody::Transfer { .. } => Ok(Ok(())),
            _ => Err(unreachable::<E>(&io::Error::other("the answer to a hand-over is no transfer reply"))),
        }
    }
}
