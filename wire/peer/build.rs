//! From peer messages to frames.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

use super::*;
use crate::frame_builder::FrameBuilder;
use crate::member::build_members;
use crate::schema;

type Builder = FlatBufferBuilder<'static>;
type Body = WIPOffset<UnionWIPOffset>;
type EntryOffsets = Vec<WIPOffset<schema::Entry<'static>>>;

/// Encodes peer messages: one reusable builder per connection. Each call appends one whole frame (header, CRC, payload).
pub struct Encoder {
    frames: FrameBuilder,
    /// Where the entries of the append under construction are.
    entries: EntryOffsets,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder with a small buffer.
    pub fn new() -> Encoder {
        Encoder { frames: FrameBuilder::new(), entries: Vec::new() }
    }

    /// Appends the frame of a message to `out`.
    pub fn request(&mut self, out: &mut Vec<u8>, id: u64, body: &PeerRequestBody<'_>) {
        let Encoder { frames, entries } = self;
        frames.append(out, |b| {
            let (body_type, body) = request_body(b, entries, body);
            schema::PeerRequest::create(b, &schema::PeerRequestArgs { id, body_type, body: Some(body) })
        });
    }

    /// Appends the frame of an `Append` to `out`. The entries' indexes are consecutive.
    pub fn append<'a>(
        &mut self,
        out: &mut Vec<u8>,
        id: u64,
        head: AppendHead,
        entries: impl ExactSizeIterator<Item = EntryOut<'a>>,
    ) {
        let Encoder { frames, entries: offsets } = self;
        frames.append(out, |b| {
            let body = Some(build_append(b, offsets, head, entries));
            let body_type = schema::PeerRequestBody::Append;
            schema::PeerRequest::create(b, &schema::PeerRequestArgs { id, body_type, body })
        });
    }

    /// Appends the frame of an answer to `out`.
    pub fn reply(&mut self, out: &mut Vec<u8>, id: u64, body: &PeerReplyBody) {
        self.frames.append(out, |b| {
            let (body_type, body) = reply_body(b, body);
            schema::PeerReply::create(b, &schema::PeerReplyArgs { id, body_type, body: Some(body) })
        });
    }
}

impl From<LogId> for schema::LogId {
    fn from(id: LogId) -> schema::LogId {
        schema::LogId::new(id.term, id.leader, id.index)
    }
}

impl From<Vote> for schema::Vote {
    fn from(vote: Vote) -> schema::Vote {
        schema::Vote::new(vote.term, vote.node, vote.committed)
    }
}

fn log_id(id: Option<LogId>) -> Option<schema::LogId> {
    id.map(schema::LogId::from)
}

fn build_append<'a>(
    b: &mut Builder,
    offsets: &mut EntryOffsets,
    head: AppendHead,
    entries: impl ExactSizeIterator<Item = EntryOut<'a>>,
) -> Body {
    offsets.clear();
    offsets.reserve(entries.len());
    for entry in entries {
        let args = schema::EntryArgs {
            id: Some(&entry.id.into()),
            kind: schema::EntryKind(entry.kind.as_u8()),
            payload: (!entry.payload.is_empty()).then(|| b.create_vector(entry.payload)),
        };
        offsets.push(schema::Entry::create(b, &args));
    }
    let (previous, committed) = (log_id(head.previous), log_id(head.committed));
    let args = schema::AppendArgs {
        vote: Some(&head.vote.into()),
        previous: previous.as_ref(),
        committed: committed.as_ref(),
        entries: (!offsets.is_empty()).then(|| b.create_vector(offsets)),
        settled: head.settled,
    };
    schema::Append::create(b, &args).as_union_value()
}

fn request_body(b: &mut Builder, offsets: &mut EntryOffsets, body: &PeerRequestBody<'_>) -> (schema::PeerRequestBody, Body) {
    use schema::PeerRequestBody as Type;
    match body {
        PeerRequestBody::Append(append) => (Type::Append, build_append(b, offsets, append.head, append.entries())),
        PeerRequestBody::Vote(ask) => {
            let (vote, last) = (ask.vote.into(), log_id(ask.last));
            let args = schema::RequestVoteArgs { vote: Some(&vote), last: last.as_ref(), pre: ask.pre, transfer: ask.transfer };
            (Type::RequestVote, schema::RequestVote::create(b, &args).as_union_value())
        }
        PeerRequestBody::Transfer(transfer) => {
            let (from, last) = (transfer.from.into(), log_id(transfer.last));
            let args = schema::TransferLeaderArgs { from: Some(&from), to: transfer.to, last: last.as_ref() };
            (Type::TransferLeader, schema::TransferLeader::create(b, &args).as_union_value())
        }
        PeerRequestBody::SnapshotOffer(offer) => {
            let (last, membership_at) = (log_id(offer.last), log_id(offer.membership_at));
            let args = schema::SnapshotOfferArgs {
                vote: Some(&offer.vote.into()),
                last: last.as_ref(),
                membership_at: membership_at.as_ref(),
                membership: Some(b.create_vector(offer.membership)),
                snapshot: Some(b.create_string(offer.snapshot)),
                bytes: offer.bytes,
                crc: offer.crc,
            };
            (Type::SnapshotOffer, schema::SnapshotOffer::create(b, &args).as_union_value())
        }
        &PeerRequestBody::SnapshotChunk { offset, data, last } => {
            let args = schema::SnapshotChunkArgs { offset, data: Some(b.create_vector(data)), last };
            (Type::SnapshotChunk, schema::SnapshotChunk::create(b, &args).as_union_value())
        }
        PeerRequestBody::Hello(hello) => (Type::PeerHello, build_hello(b, hello)),
        PeerRequestBody::Identify => (Type::Identify, schema::Identify::create(b, &schema::IdentifyArgs {}).as_union_value()),
        PeerRequestBody::Found { ring, shards, members } => {
            let members = Some(build_members(b, members));
            let args = schema::FoundArgs { ring: *ring, shards: *shards, members };
            (Type::Found, schema::Found::create(b, &args).as_union_value())
        }
        &PeerRequestBody::WhoAmI { node, incarnation } => {
            let args = schema::WhoAmIArgs { node, incarnation };
            (Type::WhoAmI, schema::WhoAmI::create(b, &args).as_union_value())
        }
        PeerRequestBody::ReadIndex => {
            (Type::ReadIndex, schema::ReadIndex::create(b, &schema::ReadIndexArgs {}).as_union_value())
        }
    }
}

