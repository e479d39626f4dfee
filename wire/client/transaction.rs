//! A transaction: compares, then one of two lists of steps over keys of one shard, all at once or not at all.
//!
//! ```text
//!   all compares hold? ── yes ─▶ then:       gets, puts, deletes
//!                      └─ no ──▶ otherwise:  gets, puts, deletes
//! ```
//!
//! It reads before it writes: compares and gets see the keys as they were before it, and no list writes a key twice, so the order
//! within a list decides nothing but that of the answers. Compare-and-set is a transaction of one compare and one put; "create only"
//! compares the revision with 0.0, which a key without a value has.

use super::{Breakdown, Item, Life, Revision};
use crate::limits::{TRANSACTION_PARTS_MAX, check_key};
use crate::refusal::{Code, Refusal};
use crate::slots::{shard_of, slot_of};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transact<'a> {
    /// Namespace of all its keys; "" is the default one.
    pub namespace: &'a str,
    /// What must hold; with none, `then` runs.
    pub compares: Vec<Compare<'a>>,
    /// What is done when all compares hold.
    pub then: Vec<Step<'a>>,
    /// What is done when one does not.
    pub otherwise: Vec<Step<'a>>,
    /// As in [`Put::session`](super::Put::session).
    pub session: u64,
    /// As in [`Put::sequence`](super::Put::sequence).
    pub sequence: u64,
    /// As in [`Put::answered_below`](super::Put::answered_below).
    pub answered_below: u64,
}

/// What must hold of a key: `what the key has` `relation` `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare<'a> {
    /// The key.
    pub key: &'a [u8],
    /// How the two must stand to each other.
    pub relation: Relation,
    /// With what it is compared.
    pub target: Target<'a>,
}

/// How what a key has must stand to what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Another.
    NotEqual,
    /// Before; of values: in the order of their bytes.
    Less,
    /// After.
    Greater,
}

/// What of a key is compared, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Its revision; a key without a value has 0.0.
    Revision(Revision),
    /// Its value. Nothing holds of the value of a key that has none.
    Value(&'a [u8]),
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Reads a key, as it was before the transaction.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value, possibly empty.
        value: &'a [u8],
        /// How long it stays.
        life: Life,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

/// A transaction is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transacted<'a> {
    /// Of every key that it wrote, and its place in the log.
    pub revision: Revision,
    /// Ring time of the batch, milliseconds.
    pub ring_time_ms: u64,
    /// All compares held: `then` has run, not `otherwise`.
    pub succeeded: bool,
    /// The answer of an earlier, identical request of this session.
    pub duplicate: bool,
    /// Where the time went.
    pub breakdown: Breakdown,
    /// What the gets found that ran, in their order; without their keys.
    pub gets: Vec<Item<'a>>,
}

impl Relation {
    /// Whether `has` stands so to `given`.
    pub fn holds<T: Ord>(self, has: T, given: T) -> bool {
        match self {
            Relation::Equal => has == given,
            Relation::NotEqual => has != given,
            Relation::Less => has < given,
            Relation::Greater => has > given,
        }
    }
}

impl<'a> Compare<'a> {
    /// The key last changed at `revision`.
    pub fn revision(key: &'a (impl AsRef<[u8]> + ?Sized), revision: Revision) -> Compare<'a> {
        Compare { key: key.as_ref(), relation: Relation::Equal, target: Target::Revision(revision) }
    }

    /// The key has this value.
    pub fn value(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Compare<'a> {
        Compare { key: key.as_ref(), relation: Relation::Equal, target: Target::Value(value.as_ref()) }
    }

    /// The key has no value.
    pub fn absent(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Compare<'a> {
        Compare::revision(key, Revision::default())
    }

    /// The key has a value.
    pub fn exists(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Compare<'a> {
        Compare { relation: Relation::NotEqual, ..Compare::absent(key) }
    }
}

impl<'a> Step<'a> {
    /// Reads a key, as it was before the transaction.
    pub fn get(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Step<'a> {
        Step::Get { key: key.as_ref() }
    }

    /// Sets a key.
    pub fn put(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Step<'a> {
        Step::Put { key: key.as_ref(), value: value.as_ref(), life: Life::default() }
    }

    /// Sets a key that goes again.
    pub fn put_for(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized), life: Life) -> Step<'a> {
        Step::Put { key: key.as_ref(), value: value.as_ref(), life }
    }

    /// Removes a key.
    pub fn delete(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Step<'a> {
        Step::Delete { key: key.as_ref() }
    }

    /// The key that it reads or writes.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Step::Get { key } | Step::Put { key, .. } | Step::Delete { key } => key,
        }
    }

    /// Whether it changes its key.
    pub fn writes(&self) -> bool {
        !matches!(self, Step::Get { .. })
    }
}

