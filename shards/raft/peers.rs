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

mod asked;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use ringbeam_wire::peer::{self, AppendReply, Encoder, PeerReplyBody, PeerRequestBody, Purpose};
use ringbeam_wire::refusal::Code;

use super::link::{FrameReader, within};
use super::replica::Replica;
use super::{TEntry, Types, entry_in, log_id_in, log_id_out, vote_from_wire, vote_out, wal_id, wire_id, wire_vote};
use crate::io::{Env, Net, Writer, channel::mpsc};
use crate::limits::{APPEND_STALL_MAX, APPENDS_IN_FLIGHT_MAX, ROOM_PAUSE, SEND_STALL_MAX};
use crate::wal::Vote;

type PeerWriter<E> = <<E as Env>::Net as Net>::Writer;

/// Serves one connection from a peer until it ends.
pub(crate) async fn serve<E: Env>(replica: Rc<Replica<E>>, reader: <E::Net as Net>::Reader, mut writer: PeerWriter<E>) {
    let mut frames = FrameReader::<E>::new(reader, replica.context.frame_bytes_max);
    let hello = match asked::greet(&replica, &mut frames, &mut writer).await {
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
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(shard = replica.context.shard, from = hello.from, "a peer sent what is not taken here: {e}");
        }
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
        let reply = asked::answer(replica, from, request.body).await;
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
    let (wal, leases) = (replica.wal().clone(), replica.leases.clone());
    let say =
        move |accepted: Option<Vote>| (wal.has_room().is_err(), accepted.map_or(0, |vote| leases.promise(vote, E::now())));
    E::spawn(append_replies::<E>(say, Box::pin(results), sent.clone(), writer, over.clone()));

    let mut frame = first;
    loop {
        let (id, settled, mut rpc) = append_in::<E>(&frame)?;
        replica.heard_from_leader(settled);
        if !find_room(replica, &mut rpc.entries).await {
            return Ok(EndedBy::Us);
        }
        let last = rpc.entries.last().map(|e| &e.log_id).or(rpc.prev_log_id.as_ref());
        let last = last.map(|id| wire_id(log_id_out::<E>(id)));
        sent.borrow_mut().push_back(Asked { id, vote: vote_out::<E>(&rpc.vote), last });
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
    let (began, bytes_max) = (E::now(), replica.wal().entry_bytes_max());
    if let Some(entry) = entries.iter().find(|entry| payload(entry) > bytes_max) {
        let (id, bytes) = (&entry.log_id, payload(entry));
        tracing::error!(
            shard = replica.context.shard,
            "entry {id} has {bytes} bytes, the log of this node takes {bytes_max}: raise log.segment_bytes to what its leader has"
        );
        // As often as one that finds no room.
        E::sleep(APPEND_STALL_MAX / 2).await;
        return false;
    }
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

/// An append that raft has: its id, its leader's vote, its last entry.
struct Asked {
    id: u64,
    vote: Vote,
    last: Option<peer::LogId>,
}
type AppendResult<E> = Result<StreamAppendResult<Types<E>>, openraft::errors::Fatal<Types<E>>>;

async fn append_replies<E: Env>(
    say: impl Fn(Option<Vote>) -> (bool, u32) + 'static,
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
            let reply = append_reply::<E>(result, &asked, &say);
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

/// `say`: whether the disk is full, and what is promised to the leader of this vote, whose append was accepted.
fn append_reply<E: Env>(result: AppendResult<E>, asked: &Asked, say: impl Fn(Option<Vote>) -> (bool, u32)) -> PeerReplyBody {
    let reply = match result {
        Ok(Ok(matched)) => match matched.map(|id| wire_id(log_id_out::<E>(&id))) {
            matched if matched == asked.last => AppendReply::Success,
            matched => AppendReply::Partial { matched },
        },
        Ok(Err(StreamAppendError::Conflict(_))) => AppendReply::Conflict,
        Ok(Err(StreamAppendError::HigherVote(vote))) => AppendReply::HigherVote(wire_vote::<E>(&vote)),
        Err(fatal) => return refused(Code::ShardFault, fatal.to_string()),
    };
    let accepted = matches!(reply, AppendReply::Success | AppendReply::Partial { .. });
    let (full, promised_ms) = say(accepted.then_some(asked.vote));
    PeerReplyBody::Append { reply, full, promised_ms }
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
            let sent = Rc::new(RefCell::new(VecDeque::from([Asked { id: 7, vote: Vote::default(), last: None }])));
            let over = Rc::new(Cell::new(false));
            append_replies::<Uring>(|_| (false, 0), Box::pin(one_answer), sent.clone(), writer, over.clone()).await;
            over.get() && sent.borrow().is_empty()
        });
        assert!(answered.expect("an executor can be made"), "the answer left and the session is over");
    }
}
