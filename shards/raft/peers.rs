//! Requests from peers: who may speak, appends in a pipeline, votes, snapshots, and what a joining node asks.
//!
//! ```text
//! peer ── hello ──▶ admitted? ─┬─ append ... ──▶ Raft::stream_append ──▶ replies in order, after this node's flush
//!                              ├─ vote, hand-over
//!                              ├─ snapshot: offer, chunks (`snapshot/receive.rs`)
//!                              ├─ how far is the log committed? (`read_index.rs`)
//!                              └─ identify, who-am-i (also before any hello: a node that is not founded has no ring yet)
//! ```
//!
//! **Invariants**
//! - Nothing but `Identify`, `WhoAmI` and `Found` is answered before a hello in which ring, node and both incarnations agree.
//! - Entries of clients are handed to raft with a claim for their room in the log. On a full disk they wait here, at the door: votes
//!   and heartbeats, on connections of their own, pass them.
//! - A leader's connection that closes is a hint that the leader is gone: this follower gives up its lease and asks for an
//!   election. Pre-vote keeps a wrong hint harmless: the others, still led, refuse.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use ringbeam_wire::peer::{self, AppendReply, Encoder, PeerReplyBody, PeerRequestBody, Purpose, Role, VoteReply};
use ringbeam_wire::preamble;
use ringbeam_wire::refusal::Code;

use super::link::{FrameReader, within};
use super::replica::Replica;
use super::snapshot::receive::{answer_chunk, answer_offer};
use super::{TEntry, Types, entry_in, log_id_in, log_id_out, vote_from_wire, wal_id, wire_id, wire_vote};
use crate::io::{Env, Net, Writer, channel::mpsc};
use crate::limits::{APPEND_STALL_MAX, APPENDS_IN_FLIGHT_MAX, HELLO_TIMEOUT, ROOM_PAUSE, SEND_STALL_MAX};

type PeerWriter<E> = <<E as Env>::Net as Net>::Writer;

/// Serves one connection from a peer until it ends.
pub(crate) async fn serve<E: Env>(replica: Rc<Replica<E>>, reader: <E::Net as Net>::Reader, mut writer: PeerWriter<E>) {
    let mut frames = FrameReader::<E>::new(reader, replica.context.frame_bytes_max);
    let hello = match greet(&replica, &mut frames, &mut writer).await {
        Ok(Some(hello)) => hello,
        Ok(None) => return,
        Err(e) => {
            tracing::debug!(shard = replica.context.shard, "peer connection before its hello: {e}");
            return;
        }
    };
    match session(&replica, hello.from, &mut frames, writer).await {
        // We ended it: that says nothing of the peer.
        Ok(EndedBy::Us) => return,
        Ok(EndedBy::Peer) => {}
        Err(e) => tracing::debug!(shard = replica.context.shard, from = hello.from, "peer connection: {e}"),
    }
    if matches!(hello.purpose, Purpose::Replication | Purpose::Heartbeat) {
        replica.leader_may_be_gone(hello.from).await;
    }
}

/// Who closed a session.
enum EndedBy {
    Us,
    Peer,
}

pub(super) fn refused(code: Code, message: impl Into<String>) -> PeerReplyBody {
    PeerReplyBody::Refused { code: code as u16, message: message.into() }
}

async fn send<E: Env>(writer: &mut PeerWriter<E>, id: u64, body: &PeerReplyBody) -> io::Result<()> {
    let mut out = Vec::new();
    Encoder::new().reply(&mut out, id, body);
    within::<E, _>(SEND_STALL_MAX, writer.write_all(&out)).await
}

fn parse(frame: &Bytes) -> io::Result<peer::PeerRequest<'_>> {
    peer::parse_request(frame).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// Answers questions that need no hello, until the hello. `None`: the peer left, or was refused.
