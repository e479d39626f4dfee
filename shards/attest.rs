//! Reads that say how old they may be, or how far the state must have come: when they are answered, and by what is shown.
//!
//! ```text
//!   read wants an age ─▶ wanted ─▶ [ask] the leader, while such reads arrive ─▶ fresh.rs
//!                                     │                                           │
//!   read cannot be answered yet ─▶ waiting ◀──── settle: after each answer, when an awaited index is applied, each sweep
//! ```
//! The leader is asked at most once at a time, each [`ASK_INTERVAL`] while reads that want their age arrive, sooner when one waits for it,
//! and not at all [`ASK_LINGER`] after the last one: an idle shard costs nothing, a busy follower one small round an interval.
//!
//! **Invariants**
//! - A session's read is answered by a state that has applied its index; a bounded one that is not said to be stale has an age, shown at the
//!   moment it is made, within its bound.
//! - Who waits is counted, bounded and answered: in time, or with what this node can show at its deadline.
//!
//! **Not here**: what an age follows from (`fresh.rs`), the round at the leader (`raft/read_index.rs`), the answer itself (`read.rs`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_lite::future;
use ringbeam_wire::client::Consistency;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::admission::Reason;
use crate::fresh::Freshness;
use crate::io::channel::Notify;
use crate::io::{Env, Instant};
use crate::limits::{ASK_INTERVAL, ASK_INTERVAL_MIN, ASK_LINGER, FRESH_WAIT_MAX, STALE_PATIENCE};
use crate::read::{self, Reading};
use crate::shard::Shard;

/// What a shard can show of its state's age, and the reads that wait for more.
#[derive(Default)]
pub(crate) struct Attest {
    freshness: RefCell<Freshness>,
    waiting: RefCell<Vec<Patient>>,
    /// When a read that wants its age came last.
    wanted: Cell<Instant>,
    asking: Cell<bool>,
    hurry: Notify,
    /// Why the leader could not be asked, when the last attempt failed.
    failure: RefCell<Option<String>>,
}

/// A read that cannot be answered yet.
struct Patient {
    reading: Reading,
    /// It is answered or refused by then.
    until: Instant,
}

impl Attest {
    /// The leader was asked at `asked`, by whichever way, and had committed up to `index`.
    pub fn learn(&self, asked: Instant, index: u64) {
        self.freshness.borrow_mut().learn(asked, index);
    }

    /// What can be shown of the age of a state that has applied so much.
    pub fn age_ms(&self, applied: u64, now: Instant) -> Option<u32> {
        self.freshness.borrow_mut().age_ms(applied, now)
    }

    /// Reads that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }
}

/// True for an answer of this age that is older than it may be, or not known not to be.
pub(crate) fn is_stale(consistency: Consistency, age_ms: Option<u32>) -> bool {
    matches!(consistency, Consistency::Bounded { age_ms_max, .. } if age_ms.is_none_or(|age| age > age_ms_max))
}

/// Whether the state can answer such a read now.
pub(crate) fn is_ready<E: Env>(shard: &Shard<E>, consistency: Consistency, now: Instant) -> bool {
    let applied = shard.replica.machine().with_state(|state| state.applied());
    match consistency {
        Consistency::Session { index_min } => applied >= index_min || planted!(SessionIndexIgnored),
        _ => !is_stale(consistency, shard.attest.age_ms(applied, now)),
    }
}

/// A read that wants its age has arrived.
pub(crate) fn wanted<E: Env>(shard: &Rc<Shard<E>>, now: Instant) {
    shard.attest.wanted.set(now);
    if !shard.attest.asking.replace(true) {
        E::spawn(ask(shard.clone()));
    }
}

/// Keeps a read that is not ready until it is, or has waited as long as it may.
pub(crate) fn wait<E: Env>(shard: &Shard<E>, reading: Reading) {
    let consistency = reading.consistency;
    let patience =
        if matches!(consistency, Consistency::Bounded { stale_ok: true, .. }) { STALE_PATIENCE } else { FRESH_WAIT_MAX };
    let until = reading.waiter.arrived + patience;
    let until = reading.waiter.deadline.map_or(until, |deadline| deadline.min(until));
    shard.attest.waiting.borrow_mut().push(Patient { reading, until });
    if matches!(consistency, Consistency::Bounded { .. }) {
        shard.attest.hurry.notify_one();
    }
    await_next(shard);
}

