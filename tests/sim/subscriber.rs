//! Clients that watch: on each shard one connection to some node, with several watches of the keys of the load, all of them noted.
//!
//! It goes to another node when its connection ends, is silent or says that it has not what comes next, and goes on behind what it
//! has. Now and then it stops reading for some seconds: several watches on one connection fill what network and node keep for it, so
//! that the node pauses them.
//!
//! **Invariant**: what is noted is what was told, in the order in which it came; nothing is left out or put right here.
//!
//! **Not here**: what should have come (`check/watching.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::sim::{Sim, SimNet};
use ringbeam_shards::io::{Env, Reader, Writer};
use ringbeam_shards::raft::runtime::timeout;
use ringbeam_wire::client::{self, Encoder, Events, ReplyBody, RequestBody, Revision as WireRevision, Watch};
use ringbeam_wire::refusal::Code;

use crate::check::watching::{Said, Stream, key_of};
use crate::client::{Connection, open};
use crate::history::Revision;
use crate::load::Load;
use crate::random::Random;
use crate::world::Ring;

/// Watches of a connection.
const WATCHES: u64 = 6;

/// A node says at least each second that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// One reading in so many is followed by a pause, of up to so many milliseconds.
const PAUSES_ONE_IN: u64 = 40;
const PAUSE_MS_MAX: u64 = 6_000;

/// Nodes that say in a row that they have not what comes next, before it goes on behind what they have.
const COMPACTED_MAX: u32 = 6;

/// What all subscribers were told.
pub type Streams = Rc<RefCell<Vec<Stream>>>;

/// Starts them, one for each shard.
pub fn start(ring: &mut Ring, seed: u64, load: &Load) -> Streams {
    let streams = Streams::default();
    for shard in 0..ring.shards() {
        let first = streams.borrow().len();
        let of_shard =
            (0..WATCHES).map(|watch| Stream { name: format!("shard {shard}, watch {watch}"), shard, said: Vec::new() });
        streams.borrow_mut().extend(of_shard);
        let host = ring.add_client_host();
        let subscriber = Subscriber {
            shard,
            load: load.share(),
            random: Random::new(seed).fork("subscriber").fork(&shard.to_string()),
            streams: streams.clone(),
            first,
            places: vec![Revision { index: 0, position: 0 }; WATCHES as usize],
            compacted: vec![0; WATCHES as usize],
        };
        ring.start_client(host, || subscriber.run());
    }
    streams
}

struct Subscriber {
    shard: u32,
    load: Load,
    random: Random,
    streams: Streams,
    /// The number of its first stream.
    first: usize,
    /// What each watch has.
    places: Vec<Revision>,
    /// How often in a row each was told that this is gone.
    compacted: Vec<u32>,
}

impl Subscriber {
    async fn run(mut self) {
        let net = SimNet::new();
        loop {
            let address = self.random.pick(&self.load.addresses()).clone();
            let opened = timeout::<Sim, _>(SILENCE_MAX, open(&net, &address, self.shard)).await;
            if let Ok(Ok(connection)) = opened {
                self.watch(connection).await;
            }
            Sim::sleep(Duration::from_millis(50 + self.random.below(200))).await;
        }
    }

    async fn watch(&mut self, mut connection: Connection) {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        for (id, place) in (1..).zip(&self.places) {
            let after = Some(WireRevision { index: place.index, position: place.position });
            let previous = id % 2 == 0;
            let watch = Watch { from: b"k", until: b"l", after, progress_ms: 1_000, previous, ..Watch::default() };
            encoder.request(&mut out, id, 0, &RequestBody::Watch(watch));
        }
        if connection.writer.write_all(&out).await.is_err() {
            return;
        }
        loop {
            while let Ok(Some(frame)) = connection.decoder.next() {
                let Ok(reply) = client::parse_reply(&frame) else { return };
                let Some(watch) = (reply.id as usize).checked_sub(1).filter(|watch| *watch < self.places.len()) else { return };
                match &reply.body {
                    ReplyBody::WatchStarted(_) => self.compacted[watch] = 0,
                    ReplyBody::Events(events) => self.note(watch, events),
                    ReplyBody::WatchEnded(ended) => {
                        if ended.code == Code::Compacted as u16 {
                            self.compacted[watch] += 1;
                            if self.compacted[watch] > COMPACTED_MAX {
                                self.compacted[watch] = 0;
                                let oldest = Revision { index: ended.oldest.index, position: ended.oldest.position };
                                self.places[watch] = oldest;
                                self.say(watch, Said::Gap { oldest });
                            }
                        }
                        return;
                    }
                    // A tie-breaker, or one that is stopping.
                    _ => return,
                }
            }
            // Not while the ring comes to rest: it is to see the end.
            if self.random.chance(1, PAUSES_ONE_IN) && self.load.is_on() {
                Sim::sleep(Duration::from_millis(self.random.below(PAUSE_MS_MAX))).await;
            }
            match timeout::<Sim, _>(SILENCE_MAX, connection.reader.read(connection.decoder.space())).await {
                Ok(Ok(bytes)) if bytes > 0 => connection.decoder.filled(bytes),
                _ => return,
            }
        }
    }

    fn note(&mut self, watch: usize, events: &Events<'_>) {
        for event in &events.events {
            let revision = Revision { index: event.revision.index, position: event.revision.position };
            self.say(watch, Said::Event { revision, key: key_of(event.key) });
            self.places[watch] = self.places[watch].max(revision);
        }
        self.say(watch, Said::Complete { index: events.index });
        self.places[watch] = self.places[watch].max(Revision { index: events.index, position: u32::MAX });
    }

    fn say(&self, watch: usize, said: Said) {
        self.streams.borrow_mut()[self.first + watch].said.push(said);
    }
}