async fn greet<E: Env>(
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
                    tracing::warn!(shard = context.shard, from = hello.from, "peer refused: {message}");
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

/// After the hello: appends go through one pipeline, everything else is answered in place.
async fn session<E: Env>(
    replica: &Rc<Replica<E>>,
    from: u64,
    frames: &mut FrameReader<E>,
    mut writer: PeerWriter<E>,
) -> io::Result<EndedBy> {
    while let Some(frame) = frames.next().await? {
        let request = parse(&frame)?;
        if matches!(request.body, PeerRequestBody::Append(_)) {
            return appends(replica, frames, writer, frame).await;
        }
        let reply = match request.body {
            PeerRequestBody::Vote(vote) => answer_vote(replica, from, vote).await,
            PeerRequestBody::Transfer(transfer) => answer_transfer(replica, transfer).await,
            PeerRequestBody::SnapshotOffer(offer) => answer_offer(replica, from, offer).await,
            PeerRequestBody::SnapshotChunk { offset, data, last } => answer_chunk(replica, from, offset, data, last).await,
            PeerRequestBody::ReadIndex => Ok(replica.answer_read_index().await),
            PeerRequestBody::Identify => Ok(PeerReplyBody::Identity(Box::new(replica.identity()))),
            PeerRequestBody::WhoAmI { node, incarnation } => Ok(replica.who_is(node, incarnation)),
            _ => Ok(refused(Code::BadRequest, "not a request for an open session")),
        };
        let reply = reply.unwrap_or_else(|e| refused(Code::ShardFault, e.to_string()));
        send::<E>(&mut writer, request.id, &reply).await?;
    }
    Ok(EndedBy::Peer)
}

/// An append: its id, what it says is settled, and what is raft's of it; payloads still in the frame.
pub(super) fn append_in<E: Env>(frame: &Bytes) -> io::Result<(u64, u64, AppendEntriesRequest<Types<E>>)> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let request = parse(frame)?;
    let PeerRequestBody::Append(append) = request.body else {
        return Err(invalid("an append session carries only appends".into()));
    };
    let mut entries = Vec::with_capacity(append.len());
    for entry in append.entries() {
        let payload = frame.slice_ref(entry.payload);
        entries.push(entry_in::<E>(wal_id(entry.id), entry.kind.as_u8(), payload).map_err(invalid)?);
    }
    let rpc = AppendEntriesRequest {
        vote: vote_from_wire::<E>(append.head.vote),
        prev_log_id: append.head.previous.map(|id| log_id_in::<E>(wal_id(id))),
        entries,
        leader_commit: append.head.committed.map(|id| log_id_in::<E>(wal_id(id))),
    };
    Ok((request.id, append.head.settled, rpc))
}

async fn appends<E: Env>(
    replica: &Rc<Replica<E>>,
    frames: &mut FrameReader<E>,
    writer: PeerWriter<E>,
    first: Bytes,
) -> io::Result<EndedBy> {
    let (requests, input) = mpsc::channel::<AppendEntriesRequest<Types<E>>>(APPENDS_IN_FLIGHT_MAX);
    let sent = Rc::new(RefCell::new(VecDeque::new()));
    let input = futures_util::stream::unfold(input, |mut input| async move { input.recv().await.map(|r| (r, input)) });
    let results = replica.raft.stream_append(input);
    let over = Rc::new(Cell::new(false));
    let wal = replica.wal().clone();
    let full = move || wal.has_room().is_err();
    E::spawn(append_replies::<E>(full, Box::pin(results), sent.clone(), writer, over.clone()));

    let mut frame = first;
    loop {
        let (id, settled, mut rpc) = append_in::<E>(&frame)?;
        replica.heard_from_leader(settled);
        if !find_room(replica, &mut rpc.entries).await {
            return Ok(EndedBy::Us);
        }
        let last = rpc.entries.last().map(|e| &e.log_id).or(rpc.prev_log_id.as_ref());
        sent.borrow_mut().push_back(Asked { id, last: last.map(|id| wire_id(log_id_out::<E>(id))) });
        if requests.send(rpc).await.is_err() {
            return Ok(EndedBy::Us);
        }
        match frames.next().await {
            Ok(Some(next)) => frame = next,
            _ if over.get() => return Ok(EndedBy::Us),
            Ok(None) => return Ok(EndedBy::Peer),
            Err(e) => return Err(e),
        }
    }
}

