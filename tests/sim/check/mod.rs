//! The checkers: each looks at what was observed and returns what is wrong with it, in words. None of them knows the simulator, the
//! store, or how what it judges was obtained.
//!
//! | checker | judges | source |
//! |---|---|---|
//! | [`evidence`] | revisions against real time, over all keys of a shard | the store's own promises |
//! | [`linear`] | every key: is there one order of all its operations? | Wing & Gong, Lowe |
//! | [`session`] | local reads: old is allowed, invented is not | the store's own promises |
//! | [`exactly_once`] | retried writes: applied once, with one answer | the store's own promises |
//! | [`raft`] | terms, logs, commits, applied states of all nodes | Ongaro's thesis |
//!
//! **Invariants**: a checker is a function of its arguments; the same observations give the same words in the same order. No clock but
//! a bound that the caller asked for, and no hasher with a secret.

pub mod evidence;
pub mod exactly_once;
pub mod linear;
pub mod raft;
pub mod session;

/// Violations of one kind that are told; the rest is counted. One broken promise often breaks a thousand operations.
const TOLD_MAX: usize = 8;

/// The first few of `found`, and how many there are more.
fn told(mut found: Vec<String>) -> Vec<String> {
    if found.len() > TOLD_MAX {
        let more = found.len() - TOLD_MAX;
        found.truncate(TOLD_MAX);
        found.push(format!("({more} more of this kind)"));
    }
    found
}
