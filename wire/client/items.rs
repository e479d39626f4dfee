//! Reads of several keys: a page of a range, or a list of keys of one shard. Everything in one answer is as of one log index.

use super::data::check_range;
use super::{Consistency, Revision};
use crate::limits::{GET_MANY_KEY_BYTES_MAX, GET_MANY_KEYS_MAX, check_key, check_namespace};
use crate::refusal::{Code, Refusal};

/// The keys from `from` on and before `until`, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The first key that may be in the answer; empty: from the beginning. One byte longer than a key may be: what comes behind the
    /// longest key.
    pub from: &'a [u8],
    /// The first key that is not; empty: to the end.
    pub until: &'a [u8],
    /// From the last key down to the first.
    pub backward: bool,
    /// Without the values.
    pub keys_only: bool,
    /// Items at most; 0: as many as a page may have, [`SCAN_ITEMS_MAX`](crate::limits::SCAN_ITEMS_MAX).
    pub limit: u32,
    /// How fresh the answer must be; of no matter for a page of a pinned moment.
    pub consistency: Consistency,
    /// Of which moment the page is.
    pub moment: Moment,
}

/// Of which moment a page of a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// Of when it is made, and so is each that follows.
    #[default]
    Now,
    /// Of when it is made; if it ends before so many keys (not 0), those that follow can be of the same moment: [`Items::pinned`].
    Pin {
        /// Keys that are still wanted of this shard.
        keys: u32,
    },
    /// Of that of a page before it, which was answered by the same node.
    Pinned {
        /// [`Items::pinned`] of that page; not 0.
        pin: u64,
        /// Its [`Items::index`].
        index: u64,
    },
}

/// Several keys of one shard, all as of one log index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetMany<'a> {
    /// Namespace of all; "" is the default one.
    pub namespace: &'a str,
    /// The keys, in the order of the answer.
    pub keys: Vec<&'a [u8]>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// A key's value and when it last changed, or that it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    /// The key, where the request did not name it; else empty.
    pub key: &'a [u8],
    /// Whether the key has a value.
    pub found: bool,
    /// The value; empty when not found or not asked for.
    pub value: &'a [u8],
    /// Of the key; zero when not found.
    pub revision: Revision,
}

/// The answer to [`Scan`] and [`GetMany`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items<'a> {
    /// Those of the range, in the order asked for; or one for each key, in the order of the request.
    pub items: Vec<Item<'a>>,
    /// The applied log index that all of them reflect.
    pub index: u64,
    /// The page is full, or the bytes of an answer are: ask again for what comes behind its last item.
    pub more: bool,
    /// As in [`Value::age_ms`](super::Value::age_ms).
    pub age_ms: Option<u32>,
    /// As in [`Value::stale`](super::Value::stale).
    pub stale: bool,
    /// What follows can be read as of the same index, from the same node; 0: it cannot.
    pub pinned: u64,
}

impl Scan<'_> {
    /// Refuses what no node takes.
    pub fn check(&self) -> Result<(), Refusal> {
        check_namespace(self.namespace)?;
        check_range("scan", self.from, self.until)
    }
}

impl GetMany<'_> {
    /// Refuses what no node takes.
    pub fn check(&self) -> Result<(), Refusal> {
        let keys = self.keys.len();
        if !(1..=GET_MANY_KEYS_MAX as usize).contains(&keys) {
            let why = format!("{keys} keys are asked for at once; it must be 1 to {GET_MANY_KEYS_MAX}");
            return Err(Refusal::new(Code::BadRequest, why));
        }
        let bytes: usize = self.keys.iter().map(|key| key.len()).sum();
        if bytes > GET_MANY_KEY_BYTES_MAX as usize {
            let why = format!("the keys asked for at once have {bytes} bytes, the limit is {GET_MANY_KEY_BYTES_MAX}");
            return Err(Refusal::new(Code::BadRequest, why));
        }
        self.keys.iter().try_for_each(|key| check_key(key))
    }
}
