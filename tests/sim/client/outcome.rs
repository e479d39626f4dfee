//! What became of a write without an answer: the client asks, as the SDK's `outcome` does.

use std::time::Duration;

use ringbeam_sdk::retry::{Effort, Kind as Repeat};
use ringbeam_shards::io::Env;
use ringbeam_shards::io::sim::Sim;
use ringbeam_wire::client::{Place, RequestBody, Resolved, Written};

use super::{Answer, Attempt, Client, Outcome};

impl Client {
    /// Settles what became of the newest write, to the shard of `key`: what its answer would have been, or that it never happens. `None`:
    /// nobody can say, or nobody said it in time.
    pub async fn outcome(&mut self, key: &[u8], limit: Duration) -> Option<Outcome<Written>> {
        let (shard, end) = (self.shard_of(key), Sim::now() + limit);
        let (session, sequence) = self.last_write?;
        let body = RequestBody::Resolve(Place { session, sequence, answered_below: 0 });
        let mut effort = Effort::new(Repeat::Read);
        loop {
            let attempt = self.attempt(shard, &body, end).await;
            if let Attempt::Answered(Answer::Resolved(told)) = attempt {
                self.shard(shard).session.release(session, sequence);
                return Some(told.map_or(Outcome::Timeout, Outcome::Done));
            }
            if self.after::<()>(shard, attempt, &mut effort, end).await.is_err() {
                return None;
            }
        }
    }
}

/// The answer that a write would have had; `None`: it never happens.
pub(super) fn told(resolved: &Resolved<'_>) -> Option<Written> {
    let Resolved { happened, existed, revision, ring_time_ms, .. } = *resolved;
    happened.then(|| Written { revision, existed, ring_time_ms, duplicate: true, ..Written::default() })
}
