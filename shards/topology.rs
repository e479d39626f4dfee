//! Who follows the topology: told of it when it asks, and again whenever leader, term or members change.
//!
//! ```text
//!   FollowTopology ─▶ the topology now ─▶ ... [push] on each change ─▶ the topology then, with the same request id
//! ```
//!
//! **Invariants**
//! - A follower gets the newest topology, not each one: who has no room for one is tried again with the newest by then.
//! - Followers are counted and bounded, one a connection; one whose connection has ended is forgotten with the next change, or when there
//!   are twice as many as there were.
//!
//! **Not here**: what a topology says (`admin.rs`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_lite::future;
use ringbeam_wire::client::ReplyBody;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admin;
use crate::batcher::Waiter;
use crate::connection::Outbox;
use crate::io::Env;
use crate::limits::{TOPOLOGY_FOLLOWERS_MAX, TOPOLOGY_RETRY};
use crate::shard::Shard;

/// Those who follow a shard's topology.
#[derive(Default)]
pub(crate) struct Followers {
    all: RefCell<Vec<Follower>>,
    /// At this number those that have gone are forgotten.
    sweep_at: Cell<usize>,
}

struct Follower {
    outbox: Rc<Outbox>,
    request: u64,
    /// It has not been told what changed last.
    behind: bool,
}

/// Answers with the topology, and goes on.
pub(crate) fn follow<E: Env>(shard: &Shard<E>, waiter: Waiter) {
    let followers = &shard.topology;
    let mut all = followers.all.borrow_mut();
    if all.len() >= followers.sweep_at.get().min(TOPOLOGY_FOLLOWERS_MAX) {
        all.retain(|follower| !follower.outbox.is_closed());
        followers.sweep_at.set((2 * all.len()).max(64));
    }
    let refusal = if waiter.outbox.follows.get() {
        Some(Refusal::new(Code::BadRequest, "this connection follows the topology already: one is enough"))
    } else if all.len() >= TOPOLOGY_FOLLOWERS_MAX {
        let why = format!("{} connections follow the topology of this shard, the limit is {TOPOLOGY_FOLLOWERS_MAX}", all.len());
        Some(Refusal::new(Code::TooManyWatches, why))
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    waiter.outbox.follows.set(true);
    all.push(Follower { outbox: waiter.outbox.clone(), request: waiter.request, behind: false });
    waiter.answer(&ReplyBody::Topology(admin::topology(shard)));
}

/// Tells all of them what has changed, for as long as the shard runs.
pub(crate) async fn push<E: Env>(shard: Rc<Shard<E>>) {
    let mut changes = shard.replica.changes();
    let standing = |topology: &ringbeam_wire::client::Topology| (topology.epoch, topology.leader, topology.term);
    let mut told = standing(&admin::topology(&shard));
    loop {
        let any_behind = shard.topology.all.borrow().iter().any(|follower| follower.behind);
        if any_behind {
            future::or(changes.next(), E::sleep(TOPOLOGY_RETRY)).await;
        } else {
            changes.next().await;
        }
        let topology = admin::topology(&shard);
        let changed = std::mem::replace(&mut told, standing(&topology)) != told;
        let body = ReplyBody::Topology(topology);
        let mut all = shard.topology.all.borrow_mut();
        all.retain(|follower| !follower.outbox.is_closed());
        for follower in all.iter_mut().filter(|follower| changed || follower.behind) {
            follower.behind = !follower.outbox.push(follower.request, &body);
        }
    }
}
