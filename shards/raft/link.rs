//! One connection to a peer, from the side that asks: preamble, hello, then requests and their replies in order.
//!
//! **Invariant**: a link is used again only when every request on it has been answered; any error ends it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::peer::{self, Encoder, Member, PeerHello, PeerReplyBody, PeerRequestBody, Purpose};
use ringbeam_wire::preamble::{self, Kind, Preamble};

use super::runtime::timeout;
use crate::io::{Env, Net, Reader, Writer};
use crate::limits::PEER_TIMEOUT;

/// What this node says of itself to its peers, and how it reaches them.
pub struct PeerContext<E: Env> {
    /// This shard's connections.
    pub net: E::Net,
    /// The ring's id.
    pub ring: u64,
    /// The shard.
    pub shard: u32,
    /// Shards of the ring.
    pub shards: u32,
    /// This node.
    pub me: Member,
    /// Longest frame that is accepted from a peer.
    pub frame_bytes_max: usize,
    /// A member has refused this node's campaign because it is no member: in its words.
    pub outvoted: RefCell<Option<String>>,
}

/// An open connection to a peer.
pub(crate) struct Link<E: Env> {
    reader: FrameReader<E>,
    writer: <E::Net as Net>::Writer,
    encoder: Encoder,
    out: Vec<u8>,
    next_id: u64,
}

/// Frames from a connection.
pub(crate) struct FrameReader<E: Env> {
    reader: <E::Net as Net>::Reader,
    decoder: Decoder,
}

impl<E: Env> FrameReader<E> {
    pub fn new(reader: <E::Net as Net>::Reader, frame_bytes_max: usize) -> Self {
        FrameReader { reader, decoder: Decoder::new(frame_bytes_max) }
    }

    /// The next frame; `None` when the peer closed between two frames. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let frame = self.decoder.next().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if frame.is_some() {
                return Ok(frame);
            }
            let read = self.reader.read(self.decoder.space()).await?;
            if read == 0 {
                return if self.decoder.buffered() == 0 {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a frame"))
                };
            }
            self.decoder.filled(read);
        }
    }
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// `future`, or `TimedOut` after `limit`.
pub(crate) async fn within<E: Env, T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout::<E, _>(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", limit.as_millis()))),
    }
}

impl<E: Env> Link<E> {
    /// Connects to `member` and agrees who is who. `Unsupported`: the peer refuses us for good (its words are in the error).
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
                PeerReplyBody::Refused { message, .. } => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("node {} at {} refuses this node: {message}", member.node, member.peer),
                )),
                _ => Err(invalid("the answer to a hello is neither a welcome nor a refusal")),
            }
        })
        .await
    }

    /// One request and its reply.
    pub async fn call(&mut self, body: &PeerRequestBody<'_>) -> io::Result<PeerReplyBody> {
        let id = self.next_id;
        self.next_id += 1;
        self.out.clear();
        self.encoder.request(&mut self.out, id, body);
        self.writer.write_all(&self.out).await?;
        self.out.clear();
        let (answered, reply) = self.receive().await?;
        if answered != id {
            return Err(invalid(format!("reply {answered} to request {id}")));
        }
        Ok(reply)
    }

    /// Adds an append to what [`Link::flush`] sends, and gives its id.
    pub fn queue_append(&mut self, head: peer::AppendHead, entries: &[peer::EntryOut<'_>]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.encoder.append(&mut self.out, id, head, entries.iter().copied());
        id
    }

    /// Sends what was queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out).await?;
            self.out.clear();
            // One huge append must not be kept for ever.
            self.out.shrink_to(1 << 20);
        }
        Ok(())
    }

    /// The next reply. Cancel-safe.
    pub async fn receive(&mut self) -> io::Result<(u64, PeerReplyBody)> {
        let Some(frame) = self.reader.next().await? else {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed the connection"));
        };
        let reply = peer::parse_reply(&frame).map_err(invalid)?;
        Ok((reply.id, reply.body))
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