fn build_hello(b: &mut Builder, hello: &PeerHello) -> Body {
    let args = schema::PeerHelloArgs {
        version: hello.version,
        ring: hello.ring,
        from: hello.from,
        from_incarnation: hello.from_incarnation,
        to: hello.to,
        to_incarnation: hello.to_incarnation,
        shard: hello.shard,
        purpose: match hello.purpose {
            Purpose::Replication => schema::Purpose::Replication,
            Purpose::Heartbeat => schema::Purpose::Heartbeat,
            Purpose::Election => schema::Purpose::Election,
            Purpose::Snapshot => schema::Purpose::Snapshot,
            Purpose::Control => schema::Purpose::Control,
            Purpose::Read => schema::Purpose::Read,
        },
    };
    schema::PeerHello::create(b, &args).as_union_value()
}

fn reply_body(b: &mut Builder, body: &PeerReplyBody) -> (schema::PeerReplyBody, Body) {
    use schema::PeerReplyBody as Type;
    match body {
        &PeerReplyBody::Append { reply, full, promised_ms } => {
            (Type::AppendReply, build_append_reply(b, reply, full, promised_ms))
        }
        PeerReplyBody::Vote(answer) => {
            let (vote, last) = (answer.vote.into(), log_id(answer.last));
            let args = schema::VoteReplyArgs { vote: Some(&vote), granted: answer.granted, last: last.as_ref() };
            (Type::VoteReply, schema::VoteReply::create(b, &args).as_union_value())
        }
        PeerReplyBody::Transfer { accepted, message } => {
            let args = schema::TransferReplyArgs { accepted: *accepted, message: Some(b.create_string(message)) };
            (Type::TransferReply, schema::TransferReply::create(b, &args).as_union_value())
        }
        &PeerReplyBody::Snapshot { vote, resume_at, installed } => {
            let args = schema::SnapshotReplyArgs { vote: Some(&vote.into()), resume_at, installed };
            (Type::SnapshotReply, schema::SnapshotReply::create(b, &args).as_union_value())
        }
        PeerReplyBody::Welcome(welcome) => {
            let &PeerWelcome { version, node, incarnation, ring } = welcome;
            let args = schema::PeerWelcomeArgs { version, node, incarnation, ring };
            (Type::PeerWelcome, schema::PeerWelcome::create(b, &args).as_union_value())
        }
        PeerReplyBody::Identity(identity) => {
            let args = schema::IdentityArgs {
                node: identity.node,
                incarnation: identity.incarnation,
                ring: identity.ring,
                shards: identity.shards,
                member: Some(identity.member.build(b)),
                members: Some(build_members(b, &identity.members)),
                started: identity.started,
            };
            (Type::Identity, schema::Identity::create(b, &args).as_union_value())
        }
        PeerReplyBody::YouAre { standing, ring, shards, members } => {
            let state = match standing {
                Standing::Unknown => 0,
                Standing::Known => 1,
                Standing::OtherIncarnation => 2,
            };
            let members = Some(build_members(b, members));
            let args = schema::YouAreArgs { state, ring: *ring, shards: *shards, members };
            (Type::YouAre, schema::YouAre::create(b, &args).as_union_value())
        }
        &PeerReplyBody::ReadIndex { index } => {
            let args = schema::ReadIndexReplyArgs { index };
            (Type::ReadIndexReply, schema::ReadIndexReply::create(b, &args).as_union_value())
        }
        PeerReplyBody::Refused { code, message } => {
            let args = schema::PeerRefusedArgs { code: *code, message: Some(b.create_string(message)) };
            (Type::PeerRefused, schema::PeerRefused::create(b, &args).as_union_value())
        }
    }
}

fn build_append_reply(b: &mut Builder, reply: AppendReply, full: bool, promised_ms: u32) -> Body {
    let (outcome, matched, vote) = match reply {
        AppendReply::Success => (schema::AppendOutcome::Success, None, None),
        AppendReply::Partial { matched } => (schema::AppendOutcome::Partial, matched, None),
        AppendReply::Conflict => (schema::AppendOutcome::Conflict, None, None),
        AppendReply::HigherVote(vote) => (schema::AppendOutcome::HigherVote, None, Some(schema::Vote::from(vote))),
    };
    let matched = log_id(matched);
    let args = schema::AppendReplyArgs { outcome, matched: matched.as_ref(), vote: vote.as_ref(), full, promised_ms };
    schema::AppendReply::create(b, &args).as_union_value()
}
