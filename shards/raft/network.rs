//! Requests to peers, as openraft asks for them.
//!
//! Appends are pipelined: `stream_append` keeps up to `limits::APPENDS_IN_FLIGHT_MAX` requests on one connection, whose replies
//! come in order. Traps that shaped it (openraft 0.10.0-alpha.37):
//! - openraft backs off *inside* the input stream: connecting before its first item would dial a dead peer in a busy loop.
//! - After a conflict, a higher vote or any error both sides must end the session: the link is dropped, not kept.
//! - Heartbeats are streams of one item, ten a second: the link is kept between them.
//! - A peer that cannot be reached is `Unreachable`, so that openraft backs off at once.
//!
//! **Not here**: how a snapshot is sent (`snapshot/send.rs`).

mod asks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_util::future::{Either, select};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use openraft::{EntryPayload, OptionalSend};
use ringbeam_wire::peer::{self, AppendReply, EntryKind, Member, PeerReplyBody, Purpose, Role};

use super::link::{Link, PeerContext, within};
use super::machine::Machine;
use super::replica::lease::Leases;
use super::snapshot::SnapshotFile;
use super::{
    Site, TEntry, TLogId, Types, log_id_in, log_id_out, membership_out, vote_from_wire, vote_out, wal_id, wire_id, wire_vote,
};
use crate::io::{Env, Instant};
use crate::limits::{APPEND_STALL_MAX, APPENDS_IN_FLIGHT_MAX, COMMIT_UPDATE_WAIT};
use crate::wal::Vote;

/// Makes a [`Peer`] for each node that openraft wants to talk to.
#[derive(Clone)]
pub struct Network<E: Env> {
    pub(crate) context: Rc<PeerContext<E>>,
    pub(crate) machine: Machine<E>,
    pub(crate) full: FullNodes,
    pub(crate) settled: Rc<Cell<u64>>,
    pub(crate) leases: Rc<Leases>,
}

/// Nodes whose disks are full, by their last answers. One that does not answer stays as it was: it counts for no quorum either way.
pub(crate) type FullNodes = Rc<RefCell<BTreeSet<u64>>>;

/// One peer, for one purpose.
pub struct Peer<E: Env> {
    pub(super) context: Rc<PeerContext<E>>,
    pub(super) machine: Machine<E>,
    pub(super) member: Member,
    purpose: Purpose,
    pub(super) link: Option<Link<E>>,
    /// How often this peer has refused snapshots of ours in a row, though they read back well here.
    pub(super) refusals: u32,
    full: FullNodes,
    settled: Rc<Cell<u64>>,
    leases: Rc<Leases>,
}

impl<E: Env> Network<E> {
    fn peer(&self, target: u64, site: &Site, purpose: Purpose) -> Peer<E> {
        let member = site.member(target);
        let Network { context, machine, full, settled, leases } = self.clone();
        Peer { context, machine, member, purpose, link: None, refusals: 0, full, settled, leases }
    }
}

impl<E: Env> RaftNetworkFactory<Types<E>> for Network<E> {
    type Network = Peer<E>;
    async fn new_client(&mut self, target: u64, site: &Site) -> Peer<E> {
        self.peer(target, site, Purpose::Replication)
    }
    async fn new_heartbeat_client(&mut self, target: u64, site: &Site) -> Peer<E> {
        self.peer(target, site, Purpose::Heartbeat)
    }
    async fn new_snapshot_client(&mut self, target: u64, site: &Site) -> Peer<E> {
        self.peer(target, site, Purpose::Snapshot)
    }
}

fn unreachable<E: Env>(e: &io::Error) -> RPCError<Types<E>> {
    RPCError::Unreachable(Unreachable::new(e))
}

/// What an unanswered append covers.
struct Sent<E: Env> {
    id: u64,
    at: Instant,
    vote: Vote,
    previous: Option<TLogId<E>>,
    last: Option<TLogId<E>>,
    /// Appends without entries that were not sent because this one says all that they said: each one's `previous`.
    spared: Vec<Option<TLogId<E>>>,
}

/// One running `stream_append`.
///
/// After each commit openraft sends the new commit index in an append of its own. Under load the next entries follow within
/// microseconds and carry it too, so such an append waits a moment ([`COMMIT_UPDATE_WAIT`]) and is usually spared: half the
/// messages, and half the wake-ups on both sides. It counts as answered when the later one is, never earlier.
struct Session<'s, E: Env, S> {
    peer: &'s mut Peer<E>,
    link: Link<E>,
    input: S,
    input_open: bool,
    in_flight: VecDeque<Sent<E>>,
    held: Option<(AppendEntriesRequest<Types<E>>, E::Sleep)>,
    spared: Vec<Option<TLogId<E>>>,
    answered: VecDeque<StreamAppendResult<Types<E>>>,
}

