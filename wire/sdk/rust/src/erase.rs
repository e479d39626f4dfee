//! Ranges that are deleted: slice by slice, on all shards at once.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! let gone = client.delete_prefix("session:").await?;
//! println!("{gone} sessions were there");
//! # Ok(())
//! # }
//! ```
//!
//! **What is consistent**: a slice (up to 1,000 keys of one shard, some 4 MiB) goes at once; the whole range does not. A key that is
//! written while the range is being deleted may go or stay. Each slice goes exactly once; after an error some slices are gone, and
//! calling again deletes the rest.

use ringbeam_wire::client::DeleteRange;
use ringbeam_wire::refusal::{Code, Refusal};
use tokio::task::JoinSet;

use crate::answer::Answer;
use crate::client::{Client, PutOptions};
use crate::error::Error;
use crate::request::{What, odd};
use crate::scan::Range;

impl Client {
    /// Deletes the keys of a range; how many there were. The time of a call is that of each slice.
    pub async fn delete_range(&self, range: Range) -> Result<u64, Error> {
        self.delete_range_with(range, &PutOptions::default()).await
    }

    /// Deletes the keys that begin with `prefix`; how many there were.
    pub async fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64, Error> {
        self.delete_range(Range::prefix(prefix)).await
    }

    /// Deletes the keys of a range, with options. A limit or an order is refused: a range goes whole.
    pub async fn delete_range_with(&self, range: Range, options: &PutOptions) -> Result<u64, Error> {
        if range.limit.is_some() || range.backward {
            let why = "a range is deleted whole: it has neither a limit nor a direction";
            return Err(Error::Refused(Refusal::new(Code::BadRequest, why)));
        }
        // It ends before it begins; the wire's empty `until` would mean the last key.
        if !range.until.is_empty() && range.from >= range.until {
            return Ok(0);
        }
        let only = range.tagged.then(|| self.inner.shard_of(&range.from).0);
        let mut deleting = JoinSet::new();
        for number in (0..self.inner.shards.len() as u32).filter(|number| only.is_none_or(|only| only == *number)) {
            let (client, range, options) = (self.clone(), range.clone(), options.clone());
            deleting.spawn(async move { client.delete_of_shard(number, &range, &options).await });
        }
        let mut gone = 0;
        while let Some(joined) = deleting.join_next().await {
            // A task that is gone: the runtime ends.
            gone += joined.map_err(|_| Error::Connect("the runtime has ended".into()))??;
        }
        Ok(gone)
    }

    async fn delete_of_shard(&self, number: u32, range: &Range, options: &PutOptions) -> Result<u64, Error> {
        let namespace = self.name(&options.namespace);
        let mut gone = 0;
        loop {
            let slice = DeleteRange { namespace, from: &range.from, until: &range.until, ..DeleteRange::default() };
            match self.inner.write_to(number, What::DeleteRange(slice), self.time(options.timeout), &self.seen).await? {
                Answer::RangeDeleted(slice) => {
                    gone += u64::from(slice.deleted);
                    if !slice.more {
                        return Ok(gone);
                    }
                    if slice.deleted == 0 {
                        return Err(Error::Protocol("a node deleted nothing of a range that has more".into()));
                    }
                }
                other => return Err(odd(&other)),
            }
        }
    }
}
