//! A near-cache: values kept in this process, opt-in, of one namespace.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use std::time::Duration;
//! use ringbeam_sdk::CacheOptions;
//!
//! let options = CacheOptions { age_max: Duration::from_millis(500), ..CacheOptions::default() };
//! let profiles = client.namespace("profiles").cached(options);
//! // Never what the ring had overwritten more than half a second before.
//! let profile = profiles.get("user:7").await?;
//! // Through the cache, so that whoever reads through it afterwards sees it.
//! profiles.put("user:7", "new").await?;
//! println!("{:?}", profiles.stats());
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   get ─▶ switched off? ─▶ the ring, as without a cache
//!      ─▶ an entry that is young enough ─▶ its value, or that there is none
//!      ─▶ somebody fetches it already? ─▶ wait for that ─▶ the same answer for all
//!      ─▶ fetch it, linearizably; keep it if it was asked for before
//! ```
//!
//! **The contract**: an answer was true at some moment of the last [`CacheOptions::age_max`], or of the call's own time. It is kept
//! without synchronised clocks: what a linearizable read finds is true at some moment after it began, so an entry is as old as the
//! beginning of its fetch, by this process's monotonic clock, and is not used beyond the bound.
//!
//! **Invalidation.** A cache that [follows](Cache::follow) its namespace takes out what changes, mostly within milliseconds, and knows of
//! the rest that it has not: that stays for as long as it is used. The bound stays what is promised, whatever becomes of the watch.
//!
//! **What it does on its own**: one fetch for concurrent misses; keys without a value are remembered as that; only what is asked for a
//! second time is kept; bounded by bytes ([`quick_cache`], which keeps what is used often); it switches itself off when fewer than one in
//! twenty reads are answered by it, tries again later, and costs a counter meanwhile.
//!
//! **Without following**, writes by others, and by this process past the cache, are seen when the entry is too old, or when the program says
//! so ([`Cache::forget`]).

mod flight;
mod follow;
mod switch;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::Weighter;
use ringbeam_wire::client::{Revision, Written};
use tokio::task::AbortHandle;

use crate::answer::Value;
use crate::client::{Client, GetOptions, PutOptions};
use crate::consistency::Consistency;
use crate::error::Error;
use crate::limits::{CACHE_BYTES_DEFAULT, CACHE_ENTRY_OVERHEAD_BYTES, CACHE_ENTRY_SHARE_MAX};
use crate::observe::Cached;
use crate::watch::WatchError;
use flight::{Fetched, Flights};
use follow::Known;
use switch::{Doorkeeper, Switch};

/// How a near-cache works.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Keys, values and what keeping them costs, bytes. Default 64 MiB.
    pub bytes_max: u64,
    /// No answer was overwritten longer ago than this. Default 1 s.
    pub age_max: Duration,
    /// Whether it is remembered that a key has no value. Default: yes.
    pub negative: bool,
    /// Whether a key is kept when it is asked for the first time. Default: no, the second, so that what is read once does not drive out
    /// what is read often.
    pub keep_at_once: bool,
    /// Whether it switches itself off when it does not pay. Default: yes.
    pub switches_off: bool,
}

impl Default for CacheOptions {
    fn default() -> CacheOptions {
        CacheOptions {
            bytes_max: CACHE_BYTES_DEFAULT,
            age_max: Duration::from_secs(1),
            negative: true,
            keep_at_once: false,
            switches_off: true,
        }
    }
}

/// What a near-cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Answered with a value.
    pub hits: u64,
    /// Answered that there is none.
    pub negative_hits: u64,
    /// Waited for another one's fetch.
    pub coalesced: u64,
    /// Fetched.
    pub misses: u64,
    /// Went to the ring while it was off.
    pub bypassed: u64,
    /// Entries in it now.
    pub entries: u64,
    /// Bytes in it now.
    pub bytes: u64,
}

/// A client with a near-cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    client: Client,
    near: Arc<Near>,
}

