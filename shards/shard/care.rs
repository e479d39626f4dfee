//! Upkeep, beside the way of anything: whose time is up, snapshots, room on the disk, leaders that spread, and the way out.

#[cfg(all(test, feature = "sim"))]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use ringbeam_wire::client::ReplyBody;
use ringbeam_wire::refusal::Refusal;

use super::Shard;
use crate::error::{deadline_exceeded, deadline_unknown};
use crate::io::{Env, Instant, Net};
use crate::limits::{CARE_INTERVAL, DEADLINE_SWEEP, FUTILE_MAX, HAND_OVER_PATIENCE, PEER_TIMEOUT};
use crate::read::{self, Reading};
use crate::{attest, scan};

/// The preferred leader must be in reach and caught up this long before it is given the shard.
const SPREAD_AFTER: Duration = Duration::from_secs(3);

/// Answers those who need not wait longer: their deadline has passed, or this node cannot bring their writes to an end.
pub(super) async fn watch_waiting<E: Env>(shard: Rc<Shard<E>>) {
    let mut futile_since = None;
    loop {
        E::sleep(DEADLINE_SWEEP).await;
        let now = E::now();
        match shard.futile() {
            None => futile_since = None,
            Some(reason) => {
                let refusal = shard.explain(reason);
                shard.refuse_queue(&refusal);
                if now.since(*futile_since.get_or_insert(now)) > FUTILE_MAX {
                    for batch in shard.in_flight.borrow().iter() {
                        batch.answer_all(|_, _| {
                            ReplyBody::Refused(Refusal { unknown: !planted!(UnknownSaidAsRefused), ..refusal.clone() })
                        });
                    }
                }
            }
        }
        attest::settle(&shard, false);
        for readings in [&shard.readings, &shard.in_round] {
            let expired = |reading: &mut Reading| reading.waiter.deadline.is_some_and(|deadline| deadline <= now);
            let gone: Vec<Reading> = readings.borrow_mut().extract_if(.., expired).collect();
            gone.into_iter().for_each(|reading| read::refuse(reading, deadline_exceeded()));
        }
        for waiter in shard.batcher.borrow_mut().take_expired(now, shard.replica.ring_time_ms(now)) {
            waiter.answer(&ReplyBody::Refused(deadline_exceeded()));
        }
        for batch in shard.in_flight.borrow().iter() {
            for waiter in batch.take_expired(now) {
                waiter.answer(&ReplyBody::Refused(deadline_unknown()));
            }
        }
    }
}

pub(super) async fn care<E: Env>(shard: Rc<Shard<E>>) {
    let mut spread = Spread::default();
    let mut was_full = false;
    loop {
        E::sleep(CARE_INTERVAL).await;
        if let Some(why) = shard.replica.fault() {
            if shard.fault.borrow().is_none() && !shard.stopping.get() {
                tracing::error!(shard = shard.settings.shard, "the shard has stopped: {why}");
                *shard.fault.borrow_mut() = Some(why);
                // Peers see their connections close and elect another leader at once.
                shard.replica.shutdown().await;
            }
            continue;
        }
        let full = shard.replica.wal().has_room().err();
        if full.is_some() != std::mem::replace(&mut was_full, full.is_some()) {
            match &full {
                Some(why) => tracing::error!(shard = shard.settings.shard, "the disk is full, no writes are taken: {why}"),
                None => tracing::info!(shard = shard.settings.shard, "the disk has room again; writes go on"),
            }
        }
        shard.replica.give_way_if_full().await;
        shard.replica.note_settled();
        scan::sweep(&shard).await;
        shard.replica.snapshot_if_due(shard.settings.snapshot_after_bytes).await;
        shard.replica.give_up_idle_snapshot().await;
        shard.replica.rest_if_removed();
        shard.replica.finish_change().await;
        shard.replica.tie_break().await;
        spread.look(&shard).await;
    }
}

/// Leaders of the shards spread over the nodes: each shard has a preferred leader, and a leader that was elected (not one that
/// leadership was handed to) gives way to it once it is caught up and has been for a while.
#[derive(Default)]
struct Spread {
    since: Option<Instant>,
}

impl Spread {
    async fn look<E: Env>(&mut self, shard: &Shard<E>) {
        let replica = &shard.replica;
        let wanted = (shard.settings.shards > 1 && replica.leads() && !replica.led_by_transfer.get())
            .then(|| replica.preferred_leader(shard.settings.shard))
            .flatten()
            .filter(|preferred| !replica.is_full(*preferred))
            .filter(|preferred| replica.heirs().iter().any(|(id, lag)| id == preferred && *lag <= 1024));
        let Some(preferred) = wanted else {
            self.since = None;
            return;
        };
        if E::now().since(*self.since.get_or_insert(E::now())) > SPREAD_AFTER {
            self.since = None;
            if let Err(why) = replica.transfer(preferred, PEER_TIMEOUT).await {
                tracing::info!(shard = shard.settings.shard, "leadership stays here: {why}");
            }
        }
    }
}

/// The way out, while peers can still reach this node: the heir may need its vote, and its first append is how this node hears
/// that it leads. Then nothing is accepted any more, which ends [`run`].
pub(super) async fn leave<E: Env>(shard: Rc<Shard<E>>, net: E::Net) {
    net.stopping().await;
    if shard.replica.leads()
        && let Some(heir) = shard.replica.best_heir()
    {
        match shard.replica.transfer(heir, HAND_OVER_PATIENCE).await {
            Ok(()) => tracing::info!(shard = shard.settings.shard, to = heir, "leadership handed over"),
            Err(why) => tracing::warn!(shard = shard.settings.shard, "leadership not handed over: {why}"),
        }
    }
    shard.stopping.set(true);
    net.close();
}
