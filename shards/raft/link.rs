//! One connection to a peer, from the side that asks: preamble, hello, then requests and their replies in order.
//!
//! **Invariant**: a link is used again only when every request on it has been answered; any error ends it.

mod open;

pub(crate) use open::{NotIdentified, identify};

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::peer::{self, Encoder, Member, PeerReplyBody, PeerRequestBody};

use super::runtime::timeout;
use crate::io::{Env, Net, Reader, Writer};

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
