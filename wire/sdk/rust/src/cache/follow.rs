//! A near-cache that follows its namespace: a watch takes out what changes, so what does not change lives longer than the bound.
//!
//! ```text
//!   each quarter of the bound, for each shard: T = now, and a linearizable read says that the shard is at index I
//!   the watch has come to I: whatever changed up to there is out of the cache  ─▶ all that is in it is true as of T
//! ```
//!
//! **Why that is right.** An entry is what a linearizable read found after the watch had begun. Had its key changed at an index up to I,
//! the watch would have said so before saying that all up to I has come, and the entry, or the fetch that was to make it, would be gone.
//! So the entry is what the ring had at I, and I was the ring's newest index at some moment after T.
//!
//! **Invariants**
//! - When changes may be missed (an error, a gap), nothing is known any more, and everything is taken out, before the watch begins again.
//! - A cache that has switched itself off has no watch: it costs nothing until it tries again, and tries with one.
//! - It ends with the cache.
//!
//! **Not here**: what an entry's age means without it (`cache.rs`).

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringbeam_wire::client::Scan as Wanted;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Near;
use crate::client::Client;
use crate::pace::search_again;
use crate::request::What;
use crate::scan::Range;
use crate::watch::{Watch, WatchError, WatchOptions};

/// Between two looks at where the ring is: a quarter of the bound, within these.
const EVERY: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// As of when what is kept is true, by shard.
#[derive(Debug)]
pub(super) struct Known {
    since: Instant,
    /// Microseconds after `since`, and one; 0: not known.
    us: Box<[AtomicU64]>,
}

impl Known {
    pub(super) fn new(shards: usize) -> Known {
        Known { since: Instant::now(), us: (0..shards).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(super) fn as_of(&self, shard: u32) -> Option<Instant> {
        let us = self.us.get(shard as usize)?.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.since + Duration::from_micros(us))
    }

    fn learn(&self, shard: u32, as_of: Instant) {
        if let Some(us) = self.us.get(shard as usize) {
            us.store(as_of.saturating_duration_since(self.since).as_micros() as u64 + 1, Ordering::Release);
        }
    }

    pub(super) fn nothing(&self) {
        self.us.iter().for_each(|us| us.store(0, Ordering::Release));
    }
}

/// A shard's index that the watch has still to come to, and as of when it says what is kept is true.
#[derive(Clone, Copy, Debug)]
enum Look {
    None,
    Asked,
    At(u64, Instant),
}

/// Watches all of the client's namespace, from now on.
pub(super) async fn begin(client: &Client, age_max: Duration) -> Result<Watch, WatchError> {
    // Twice as often as it is looked: no look waits for the next.
    let options = WatchOptions { progress: Some(every(age_max) / 2), ..WatchOptions::default() };
    client.watch(&Range::prefix(""), &options).await
}

/// Follows for as long as the cache lives, while it is on.
pub(super) async fn follow(client: Client, near: Weak<Near>, age_max: Duration, first: Watch) {
    let Some(due) = near.upgrade().map(|near| near.switch.due.clone()) else { return };
    let mut watch = Some(first);
    loop {
        if let Some(watch) = watch.take() {
            until_over(&client, &near, age_max, watch).await;
        }
        let Some(cache) = near.upgrade() else { return };
        cache.start_anew();
        let rests = cache.switch.rests();
        drop(cache);
        if rests {
            due.notified().await;
        }
        let (lost, mut rounds) = (Instant::now(), 0);
        while watch.is_none() {
            match begin(&client, age_max).await {
                Ok(again) => watch = Some(again),
                Err(_) if near.strong_count() == 0 => return,
                Err(_) => {
                    rounds += 1;
                    tokio::time::sleep(search_again(rounds, lost.elapsed(), fastrand::u64(..))).await;
                }
            }
        }
        // What was fetched before the watch began is not covered by it.
        let Some(cache) = near.upgrade() else { return };
        cache.start_anew();
        cache.switch.resume();
    }
}

/// Until changes may have been missed, or the cache is off or gone.
async fn until_over(client: &Client, near: &Weak<Near>, age_max: Duration, mut watch: Watch) {
    let shards = client.inner.shards.len();
    let (mut come, mut looks) = (vec![0_u64; shards], vec![Look::None; shards]);
    let mut asking = JoinSet::new();
    let mut tick = interval(every(age_max));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if near.upgrade().is_none_or(|near| near.switch.rests()) {
                    return;
                }
                for (shard, look) in (0..).zip(&mut looks) {
                    if matches!(look, Look::None) {
                        *look = Look::Asked;
                        asking.spawn(index_of(client.clone(), shard));
                    }
                }
            }
            Some(told) = asking.join_next(), if !asking.is_empty() => {
                let Ok((shard, as_of, index)) = told else { return };
                if let Some(look) = looks.get_mut(shard as usize) {
                    *look = index.map_or(Look::None, |index| Look::At(index, as_of));
                }
            }
            batch = watch.progress() => {
                let (Ok(Some(batch)), Some(near)) = (batch, near.upgrade()) else { return };
                if batch.copy_begins {
                    return;
                }
                batch.events.iter().for_each(|event| near.changed(&event.key, event.revision));
                if let Some(come) = come.get_mut(batch.shard as usize) {
                    *come = batch.index.max(*come);
                }
            }
        }
        let Some(near) = near.upgrade() else { return };
        // Its time off was over before it was noticed.
        near.switch.resume();
        for ((shard, look), come) in (0..).zip(&mut looks).zip(&come) {
            if let Look::At(index, as_of) = *look
                && index <= *come
            {
                near.known.learn(shard, as_of);
                *look = Look::None;
            }
        }
    }
}

/// The shard's index, by a linearizable read of nothing, and when it was asked for.
async fn index_of(client: Client, shard: u32) -> (u32, Instant, Option<u64>) {
    let as_of = Instant::now();
    // Before the first key that there can be.
    let nothing = Wanted { until: &[0], keys_only: true, limit: 1, ..Wanted::default() };
    let answer = client.inner.read(shard, What::Scan(nothing), client.timeout).await;
    (shard, as_of, answer.ok().and_then(|answer| answer.index()))
}

fn every(age_max: Duration) -> Duration {
    (age_max / 4).clamp(EVERY.0, EVERY.1)
}
