//! Watches: who watches is told each change that the state machines made, once and in order, or that there is a gap.
//!
//! | promised | a violation |
//! |---|---|
//! | events ascend | one that is not behind the one before |
//! | what is told has happened | an event of no change, or of another key |
//! | nothing is left out in silence | a change between two events, or up to an index that was said to be complete |
//! | a gap is said when there is one | one that is said to end before what the watch has |
//!
//! What happened is what the state machines ran (`exactly_once.rs` holds them against each other), as far as clients' sessions asked
//! for it.

use std::collections::BTreeMap;

use super::told;
use crate::history::Revision;

/// What the state machines changed, by shard and revision.
#[derive(Clone, Debug, Default)]
pub struct Changes(pub(super) BTreeMap<u32, BTreeMap<Revision, Change>>);

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    /// It has a value since.
    pub put: bool,
}

/// What one watch was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A change of a key.
    Event {
        /// Where.
        revision: Revision,
        /// See [`key_of`].
        key: u64,
    },
    /// Everything up to this index has come.
    Complete {
        /// Of the log.
        index: u64,
    },
    /// What comes next is gone; it goes on behind this.
    Gap {
        /// The oldest that there is.
        oldest: Revision,
    },
}

/// All that one watch was told.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub name: String,
    pub shard: u32,
    pub said: Vec<Said>,
}

/// A key as a number (FNV-1a).
pub fn key_of(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

impl Changes {
    /// A state machine has changed this key.
    pub fn note(&mut self, shard: u32, revision: Revision, change: Change) {
        self.0.entry(shard).or_default().insert(revision, change);
    }
}

/// Who lacks the last change of its shard, and how far it is. At a ring at rest everybody is to have all, after a while.
pub fn behind(changes: &Changes, streams: &[Stream]) -> Vec<String> {
    let late = streams.iter().filter_map(|stream| {
        let (last, _) = changes.0.get(&stream.shard)?.last_key_value()?;
        // What is told ascends.
        let has = match stream.said.last() {
            Some(Said::Event { revision, .. } | Said::Gap { oldest: revision }) => *revision,
            Some(Said::Complete { index }) => Revision { index: *index, position: u32::MAX },
            None => Revision { index: 0, position: 0 },
        };
        (has < *last)
            .then(|| format!("watch: {} is told of nothing behind {has:?}, and {last:?} is the last change", stream.name))
    });
    late.collect()
}

/// Every stream against what happened.
pub fn check(changes: &Changes, streams: &[Stream]) -> Vec<String> {
    let none = BTreeMap::new();
    told(streams.iter().filter_map(|stream| first_of(changes.0.get(&stream.shard).unwrap_or(&none), stream)).collect())
}

/// The first violation of a stream: what follows one is mostly its consequence.
fn first_of(changes: &BTreeMap<Revision, Change>, stream: &Stream) -> Option<String> {
    let mut has = Revision { index: 0, position: 0 };
    for said in &stream.said {
        let why = match *said {
            Said::Event { revision, .. } if revision <= has => {
                Some(format!("told of {revision:?} after it had all up to {has:?}"))
            }
            Said::Event { revision, key } if changes.get(&revision).map(|change| key_of(&change.key)) != Some(key) => {
                Some(format!("told of {revision:?}, where no state machine changed that key"))
            }
            Said::Event { revision, .. } => {
                let missed = changes.range(..revision).next_back().filter(|(last, _)| **last > has);
                let why = missed.map(|(last, _)| format!("told of {revision:?}, and not of {last:?} before it"));
                has = revision;
                why
            }
            Said::Complete { index } => {
                let all = Revision { index, position: u32::MAX };
                let missed = changes.range(..=all).next_back().filter(|(last, _)| **last > has);
                let why = missed.map(|(last, _)| format!("told that it has all up to {index}, and not of {last:?}"));
                has = has.max(all);
                why
            }
            Said::Gap { oldest } if oldest <= has => {
                Some(format!("told of a gap up to {oldest:?}, and it has all up to {has:?}"))
            }
            Said::Gap { oldest } => {
                has = oldest;
                None
            }
        };
        if let Some(why) = why {
            return Some(format!("watch: {}: {why}", stream.name));
        }
    }
    None
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn at(index: u64, position: u32) -> Revision {
        Revision { index, position }
    }

    fn changes() -> Changes {
        let mut changes = Changes::default();
        for (revision, key) in [(at(3, 0), 7), (at(3, 1), 8), (at(5, 0), 7)] {
            changes.note(2, revision, Change { key: vec![key], put: true });
        }
        changes
    }

    fn judged(said: &[Said]) -> Vec<String> {
        check(&changes(), &[Stream { name: "w".into(), shard: 2, said: said.to_vec() }])
    }

    fn event(index: u64, position: u32, key: u8) -> Said {
        Said::Event { revision: at(index, position), key: key_of(&[key]) }
    }

    #[test]
    fn what_happened_is_told_whole_or_a_gap_is_said() {
        let all = [event(3, 0, 7), event(3, 1, 8), Said::Complete { index: 4 }, event(5, 0, 7), Said::Complete { index: 9 }];
        assert_eq!(judged(&all), Vec::<String>::new());
        assert_eq!(judged(&[Said::Gap { oldest: at(3, u32::MAX) }, event(5, 0, 7)]), Vec::<String>::new());
        assert_eq!(judged(&[event(3, 0, 7)]), Vec::<String>::new(), "the rest may be on its way");
    }

    #[test]
    fn who_stays_behind_is_named() {
        let behind = |said: &[Said]| behind(&changes(), &[Stream { name: "w".into(), shard: 2, said: said.to_vec() }]).len();
        let enough: [&[Said]; 3] =
            [&[event(3, 1, 8), event(5, 0, 7)], &[Said::Complete { index: 5 }], &[Said::Gap { oldest: at(6, 0) }]];
        let too_few: [&[Said]; 4] =
            [&[], &[event(3, 1, 8)], &[Said::Complete { index: 4 }], &[event(3, 1, 8), Said::Gap { oldest: at(4, 9) }]];
        assert_eq!(enough.map(behind), [0; 3]);
        assert_eq!(too_few.map(behind), [1; 4]);
    }

    #[test]
    fn every_broken_promise_is_found() {
        let expected: [(&[Said], &str); 7] = [
            (&[event(3, 1, 8)], "and not of"),
            (&[event(3, 0, 7), event(5, 0, 7)], "and not of"),
            (&[event(3, 0, 7), Said::Complete { index: 3 }], "told that it has all up to 3"),
            (&[event(3, 0, 7), event(3, 0, 7)], "after it had all"),
            (&[event(3, 0, 9)], "no state machine"),
            (&[event(2, 0, 7)], "no state machine"),
            (&[Said::Complete { index: 2 }, Said::Gap { oldest: at(1, 0) }], "told of a gap"),
        ];
        for (said, words) in expected {
            let found = judged(said);
            assert!(found.len() == 1 && found[0].contains(words), "{said:?}: {found:?}, not {words:?}");
        }
    }
}
