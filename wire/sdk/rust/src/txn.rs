//! Transactions and compare-and-set: writes that happen only if something holds, all at once or not at all.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::{Compare, Expect, Step, Txn};
//!
//! // Whoever comes first is the leader.
//! let won = client.create("{job:7}.leader", "me").await?.succeeded;
//!
//! // Read, change, and write only if nobody has in between.
//! if let Some(found) = client.get("{job:7}.state").await? {
//!     let next = [&found.value[..], b"+1"].concat();
//!     let swapped = client.cas("{job:7}.state", Expect::Revision(found.revision), next).await?.succeeded;
//! }
//!
//! // Two keys at once: the tag in braces keeps them on one shard.
//! let done = client
//!     .txn(&Txn::new()
//!         .when(Compare::value("{job:7}.leader", "me"))
//!         .then(Step::put("{job:7}.state", "done"))
//!         .then(Step::delete("{job:7}.leader"))
//!         .otherwise(Step::get("{job:7}.leader")))
//!     .await?;
//! if !done.succeeded {
//!     println!("the leader is {:?}", done.gets[0]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Exactly once as any other write: a repeated one gets the first answer, what its gets found included.

use ringbeam_wire::client::{Breakdown, Compare, Revision, Step, Target, Transact};

use crate::answer::{Answer, Value};
use crate::client::{Client, PutOptions};
use crate::error::Error;
use crate::request::{What, odd};

/// Compares, and what is done when all of them hold or when one does not. Of keys of one shard, at most 128 compares and steps, and
/// altogether no longer than the longest value. It reads before it writes; no list writes a key twice.
#[derive(Clone, Debug, Default)]
pub struct Txn<'a>(Transact<'a>);

/// What a transaction came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transacted {
    /// Of every key that it wrote.
    pub revision: Revision,
    /// Ring time of the batch, milliseconds.
    pub ring_time_ms: u64,
    /// All compares held: the `then` steps were done, not the `otherwise` ones.
    pub succeeded: bool,
    /// The answer of an earlier attempt of this call.
    pub duplicate: bool,
    /// Where the time went.
    pub breakdown: Breakdown,
    /// What the gets found that were done, in their order.
    pub gets: Vec<Option<Value>>,
}

/// What [`Client::cas`] expects of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// It has no value.
    Absent,
    /// It last changed at this revision.
    Revision(Revision),
    /// It has this value.
    Value(&'a [u8]),
}

impl<'a> Txn<'a> {
    /// Of nothing; at least one compare or step must come.
    pub fn new() -> Txn<'a> {
        Txn::default()
    }

    /// What must hold, beside what else must.
    pub fn when(mut self, compare: Compare<'a>) -> Txn<'a> {
        self.0.compares.push(compare);
        self
    }

    /// What is done when all compares hold, beside what else is.
    pub fn then(mut self, step: Step<'a>) -> Txn<'a> {
        self.0.then.push(step);
        self
    }

    /// What is done when one compare does not hold, beside what else is.
    pub fn otherwise(mut self, step: Step<'a>) -> Txn<'a> {
        self.0.otherwise.push(step);
        self
    }
}

impl Client {
    /// Carries out a transaction. Returns once it is durable on a quorum and applied.
    pub async fn txn(&self, txn: &Txn<'_>) -> Result<Transacted, Error> {
        self.txn_with(txn, &PutOptions::default()).await
    }

    /// Carries out a transaction, with options.
    pub async fn txn_with(&self, txn: &Txn<'_>, options: &PutOptions) -> Result<Transacted, Error> {
        let transact = Transact { namespace: self.name(&options.namespace), ..txn.0.clone() };
        // Wherever it goes: a transaction without keys is refused before.
        let key = transact.keys().next().unwrap_or_default();
        let what = What::Txn { transact: &transact, shards: self.inner.shards.len() as u32 };
        what.check(u32::MAX).map_err(Error::Refused)?;
        match self.write(key, what, options.timeout).await? {
            Answer::Transacted(transacted) => {
                let done = if transacted.succeeded { &transact.then } else { &transact.otherwise };
                let (gets, due) = (transacted.gets.len(), done.iter().filter(|step| !step.writes()).count());
                if gets != due {
                    return Err(Error::Protocol(format!("a node answered {due} gets of a transaction with {gets}")));
                }
                Ok(*transacted)
            }
            other => Err(odd(&other)),
        }
    }

    /// Sets a key if it is as expected; [`Transacted::succeeded`] says whether it was.
    pub async fn cas(&self, key: impl AsRef<[u8]>, expect: Expect<'_>, value: impl AsRef<[u8]>) -> Result<Transacted, Error> {
        let key = key.as_ref();
        let compare = match expect {
            Expect::Absent => Compare::absent(key),
            Expect::Revision(revision) => Compare::revision(key, revision),
            Expect::Value(value) => Compare { target: Target::Value(value), ..Compare::absent(key) },
        };
        self.txn(&Txn::new().when(compare).then(Step::put(key, value.as_ref()))).await
    }

    /// Sets a key that has no value; [`Transacted::succeeded`] says whether it had none.
    pub async fn create(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Transacted, Error> {
        self.cas(key, Expect::Absent, value).await
    }
}