enum Event<E: Env> {
    Reply(io::Result<(u64, PeerReplyBody)>),
    Request(Option<AppendEntriesRequest<Types<E>>>),
    HeldLongEnough,
}

impl<E: Env, S: Stream<Item = AppendEntriesRequest<Types<E>>> + Unpin> Session<'_, E, S> {
    fn queue(&mut self, request: &AppendEntriesRequest<Types<E>>) {
        // Memberships are rare; their encoded form must live until the frame is made.
        let memberships: Vec<Vec<u8>> = request
            .entries
            .iter()
            .filter_map(|e| match &e.payload {
                EntryPayload::Membership(m) => Some(membership_out(m).encode()),
                _ => None,
            })
            .collect();
        let mut membership = memberships.iter();
        let entries: Vec<peer::EntryOut<'_>> = request
            .entries
            .iter()
            .map(|e: &TEntry<E>| {
                let (kind, payload): (EntryKind, &[u8]) = match &e.payload {
                    EntryPayload::Blank => (EntryKind::Blank, &[]),
                    EntryPayload::Normal(batch) => (EntryKind::Batch, &batch.payload),
                    EntryPayload::Membership(_) => (EntryKind::Membership, membership.next().map_or(&[], |m| m)),
                };
                peer::EntryOut { id: wire_id(log_id_out::<E>(&e.log_id)), kind, payload }
            })
            .collect();
        let head = peer::AppendHead {
            vote: wire_vote::<E>(&request.vote),
            previous: request.prev_log_id.as_ref().map(|id| wire_id(log_id_out::<E>(id))),
            committed: request.leader_commit.as_ref().map(|id| wire_id(log_id_out::<E>(id))),
            settled: if self.peer.member.role == Role::TieBreaker { self.peer.settled.get() } else { 0 },
        };
        let id = self.link.queue_append(head, &entries);
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|e| e.log_id).or(previous);
        let spared = std::mem::take(&mut self.spared);
        let vote = vote_out::<E>(&request.vote);
        self.in_flight.push_back(Sent { id, at: E::now(), vote, previous, last, spared });
    }

    /// Sends what the input has and gives the next result; `None` when the input has ended and all is answered.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types<E>>, RPCError<Types<E>>>> {
        loop {
            if let Some(answered) = self.answered.pop_front() {
                return Some(Ok(answered));
            }
            if !self.input_open && self.in_flight.is_empty() && self.held.is_none() {
                return None;
            }
            let sent = match self.event().await {
                Event::Reply(reply) => return Some(self.judge(reply)),
                Event::Request(Some(request)) => self.take(request).await,
                Event::Request(None) => {
                    self.input_open = false;
                    self.send_held().await
                }
                Event::HeldLongEnough => self.send_held().await,
            };
            if let Err(e) = sent {
                return Some(Err(unreachable::<E>(&e)));
            }
        }
    }

    /// What happens next. Replies first: they let openraft commit.
    async fn event(&mut self) -> Event<E> {
        let may_take = self.input_open && self.in_flight.len() < APPENDS_IN_FLIGHT_MAX;
        let Session { link, input, in_flight, held, .. } = self;
        let mut reply = std::pin::pin!(async {
            if in_flight.is_empty() {
                std::future::pending::<()>().await;
            }
            within::<E, _>(APPEND_STALL_MAX, link.receive()).await
        });
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reply) = reply.as_mut().poll(cx) {
                return Poll::Ready(Event::Reply(reply));
            }
            if may_take && let Poll::Ready(request) = input.poll_next_unpin(cx) {
                return Poll::Ready(Event::Request(request));
            }
            if let Some((_, wait)) = held
                && Pin::new(wait).poll(cx).is_ready()
            {
                return Poll::Ready(Event::HeldLongEnough);
            }
            Poll::Pending
        })
        .await
    }

    /// Takes `request` and all others that are ready, and sends them in one write.
    async fn take(&mut self, request: AppendEntriesRequest<Types<E>>) -> io::Result<()> {
        self.hold_or_queue(request);
        while self.in_flight.len() < APPENDS_IN_FLIGHT_MAX {
            match self.input.next().now_or_never() {
                Some(Some(request)) => self.hold_or_queue(request),
                Some(None) => {
                    self.input_open = false;
                    return self.send_held().await;
                }
                None => break,
            }
        }
        within::<E, _>(APPEND_STALL_MAX, self.link.flush()).await
    }

    fn hold_or_queue(&mut self, request: AppendEntriesRequest<Types<E>>) {
        if let Some((held, _)) = self.held.take() {
            self.spared.push(held.prev_log_id);
        }
        if request.entries.is_empty() && self.input_open {
            self.held = Some((request, E::sleep(COMMIT_UPDATE_WAIT)));
        } else {
            self.queue(&request);
        }
    }

    async fn send_held(&mut self) -> io::Result<()> {
        if let Some((request, _)) = self.held.take() {
            self.queue(&request);
        }
        within::<E, _>(APPEND_STALL_MAX, self.link.flush()).await
    }

    #[allow(clippy::result_large_err, reason = "the error is openraft's, and the answer goes to openraft")]
    fn judge(&mut self, reply: io::Result<(u64, PeerReplyBody)>) -> Result<StreamAppendResult<Types<E>>, RPCError<Types<E>>> {
        let (id, body) = reply.map_err(|e| unreachable::<E>(&e))?;
        let Some(sent) = self.in_flight.pop_front().filter(|sent| sent.id == id) else {
            return Err(unreachable::<E>(&io::Error::other(format!("append reply {id} out of order"))));
        };
        let PeerReplyBody::Append { reply, full, promised_ms } = body else {
            return Err(unreachable::<E>(&io::Error::other("the answer to an append is no append reply")));
        };
        let (node, mut nodes) = (self.peer.member.node, self.peer.full.borrow_mut());
        if full {
            nodes.insert(node)
        } else {
            nodes.remove(&node)
        };
        drop(nodes);
        if matches!(reply, AppendReply::Success | AppendReply::Partial { .. }) {
            self.answered.extend(sent.spared.into_iter().map(Ok));
            if promised_ms > 0 {
                self.peer.leases.hear(node, sent.vote, sent.at, promised_ms);
            }
        }
        let result = match reply {
            AppendReply::Success => Ok(sent.last),
            AppendReply::Partial { matched } => Ok(matched.map(|id| log_id_in::<E>(wal_id(id)))),
            AppendReply::Conflict => match sent.previous {
                Some(previous) => Err(StreamAppendError::Conflict(previous)),
                None => return Err(unreachable::<E>(&io::Error::other("conflict before the first entry"))),
            },
            AppendReply::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_wire::<E>(vote))),
        };
        // In the order in which openraft asked.
        self.answered.push_back(result);
        match self.answered.pop_front() {
            Some(first) => Ok(first),
            None => Err(unreachable::<E>(&io::Error::other("an answer vanished"))),
        }
    }
}