/// Waits for room in the log, which then goes with the entries; not longer than the leader waits for the answer, which then tries
/// again. Raft's own entries find room without a claim.
async fn find_room<E: Env>(replica: &Replica<E>, entries: &mut [TEntry<E>]) -> bool {
    let payload = |entry: &TEntry<E>| if let EntryPayload::Normal(batch) = &entry.payload { batch.payload.len() } else { 0 };
    let bytes: usize = entries.iter().map(payload).sum();
    if bytes == 0 {
        return true;
    }
    let began = E::now();
    let room = loop {
        match replica.wal().claim(entries.len(), bytes) {
            Ok(claim) => break Rc::new(claim),
            Err(why) if E::now().since(began) > APPEND_STALL_MAX / 2 => {
                tracing::warn!(shard = replica.context.shard, bytes, ?why, "the log has no room for what the leader sends");
                return false;
            }
            Err(_) => E::sleep(ROOM_PAUSE).await,
        }
    };
    for entry in entries {
        if let EntryPayload::Normal(batch) = &mut entry.payload {
            batch.room = Some(room.clone());
        }
    }
    true
}

/// An append that raft has: its id, its last entry.
struct Asked {
    id: u64,
    last: Option<peer::LogId>,
}
type AppendResult<E> = Result<StreamAppendResult<Types<E>>, openraft::errors::Fatal<Types<E>>>;

async fn append_replies<E: Env>(
    full: impl Fn() -> bool + 'static,
    results: impl futures_util::Stream<Item = AppendResult<E>> + Unpin,
    sent: Rc<RefCell<VecDeque<Asked>>>,
    mut writer: PeerWriter<E>,
    over: Rc<Cell<bool>>,
) {
    // Looking for what is ready may reach the end; asking once more must be allowed.
    let mut results = results.fuse();
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    while let Some(first) = results.next().await {
        out.clear();
        let mut next = Some(first);
        // All that is ready leaves in one send.
        while let Some(result) = next.take() {
            let Some(asked) = sent.borrow_mut().pop_front() else { break };
            let reply = append_reply::<E>(result, asked.last, full());
            over.set(!matches!(&reply, PeerReplyBody::Append { reply: AppendReply::Success, .. }));
            encoder.reply(&mut out, asked.id, &reply);
            if !over.get() {
                next = results.next().now_or_never().flatten();
            }
        }
        let sent = within::<E, _>(SEND_STALL_MAX, writer.write_all(&out)).await;
        if over.get() || sent.is_err() {
            break;
        }
    }
    // The leader opens a new session; both sides forget this one.
    over.set(true);
    let _ = writer.shutdown().await;
}

fn append_reply<E: Env>(result: AppendResult<E>, last: Option<peer::LogId>, full: bool) -> PeerReplyBody {
    let reply = match result {
        Ok(Ok(matched)) => match matched.map(|id| wire_id(log_id_out::<E>(&id))) {
            matched if matched == last => AppendReply::Success,
            matched => AppendReply::Partial { matched },
        },
        Ok(Err(StreamAppendError::Conflict(_))) => AppendReply::Conflict,
        Ok(Err(StreamAppendError::HigherVote(vote))) => AppendReply::HigherVote(wire_vote::<E>(&vote)),
        Err(fatal) => return refused(Code::ShardFault, fatal.to_string()),
    };
    PeerReplyBody::Append { reply, full }
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
    replica.led_by_transfer.set(request.to == replica.context.me.node);
    let answer = replica.raft.handle_transfer_leader(rpc).await.map_err(|e| io::Error::other(e.to_string()))?;
    let (accepted, message) = match answer {
        Ok(()) => (true, String::new()),
        Err(e) => (false, e.to_string()),
    };
    Ok(PeerReplyBody::Transfer { accepted, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::uring::{Uring, UringNet, block_on};

    /// openraft's answers end like any `unfold`: asked once more, they panic. Looking for what else is ready may find the end,
    /// and the loop around it then asked again: a peer that closed its stream at the right moment ended this node.
    #[test]
    fn an_ended_append_stream_is_not_asked_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("it has an address").to_string();
        let answered = block_on(async move {
            let (_reader, writer) = UringNet::new().connect(&address, [0; 16]).await.expect("somebody listens");
            let one_answer = futures_util::stream::unfold(false, |ended| async move {
                let answer: AppendResult<Uring> = Ok(Ok(None));
                (!ended).then_some((answer, true))
            });
            let sent = Rc::new(RefCell::new(VecDeque::from([Asked { id: 7, last: None }])));
            let over = Rc::new(Cell::new(false));
            append_replies::<Uring>(|| false, Box::pin(one_answer), sent.clone(), writer, over.clone()).await;
            over.get() && sent.borrow().is_empty()
        });
        assert!(answered.expect("an executor can be made"), "the answer left and the session is over");
    }
}