/// Asks the leader, again and again, until no read has wanted an age for a while.
async fn ask<E: Env>(shard: Rc<Shard<E>>) {
    let attest = &shard.attest;
    let mut link = None;
    loop {
        let asked = E::now();
        let failure = match shard.replica.ask_read_index(&mut link).await {
            Ok(index) => {
                attest.learn(asked, index);
                None
            }
            Err(why) => Some(why),
        };
        let failed = failure.is_some();
        *attest.failure.borrow_mut() = failure;
        settle(&shard, failed);
        future::or(E::sleep(ASK_INTERVAL.saturating_sub(E::now().since(asked))), async {
            let wants_age = |patient: &Patient| matches!(patient.reading.consistency, Consistency::Bounded { .. });
            while !attest.waiting.borrow().iter().any(wants_age) {
                attest.hurry.notified().await;
            }
            E::sleep(ASK_INTERVAL_MIN.saturating_sub(E::now().since(asked))).await;
        })
        .await;
        if E::now().since(attest.wanted.get()) > ASK_LINGER {
            attest.asking.set(false);
            return;
        }
    }
}

/// Looks at who waits whenever an index is applied that somebody waits for.
pub(crate) async fn watch_applied<E: Env>(shard: Rc<Shard<E>>) {
    loop {
        shard.replica.machine().awaited_is_applied().await;
        settle(&shard, false);
    }
}

/// Answers those whose time has come, one way or the other. `failed`: the leader could not be asked, so who takes an old answer gets it.
pub(crate) fn settle<E: Env>(shard: &Rc<Shard<E>>, failed: bool) {
    if shard.attest.waiting.borrow().is_empty() {
        return;
    }
    let now = E::now();
    let waiting = std::mem::take(&mut *shard.attest.waiting.borrow_mut());
    let fault = shard.fault();
    for Patient { reading, until } in waiting {
        let consistency = reading.consistency;
        let stale_ok = matches!(consistency, Consistency::Bounded { stale_ok: true, .. });
        if let Some(why) = &fault {
            read::refuse(reading, shard.explain(Reason::Fault(why.clone())));
        } else if is_ready(shard, consistency, now) || stale_ok && (failed || until <= now) {
            read::serve_in_turn(shard, reading, now);
        } else if until <= now {
            read::refuse(reading, not_fresh(shard, consistency, now));
        } else {
            shard.attest.waiting.borrow_mut().push(Patient { reading, until });
        }
    }
    await_next(shard);
}

/// Has the machine tell when the next index is applied that may end a wait.
fn await_next<E: Env>(shard: &Shard<E>) {
    let waiting = shard.attest.waiting.borrow();
    let next = waiting.iter().filter_map(|patient| match patient.reading.consistency {
        Consistency::Session { index_min } => Some(index_min),
        _ => shard.attest.freshness.borrow().next_index(),
    });
    if let Some(next) = next.min() {
        shard.replica.machine().await_index(next);
    }
}

fn not_fresh<E: Env>(shard: &Shard<E>, consistency: Consistency, now: Instant) -> Refusal {
    let applied = shard.replica.machine().with_state(|state| state.applied());
    let why = match consistency {
        Consistency::Session { index_min } => {
            format!("this node has applied log index {applied}; the session has seen {index_min}")
        }
        Consistency::Bounded { age_ms_max, .. } => {
            let failure = shard.attest.failure.borrow();
            let failure = failure.as_ref().map_or(String::new(), |why| format!("; the leader could not be asked: {why}"));
            match shard.attest.age_ms(applied, now) {
                Some(age) => {
                    format!("this node can show that its state is at most {age} ms old, {age_ms_max} ms are asked for{failure}")
                }
                None => format!("this node cannot show how old its state is, {age_ms_max} ms are asked for{failure}"),
            }
        }
        Consistency::Linearizable | Consistency::Local => "nothing was asked for".to_string(),
    };
    Refusal::new(Code::NotFresh, why)
}

const _: () =
    assert!(STALE_PATIENCE.as_nanos() < FRESH_WAIT_MAX.as_nanos() && ASK_INTERVAL_MIN.as_nanos() < ASK_INTERVAL.as_nanos());
