//! Who changes the ring: one step at a time in each shard, as `ringbeam ring` does, from wherever the membership stands.
//!
//! ```text
//!   members as the leader has them ── differ from those wanted? ──▶ add, promote, hand over, remove: one request ──▶ look again
//! ```
//! Asked for in the middle of faults, a change has some seconds and may fail. In the heal it goes on until the ring is as wanted, and
//! who has to go is removed by force: by then everybody who is to stay is there.
//!
//! **Not here**: what is wanted (`plan.rs`).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::probe::View;
use ringbeam_wire::client::RequestBody;

use crate::client::Client;
use crate::plan::Members;
use crate::world::{Ring, client_address, peer_address};

/// One request to a leader may take this long.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// A step of a change in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Add(u64),
    Promote(u64),
    Remove(u64),
    HandOver,
}

impl Step {
    fn peer(self) -> String {
        match self {
            Step::Add(node) => peer_address(node),
            _ => String::new(),
        }
    }

    /// `to`: of a hand-over; 0: anybody. `force`: of a removal.
    fn body(self, peer: &str, to: u64, force: bool) -> RequestBody<'_> {
        match self {
            Step::Add(node) => RequestBody::RingAdd { node, peer },
            Step::Promote(node) => RequestBody::RingPromote { node },
            Step::Remove(node) => RequestBody::RingRemove { node, force },
            Step::HandOver => RequestBody::RingTransfer { to },
        }
    }
}

/// The steps under way, one a shard.
#[derive(Default)]
pub struct Operator {
    under_way: BTreeMap<u32, Rc<Cell<bool>>>,
}

impl Operator {
    /// Lets each shard take its next step towards `wanted`, if none is under way. True when all shards are there.
    pub fn approach(&mut self, ring: &mut Ring, wanted: &Members) -> bool {
        let mut there = true;
        for shard in 0..ring.shards() {
            if self.under_way.get(&shard).is_some_and(|busy| busy.get()) {
                there = false;
                continue;
            }
            let leader = ring.leader(shard).and_then(|node| ring.view(node, shard));
            let Some(leader) = leader else {
                there = false;
                continue;
            };
            if leader.voters.len() > 1 {
                // Half done: whoever leads completes it.
                there = false;
            } else if let Some(step) = next(&leader, wanted) {
                there = false;
                let busy = ask(ring, shard, leader.node, step);
                self.under_way.insert(shard, busy);
            }
        }
        there
    }
}

/// The next step of one shard. Who comes is there before who goes leaves, unless seven vote already.
fn next(leader: &View, wanted: &Members) -> Option<Step> {
    let voters: BTreeSet<u64> = leader.voters.iter().flatten().copied().collect();
    let members: BTreeSet<u64> = leader.members.iter().map(|member| member.node).collect();
    let all: BTreeSet<u64> = wanted.all().into_iter().collect();
    if let Some(node) = all.iter().find(|node| !members.contains(node)) {
        return Some(Step::Add(*node));
    }
    let going = members.iter().find(|node| !all.contains(node)).copied();
    let coming = wanted.voters.iter().find(|node| !voters.contains(node)).copied();
    match (coming, going) {
        (Some(node), _) if voters.len() < 7 => Some(Step::Promote(node)),
        (_, Some(node)) if node == leader.node => Some(Step::HandOver),
        (_, Some(node)) => Some(Step::Remove(node)),
        (Some(node), None) => Some(Step::Promote(node)),
        (None, None) => None,
    }
}

/// Asks the leader for a step; false once it has answered or given up.
fn ask(ring: &mut Ring, shard: u32, leader: u64, step: Step) -> Rc<Cell<bool>> {
    let busy = Rc::new(Cell::new(true));
    let (done, address) = (busy.clone(), client_address(leader));
    let mut client = Client::new(vec![address.clone()], ring.shards());
    ring.run_operator(async move {
        let _ = request(&mut client, &address, shard, step).await;
        done.set(false);
    });
    busy
}

async fn request(client: &mut Client, address: &str, shard: u32, step: Step) -> Result<(), String> {
    let peer = step.peer();
    client.ask(address, shard, &step.body(&peer, 0, true), REQUEST_MAX).await
}

/// A change in the middle of whatever goes on, shard after shard; nobody waits for it.
pub fn try_change(ring: &mut Ring, change: Change) {
    let shards = ring.shards();
    let addresses = ring.client_addresses();
    ring.run_operator(async move {
        let mut client = Client::new(addresses, shards);
        for step in change.steps() {
            for shard in change.shards(shards) {
                let peer = step.peer();
                let body = step.body(&peer, change.to(), false);
                if client.change_ring(shard, &body, REQUEST_MAX).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// What is asked for in the middle of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    HandOver { shard: u32, to: Option<u64> },
    Add(u64),
    Promote(u64),
    Remove(u64),
    Replace { old: u64, new: u64, votes: bool },
}

impl Change {
    fn steps(self) -> Vec<Step> {
        match self {
            Change::HandOver { .. } => vec![Step::HandOver],
            Change::Add(node) => vec![Step::Add(node)],
            Change::Promote(node) => vec![Step::Promote(node)],
            Change::Remove(node) => vec![Step::Remove(node)],
            Change::Replace { old, new, votes: true } => vec![Step::Add(new), Step::Promote(new), Step::Remove(old)],
            Change::Replace { old, new, votes: false } => vec![Step::Add(new), Step::Remove(old)],
        }
    }

    fn shards(self, shards: u32) -> std::ops::Range<u32> {
        match self {
            Change::HandOver { shard, .. } => shard..shard + 1,
            _ => 0..shards,
        }
    }

    fn to(self) -> u64 {
        match self {
            Change::HandOver { to, .. } => to.unwrap_or(0),
            _ => 0,
        }
    }
}