#[derive(Debug)]
struct Near {
    options: CacheOptions,
    entries: quick_cache::sync::Cache<Bytes, Entry, Weight>,
    flights: Flights,
    switch: Switch,
    door: Doorkeeper,
    hasher: RandomState,
    counts: [AtomicU64; 5],
    known: Known,
    follower: OnceLock<AbortHandle>,
}

/// What was found, and since when it was true.
#[derive(Clone, Debug)]
struct Entry {
    found: Option<Value>,
    as_of: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Weight;

impl Weighter<Bytes, Entry> for Weight {
    fn weight(&self, key: &Bytes, entry: &Entry) -> u64 {
        let value = entry.found.as_ref().map_or(0, |found| found.value.len());
        (key.len() + value) as u64 + CACHE_ENTRY_OVERHEAD_BYTES
    }
}

impl Client {
    /// The same client with a near-cache for its namespace. See [`Cache`].
    pub fn cached(&self, options: CacheOptions) -> Cache {
        // Twice the overhead is a small key with a small value.
        let entries = (options.bytes_max / (2 * CACHE_ENTRY_OVERHEAD_BYTES)).clamp(16, 1 << 24);
        let near = Near {
            entries: quick_cache::sync::Cache::with_weighter(entries as usize, options.bytes_max, Weight),
            flights: Flights::default(),
            switch: Switch::default(),
            door: Doorkeeper::default(),
            hasher: RandomState::new(),
            counts: Default::default(),
            known: Known::new(self.inner.shards.len()),
            follower: OnceLock::new(),
            options,
        };
        Cache { client: self.clone(), near: Arc::new(near) }
    }
}

/// The age of an entry counts from its fetch, so the fetch is linearizable, whatever the client's own reads are.
fn leaders() -> GetOptions {
    GetOptions { consistency: Some(Consistency::Linearizable), ..GetOptions::default() }
}

impl Cache {
    /// The client without the cache.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads a key. The head of this module says how old the answer may be.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        let (key, near) = (key.as_ref(), &*self.near);
        if near.options.switches_off && !near.switch.ask(near.follower.get().is_some()) {
            self.count(Cached::Bypassed);
            return self.client.get_with(key, &leaders()).await;
        }
        if let Some(entry) = near.entries.get(key)
            && self.is_young(key, &entry)
        {
            near.switch.hit();
            self.count(if entry.found.is_some() { Cached::Hit } else { Cached::NegativeHit });
            return Ok(entry.found);
        }
        // Boxed, so that the futures of hits stay small.
        Box::pin(self.fetch(key)).await
    }

    /// From now on takes out what others change, and keeps the rest for longer than [`CacheOptions::age_max`]: by a watch of the whole
    /// namespace, so for namespaces that are read more than written. Each quarter of the bound it costs a small read of each shard. When
    /// the watch ends, it begins another; meanwhile the cache is one without. While the cache is switched off there is none. Again:
    /// changes nothing.
    pub async fn follow(&self) -> Result<(), WatchError> {
        if self.near.follower.get().is_some() {
            return Ok(());
        }
        let age_max = self.near.options.age_max;
        let watch = follow::begin(&self.client, age_max).await?;
        // What was fetched before the watch began is not covered by it.
        self.near.start_anew();
        let task = tokio::spawn(follow::follow(self.client.clone(), Arc::downgrade(&self.near), age_max, watch));
        if self.near.follower.set(task.abort_handle()).is_err() {
            // Another call was quicker.
            task.abort();
        }
        Ok(())
    }

    fn is_young(&self, key: &[u8], entry: &Entry) -> bool {
        let age_max = self.near.options.age_max;
        if entry.as_of.elapsed() < age_max {
            return true;
        }
        let known = self.near.known.as_of(self.client.inner.shard_of(key).0);
        known.is_some_and(|as_of| as_of.elapsed() < age_max)
    }

