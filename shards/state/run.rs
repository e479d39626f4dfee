//! A run of neighbours in key order, searched almost without touching them.
//!
//! A binary search that follows a pointer at every step misses the cache, and the TLB, at every step. So each item has a
//! **head** beside its pointer: the four bytes of its key that follow the run's common prefix, big-endian, padded with zeros.
//! Heads order as keys do, except that different keys may have equal heads; only those are compared in full. (The idea is that
//! of the "poor man's normalised keys" of B-tree implementations.)
//!
//! The empty key, the fence of a table's very first leaf, has no part in the prefix: with it all heads would be of the first four bytes,
//! which keys like `user:00001` share. Nor is it compared: glibc's `memcmp` of an empty box takes 74 ns on an EPYC, of an empty slice of a
//! buffer 1.4: its masked load of an address that nobody has is an exception that the processor must undo.
//!
//! **Invariants**: items are strictly ascending by key. `heads[i]` is the head of `items[i]`. All keys but the empty one share their
//! first `prefix_bytes` bytes.
//!
//! **Not here**: which run a key belongs to (`table.rs`).

use std::cmp::Ordering;

/// Items in one run, as a table keeps them. At 128, heads are 512 bytes and inserting a record moves 1 KiB on average.
pub(super) const ITEMS_MAX: usize = 128;
/// Spare places that a growing run takes at a time: little waste against one reallocation in so many inserts.
const GROWTH: usize = 16;

/// Something that is found by its key.
pub(super) trait Keyed {
    fn key(&self) -> &[u8];
}

/// See the module.
#[derive(Debug)]
pub(super) struct Run<T> {
    prefix_bytes: usize,
    heads: Vec<u32>,
    items: Vec<T>,
}

impl<T: Keyed> Run<T> {
    pub fn new() -> Run<T> {
        Run::of(Vec::new())
    }
    /// Of items in ascending order.
    pub fn of(items: Vec<T>) -> Run<T> {
        let mut run = Run { prefix_bytes: 0, heads: Vec::new(), items };
        run.settle();
        run
    }
    pub fn items(&self) -> &[T] {
        &self.items
    }
    /// An item to change, but not in its key.
    pub fn item_mut(&mut self, at: usize) -> &mut T {
        &mut self.items[at]
    }
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Where `key` is, or where it would be inserted.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        // As if the key had the prefix: an item found by its whole key is right in any case.
        let head = head_of(key, self.prefix_bytes);
        let low = self.rank(head);
        let equal = self.heads[low..].iter().take_while(|h| **h == head).count();
        let place = match self.items[low..low + equal].binary_search_by(|item| order(item.key(), key)) {
            Ok(at) => return Ok(low + at),
            Err(at) => low + at,
        };
        // Not here. Where it belongs by its head is right only if it does have the prefix; otherwise it is before or
        // after all of them.
        match self.first() {
            _ if self.prefix_bytes == 0 => Err(place),
            Some((_, first)) if key.starts_with(&first.key()[..self.prefix_bytes]) => Err(place),
            Some((at, first)) if order(key, first.key()).is_lt() => Err(at),
            _ => Err(self.items.len()),
        }
    }

    /// The first item whose key is not empty, and its place.
    #[inline]
    fn first(&self) -> Option<(usize, &T)> {
        let at = usize::from(self.items.first()?.key().is_empty());
        Some((at, self.items.get(at)?))
    }

    /// The item that `key` would be by its head alone: a guess, for those who only want to be near it.
    #[inline]
    pub fn near(&self, key: &[u8]) -> Option<&T> {
        self.items.get(self.rank(head_of(key, self.prefix_bytes)))
    }

    /// Heads below this one. (Counting them all instead, without a branch, was measured and is slower, cached or not.)
    #[inline]
    fn rank(&self, head: u32) -> usize {
        self.heads.partition_point(|h| *h < head)
    }

    /// The last item whose key is not after `key`, and its place; the first one if there is none.
    #[inline]
    pub fn floor(&self, key: &[u8]) -> (usize, &T) {
        let at = match self.items.len() {
            1 => 0, // all of a small table's keys are in one trunk
            _ => match self.find(key) {
                Ok(at) => at,
                Err(at) => at.saturating_sub(1),
            },
        };
        (at, &self.items[at])
    }

    /// Puts an item at the place that `find` gave for its key.
    pub fn insert(&mut self, at: usize, item: T) {
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(GROWTH);
            self.heads.reserve_exact(GROWTH);
        }
        let prefix_bytes = match self.first() {
            _ if item.key().is_empty() => self.prefix_bytes,
            None => item.key().len(),
            Some((_, first)) => shared_prefix(&first.key()[..self.prefix_bytes], item.key()),
        };
        if prefix_bytes != self.prefix_bytes {
            self.prefix_bytes = prefix_bytes;
            self.derive_heads();
        }
        self.heads.insert(at, head_of(item.key(), self.prefix_bytes));
        self.items.insert(at, item);
    }

    pub fn remove(&mut self, at: usize) -> T {
        self.heads.remove(at);
        self.items.remove(at)
    }

    /// Cuts off the items from `at` on.
    pub fn split(&mut self, at: usize) -> Run<T> {
        let right = self.items.split_off(at);
        self.items.shrink_to(at + GROWTH);
        self.settle();
        Run::of(right)
    }

    /// Takes in the items of the run that follows.
    pub fn append(&mut self, next: Run<T>) {
        self.items.reserve_exact(next.items.len());
        self.items.extend(next.items);
        self.settle();
    }

    /// Works out prefix and heads anew, after items came or went in bulk.
    fn settle(&mut self) {
        self.prefix_bytes = match (self.first(), self.items.last()) {
            (Some((_, first)), Some(last)) => shared_prefix(first.key(), last.key()),
            _ => 0,
        };
        self.derive_heads();
    }

    fn derive_heads(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(self.items.capacity());
        self.heads.reserve_exact(self.items.capacity());
        self.heads.extend(self.items.iter().map(|item| head_of(item.key(), self.prefix_bytes)));
    }
}

