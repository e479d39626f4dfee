//! Reads of several keys: a list of them, or a range in order, over all shards.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::Range;
//!
//! let mut carts = client.scan(Range::prefix("cart:").limit(100));
//! while let Some(entry) = carts.next().await? {
//!     println!("{} = {} bytes", String::from_utf8_lossy(&entry.key), entry.value.len());
//! }
//! let both = client.get_many(["a", "b"]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   shard 0: page ─▶ a  d  f │ page ..        all pages of a shard are as of one log index
//!   shard 1: page ─▶ b  c  g │ page ..
//!                    └ the first of the shards' next keys ─▶ next()
//! ```
//!
//! **What is consistent**: all that a scan gives of one shard is as of one moment, when its first page was read, and as fresh then as was
//! asked for. Keys with one `{tag}` are of one shard; different shards are of different moments, close to each other.
//!
//! **What that takes**: the node that has answered first keeps what changes meanwhile (`pinned_bytes_max` of its configuration, 64 MiB a
//! shard, for all scans together), and is asked for all pages. If it cannot any more, because it has begun anew, because too much has
//! changed, or because no key was taken from the scan for some 20 s, it ends with `Compacted`. [`Scan::all`] begins it anew then. One that takes long
//! and does not mind is [`Range::unpinned`]: each page is of a moment of its own, and any node will do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{GetMany, Moment, Revision, Scan as Wanted};
use ringbeam_wire::limits::{GET_MANY_KEY_BYTES_MAX, GET_MANY_KEYS_MAX, SCAN_ITEMS_MAX, check_key};
use ringbeam_wire::refusal::Code;
use ringbeam_wire::slots::tag_of;
use tokio::task::{JoinError, JoinSet};

use crate::answer::{Answer, Value};
use crate::client::{Client, GetOptions};
use crate::connection::Connection;
use crate::error::Error;
use crate::limits::{BUNDLES_AT_ONCE_MAX, SCANNED_ANEW_MAX};
use crate::pinned::Pin;
use crate::request::{Time, What, odd};

/// A key, its value and when it last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty if only keys were asked for.
    pub value: Bytes,
    /// When the key last changed.
    pub revision: Revision,
}

/// An answer to a scan, or to a list of keys, which has one place for each of them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Option<Entry>>,
    pub(crate) index: u64,
    pub(crate) more: bool,
    pub(crate) age: Option<Duration>,
    pub(crate) stale: bool,
    /// What follows can be read as of the same index, from `by`; 0: it cannot.
    pub(crate) pinned: u64,
    /// Who has answered, if it is pinned.
    pub(crate) by: Option<Arc<Connection>>,
}

/// Which keys a scan is to give, and in which order.
#[derive(Clone, Debug)]
pub struct Range {
    pub(crate) from: Bytes,
    pub(crate) until: Bytes,
    pub(crate) backward: bool,
    keys_only: bool,
    pub(crate) limit: Option<u64>,
    /// Keys in one page, at most.
    page: u32,
    unpinned: bool,
    /// Begins with a tag: all its keys are of one shard.
    pub(crate) tagged: bool,
}

impl Default for Range {
    fn default() -> Range {
        Range::all()
    }
}