impl<E: Env> Peer<E> {
    pub(super) async fn link(&mut self, purpose: Purpose) -> io::Result<Link<E>> {
        match self.link.take() {
            Some(link) => Ok(link),
            None => Link::open(&self.context, &self.member, purpose).await.inspect_err(|e| {
                if e.kind() == io::ErrorKind::Unsupported {
                    tracing::warn!(shard = self.context.shard, "{e}");
                }
            }),
        }
    }
}

impl<E: Env> RaftNetworkV2<Types<E>> for Peer<E> {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<E>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<E>>, RPCError<Types<E>>> {
        let mut replies = self.stream_append(futures_util::stream::iter([rpc]), option).await?;
        match replies.next().await {
            Some(result) => Ok(result?.into()),
            None => Err(RPCError::Network(NetworkError::new(&io::Error::other("an append was not answered")))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types<E>>, RPCError<Types<E>>>>, RPCError<Types<E>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<E>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let empty: BoxStream<'s, _> = Box::pin(futures_util::stream::empty());
            let Some(first) = input.next().await else { return Ok(empty) };
            let purpose = self.purpose;
            let link = self.link(purpose).await.map_err(|e| unreachable::<E>(&e))?;
            let mut session = Session {
                peer: self,
                link,
                input,
                input_open: true,
                in_flight: VecDeque::new(),
                held: None,
                spared: Vec::new(),
                answered: VecDeque::new(),
            };
            session.take(first).await.map_err(|e| unreachable::<E>(&e))?;
            let replies = futures_util::stream::unfold(Some(session), |session| async move {
                let mut session = session?;
                match session.next().await {
                    Some(Ok(Ok(done))) => Some((Ok(Ok(done)), Some(session))),
                    // Conflict, higher vote, error: the session ends and its link with it.
                    Some(end) => Some((end, None)),
                    None => {
                        let Session { peer, link, .. } = session;
                        peer.link = Some(link);
                        None
                    }
                }
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<Types<E>>, _: RPCOption) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        self.ask_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<E>>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types<E>>, RPCError<Types<E>>> {
        self.ask_vote(rpc, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types<E>>,
        snapshot: SnapshotOf<Types<E>, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types<E>>, StreamingError<Types<E>>> {
        let to = self.member.node;
        let send = Box::pin(self.send_snapshot(&vote, &snapshot));
        match select(send, Box::pin(cancel)).await {
            Either::Left((Ok(vote), _)) => Ok(SnapshotResponse::new(vote)),
            Either::Left((Err(e), _)) => {
                tracing::warn!(to, "snapshot not sent: {e}");
                Err(StreamingError::Unreachable(Unreachable::new(&e)))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<E>>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<E>>, RPCError<Types<E>>> {
        self.ask_transfer(request).await
    }
}
