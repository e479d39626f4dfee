//! One shard of a watch: a connection to some node, another when it ends, and the place behind which to go on.

use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{EventKind, Events, ReplyBody, RequestBody, Revision, Watch as Wanted, parse_reply};
use ringbeam_wire::refusal::{Code, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Batch, Event, WatchError, WatchOptions};
use crate::client::Client;
use crate::error::Error;
use crate::handshake::{self, Line, OpenError};
use crate::limits::{CONNECT_TIMEOUT, VALUE_BYTES_COPIED_MAX};
use crate::retry::backoff;
use crate::routing::Address;

/// The node says at least this often how far it is: so a place is never much older than that, and a dead node is noticed.
const PROGRESS_MS: u32 = 1_000;

/// A node that says nothing for so long is left.
const SILENCE_MAX: Duration = Duration::from_millis(3_500);

/// The only request on its connection.
const REQUEST: u64 = 1;

/// The shard is being watched: behind this revision, or from a copy on, none of which has come yet.
#[derive(Debug)]
pub(crate) struct Began {
    pub(crate) shard: u32,
    pub(crate) after: Revision,
    pub(crate) copying: bool,
}

/// What a lane tells once it has begun.
#[derive(Debug)]
pub(crate) enum Said {
    /// Something happened, and with it the caller has all up to a revision, or a part of a copy.
    Batch {
        batch: Batch,
        after: Revision,
        copying: bool,
    },
    Failed(WatchError),
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) client: Client,
    pub(crate) shard: u32,
    pub(crate) namespace: String,
    pub(crate) from: Bytes,
    pub(crate) until: Bytes,
    pub(crate) options: WatchOptions,
    /// Behind which it goes on; `None`: it has not begun.
    pub(crate) after: Option<Revision>,
    /// Changes up to this log index were seen before it began: a node that lags behind has them still to come.
    pub(crate) seen: u64,
    /// It is to begin with a copy, or is in the middle of one.
    pub(crate) copying: bool,
    /// Where to say that it has begun, or why it cannot; `None`: that was said.
    pub(crate) starting: Option<mpsc::Sender<Result<Began, WatchError>>>,
}

/// Why a connection is left.
enum Left {
    /// Another one may do.
    Moved,
    /// This node has not what comes next.
    Compacted(Revision),
    /// No node will do.
    Failed(Error),
    /// Nobody listens.
    Dropped,
}

impl Lane {
    pub(crate) async fn run(mut self, queue: mpsc::Sender<Said>) {
        let mut rounds = 0;
        loop {
            let order = self.client.inner.routes().readers(|_| false, fastrand::u64(..));
            let (mut oldest, mut progressed) = (None::<Revision>, false);
            for address in &order {
                let before = self.after;
                let left = self.serve(address, &queue).await;
                if self.after != before {
                    (progressed, oldest) = (true, None);
                }
                match left {
                    Left::Moved => {}
                    Left::Compacted(kept) => oldest = Some(oldest.map_or(kept, |oldest| oldest.min(kept))),
                    Left::Failed(error) => return self.fail(error.into(), &queue).await,
                    Left::Dropped => return,
                }
                if progressed {
                    break;
                }
            }
            match oldest {
                Some(_) if self.options.restart => self.copying = true,
                Some(oldest) => {
                    let compacted = WatchError::Compacted { shard: self.shard, oldest };
                    return self.fail(compacted, &queue).await;
                }
                None => {}
            }
            rounds = if progressed { 0 } else { rounds + 1 };
            if rounds > 0 {
                tokio::time::sleep(backoff(rounds, fastrand::u64(..))).await;
            }
            // Nobody may listen any more, and no node be there to find that out.
            if queue.is_closed() {
                return;
            }
        }
    }

    /// Tells whoever listens why there is no more to come.
    async fn fail(self, why: WatchError, queue: &mpsc::Sender<Said>) {
        // Nobody may listen any more.
        match self.starting {
            Some(starting) => drop(starting.send(Err(why)).await),
            None => drop(queue.send(Said::Failed(why)).await),
        }
    }

