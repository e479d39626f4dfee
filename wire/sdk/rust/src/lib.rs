//! The Rust SDK of ringbeam: a client of a replicated key-value store, for tokio.
//!
//! ```no_run
//! # async fn example() -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::Client;
//!
//! // Any one node is enough; the rest of the ring is learnt from it.
//! let client = Client::connect("127.0.0.1:7701,127.0.0.1:7702").await?;
//!
//! // Returns once the write is durable on a quorum of disks and applied.
//! let written = client.put("greeting", "hello").await?;
//! println!("written at {:?}", written.revision);
//!
//! // Sees every write that was acknowledged before, whoever made it.
//! if let Some(found) = client.get("greeting").await? {
//!     println!("{}", String::from_utf8_lossy(&found.value));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/hello.rs` is the same as a program. Writes that happen only if something holds: [`Client::cas`], [`Client::create`],
//! [`Client::txn`]. Numbers: [`Client::add`]. Small changes of large values:
//! [`Client::append`], [`Client::merge_patch`]. Whole ranges: [`Client::delete_range`].
//! Keys that go by themselves or with whoever put them: [`PutOptions::ttl`], [`Client::lease`]; `examples/election.rs` elects a leader with
//! one. Several keys, and keys in order: [`Client::get_many`], [`Client::scan`].
//!
//! # What it promises
//!
//! - **Every call ends** by its deadline (5 s unless said otherwise, kept to within 10 ms) with an answer or with an
//!   [`Error`] that says what is certain. `Refused` and `Timeout`: it did not happen. `Unknown`: it may have.
//! - **Exactly once.** A write that is repeated after a lost connection carries the same session and sequence, and the shard
//!   applies it once. `session.rs` says how, and what happens to writes that were given up.
//! - **No configuration to keep.** Leaders, members and redirects are followed; a dead leader is left as soon as its
//!   connection ends, one that has been deposed without noticing after one second, a silent one after two.
//! - **No herd.** Retries take from a budget that first attempts fill ([`budget`]), calls that waited for a leader are let go at the
//!   rate at which calls came before ([`pace`]), a node that fails again and again is left alone for a while ([`breaker`]).
//! - **Reads as fresh as they must be.** Linearizable, of a session, of a bounded age, or local: [`Consistency`], by call or by default.
//!   Whoever may answer is asked in the client's own region first (`readers.rs`).
//! - **One client for all tasks.** [`Client`] clones cheaply; calls from many tasks share one connection per (node, shard)
//!   and leave in as few sends as possible. A dropped future forgets its reply; the write may still happen.
//!
//! # The way of a call
//!
//! ```text
//!   key -> slot -> shard -> ticket (session, sequence) -> leader's connection -> encode into its buffer
//!      client.rs             session.rs, turn.rs             call.rs                connection.rs
//!   driver task writes everything at once, reads many replies at once, wakes their callers        driver.rs
//!   anything but success: retry.rs decides, leader.rs finds the leader, handshake.rs and pool.rs connect
//! ```
//!
//! Decisions are pure (`routing`, `readers`, `retry`, `budget`, `breaker`, `pace`, `session`: no tokio, no clock, no randomness inside); the
//! rest carries them out.
//!
//! # Needs
//!
//! Programs that are not async use [`blocking::Client`]. Others need:
//! A tokio runtime with I/O and time, of one thread or many. Connections live in the runtime whose task opened them.
//! For the least CPU per call keep a client's tasks on one `current_thread` runtime: waking a task is then a push to a queue.
//!
//! # Not here (yet)
//!
//! TLS.

mod admin;
mod answer;
mod append;
pub mod blocking;
pub mod breaker;
pub mod budget;
mod builder;
mod cache;
mod call;
mod client;
mod connection;
mod consistency;
mod counter;
mod driver;
mod erase;
mod error;
mod handshake;
mod health;
mod hedge;
mod leader;
mod lease;
pub mod limits;
mod observe;
mod outcome;
pub mod pace;
mod pinned;
mod policy;
mod pool;
pub mod readers;
mod request;
pub mod retry;
pub mod routing;
mod scan;
mod search;
pub mod session;
mod shard;
mod slab;
mod survey;
mod turn;
mod txn;
mod watch;

pub use answer::{Read, Value};
pub use builder::Builder;
pub use bytes::Bytes;
pub use cache::{Cache, CacheOptions, CacheStats};
pub use client::{Client, GetOptions, PutOptions};
pub use consistency::{Consistency, NoToken, Token};
pub use counter::AddOptions;
pub use error::Error;
pub use lease::{Holder, Lease};
pub use observe::{Cached, CallEnded, Ended, Metrics};
pub use outcome::{Happened, Outcome, Ticket};
pub use policy::{POLICIES, Policy};
pub use ringbeam_wire::client::{
    Breakdown, Compare, Counted, EventKind, Lease as LeaseState, Life, Member, Progress, Relation, Revision, Role, SlotRange,
    Status, Step, Target, Topology, Written,
};
pub use ringbeam_wire::refusal::{Code, Refusal};
pub use scan::{Entry, Range, Scan};
pub use txn::{Expect, Transacted, Txn};
pub use watch::{Batch, Event, Watch, WatchError, WatchOptions};
