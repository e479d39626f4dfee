//! History and index, each alone.

use ringbeam_wire::client::Fold;

use super::model::Random;
use crate::state::events::{Change, ChangeKind, Sink};
use crate::state::{Found, Revision};
use crate::watch::history::{Bounds, Gone, History, Past};
use crate::watch::index::{Index, Shape};
use crate::watch::plan::conflated;

fn put(history: &mut History, index: u64, position: u32, value: &[u8]) {
    let revision = Revision { index, position };
    let previous = Some(Found { value: b"was", revision: Revision { index: 1, position: 9 } });
    let change = Change { kind: ChangeKind::Put, namespace: "n", key: b"k", value, revision, previous };
    history.recorder(index * 10).changed(&change);
}

#[test]
fn a_revision_is_found_while_it_is_kept_and_said_to_be_gone_after() {
    let bounds = Bounds { bytes_max: 10_000, age_ms_max: 100_000 };
    let mut history = History::new(bounds);
    assert_eq!(history.seek(Revision::default()), Ok(0));
    for index in 1..=500 {
        (0..index as u32 % 3).for_each(|position| put(&mut history, index, position, &[1; 20]));
        history.applied_through(index);
        assert!(history.bytes() <= 10_000 + 700, "{} bytes", history.bytes());
    }
    let oldest = history.oldest();
    assert!((350..490).contains(&oldest.index), "{oldest:?}");
    for index in 0..=502 {
        for position in [0, 1, 2, u32::MAX] {
            let after = Revision { index, position };
            if after < oldest {
                assert_eq!(history.seek(after), Err(Gone { oldest }));
                continue;
            }
            let offset = history.seek(after).expect("it is kept");
            let next = history.from(offset).next().map(|(at, past)| (at, past.revision));
            let due = (index..=500).flat_map(|index| (0..index as u32 % 3).map(move |position| Revision { index, position }));
            let due = due.into_iter().find(|revision| *revision > after);
            assert_eq!(next, due.map(|revision| (offset, revision)), "behind {after:?}");
        }
    }
    let all: Vec<Revision> = history.from(history.start()).map(|(_, past)| past.revision).collect();
    assert!(all.is_sorted() && all[0].index > oldest.index, "{:?} behind {oldest:?}", all[0]);
    let (_, first) = history.from(history.start()).next().expect("there are events");
    assert_eq!(
        (first.namespace, first.key, first.value, first.ring_time_ms),
        (&b"n"[..], &b"k"[..], &[1; 20][..], first.revision.index * 10)
    );
    assert_eq!(first.previous, Some(Found { value: b"was", revision: Revision { index: 1, position: 9 } }));
    history.reset(600, 6_000);
    assert_eq!(history.seek(Revision { index: 599, position: 7 }), Err(Gone { oldest: history.oldest() }));
    assert_eq!(history.seek(history.oldest()), Ok(history.end()));
}

#[test]
fn history_is_dropped_by_ring_time() {
    let mut history = History::new(Bounds { bytes_max: 16 << 10, age_ms_max: 1_000 });
    for index in 1..=300 {
        put(&mut history, index, 0, &[0; 40]);
        history.applied_through(index);
    }
    // 10 ms an index: what is kept begins within a chunk of the last 1,000 ms.
    assert!((180..=200).contains(&history.oldest().index), "{:?}", history.oldest());
}

#[test]
fn large_previous_values_are_left_out_and_the_event_is_not() {
    let mut history = History::new(Bounds { bytes_max: 1 << 20, age_ms_max: 1_000 });
    let before = vec![7; 100_000];
    for key in [b"a", b"b"] {
        let previous = Some(Found { value: &before, revision: Revision::default() });
        let revision = Revision { index: 1, position: 0 };
        let change = Change { kind: ChangeKind::Delete, namespace: "", key, value: &[], revision, previous };
        history.recorder(0).changed(&change);
    }
    let has: Vec<bool> = history.from(0).map(|(_, past)| past.previous.is_some()).collect();
    assert_eq!(has, [true, false]);
}

#[test]
fn index_finds_exactly_who_watches() {
    let mut random = Random(5);
    let names = ["", "n", "na"];
    let text = |random: &mut Random| -> Vec<u8> {
        let length = random.below(4);
        (0..length).map(|_| [b'a', b'b', 0xff, 0][random.below(4) as usize]).collect()
    };
    let mut index = Index::default();
    let mut watches: Vec<(u32, &str, Vec<u8>, Vec<u8>)> = Vec::new();
    for step in 0..20_000u32 {
        if watches.len() < 40 && random.one_in(2) {
            let from = text(&mut random);
            let until = match random.below(3) {
                0 => [&from[..], &[0]].concat(),
                _ => text(&mut random),
            };
            if !until.is_empty() && from >= until {
                continue;
            }
            let namespace = names[random.below(3) as usize];
            index.insert(&Shape::of(namespace, &from, &until), step);
            watches.push((step, namespace, from, until));
        } else if random.one_in(2) && !watches.is_empty() {
            let (slot, namespace, from, until) = watches.swap_remove(random.below(watches.len() as u64) as usize);
            index.remove(&Shape::of(namespace, &from, &until), slot);
        }
        let (namespace, key) = (names[random.below(3) as usize], text(&mut random));
        let mut found = Vec::new();
        index.watching(namespace.as_bytes(), &key, |slot| found.push(slot));
        found.sort_unstable();
        let covers = |(_, of, from, until): &&(u32, &str, Vec<u8>, Vec<u8>)| {
            *of == namespace && key >= *from && (until.is_empty() || key < *until)
        };
        let mut due: Vec<u32> = watches.iter().filter(covers).map(|(slot, ..)| *slot).collect();
        due.sort_unstable();
        assert_eq!(found, due, "{namespace:?} {key:?}");
    }
    for (slot, namespace, from, until) in &watches {
        index.remove(&Shape::of(namespace, from, until), *slot);
    }
    assert!(index.is_empty());
}

#[test]
fn conflation_keeps_the_last_whole_value_and_the_deltas_behind_it() {
    use ChangeKind::{Delete, Extend, Put};
    let add = Extend(Fold::Concatenate);
    let told = [
        (b"a", Put),
        (b"b", Put),
        (b"a", add),
        (b"a", Put),
        (b"b", add),
        (b"a", add),
        (b"c", Put),
        (b"c", Delete),
        (b"d", add),
    ];
    let pasts: Vec<Past<'_>> = (0..)
        .zip(told)
        .map(|(position, (key, kind))| {
            let revision = Revision { index: 1, position };
            Past { kind, namespace: b"", key, value: b"", revision, ring_time_ms: 0, previous: None }
        })
        .collect();
    let kept: Vec<(u32, bool)> = conflated(&pasts).iter().map(|(past, left_out)| (past.revision.position, *left_out)).collect();
    // Of `a` a put and a delta are left out, of `c` a put; who has what came before has all that he needs of `b` and `d`.
    assert_eq!(kept, [(1, false), (3, true), (4, false), (5, false), (7, true), (8, false)]);
}
