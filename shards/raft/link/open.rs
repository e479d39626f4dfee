//! How a link begins: who is who. And who is at an address, before there is a link.

use std::io;
use std::rc::Rc;

use ringbeam_wire::peer::{Encoder, Member, PeerHello, PeerReplyBody, PeerRequestBody, Purpose};
use ringbeam_wire::preamble::{self, Kind, Preamble};
use ringbeam_wire::refusal::Code;

use super::{FrameReader, Link, PeerContext, invalid, within};
use crate::io::{Env, Net};
use crate::limits::PEER_TIMEOUT;

impl<E: Env> Link<E> {
    /// Connects to `member` and agrees who is who. `Unsupported`: the peer refuses us for good (its words are in the error);
    /// `ConnectionRefused`: nobody is there, or its shard has stopped.
    pub async fn open(context: &Rc<PeerContext<E>>, member: &Member, purpose: Purpose) -> io::Result<Self> {
        within::<E, _>(PEER_TIMEOUT, async {
            let preamble = Preamble { version: preamble::VERSION, kind: Kind::Peer, shard: context.shard };
            let (reader, writer) = context.net.connect(&member.peer, preamble.encode()).await?;
            let mut link = Link {
                reader: FrameReader::new(reader, context.frame_bytes_max),
                writer,
                encoder: Encoder::new(),
                out: Vec::new(),
                next_id: 1,
            };
            let hello = PeerHello {
                version: preamble::VERSION,
                ring: context.ring,
                from: context.me.node,
                from_incarnation: context.me.incarnation,
                to: member.node,
                to_incarnation: member.incarnation,
                shard: context.shard,
                purpose,
            };
            match link.call(&PeerRequestBody::Hello(hello)).await? {
                PeerReplyBody::Welcome(_) => Ok(link),
                PeerReplyBody::Refused { code, message } => {
                    let stopped = code == Code::ShardFault as u16;
                    let kind = if stopped { io::ErrorKind::ConnectionRefused } else { io::ErrorKind::Unsupported };
                    Err(io::Error::new(kind, format!("node {} at {} refuses this node: {message}", member.node, member.peer)))
                }
                _ => Err(invalid("the answer to a hello is neither a welcome nor a refusal")),
            }
        })
        .await
    }
}

/// Why [`identify`] gave no member.
pub(crate) enum NotIdentified {
    /// Nobody answered: the node may be down, or about to start its shards.
    OutOfReach(String),
    /// Somebody else answered, or a node that cannot be added.
    Wrong(String),
}

/// Asks the node at `address` who it is, and tells it of the ring if it has none. The node must be `node` and must not belong to
/// another ring.
pub(crate) async fn identify<E: Env>(
    context: &Rc<PeerContext<E>>,
    node: u64,
    address: &str,
    members: &[Member],
) -> Result<Member, NotIdentified> {
    let ask = async {
        let preamble = Preamble { version: preamble::VERSION, kind: Kind::Peer, shard: context.shard };
        let (reader, writer) = context.net.connect(address, preamble.encode()).await?;
        let mut link: Link<E> = Link {
            reader: FrameReader::new(reader, context.frame_bytes_max),
            writer,
            encoder: Encoder::new(),
            out: Vec::new(),
            next_id: 1,
        };
        let PeerReplyBody::Identity(found) = link.call(&PeerRequestBody::Identify).await? else {
            return Err(invalid("the answer to identify is no identity"));
        };
        if found.node == node && found.ring == 0 {
            let mut members = members.to_vec();
            members.push(found.member.clone());
            let body = PeerRequestBody::Found { ring: context.ring, shards: context.shards, members };
            let PeerReplyBody::Identity(told) = link.call(&body).await? else {
                return Err(invalid("the answer to found is no identity"));
            };
            return Ok(told);
        }
        Ok(found)
    };
    let found = within::<E, _>(PEER_TIMEOUT, ask)
        .await
        .map_err(|e| NotIdentified::OutOfReach(format!("the node at {address}: {e}")))?;
    let wrong = |why: String| Err(NotIdentified::Wrong(why));
    if found.node != node {
        return wrong(format!("the node at {address} is node {}, not node {node}", found.node));
    }
    if found.ring != context.ring {
        return wrong(format!("node {node} at {address} belongs to ring {:016x}, this is {:016x}", found.ring, context.ring));
    }
    if found.shards != context.shards {
        return wrong(format!("node {node} at {address} has {} shards, this ring {}", found.shards, context.shards));
    }
    Ok(found.member)
}
