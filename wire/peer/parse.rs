//! From bytes to peer messages.

use super::*;
use crate::malformed::{Malformed, root};
use crate::member::parse_members;
use crate::schema;

impl From<schema::LogId> for LogId {
    fn from(id: schema::LogId) -> LogId {
        LogId { term: id.term(), leader: id.leader(), index: id.index() }
    }
}

impl From<schema::Vote> for Vote {
    fn from(vote: schema::Vote) -> Vote {
        Vote { term: vote.term(), node: vote.node(), committed: vote.committed() }
    }
}

fn log_id(id: Option<&schema::LogId>) -> Option<LogId> {
    id.map(|&id| id.into())
}

fn vote(vote: Option<&schema::Vote>, id: u64, place: &str) -> Result<Vote, Malformed> {
    vote.map(|&vote| vote.into()).ok_or_else(|| Malformed::absent(id, place))
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_string()
}

/// Verifies and checks a message of a peer.
pub fn parse_request(payload: &[u8]) -> Result<PeerRequest<'_>, Malformed> {
    let request = root::<schema::PeerRequest<'_>>(payload, "peer request")?;
    let id = request.id();
    Ok(PeerRequest { id, body: request_body(&request, id)? })
}

fn request_body<'a>(request: &schema::PeerRequest<'a>, id: u64) -> Result<PeerRequestBody<'a>, Malformed> {
    if let Some(append) = request.body_as_append() {
        return Append::parse(append, id).map(PeerRequestBody::Append);
    }
    if let Some(ask) = request.body_as_request_vote() {
        let vote = vote(ask.vote(), id, "request.body.vote")?;
        return Ok(PeerRequestBody::Vote(RequestVote {
            vote,
            last: log_id(ask.last()),
            pre: ask.pre(),
            transfer: ask.transfer(),
        }));
    }
    if let Some(transfer) = request.body_as_transfer_leader() {
        let from = vote(transfer.from(), id, "request.body.from")?;
        let transfer = TransferLeader { from, to: transfer.to(), last: log_id(transfer.last()) };
        return Ok(PeerRequestBody::Transfer(transfer));
    }
    if let Some(offer) = request.body_as_snapshot_offer() {
        return Ok(PeerRequestBody::SnapshotOffer(SnapshotOffer {
            vote: vote(offer.vote(), id, "request.body.vote")?,
            last: log_id(offer.last()),
            membership_at: log_id(offer.membership_at()),
            membership: offer.membership().map_or(&[], |membership| membership.bytes()),
            snapshot: offer.snapshot().unwrap_or_default(),
            bytes: offer.bytes(),
            crc: offer.crc(),
        }));
    }
    if let Some(chunk) = request.body_as_snapshot_chunk() {
        let data = chunk.data().map_or(&[][..], |data| data.bytes());
        return Ok(PeerRequestBody::SnapshotChunk { offset: chunk.offset(), data, last: chunk.last() });
    }
    if let Some(hello) = request.body_as_peer_hello() {
        return parse_hello(hello, id).map(PeerRequestBody::Hello);
    }
    if request.body_as_identify().is_some() {
        return Ok(PeerRequestBody::Identify);
    }
    if let Some(found) = request.body_as_found() {
        let members = parse_members(found.members(), id, "request.body.members")?;
        return Ok(PeerRequestBody::Found { ring: found.ring(), shards: found.shards(), members });
    }
    if let Some(who) = request.body_as_who_am_i() {
        return Ok(PeerRequestBody::WhoAmI { node: who.node(), incarnation: who.incarnation() });
    }
    if request.body_as_read_index().is_some() {
        return Ok(PeerRequestBody::ReadIndex);
    }
    let (kind, max) = (request.body_type().0, schema::PeerRequestBody::ENUM_MAX);
    Err(Malformed::new(id, format!("peer request.body is of type {kind}, known are 1 to {max}")))
}

fn parse_hello(hello: schema::PeerHello<'_>, id: u64) -> Result<PeerHello, Malformed> {
    let purpose = match hello.purpose() {
        schema::Purpose::Replication => Purpose::Replication,
        schema::Purpose::Heartbeat => Purpose::Heartbeat,
        schema::Purpose::Election => Purpose::Election,
        schema::Purpose::Snapshot => Purpose::Snapshot,
        schema::Purpose::Control => Purpose::Control,
        schema::Purpose::Read => Purpose::Read,
        schema::Purpose(other) => {
            let max = schema::Purpose::ENUM_MAX;
            return Err(Malformed::new(id, format!("request.body.purpose is {other}, known are 0 to {max}")));
        }
    };
    Ok(PeerHello {
        version: hello.version(),
        ring: hello.ring(),
        from: hello.from(),
        from_incarnation: hello.from_incarnation(),
        to: hello.to(),
        to_incarnation: hello.to_incarnation(),
        shard: hello.shard(),
        purpose,
    })
}

