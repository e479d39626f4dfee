//! Clients that scan: on each shard one that reads ranges in small pages, all of one moment, from the node that has answered first.
//!
//! It takes its time between pages, now and then more than a node waits; when its connection ends it goes on over another one to the
//! same node, which may have begun anew meanwhile. Every page is noted, of scans that come to no end, too.
//!
//! **Not here**: what the pages should have been (`check/scanned.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::sim::{Sim, SimNet, world_now_ns};
use ringbeam_shards::io::{Env, Writer};
use ringbeam_shards::raft::runtime::timeout;
use ringbeam_wire::client::{Consistency, Encoder, Items, Moment, ReplyBody, RequestBody, Scan};
use ringbeam_wire::refusal::Code;

use crate::check::age::{Answered, Wanted};
use crate::check::scanned::Page;
use crate::client::{Connection, open};
use crate::load::{LOOK, Load, revision};
use crate::random::Random;
use crate::world::Ring;

/// They have numbers of their own, from here on.
const FIRST_ID: u32 = 6_000;
/// A page takes no longer, or its connection is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Tries of one page.
const TRIES_MAX: u32 = 6;
/// Between two pages, milliseconds; one pause in so many is as long as a node waits, about.
const PAUSE_MS: (u64, u64) = (1, 3_000);
const LONG_ONE_IN: u64 = 60;
const LONG_MS: (u64, u64) = (25_000, 35_000);

/// What all scans found.
pub type Pages = Rc<RefCell<Vec<Page>>>;

/// Starts them, one for each shard; they begin and pause with the load.
pub fn start(ring: &mut Ring, seed: u64, load: &Load) -> Pages {
    let pages = Pages::default();
    for shard in 0..ring.shards() {
        let host = ring.add_client_host();
        let random = Random::new(seed).fork("scanner").fork(&shard.to_string());
        let scanner = Scanner { shard, random, load: load.share(), pages: pages.clone(), scans: 0 };
        ring.start_client(host, || scanner.run());
    }
    pages
}

struct Scanner {
    shard: u32,
    random: Random,
    load: Load,
    pages: Pages,
    scans: u64,
}

/// What is to be read, and how far it is.
struct Way {
    from: Vec<u8>,
    until: Vec<u8>,
    backward: bool,
    limit: u32,
    wanted: Wanted,
    /// Pin and index.
    pinned: Option<(u64, u64)>,
    number: u32,
}

impl Scanner {
    async fn run(mut self) {
        let net = SimNet::new();
        loop {
            Sim::sleep(Duration::from_millis(self.random.between(1, 500))).await;
            while !self.load.is_on() {
                Sim::sleep(LOOK).await;
            }
            self.scans += 1;
            let address = self.random.pick(&self.load.addresses()).clone();
            let wanted = match self.random.below(4) {
                0 => Wanted::Local,
                1 => {
                    Wanted::Bounded { age_ms_max: self.random.magnitude(20, 2_000) as u32, stale_ok: self.random.chance(1, 2) }
                }
                _ => Wanted::Linearizable,
            };
            let [from, until] = *self.random.pick(&[["k", "l"], ["k", "l"], ["k", "k5"], ["k3", "l"]]);
            let way = Way {
                from: from.into(),
                until: until.into(),
                backward: self.random.chance(1, 2),
                limit: self.random.between(1, 6) as u32,
                wanted,
                pinned: None,
                number: 0,
            };
            self.scan(&net, &address, way).await;
        }
    }

    /// One scan, to its end or until it cannot go on.
    async fn scan(&mut self, net: &SimNet, address: &str, mut way: Way) {
        let (mut connection, mut tries) = (None, 0);
        loop {
            if connection.is_none() {
                let opened = timeout::<Sim, _>(PATIENCE, open(net, address, self.shard)).await;
                connection = opened.ok().and_then(Result::ok);
            }
            let asked = match &mut connection {
                Some(connection) => timeout::<Sim, _>(PATIENCE, self.page(connection, &mut way)).await.ok().flatten(),
                None => None,
            };
            match asked {
                Some(true) => tries = 0,
                Some(false) => return,
                None => {
                    // A first page is asked for once: another node may do better.
                    tries += 1;
                    if way.pinned.is_none() || tries == TRIES_MAX {
                        return;
                    }
                    connection = None;
                }
            }
            let (least, most) = if self.random.below(LONG_ONE_IN) == 0 { LONG_MS } else { PAUSE_MS };
            Sim::sleep(Duration::from_millis(self.random.magnitude(least, most))).await;
        }
    }

    /// One page: whether the scan goes on. `None`: no answer.
    async fn page(&self, connection: &mut Connection, way: &mut Way) -> Option<bool> {
        let moment = match way.pinned {
            Some((pin, index)) => Moment::Pinned { pin, index },
            None => Moment::Pin { keys: u32::MAX },
        };
        let consistency = match way.wanted {
            Wanted::Bounded { age_ms_max, stale_ok } => Consistency::Bounded { age_ms_max, stale_ok },
            Wanted::Local => Consistency::Local,
            _ => Consistency::Linearizable,
        };
        let Way { backward, limit, .. } = *way;
        let scan = Scan { from: &way.from, until: &way.until, backward, limit, consistency, moment, ..Scan::default() };
        let (mut out, id, asked_ns) = (Vec::new(), self.scans * 1_000 + u64::from(way.number) + 1, world_now_ns());
        Encoder::new().request(&mut out, id, PATIENCE.as_millis() as u32, &RequestBody::Scan(scan));
        connection.writer.write_all(&out).await.ok()?;
        let node = connection.node;
        let answered = connection.reply(id, |body| match body {
            ReplyBody::Items(items) => Some(self.note(node, asked_ns, way, &items)),
            // Anything else may pass: who starts anew is not there yet.
            ReplyBody::Refused(refusal) => (way.pinned.is_none() || refusal.code == Code::Compacted).then_some(false),
            _ => Some(false),
        });
        answered.await.ok()?
    }

    fn note(&self, node: u64, asked_ns: u64, way: &mut Way, items: &Items<'_>) -> bool {
        let (shard, name) = (self.shard, format!("shard {}, scan {}", self.shard, self.scans));
        let found = items.items.iter().map(|item| (item.key.to_vec(), revision(item.revision)));
        let page = Page {
            name,
            shard,
            node,
            number: way.number,
            index: items.index,
            pinned: way.pinned.map(|(_, index)| index),
            from: way.from.clone(),
            until: way.until.clone(),
            backward: way.backward,
            items: found.collect(),
            more: items.more,
        };
        self.load.answered.borrow_mut().push(Answered {
            client: FIRST_ID + shard,
            shard,
            key: 0,
            node,
            wanted: if way.number == 0 { way.wanted } else { Wanted::Local },
            asked_ns,
            index: items.index,
            age_ms: items.age_ms,
            stale: items.stale,
            revision: None,
            own: None,
        });
        if let Some((last, _)) = page.items.last() {
            match way.backward {
                true => way.until = last.clone(),
                false => way.from = [&last[..], &[0]].concat(),
            }
        }
        way.pinned = (items.pinned != 0).then_some((items.pinned, items.index));
        way.number += 1;
        self.pages.borrow_mut().push(page);
        items.more && way.pinned.is_some()
    }
}
