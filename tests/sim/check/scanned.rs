//! Scans: a page is what the log had made of its range at the index that it names, however much later it was read.
//!
//! What happened is what the state machines ran, as for watches (`watching.rs`).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::told;
use super::watching::Changes;
use crate::history::Revision;

/// A page of a scan, as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Who has asked, for people.
    pub name: String,
    pub shard: u32,
    pub node: u64,
    /// How many of the scan came before it.
    pub number: u32,
    /// The log index that it reflects.
    pub index: u64,
    /// That of the page before it.
    pub pinned: Option<u64>,
    pub from: Vec<u8>,
    pub until: Vec<u8>,
    pub backward: bool,
    pub items: Vec<(Vec<u8>, Revision)>,
    /// There are more behind them.
    pub more: bool,
}

/// Every page against what happened.
pub fn check(changes: &Changes, pages: &[Page]) -> Vec<String> {
    let mut by_index: Vec<&Page> = pages.iter().collect();
    by_index.sort_by_key(|page| (page.shard, page.index));
    let (none, mut found) = (BTreeMap::new(), Vec::new());
    for of_shard in by_index.chunk_by(|a, b| a.shard == b.shard) {
        let changes = of_shard.first().and_then(|page| changes.0.get(&page.shard)).unwrap_or(&none);
        let (mut state, mut ahead) = (BTreeMap::new(), changes.iter().peekable());
        for page in of_shard {
            while let Some((revision, change)) = ahead.next_if(|(revision, _)| revision.index <= page.index) {
                match change.put {
                    true => state.insert(change.key.clone(), *revision),
                    false => state.remove(&change.key),
                };
            }
            found.extend(wrong(&state, page));
        }
    }
    told(found)
}

fn wrong(state: &BTreeMap<Vec<u8>, Revision>, page: &Page) -> Option<String> {
    let within = (Included(page.from.clone()), if page.until.is_empty() { Unbounded } else { Excluded(page.until.clone()) });
    let mut expected: Vec<(Vec<u8>, Revision)> = state.range(within).map(|(key, at)| (key.clone(), *at)).collect();
    if page.backward {
        expected.reverse();
    }
    let whole = expected.len();
    if page.more {
        expected.truncate(page.items.len());
    }
    let why = if page.pinned.is_some_and(|pinned| pinned != page.index) {
        format!("its pin is of {:?}", page.pinned)
    } else if page.items != expected {
        let at = page.items.iter().zip(&expected).take_while(|(found, due)| found == due).count();
        let word = |item: Option<&(Vec<u8>, Revision)>| match item {
            Some((key, at)) => format!("{} at {at:?}", String::from_utf8_lossy(key)),
            None => "nothing".to_string(),
        };
        format!("item {at} is {}, and the log says {}", word(page.items.get(at)), word(expected.get(at)))
    } else if page.more && whole == page.items.len() {
        // Of a page that is full nothing is known of what follows but that there is more.
        "it says that there is more, and there was not".to_string()
    } else {
        return None;
    };
    let Page { name, node, number, index, .. } = page;
    Some(format!("scan: {name}: page {number}, of node {node}, as of {index}: {why}"))
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::super::watching::Change;
    use super::*;

    fn at(index: u64) -> Revision {
        Revision { index, position: 0 }
    }

    /// Index, backward, keys with their indexes, more.
    type Case = (u64, bool, &'static [(&'static str, u64)], bool);

    /// a@1 b@2 c@3, then b@4 again, c gone @5, d@6.
    fn judged(index: u64, backward: bool, items: &[(&str, u64)], more: bool) -> Vec<String> {
        judged_of(None, index, backward, items, more)
    }

    fn judged_of(pinned: Option<u64>, index: u64, backward: bool, items: &[(&str, u64)], more: bool) -> Vec<String> {
        let mut changes = Changes::default();
        for (index, key, put) in
            [(1, "a", true), (2, "b", true), (3, "c", true), (4, "b", true), (5, "c", false), (6, "d", true)]
        {
            changes.note(7, at(index), Change { key: key.into(), put });
        }
        let items = items.iter().map(|(key, index)| (key.as_bytes().to_vec(), at(*index))).collect();
        let (name, from, until) = ("s".to_string(), b"a".to_vec(), Vec::new());
        check(&changes, &[Page { name, shard: 7, node: 1, number: 0, index, pinned, from, until, backward, items, more }])
    }

    #[test]
    fn a_page_as_of_its_index_is_right() {
        let right: [Case; 6] = [
            (3, false, &[("a", 1), ("b", 2), ("c", 3)], false),
            (3, false, &[("a", 1), ("b", 2)], true),
            (4, false, &[("a", 1), ("b", 4), ("c", 3)], false),
            (5, true, &[("b", 4), ("a", 1)], false),
            (9, false, &[("a", 1), ("b", 4), ("d", 6)], false),
            (0, false, &[], false),
        ];
        for (index, backward, items, more) in right {
            assert_eq!(judged(index, backward, items, more), Vec::<String>::new(), "{index} {items:?}");
        }
    }

    #[test]
    fn a_page_of_another_moment_than_its_pin_is_found() {
        let page = [("a", 1), ("b", 4), ("c", 3)];
        assert_eq!(judged_of(Some(4), 4, false, &page, false), Vec::<String>::new());
        assert_eq!(judged_of(Some(3), 4, false, &page, false).len(), 1);
    }

    #[test]
    fn a_page_of_another_moment_is_found() {
        let wrong: [Case; 6] = [
            (3, false, &[("a", 1), ("b", 4), ("c", 3)], false),
            (3, false, &[("a", 1), ("c", 3)], false),
            (3, false, &[("a", 1), ("b", 2)], false),
            (5, false, &[("a", 1), ("b", 4), ("c", 3)], false),
            (5, false, &[("a", 1), ("b", 4)], true),
            (5, true, &[("a", 1), ("b", 4)], false),
        ];
        for (index, backward, items, more) in wrong {
            let found = judged(index, backward, items, more);
            assert!(found.len() == 1 && found[0].starts_with("scan: s: page 0"), "{index} {items:?}: {found:?}");
        }
    }
}