#[inline]
fn order(a: &[u8], b: &[u8]) -> Ordering {
    if a.is_empty() || b.is_empty() { a.len().cmp(&b.len()) } else { a.cmp(b) }
}

#[inline]
fn head_of(key: &[u8], prefix_bytes: usize) -> u32 {
    let rest = key.get(prefix_bytes..).unwrap_or_default();
    match rest.first_chunk::<4>() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(four)
        }
    }
}

/// Bytes that both keys begin with.
pub(super) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for &str {
        fn key(&self) -> &[u8] {
            self.as_bytes()
        }
    }

    fn heads_of(run: &Run<&str>) -> Vec<u32> {
        run.heads.iter().map(|head| head >> 24).collect()
    }

    #[test]
    fn heads_tell_keys_with_a_common_prefix_apart_though_the_first_fence_is_empty() {
        let mut run = Run::of(vec!["", "user:1", "user:3"]);
        assert_eq!(heads_of(&run), [0, u32::from(b'1'), u32::from(b'3')]);
        run.insert(2, "user:2");
        assert_eq!(heads_of(&run)[2], u32::from(b'2'));
        let right = run.split(2);
        assert_eq!((right.items(), right.len()), (&["user:2", "user:3"][..], 2));
        let mut grown: Run<&str> = Run::of(vec![""]);
        grown.insert(1, "user:5");
        grown.insert(1, "user:4");
        assert_eq!(heads_of(&grown), [0, u32::from(b'4'), u32::from(b'5')]);
    }

    #[test]
    fn every_key_is_found_and_every_other_has_its_place() {
        let keys = ["", "a", "ab", "ab\0", "abc", "b", "ba", "bb\0\0\0\0", "bb\0\0\0\0x", "c"];
        // Every choice of some of them, and all as what is looked for.
        for choice in 0..1 << keys.len() {
            let some: Vec<&str> = (0..keys.len()).filter(|at| choice >> at & 1 == 1).map(|at| keys[at]).collect();
            // At once; one by one, from the last to the first; and what is left of more.
            let (at_once, mut grown, mut shrunk) = (Run::of(some.clone()), Run::of(Vec::new()), Run::of(keys.to_vec()));
            some.iter().rev().for_each(|key| grown.insert(0, *key));
            for gone in keys.iter().filter(|key| !some.contains(key)) {
                let at = shrunk.find(gone.as_bytes()).expect("it is there");
                shrunk.remove(at);
            }
            for (run, key) in [&at_once, &grown, &shrunk].into_iter().flat_map(|run| keys.map(|key| (run, key))) {
                assert_eq!(run.find(key.as_bytes()), some.binary_search(&key), "{key:?} in {some:?}");
            }
        }
    }
}
