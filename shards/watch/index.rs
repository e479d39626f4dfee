//! Who watches this key? Watches by what they watch, so that a change looks at those it concerns and not at all of them.
//!
//! ```text
//!   a key      one look-up                                             O(log n)
//!   a prefix   one look-up for each length of prefix in use            O(lengths * log n)
//!   a range    compared with each different one                        O(ranges), at most limits::ODD_RANGES_MAX
//! ```
//! Watches of the same key, prefix or range are one place in here. A place is namespace, 0xff (which is in no UTF-8), key.
//!
//! **Invariant**: no place is empty; `lengths` counts the places of prefixes.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::ODD_RANGES_MAX;

/// What a watch watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Key(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// From the first on and before the second; empty: to the last of all places.
    Range(Box<[u8]>, Box<[u8]>),
}

/// Watches that are called by their number.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Box<[u8]>, Slots>,
    prefixes: BTreeMap<Box<[u8]>, Slots>,
    /// Lengths of prefixes with their namespaces, and how many places have each.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeMap<Ends, Slots>,
    /// The place of the key that is looked for.
    place: Vec<u8>,
}

/// From here on, and before there; empty: to the last of all places.
type Ends = (Box<[u8]>, Box<[u8]>);

/// Mostly one, so no set is made for that.
#[derive(Debug)]
enum Slots {
    One(u32),
    Many(BTreeSet<u32>),
}

impl Slots {
    fn insert(&mut self, slot: u32) {
        match self {
            Slots::One(one) => *self = Slots::Many(BTreeSet::from([*one, slot])),
            Slots::Many(many) => {
                many.insert(slot);
            }
        }
    }
    /// True when nobody is left.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            Slots::One(one) => *one == slot,
            Slots::Many(many) => {
                many.remove(&slot);
                many.is_empty()
            }
        }
    }
    fn each(&self, mut found: impl FnMut(u32)) {
        match self {
            Slots::One(one) => found(*one),
            Slots::Many(many) => many.iter().copied().for_each(found),
        }
    }
}

fn place(namespace: &[u8], key: &[u8]) -> Box<[u8]> {
    [namespace, &[0xff], key].concat().into()
}

/// The end of the range of a prefix; empty: there is none.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

impl Shape {
    /// The shape of a range. `until` empty: to the last key.
    pub fn of(namespace: &str, from: &[u8], until: &[u8]) -> Shape {
        let start = place(namespace.as_bytes(), from);
        if until.strip_prefix(from) == Some(&[0]) {
            return Shape::Key(start);
        }
        if end_of(from) == until {
            return Shape::Prefix(start);
        }
        // The default namespace is the last of all, so without an end it has none.
        let end = if until.is_empty() {
            end_of(&place(namespace.as_bytes(), b"")).into()
        } else {
            place(namespace.as_bytes(), until)
        };
        Shape::Range(start, end)
    }
}

impl Index {
    /// Whether nobody is in here.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.ranges.is_empty()
    }

    /// Whether another watch of this shape fits.
    pub fn has_room(&self, shape: &Shape) -> bool {
        match shape {
            Shape::Key(_) | Shape::Prefix(_) => true,
            Shape::Range(from, until) => {
                self.ranges.len() < ODD_RANGES_MAX || self.ranges.contains_key(&(from.clone(), until.clone()))
            }
        }
    }

    pub fn insert(&mut self, shape: &Shape, slot: u32) {
        match shape {
            Shape::Key(key) => put(&mut self.keys, key, slot),
            Shape::Prefix(prefix) => {
                if put(&mut self.prefixes, prefix, slot) {
                    *self.lengths.entry(prefix.len()).or_insert(0) += 1;
                }
                false
            }
            Shape::Range(from, until) => put(&mut self.ranges, &(from.clone(), until.clone()), slot),
        };
    }

    pub fn remove(&mut self, shape: &Shape, slot: u32) {
        match shape {
            Shape::Key(key) => take(&mut self.keys, key, slot),
            Shape::Prefix(prefix) => {
                if take(&mut self.prefixes, prefix, slot)
                    && let Some(places) = self.lengths.get_mut(&prefix.len())
                {
                    *places -= 1;
                    if *places == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
                false
            }
            Shape::Range(from, until) => take(&mut self.ranges, &(from.clone(), until.clone()), slot),
        };
    }

    /// Calls `found` with everyone who watches this key.
    pub fn watching(&mut self, namespace: &[u8], key: &[u8], mut found: impl FnMut(u32)) {
        self.place.clear();
        for part in [namespace, &[0xff], key] {
            self.place.extend_from_slice(part);
        }
        let place = &self.place[..];
        if let Some(slots) = self.keys.get(place) {
            slots.each(&mut found);
        }
        for length in self.lengths.keys() {
            // A place shorter than the namespace's mark is of another namespace, and finds nothing.
            if let Some(slots) = place.get(..*length).and_then(|prefix| self.prefixes.get(prefix)) {
                slots.each(&mut found);
            }
        }
        for ((from, until), slots) in &self.ranges {
            if &**from <= place && (until.is_empty() || place < &**until) {
                slots.each(&mut found);
            }
        }
    }
}

/// True when the place is new.
fn put<K: Ord + Clone>(places: &mut BTreeMap<K, Slots>, place: &K, slot: u32) -> bool {
    if let Some(slots) = places.get_mut(place) {
        slots.insert(slot);
        return false;
    }
    places.insert(place.clone(), Slots::One(slot));
    true
}

/// True when the place is gone.
fn take<K: Ord>(places: &mut BTreeMap<K, Slots>, place: &K, slot: u32) -> bool {
    let gone = places.get_mut(place).is_some_and(|slots| slots.remove(slot));
    if gone {
        places.remove(place);
    }
    gone
}