impl Range {
    /// All keys of the namespace.
    pub fn all() -> Range {
        let (from, until, page) = (Bytes::new(), Bytes::new(), SCAN_ITEMS_MAX);
        Range { from, until, page, backward: false, keys_only: false, limit: None, unpinned: false, tagged: false }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Range {
        let prefix = prefix.as_ref();
        let tagged = tag_of(prefix).len() < prefix.len();
        Range { from: Bytes::copy_from_slice(prefix), until: after_prefix(prefix).into(), tagged, ..Range::default() }
    }

    /// One key.
    pub fn key(key: impl AsRef<[u8]>) -> Range {
        let key = key.as_ref();
        Range::between(key, [key, &[0]].concat())
    }

    /// The keys from `from` on (empty: the first) and before `until` (empty: to the last).
    pub fn between(from: impl AsRef<[u8]>, until: impl AsRef<[u8]>) -> Range {
        let [from, until] = [from.as_ref(), until.as_ref()].map(Bytes::copy_from_slice);
        Range { from, until, ..Range::default() }
    }

    /// From the last key down.
    pub fn backward(self) -> Range {
        Range { backward: true, ..self }
    }

    /// Without values.
    pub fn keys_only(self) -> Range {
        Range { keys_only: true, ..self }
    }

    /// So many keys at most.
    pub fn limit(self, keys: u64) -> Range {
        Range { limit: Some(keys), ..self }
    }

    /// Asked for in pages of so many keys, 1 to 1,000: fewer are there sooner, more cost less. A page has 256 KiB at most anyway.
    pub fn page(self, keys: u32) -> Range {
        Range { page: keys.clamp(1, SCAN_ITEMS_MAX), ..self }
    }

    /// Each page of a scan is of its own moment, not all of a shard of one: for what takes long, where nothing is to be kept for it.
    pub fn unpinned(self) -> Range {
        Range { unpinned: true, ..self }
    }
}

impl Range {
    /// From and until.
    pub(crate) fn ends(&self) -> (Bytes, Bytes) {
        (self.from.clone(), self.until.clone())
    }

    /// The only shard that can have keys of it; `None`: all of them.
    pub(crate) fn only_shard(&self, shard_of: impl Fn(&[u8]) -> u32) -> Option<u32> {
        let is_key = self.until.strip_prefix(&self.from[..]) == Some(&[0]);
        (self.tagged || is_key).then(|| shard_of(&self.from))
    }
}

/// The first key after all that begin with `prefix`; empty: there is none.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// A scan under way: see [`Client::scan`].
#[derive(Debug)]
pub struct Scan {
    client: Client,
    options: GetOptions,
    range: Range,
    left: u64,
    lanes: Vec<Lane>,
    /// A page was read.
    read: bool,
    age: Option<Duration>,
    stale: bool,
}

/// What a scan has of one shard, and what it has still to ask for.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Entry>,
    from: Bytes,
    until: Bytes,
    ended: bool,
    /// Of the first page.
    pin: Option<Arc<Pin>>,
}

/// A page that a lane asks for.
struct Due {
    shard: u32,
    from: Bytes,
    until: Bytes,
    /// Keys in it at most.
    page: u32,
    /// Of the shard that may still be given out.
    wanted: u32,
    pin: Option<Arc<Pin>>,
}

impl Lane {
    fn is_due(&self) -> bool {
        !self.ended && (self.waiting.is_empty() || self.pin.as_ref().is_some_and(|pin| pin.has_rested()))
    }

    fn take(&mut self, page: Page, pin: Option<Arc<Pin>>, backward: bool) -> Result<(), Error> {
        let entries: VecDeque<Entry> = page.entries.into_iter().flatten().collect();
        let ordered = entries.iter().is_sorted_by(|a, b| if backward { a.key > b.key } else { a.key < b.key });
        let within = |entry: &Entry| entry.key >= self.from && (self.until.is_empty() || entry.key < self.until);
        if !ordered || !entries.iter().all(within) {
            return Err(Error::Protocol("a node answered a scan with keys out of range or order".into()));
        }
        match entries.back() {
            Some(last) if backward => self.until = last.key.clone(),
            Some(last) => self.from = [&last.key, &b"\0"[..]].concat().into(),
            None if page.more => {
                return Err(Error::Protocol("a node answered a scan with an empty page before its end".into()));
            }
            None => {}
        }
        self.waiting.extend(entries);
        self.ended = !page.more;
        // Who has the last page needs it no more.
        self.pin = pin.filter(|_| page.more);
        Ok(())
    }
}

