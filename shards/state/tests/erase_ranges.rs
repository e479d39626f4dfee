//! Ranges that go: which keys, how many at once, what a retry is told, what a snapshot under way keeps of them.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Owned, Random, apply, batch, open, small_limits};
use crate::state::command::parse;
use crate::state::limits::ERASED_BYTES_MAX;
use crate::state::{Limits, Loader, Revision, State};

type Keys = BTreeMap<(String, Vec<u8>), (Revision, Vec<u8>)>;

/// The keys that go, and whether there are more, as the model says it.
pub fn due(keys: &Keys, namespace: &str, from: &[u8], value: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let most = u32::from_le_bytes([value[0], value[1], value[2], value[3]]) as usize;
    let until = &value[4..];
    let within = |key: &[u8]| key >= from && (until.is_empty() || key < until);
    let all = keys.keys().filter(|(name, key)| name == namespace && within(key)).map(|(_, key)| key.clone());
    let mut all: Vec<_> = all.collect();
    let more = all.len() > most;
    all.truncate(most);
    (all, more)
}

/// What the answer keeps of it.
pub fn note(keys: usize, more: bool, revision: Revision) -> Rc<[u8]> {
    let digits = keys.to_string();
    let note = |value: &str| {
        let mut bytes = (1 + value.len() as u32).to_le_bytes().to_vec();
        bytes.extend(revision.index.to_le_bytes());
        bytes.extend(revision.position.to_le_bytes());
        bytes.extend(value.as_bytes());
        bytes
    };
    let first = note(&digits);
    let second = if more { note("") } else { vec![0; 4] };
    [first, second].concat().into()
}

/// A range that begins at this key, or everything.
pub fn random(random: &mut Random, key: Vec<u8>) -> Owned {
    let limit = 1 + random.below(6) as u32;
    match random.below(4) {
        0 => Owned::delete_range(key, "", limit),
        1 => Owned::delete_range("", key, limit),
        2 => Owned::delete_range("user:", "user;", limit),
        _ => {
            let mut until = key.clone();
            until.push(0);
            Owned::delete_range(key, until, 1000)
        }
    }
}

fn erased(state: &mut State, write: Owned) -> Option<(u32, bool)> {
    apply(state, 0, &[write])[0].erased()
}

#[test]
fn a_range_goes_slice_by_slice_and_nothing_beside_it() {
    let mut state = State::new(Limits::default());
    let keys: Vec<Owned> = (0..2_500).map(|n| Owned::put(format!("k{n:05}"), "v")).collect();
    apply(&mut state, 0, &keys);
    apply(&mut state, 0, &[Owned::put("j", "1"), Owned::put("l", "1"), Owned::put("k00000", "1").within("n")]);
    let all = || Owned::delete_range("k", "l", 0);
    assert_eq!(erased(&mut state, Owned::delete_range("k", "l", 3)), Some((3, true)));
    assert_eq!(state.get("", b"k00002"), None);
    assert!(state.get("", b"k00003").is_some());
    assert_eq!(erased(&mut state, all()), Some((1000, true)));
    assert_eq!(erased(&mut state, all()), Some((1000, true)));
    assert_eq!(erased(&mut state, all()), Some((497, false)));
    assert_eq!(erased(&mut state, all()), Some((0, false)));
    assert_eq!(erased(&mut state, Owned::delete_range("l", "k", 0)), Some((0, false)));
    assert_eq!(erased(&mut state, Owned::delete_range("", "", 0).within("none")), Some((0, false)));
    assert_eq!((state.keys(), state.stats().namespaces), (3, 2));
    assert_eq!(erased(&mut state, Owned::delete_range("", "", 0)), Some((2, false)));
    assert_eq!((state.keys(), state.stats().namespaces), (1, 1), "a namespace without keys does not exist");
}

#[test]
fn a_slice_ends_when_it_has_freed_enough() {
    let mut state = State::new(Limits::default());
    let value = vec![7; 1 << 20];
    apply(&mut state, 0, &(0..9).map(|n| Owned::put(format!("k{n}"), &value)).collect::<Vec<_>>());
    let slice = ERASED_BYTES_MAX.div_ceil(1 << 20) as u32;
    assert_eq!(erased(&mut state, Owned::delete_range("", "", 0)), Some((slice, true)));
    assert_eq!(erased(&mut state, Owned::delete_range("", "", 0)), Some((slice, true)));
    assert_eq!(erased(&mut state, Owned::delete_range("", "", 0)), Some((9 - 2 * slice, false)));
}

#[test]
fn a_retry_is_told_what_went_the_first_time() {
    let mut state = State::new(small_limits());
    let session = open(&mut state, 0);
    apply(&mut state, 0, &[Owned::put("a", ""), Owned::put("b", ""), Owned::put("c", "")]);
    let write = Owned::delete_range("a", "", 2).by(session, 1, 1);
    assert_eq!(erased(&mut state, write.clone()), Some((2, true)));
    let again = &apply(&mut state, 0, &[write])[0];
    assert_eq!((again.erased(), again.duplicate, again.existed), (Some((2, true)), true, true));
    assert!(state.get("", b"c").is_some(), "a retry takes nothing more");
}

#[test]
fn a_snapshot_under_way_keeps_what_goes() {
    for slices_before in 0..6 {
        let mut state = State::new(Limits::default());
        for n in 0..400u32 {
            apply(&mut state, 0, &[Owned::put(n.to_be_bytes(), vec![n as u8; 100])]);
        }
        let before = state.hash();
        state.freeze().expect("no snapshot is under way");
        let mut loader = Loader::new(Limits::default());
        for _ in 0..slices_before {
            loader.push(&state.slice(4096).expect("there are more")).expect("a slice of our own");
        }
        assert_eq!(erased(&mut state, Owned::delete_range(100u32.to_be_bytes(), 300u32.to_be_bytes(), 0)), Some((200, false)));
        assert_eq!(erased(&mut state, Owned::delete_range("", "", 0)), Some((200, false)));
        while let Some(slice) = state.slice(4096) {
            loader.push(&slice).expect("a slice of our own");
        }
        state.thaw();
        assert_eq!(state.keys(), 0);
        assert_eq!(loader.finish().expect("it is whole").hash(), before);
    }
}

#[test]
fn a_range_in_the_log_is_taken_whole_or_refused() {
    let good = batch(0, &[Owned::delete_range([b'k'; 4097], [b'l'; 4097], 1000)]).to_vec();
    assert!(parse(&good).is_ok());
    let at = good.len() - 4097 - 4;
    for (most, ok) in [(0u32, false), (1, true), (1001, false)] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&most.to_le_bytes());
        assert_eq!(parse(&bytes).is_ok(), ok, "{most} keys");
    }
}
