//! Clients that count: additions to a few counters, and reads of them, each remembered with what it was told.
//!
//! One task on each client's host, with its own client (sessions of its own) and its own random numbers, so that the other operations of
//! a seed are what they were.
//!
//! **Not here**: whether the sums are right (`check/counters.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::sim::world_now_ns;
use ringbeam_wire::client::Consistency;

use super::{Load, revision};
use crate::check::counters::{Asked, Told};
use crate::client::{Client, Outcome};
use crate::random::Random;

/// Counters of a run: few, so that clients meet.
pub const COUNTERS: u32 = 3;
/// Largest addition.
const DELTA_MAX: i64 = 5;
/// One operation in so many is a read.
const READS_ONE_IN: u64 = 4;
/// Mean pause between two operations of a task: they are beside the load, not the load.
const PAUSE_US: u64 = 50_000;

/// What was asked, by all tasks.
pub type Tally = Rc<RefCell<Vec<Asked>>>;

/// The key of a counter.
pub fn key(counter: u32) -> String {
    format!("c{counter}")
}

/// One task.
pub struct Counting {
    pub random: Random,
    pub limit: Duration,
    pub shared: Load,
}

impl Counting {
    pub async fn run(mut self) {
        let mut client = Client::new(self.shared.addresses.borrow().clone(), self.shared.shards);
        loop {
            let pause = Duration::from_micros(self.random.below(2 * PAUSE_US));
            self.shared.turn_of(&mut client, pause).await;
            let counter = self.random.below(u64::from(COUNTERS)) as u32;
            let delta = if self.random.below(READS_ONE_IN) == 0 { 0 } else { self.random.between(1, DELTA_MAX as u64) as i64 };
            self.shared.under_way.set(self.shared.under_way.get() + 1);
            let asked = Asked { counter, delta, invoked_ns: world_now_ns(), completed_ns: None, told: Told::Nothing };
            let at = self.shared.tally.borrow().len();
            self.shared.tally.borrow_mut().push(asked);
            let told =
                if delta == 0 { self.read(&mut client, counter).await } else { self.add(&mut client, counter, delta).await };
            let completed_ns = (told != Told::Nothing).then(world_now_ns);
            self.shared.tally.borrow_mut()[at] = Asked { completed_ns, told, ..asked };
            self.shared.under_way.set(self.shared.under_way.get() - 1);
        }
    }

    async fn add(&self, client: &mut Client, counter: u32, delta: i64) -> Told {
        match client.add(key(counter).as_bytes(), delta, self.limit).await {
            Outcome::Done(counted) => Told::Sum { sum: counted.value, revision: revision(counted.revision) },
            Outcome::Refused(_) | Outcome::Timeout => Told::Not,
            Outcome::Unknown => Told::Nothing,
        }
    }

    async fn read(&self, client: &mut Client, counter: u32) -> Told {
        match client.get(key(counter).as_bytes(), Consistency::Linearizable, self.limit).await {
            Outcome::Done(read) => match read.found {
                None => Told::Sum { sum: 0, revision: Default::default() },
                Some(found) => Told::Sum { sum: number(&found.value), revision: revision(found.revision) },
            },
            Outcome::Refused(_) | Outcome::Timeout | Outcome::Unknown => Told::Not,
        }
    }
}

/// The number that a counter's value is; one that nobody can have made where it is none.
pub fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(i64::MIN / 2)
}