impl Scan {
    /// The next key with its value; `None` at the end. After an error the scan can go on where it was, but for
    /// [`Code::Compacted`](crate::Code::Compacted): its moment is gone.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.fill().await?;
        let heads = self.lanes.iter().enumerate().filter_map(|(at, lane)| Some((&lane.waiting.front()?.key, at)));
        let next = if self.range.backward { heads.max() } else { heads.min() };
        let Some((_, lane)) = next else { return Ok(None) };
        self.left -= 1;
        Ok(self.lanes[lane].waiting.pop_front())
    }

    /// The greatest age of the pages read so far, each when it was made; `None`: of one it is not known, or none was read.
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// A page was older than its bound, or not known not to be: see [`Consistency::or_stale`](crate::Consistency::or_stale).
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// All that is left, at once. If nothing was given out yet, it is begun anew when its moment is gone, a few times.
    pub async fn all(mut self) -> Result<Vec<Entry>, Error> {
        let (client, range, options) = (self.client.clone(), self.range.clone(), self.options.clone());
        let untouched = self.left == range.limit.unwrap_or(u64::MAX);
        let mut anew = 0;
        loop {
            let mut entries = Vec::new();
            let failed = loop {
                match self.next().await {
                    Ok(Some(entry)) => entries.push(entry),
                    Ok(None) => return Ok(entries),
                    Err(error) => break error,
                }
            };
            let gone = matches!(&failed, Error::Refused(refusal) if refusal.code == Code::Compacted);
            if !gone || !untouched || anew == SCANNED_ANEW_MAX {
                return Err(failed);
            }
            anew += 1;
            self = client.scan_with(range.clone(), &options);
        }
    }

    /// Asks every shard whose next key is not known.
    async fn fill(&mut self) -> Result<(), Error> {
        let mut asking = JoinSet::new();
        for (shard, lane) in (0..).zip(&self.lanes).filter(|(_, lane)| lane.is_due()) {
            let (client, options, range) = (self.client.clone(), self.options.clone(), self.range.clone());
            let wanted = self.left.min(u32::MAX.into()) as u32;
            let page = if lane.waiting.is_empty() { wanted.min(range.page) } else { 1 };
            let (from, until, pin) = (lane.from.clone(), lane.until.clone(), lane.pin.clone());
            let due = Due { shard, from, until, page, wanted, pin };
            asking.spawn(async move { (shard, client.page(due, &range, &options).await) });
        }
        while let Some(joined) = asking.join_next().await {
            // A task that is gone: the runtime ends.
            let Ok((number, page)) = joined else { return Err(Error::Connect("the runtime has ended".into())) };
            let (page, pin) = page?;
            self.stale |= page.stale;
            // What is known of one page only is not known of all.
            let ages = if self.read { self.age } else { Some(Duration::ZERO) };
            (self.age, self.read) = (ages.zip(page.age).map(|(before, now)| before.max(now)), true);
            self.lanes[number as usize].take(page, pin, self.range.backward)?;
        }
        Ok(())
    }
}

impl Client {
    /// Reads a range in order, page by page, linearizably unless [`Client::consistency`] says otherwise.
    ///
    /// All that it gives of one shard is as of one moment, when its first page was read; different shards are of different moments, close to
    /// each other. The node that has answered first keeps what changes meanwhile, up to `scan.pinned_bytes_max` of its configuration: when it
    /// cannot any more, the scan ends with [`Code::Compacted`](crate::Code::Compacted). [`Range::unpinned`] asks for none of that.
    pub fn scan(&self, range: Range) -> Scan {
        self.scan_with(range, &GetOptions::default())
    }

    /// Reads a range, with options.
    pub fn scan_with(&self, range: Range, options: &GetOptions) -> Scan {
        let lane = || {
            let (from, until) = (range.from.clone(), range.until.clone());
            // A range that ends before it begins has nothing; the wire's empty `until` would mean the last key.
            let ended = !until.is_empty() && from >= until;
            Lane { waiting: VecDeque::new(), from, until, ended, pin: None }
        };
        let only = range.tagged.then(|| self.inner.shard_of(&range.from).0);
        let of_shard = |shard: u32| Lane { ended: only.is_some_and(|only| only != shard), ..lane() };
        let lanes = (0..self.inner.shards.len() as u32).map(of_shard).collect();
        let (client, options, left) = (self.clone(), options.clone(), range.limit.unwrap_or(u64::MAX));
        Scan { client, options, left, range, lanes, read: false, age: None, stale: false }
    }