    /// Watches at one node for as long as that goes well.
    async fn serve(&mut self, address: &Address, queue: &mpsc::Sender<Said>) -> Left {
        let (ring, name) = self.client.inner.pool.identity();
        let dialled = timeout(CONNECT_TIMEOUT, handshake::dial(address, self.shard, ring, &name)).await;
        let mut line = match dialled {
            Ok(Ok(line)) => line,
            Ok(Err(OpenError::Refused(_, refusal))) if lasts(&refusal) => return Left::Failed(Error::Refused(refusal)),
            _ => return Left::Moved,
        };
        let wanted = Wanted {
            namespace: &self.namespace,
            from: &self.from,
            until: &self.until,
            after: self.after.filter(|_| !self.copying),
            snapshot: self.copying,
            no_puts: self.options.no_puts,
            no_deletes: self.options.no_deletes,
            previous: self.options.previous,
            conflate: self.options.conflate,
            progress_ms: self.options.progress.map_or(PROGRESS_MS, |every| every.as_millis() as u32),
        };
        let mut out = Vec::new();
        line.encoder.request(&mut out, REQUEST, 0, &RequestBody::Watch(wanted));
        if line.writer.write_all(&out).await.is_err() {
            return Left::Moved;
        }
        // The first message of a copy says that it begins.
        let mut begins = self.copying;
        loop {
            let Some(payload) = next_frame(&mut line).await else { return Left::Moved };
            let Ok(reply) = parse_reply(&payload) else {
                return Left::Failed(Error::Protocol(format!("{address}: no sensible message of a watch")));
            };
            let said = match reply.body {
                ReplyBody::WatchStarted(started) => {
                    if self.after.is_none() || self.copying {
                        self.after = Some(Revision { index: started.index.max(self.seen), position: u32::MAX });
                    }
                    if let Some(starting) = self.starting.take() {
                        let after = self.after.unwrap_or_default();
                        let began = Began { shard: self.shard, after, copying: self.copying };
                        if starting.send(Ok(began)).await.is_err() {
                            return Left::Dropped;
                        }
                    }
                    continue;
                }
                ReplyBody::Events(events) => self.take(&payload, &events, &mut begins),
                ReplyBody::WatchEnded(ended) if ended.code == Code::Compacted as u16 => return Left::Compacted(ended.oldest),
                // Too slow: asked again, it says what it still has.
                ReplyBody::WatchEnded(_) => return Left::Moved,
                ReplyBody::Refused(refusal) if lasts(&refusal) => return Left::Failed(Error::Refused(refusal)),
                _ => return Left::Moved,
            };
            if queue.send(said).await.is_err() {
                return Left::Dropped;
            }
        }
    }

    fn take(&mut self, payload: &Bytes, events: &Events<'_>, begins: &mut bool) -> Said {
        let keep = |bytes: &[u8]| match bytes.len() {
            0..=VALUE_BYTES_COPIED_MAX => Bytes::copy_from_slice(bytes),
            _ => payload.slice_ref(bytes),
        };
        let copies = events.events.iter().any(|event| event.kind == EventKind::Snapshot);
        if (copies || events.snapshot_ends) && !self.copying {
            // Conflated: the node did not keep what this watch had still to get.
            (self.copying, *begins) = (true, true);
        }
        let new = events.events.iter().filter(|event| event.kind == EventKind::Snapshot || event.revision.index > self.seen);
        let kept = new.map(|event| Event {
            kind: event.kind,
            key: keep(event.key),
            value: keep(event.value),
            revision: event.revision,
            previous: event.previous.map(|item| (keep(item.value), item.revision)),
            conflated: event.conflated,
        });
        let batch = Batch {
            shard: self.shard,
            events: kept.collect(),
            index: events.index,
            ring_time_ms: events.ring_time_ms,
            copy_begins: std::mem::take(begins) && self.copying,
            copy_ends: events.snapshot_ends,
        };
        self.copying &= !events.snapshot_ends;
        let mut after = self.after.unwrap_or_default().max(Revision { index: events.index, position: u32::MAX });
        if let Some(last) =
            events.events.iter().filter(|event| event.kind != EventKind::Snapshot).map(|event| event.revision).max()
        {
            after = after.max(last);
        }
        self.after = Some(after);
        Said::Batch { batch, after, copying: self.copying }
    }
}

/// The next message; `None`: this node is of no more use.
async fn next_frame(line: &mut Line) -> Option<Bytes> {
    loop {
        if let Some(payload) = line.decoder.next().ok()? {
            return Some(payload);
        }
        let bytes = timeout(SILENCE_MAX, line.reader.read(line.decoder.space())).await.ok()?.ok()?;
        if bytes == 0 {
            return None;
        }
        line.decoder.filled(bytes);
    }
}

/// No node will say anything else.
fn lasts(refusal: &Refusal) -> bool {
    use Code::{BadNamespace, BadRequest, KeyEmpty, KeyTooLarge, UnsupportedVersion, WrongRing};
    matches!(refusal.code, BadNamespace | BadRequest | KeyEmpty | KeyTooLarge | UnsupportedVersion | WrongRing)
}