    /// Sets a key, in the ring and then for the readers of this cache.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        let _changed = Changed { near: &self.near, key: key.as_ref() };
        self.client.put_with(key.as_ref(), value, &PutOptions::default()).await
    }

    /// Removes a key, from the ring and then for the readers of this cache.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        let _changed = Changed { near: &self.near, key: key.as_ref() };
        self.client.delete_with(key.as_ref(), &PutOptions::default()).await
    }

    /// The next read of this key asks the ring: it was changed past the cache.
    pub fn forget(&self, key: impl AsRef<[u8]>) {
        self.near.forget(key.as_ref());
    }

    /// What it has done so far.
    pub fn stats(&self) -> CacheStats {
        let [hits, negative_hits, coalesced, misses, bypassed] = self.near.counts.each_ref().map(|n| n.load(Ordering::Relaxed));
        let (entries, bytes) = (self.near.entries.len() as u64, self.near.entries.weight());
        CacheStats { hits, negative_hits, coalesced, misses, bypassed, entries, bytes }
    }

    async fn fetch(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        let near = &*self.near;
        let joined = near.flights.join(key);
        let mut fetched_here = false;
        let wait = joined.flight.get_or_init(|| {
            fetched_here = true;
            self.count(Cached::Miss);
            async {
                let as_of = Instant::now();
                let result = self.client.get_with(key, &leaders()).await;
                Fetched { result, as_of }
            }
        });
        let timeout = self.client.timeout;
        let Ok(fetched) = tokio::time::timeout(timeout, wait).await else {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            return Err(Error::Timeout { timeout_ms, why: "the fetch that this read waited for did not end".into() });
        };
        if fetched_here {
            // Told before anybody is let in again: whoever comes now finds the entry, or fetches anew.
            near.flights.land(&joined, || near.keep(key, fetched));
            return fetched.result.clone();
        }
        // True when that fetch began, which may be longer ago than this read may be old.
        if fetched.as_of.elapsed() >= near.options.age_max {
            self.count(Cached::Miss);
            return self.client.get_with(key, &leaders()).await;
        }
        self.count(Cached::Coalesced);
        fetched.result.clone()
    }

    fn count(&self, asked: Cached) {
        let at = match asked {
            Cached::Hit => 0,
            Cached::NegativeHit => 1,
            Cached::Coalesced => 2,
            Cached::Miss => 3,
            Cached::Bypassed => 4,
        };
        if let Some(count) = self.near.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(metrics) = &self.client.inner.hooks.0 {
            metrics.cache(asked);
        }
    }
}

impl Near {
    fn keep(&self, key: &[u8], fetched: &Fetched) {
        let Ok(found) = &fetched.result else { return };
        let again = self.options.keep_at_once || self.door.knock(self.hasher.hash_one(key));
        if !again || (found.is_none() && !self.options.negative) {
            self.entries.remove(key);
            return;
        }
        let entry = Entry { found: found.clone(), as_of: fetched.as_of };
        let key = Bytes::copy_from_slice(key);
        if Weight.weight(&key, &entry) <= self.options.bytes_max / CACHE_ENTRY_SHARE_MAX {
            self.entries.insert(key, entry);
        }
    }

    /// Changes may have been missed.
    fn start_anew(&self) {
        self.known.nothing();
        self.flights.leave_all_alone(|| self.entries.clear());
    }

    /// The watch says that the key has changed so. An entry that was fetched since then has it.
    fn changed(&self, key: &[u8], at: Revision) {
        let has = |entry: Entry| entry.found.is_some_and(|found| found.revision >= at);
        if !self.entries.peek(key).is_some_and(has) {
            self.forget(key);
        }
    }

    fn forget(&self, key: &[u8]) {
        // A fetch that is under way may have read what was before: it is nobody's but of those who wait for it.
        self.flights.leave_alone(key, || {
            self.entries.remove(key);
        });
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// A write through the cache, for as long as it may still happen: also one whose outcome is unknown or whose future was dropped.
struct Changed<'a> {
    near: &'a Near,
    key: &'a [u8],
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.near.forget(self.key);
    }
}