    /// A page, and the pin of its moment.
    async fn page(&self, due: Due, range: &Range, options: &GetOptions) -> Result<(Page, Option<Arc<Pin>>), Error> {
        let Due { shard, from, until, page, wanted, pin } = due;
        let moment = match &pin {
            Some(pin) => pin.moment(),
            None if range.unpinned => Moment::Now,
            None => Moment::Pin { keys: wanted },
        };
        let what = What::Scan(Wanted {
            namespace: self.name(&options.namespace),
            from: &from,
            until: &until,
            backward: range.backward,
            keys_only: range.keys_only,
            limit: page,
            // A pinned moment was fresh enough.
            consistency: if pin.is_none() { self.freshness(shard, options) } else { Default::default() },
            moment,
        });
        let Some(pin) = pin else {
            let mut page = self.items(shard, what, options).await?;
            let pin = page.by.take().map(|node| Pin::new(page.pinned, page.index, node));
            if pin.is_none() && page.more && moment != Moment::Now && page.entries.len() < wanted as usize {
                return Err(Error::Protocol("a node does not pin the moment of a scan: it is of an older version".into()));
            }
            return Ok((page, pin));
        };
        match self.inner.read_pinned(shard, &pin, what, self.time(options.timeout)).await? {
            Answer::Items(page) if page.index == pin.index() => Ok((*page, Some(pin))),
            Answer::Items(page) => {
                let why = format!("a node answered as of log index {}, its pin is of {}", page.index, pin.index());
                Err(Error::Protocol(why))
            }
            other => Err(odd(&other)),
        }
    }

    async fn items(&self, shard: u32, what: What<'_>, options: &GetOptions) -> Result<Page, Error> {
        match self.read_of(shard, what, options.timeout).await? {
            Answer::Items(page) => Ok(*page),
            other => Err(odd(&other)),
        }
    }