/// Verifies and checks a peer's answer.
pub fn parse_reply(payload: &[u8]) -> Result<PeerReply, Malformed> {
    let reply = root::<schema::PeerReply<'_>>(payload, "peer reply")?;
    let id = reply.id();
    Ok(PeerReply { id, body: reply_body(&reply, id)? })
}

fn reply_body(reply: &schema::PeerReply<'_>, id: u64) -> Result<PeerReplyBody, Malformed> {
    if let Some(append) = reply.body_as_append_reply() {
        let (reply, full, promised_ms) = (parse_append_reply(append, id)?, append.full(), append.promised_ms());
        return Ok(PeerReplyBody::Append { reply, full, promised_ms });
    }
    if let Some(answer) = reply.body_as_vote_reply() {
        let vote = vote(answer.vote(), id, "reply.body.vote")?;
        return Ok(PeerReplyBody::Vote(VoteReply { vote, granted: answer.granted(), last: log_id(answer.last()) }));
    }
    if let Some(transfer) = reply.body_as_transfer_reply() {
        return Ok(PeerReplyBody::Transfer { accepted: transfer.accepted(), message: text(transfer.message()) });
    }
    if let Some(snapshot) = reply.body_as_snapshot_reply() {
        let vote = vote(snapshot.vote(), id, "reply.body.vote")?;
        let (resume_at, installed) = (snapshot.resume_at(), snapshot.installed());
        return Ok(PeerReplyBody::Snapshot { vote, resume_at, installed });
    }
    if let Some(welcome) = reply.body_as_peer_welcome() {
        return Ok(PeerReplyBody::Welcome(PeerWelcome {
            version: welcome.version(),
            node: welcome.node(),
            incarnation: welcome.incarnation(),
            ring: welcome.ring(),
        }));
    }
    if let Some(identity) = reply.body_as_identity() {
        return parse_identity(identity, id).map(|identity| PeerReplyBody::Identity(Box::new(identity)));
    }
    if let Some(you) = reply.body_as_you_are() {
        return parse_you_are(you, id);
    }
    if let Some(refused) = reply.body_as_peer_refused() {
        return Ok(PeerReplyBody::Refused { code: refused.code(), message: text(refused.message()) });
    }
    if let Some(read) = reply.body_as_read_index_reply() {
        return Ok(PeerReplyBody::ReadIndex { index: read.index() });
    }
    let (kind, max) = (reply.body_type().0, schema::PeerReplyBody::ENUM_MAX);
    Err(Malformed::new(id, format!("peer reply.body is of type {kind}, known are 1 to {max}")))
}

fn parse_append_reply(append: schema::AppendReply<'_>, id: u64) -> Result<AppendReply, Malformed> {
    match append.outcome() {
        schema::AppendOutcome::Success => Ok(AppendReply::Success),
        schema::AppendOutcome::Partial => Ok(AppendReply::Partial { matched: log_id(append.matched()) }),
        schema::AppendOutcome::Conflict => Ok(AppendReply::Conflict),
        schema::AppendOutcome::HigherVote => {
            vote(append.vote(), id, "reply.body.vote of a higher vote").map(AppendReply::HigherVote)
        }
        schema::AppendOutcome(other) => {
            let known = "known are 0 (success), 1 (partial), 2 (conflict), 3 (higher vote)";
            Err(Malformed::new(id, format!("reply.body.outcome is {other}, {known}")))
        }
    }
}

fn parse_identity(identity: schema::Identity<'_>, id: u64) -> Result<Identity, Malformed> {
    let member = identity.member().ok_or_else(|| Malformed::absent(id, "reply.body.member"))?;
    Ok(Identity {
        node: identity.node(),
        incarnation: identity.incarnation(),
        ring: identity.ring(),
        shards: identity.shards(),
        member: Member::parse(member, id, "reply.body.member")?,
        members: parse_members(identity.members(), id, "reply.body.members")?,
        started: identity.started(),
    })
}

fn parse_you_are(you: schema::YouAre<'_>, id: u64) -> Result<PeerReplyBody, Malformed> {
    let standing = match you.state() {
        0 => Standing::Unknown,
        1 => Standing::Known,
        2 => Standing::OtherIncarnation,
        other => {
            let known = "known are 0 (unknown), 1 (known), 2 (known with another incarnation)";
            return Err(Malformed::new(id, format!("reply.body.state is {other}, {known}")));
        }
    };
    let members = parse_members(you.members(), id, "reply.body.members")?;
    Ok(PeerReplyBody::YouAre { standing, ring: you.ring(), shards: you.shards(), members })
}
