//! Reads that any node may answer: choosing one, opening it, and measuring how far the others are.
//!
//! ```text
//!   read ─▶ the one chosen (kept 250 ms) ─▶ answer
//!             │ none, or the time is over
//!             ▼
//!           readers.rs chooses ─▶ its connection, opened if need be
//!             └ each 2 s, beside the reads: a ping to whoever may be chosen
//! ```
//!
//! **Not here**: who is the best (`readers.rs`); what a node that is not fresh enough leads to (`call.rs`).

use std::sync::Arc;
use std::time::Instant;

use ringbeam_wire::client::RequestBody;

use crate::answer::{Answer, Outcome};
use crate::client::Inner;
use crate::connection::Connection;
use crate::leader::NotFound;
use crate::limits::SURVEY_TIMEOUT;
use crate::request::deadline_ms;
use crate::retry::backoff;
use crate::routing::Address;
use crate::shard::Shard;

impl Inner {
    /// A node to read from, when none is chosen: see the head of this file.
    pub(crate) async fn find_reader(
        self: &Arc<Self>,
        number: u32,
        shard: &Shard,
        deadline: Instant,
    ) -> Result<Arc<Connection>, NotFound> {
        if let Some(connection) = shard.reader(Instant::now()).filter(|reader| reader.is_open()) {
            return Ok(connection);
        }
        let candidates = self.routes().candidates();
        let (mut rounds, mut tries) = (0, 0);
        let count = candidates.len();
        shard.may_read_from(candidates);
        let mut why = format!("no node serves reads of shard {number}");
        loop {
            let chosen = shard.choose_reader(fastrand::u64(..));
            if let Some((address, connection)) = chosen {
                self.survey_if_due(number, shard);
                if let Some(connection) = connection {
                    return Ok(connection);
                }
                match self.pool.open(&address, number, deadline).await {
                    Ok(connection) => {
                        shard.read_from(&address, &connection);
                        return Ok(connection);
                    }
                    Err(error) => {
                        shard.reader_failed(&address);
                        why = format!("no node serves reads of shard {number}, the last asked: {error}");
                    }
                }
            }
            tries += 1;
            if tries < count {
                continue;
            }
            (rounds, tries) = (rounds + 1, 0);
            let wait = backoff(rounds, fastrand::u64(..));
            if Instant::now() + wait >= deadline {
                return Err(NotFound { why, error: None });
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Measures the round trips to those that may be read from, beside whatever else is done.
    fn survey_if_due(self: &Arc<Self>, number: u32, shard: &Shard) {
        for address in shard.survey() {
            let inner = Arc::downgrade(self);
            tokio::spawn(async move {
                if let Some(inner) = inner.upgrade() {
                    inner.measure(number, address).await;
                }
            });
        }
    }

    /// One ping. That it is answered says how far the node is, not that it is well: one whose shard has stopped answers it, too.
    async fn measure(&self, number: u32, address: Address) {
        let Some(shard) = self.shards.get(number as usize) else { return };
        let deadline = Instant::now() + SURVEY_TIMEOUT;
        let Ok(connection) = self.pool.open(&address, number, deadline).await else {
            return shard.reader_failed(&address);
        };
        shard.read_from(&address, &connection);
        let asked = Instant::now();
        if let Outcome::Answer(Answer::Done(_)) =
            connection.call(RequestBody::Ping, deadline, deadline_ms(SURVEY_TIMEOUT)).await
        {
            shard.reader_measured(&address, asked.elapsed());
        }
    }
}