    /// Reads several keys, linearizably unless [`Client::consistency`] says otherwise: what each has, in the order of the keys. Those of one shard are as of one moment, as long as
    /// they are no more than 128 with 8 KiB, and their values 256 KiB.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Value>>, Error> {
        self.get_many_with(keys, &GetOptions::default()).await
    }

    /// Reads several keys, with options.
    pub async fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: &GetOptions,
    ) -> Result<Vec<Option<Value>>, Error> {
        let time = Time::start(self.time(options.timeout));
        let keys: Vec<Bytes> = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        keys.iter().try_for_each(|key| check_key(key)).map_err(Error::Refused)?;
        let mut asking = JoinSet::new();
        let mut values = vec![None; keys.len()];
        for (shard, places) in self.bundles(&keys) {
            if asking.len() == BUNDLES_AT_ONCE_MAX {
                take(&mut values, asking.join_next().await)?;
            }
            let (client, options) = (self.clone(), options.clone());
            let keys: Vec<Bytes> = places.iter().map(|place| keys[*place].clone()).collect();
            asking.spawn(async move { (places, client.bundle(shard, &keys, options, time).await) });
        }
        while !asking.is_empty() {
            take(&mut values, asking.join_next().await)?;
        }
        Ok(values)
    }

    /// The places of keys that go into one request each, by their shard.
    fn bundles(&self, keys: &[Bytes]) -> Vec<(u32, Vec<usize>)> {
        let mut bundles: Vec<(u32, Vec<usize>)> = Vec::new();
        let mut open: Vec<Option<(usize, usize)>> = vec![None; self.inner.shards.len()];
        for (place, key) in keys.iter().enumerate() {
            let (shard, _) = self.inner.shard_of(key);
            let fits = |(at, bytes): &(usize, usize)| {
                bundles[*at].1.len() < GET_MANY_KEYS_MAX as usize && bytes + key.len() <= GET_MANY_KEY_BYTES_MAX as usize
            };
            let (at, bytes) = open[shard as usize].filter(fits).unwrap_or((bundles.len(), 0));
            if at == bundles.len() {
                bundles.push((shard, Vec::new()));
            }
            bundles[at].1.push(place);
            open[shard as usize] = Some((at, bytes + key.len()));
        }
        bundles
    }

    /// The keys of one request; what does not fit into its answer is asked for again, in what is left of the call's time.
    async fn bundle(
        &self,
        shard: u32,
        keys: &[Bytes],
        mut options: GetOptions,
        time: Time,
    ) -> Result<Vec<Option<Value>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        while values.len() < keys.len() {
            let due = keys[values.len()..].iter().map(|key| &key[..]).collect();
            options.timeout = Some(time.remaining());
            let consistency = self.freshness(shard, &options);
            let many = GetMany { namespace: self.name(&options.namespace), keys: due, consistency };
            let page = self.items(shard, What::GetMany(&many), &options).await.map_err(|error| time.of_the_call(error))?;
            let enough = page.more || page.entries.len() == many.keys.len();
            if page.entries.is_empty() || !enough || page.entries.len() > many.keys.len() {
                let why = format!("a node answered {} keys with {} values", many.keys.len(), page.entries.len());
                return Err(Error::Protocol(why));
            }
            let Page { index, age, stale, .. } = page;
            let value = |Entry { value, revision, .. }| Value { value, revision, index, age, stale };
            values.extend(page.entries.into_iter().map(|entry| entry.map(value)));
        }
        Ok(values)
    }
}

type Bundle = (Vec<usize>, Result<Vec<Option<Value>>, Error>);

/// Puts what a bundle's task has found to its places.
fn take(values: &mut [Option<Value>], joined: Option<Result<Bundle, JoinError>>) -> Result<(), Error> {
    // A task that is gone: the runtime ends.
    let Some(Ok((places, found))) = joined else { return Err(Error::Connect("the runtime has ended".into())) };
    for (place, value) in places.into_iter().zip(found?) {
        values[place] = value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        for (prefix, end) in
            [(&b"a"[..], &b"b"[..]), (b"a\xff", b"b"), (b"\xff\xff", b""), (b"", b""), (b"a/\xfe\xff", b"a/\xff")]
        {
            assert_eq!(after_prefix(prefix), end, "{prefix:?}");
        }
    }

    #[test]
    fn the_next_page_begins_behind_the_last_entry() {
        let entry = |key: &'static str| Some(Entry { key: key.into(), value: Bytes::new(), revision: Revision::default() });
        let page = |keys: &[&'static str], more| Page {
            entries: keys.iter().copied().map(entry).collect(),
            index: 1,
            more,
            age: None,
            stale: false,
            pinned: 0,
            by: None,
        };
        let lane = || Lane { waiting: VecDeque::new(), from: "a".into(), until: "z".into(), ended: false, pin: None };
        let (mut up, mut down) = (lane(), lane());
        up.take(page(&["b", "d"], true), None, false).expect("a good page");
        down.take(page(&["f", "d"], false), None, true).expect("a good page");
        assert_eq!((&up.from[..], &up.until[..], up.ended), (&b"d\0"[..], &b"z"[..], false));
        assert_eq!((&down.from[..], &down.until[..], down.ended), (&b"a"[..], &b"d"[..], true));
        for keys in [&["e", "e"][..], &["f", "e"], &["d"], &["z"]] {
            assert!(up.take(page(keys, true), None, false).is_err(), "{keys:?} from d0 on and before z");
        }
        let nothing = page(&[], true);
        assert!(up.take(nothing, None, false).is_err(), "an empty page that is not the last would be asked for without end");
    }
}