impl<'a> Transact<'a> {
    /// Every key that it names, as often as it does.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        let steps = self.then.iter().chain(&self.otherwise).map(Step::key);
        self.compares.iter().map(|compare| compare.key).chain(steps)
    }

    /// Bytes of its keys and values, and 8 for each part: what it counts against the longest value.
    pub fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match compare.target {
            Target::Revision(_) => compare.key.len() + 12,
            Target::Value(value) => compare.key.len() + value.len(),
        });
        let steps = self.then.iter().chain(&self.otherwise).map(|step| match step {
            Step::Put { key, value, life } => key.len() + value.len() + if life == &Life::default() { 0 } else { 16 },
            Step::Get { key } | Step::Delete { key } => key.len(),
        });
        compares.chain(steps).map(|bytes| bytes + 8).sum()
    }

    /// Refuses what no node of a ring with so many shards takes.
    pub fn check(&self, value_bytes_max: u32, shards: u32) -> Result<(), Refusal> {
        let parts = self.compares.len() + self.then.len() + self.otherwise.len();
        if parts == 0 {
            return Err(Refusal::new(Code::BadRequest, "the transaction is empty; it needs a compare or a step"));
        }
        if parts > TRANSACTION_PARTS_MAX as usize {
            let why = format!("the transaction has {parts} compares and steps, the limit is {TRANSACTION_PARTS_MAX}");
            return Err(Refusal::new(Code::TransactionTooLarge, why));
        }
        let mut first: Option<(&[u8], u32)> = None;
        for key in self.keys() {
            check_key(key)?;
            let shard = shard_of(slot_of(key), shards);
            let &mut (one, home) = first.get_or_insert((key, shard));
            if shard != home {
                let (one, other) = (one.escape_ascii(), key.escape_ascii());
                let why = format!(
                    "the keys of a transaction must be of one shard: \"{one}\" is of shard {home}, \"{other}\" of shard {shard}; \
                     a {{tag}} in both keeps them together"
                );
                return Err(Refusal::new(Code::CrossShard, why));
            }
        }
        let bytes = self.bytes();
        if bytes > value_bytes_max as usize {
            let why = format!("the transaction has {bytes} bytes, the limit is that of one value, {value_bytes_max}");
            return Err(Refusal::new(Code::TransactionTooLarge, why));
        }
        for (list, steps) in [("then", &self.then), ("otherwise", &self.otherwise)] {
            if let Some(key) = written_twice(steps.iter().copied()) {
                let why = format!("the transaction writes \"{}\" twice in its list `{list}`", key.escape_ascii());
                return Err(Refusal::new(Code::DuplicateKey, why));
            }
        }
        Ok(())
    }
}

/// A key that more than one of the steps writes.
pub fn written_twice<'a>(steps: impl Iterator<Item = Step<'a>>) -> Option<&'a [u8]> {
    let mut keys: Vec<&[u8]> = steps.filter(Step::writes).map(|step| step.key()).collect();
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<'a>(key: &'a str, value: &'a str) -> Step<'a> {
        Step::put(key, value)
    }

    fn refused(transact: &Transact<'_>, value_bytes_max: u32, shards: u32) -> (Code, String) {
        let refusal = transact.check(value_bytes_max, shards).expect_err("it is to be refused");
        (refusal.code, refusal.message)
    }

    #[test]
    fn a_transaction_is_refused_by_what_is_wrong_with_it() {
        let sound = Transact { then: vec![put("a{t}", "1"), put("b{t}", "2")], ..Transact::default() };
        assert_eq!(sound.check(26, 8), Ok(()));
        assert_eq!(sound.bytes(), 26);
        let why = "the transaction has 26 bytes, the limit is that of one value, 25";
        assert_eq!(refused(&sound, 25, 8), (Code::TransactionTooLarge, why.into()));
        assert_eq!(refused(&Transact::default(), 1000, 1).0, Code::BadRequest);
        let many = Transact { then: vec![Step::Get { key: b"a" }; 129], ..Transact::default() };
        let why = "the transaction has 129 compares and steps, the limit is 128";
        assert_eq!(refused(&many, 10_000, 1), (Code::TransactionTooLarge, why.into()));
        let empty = Transact { otherwise: vec![Step::Delete { key: b"" }], ..Transact::default() };
        assert_eq!(refused(&empty, 1000, 1).0, Code::KeyEmpty);
    }

    #[test]
    fn keys_of_two_shards_are_refused_and_both_are_named() {
        let apart = Transact { then: vec![put("a", "1"), put("b", "2")], ..Transact::default() };
        assert_eq!(apart.check(1000, 1), Ok(()));
        let shards = (2..).find(|shards| shard_of(slot_of(b"a"), *shards) != shard_of(slot_of(b"b"), *shards));
        let (code, why) = refused(&apart, 1000, shards.expect("they part at last"));
        assert_eq!(code, Code::CrossShard);
        assert!(why.contains("\"a\" is of shard") && why.contains("\"b\" of shard") && why.contains("{tag}"), "{why}");
    }

    #[test]
    fn a_key_is_written_once_in_a_list_but_may_be_in_both() {
        let both = Transact { then: vec![put("a", "1")], otherwise: vec![Step::Delete { key: b"a" }], ..Transact::default() };
        assert_eq!(both.check(1000, 1), Ok(()));
        let read = Transact { then: vec![put("a", "1"), Step::Get { key: b"a" }], ..Transact::default() };
        assert_eq!(read.check(1000, 1), Ok(()));
        let twice =
            Transact { otherwise: vec![put("a", "1"), put("b", "1"), Step::Delete { key: b"a" }], ..Transact::default() };
        assert_eq!(
            refused(&twice, 1000, 1),
            (Code::DuplicateKey, "the transaction writes \"a\" twice in its list `otherwise`".into())
        );
    }
}
