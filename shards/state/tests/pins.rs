//! Pinned moments: what they show is what was, whatever comes; and what is kept for them is bounded and freed.

use super::model::{Model, Work};
use super::{Owned, apply, small_limits};
use crate::state::{Limits, NotPinned, Revision, State, Step};

const LOTS: u64 = 1 << 30;

type Keys = Vec<(Vec<u8>, Revision, Vec<u8>)>;

/// What a model has in a range.
fn in_model(model: &Model, namespace: &str, from: &[u8], until: &[u8], backward: bool) -> Keys {
    let within = |key: &[u8]| key >= from && (until.is_empty() || key < until);
    let keys = model.keys.iter().filter(|((name, key), _)| name == namespace && within(key));
    let mut keys: Keys = keys.map(|((_, key), (revision, value))| (key.clone(), *revision, value.clone())).collect();
    if backward {
        keys.reverse();
    }
    keys
}

/// Some of what a pin shows, from one of its ends.
fn page(state: &State, pin: u64, from: &[u8], until: &[u8], backward: bool, most: usize) -> Keys {
    let items = state.pinned(pin, from, until, backward).filter_map(|step| match step {
        Step::Item(key, found) => Some((key.to_vec(), found.revision, found.value.to_vec())),
        Step::Newer(_) => None,
    });
    items.take(most).collect()
}

fn whole(state: &State, pin: u64) -> Keys {
    page(state, pin, b"", b"", false, usize::MAX)
}

struct Scan {
    id: u64,
    index: u64,
    namespace: &'static str,
    from: Vec<u8>,
    until: Vec<u8>,
    backward: bool,
    model: Model,
}

#[test]
fn pages_are_of_the_moment_whatever_is_applied_between_them() {
    for seed in 0..40 {
        let (mut state, mut model) = (State::new(small_limits()), Model::default());
        let mut work = Work::new(seed, 400);
        let (mut scans, mut ids, mut pages): (Vec<Scan>, u64, u64) = (Vec::new(), 0, 0);
        for _ in 0..1_500 {
            let writes = work.batch();
            let answers = apply(&mut state, work.ring_time_ms, &writes);
            assert_eq!(answers, model.apply(&small_limits(), work.ring_time_ms, &writes));
            work.learn(&writes, &answers);
            let random = &mut work.random;
            if random.one_in(60) && state.stats().kept_for_snapshot == 0 {
                state.thaw();
                state.freeze().expect("thawed");
            }
            if random.one_in(8) && scans.len() < 6 {
                ids += 1;
                let namespace = *random.pick(&["", "a", "ab", "none"]);
                let [from, until] = *random.pick(&[["", ""], ["user:", "user;"], ["user:0001", ""], ["", "z"]]);
                state.pin(ids, namespace, from.as_bytes(), until.as_bytes(), LOTS);
                let (from, until, backward) = (from.into(), until.into(), random.one_in(2));
                scans.push(Scan { id: ids, index: state.applied(), namespace, from, until, backward, model: model.clone() });
            }
            if random.one_in(3) && !scans.is_empty() {
                let at = random.below(scans.len() as u64) as usize;
                let Scan { id, index, namespace, ref mut from, ref mut until, backward, model: ref then } = scans[at];
                state.narrow(id, index, namespace, from, until).expect("it is still pinned");
                let most = 1 + random.below(40) as usize;
                let found = page(&state, id, from, until, backward, most);
                let mut expected = in_model(then, namespace, from, until, backward);
                expected.truncate(most);
                assert_eq!(found, expected, "seed {seed}, pin {id}");
                pages += 1;
                match found.last() {
                    Some((key, ..)) if found.len() == most && backward => *until = key.clone(),
                    Some((key, ..)) if found.len() == most => *from = [&key[..], &[0]].concat(),
                    _ => {
                        assert!(state.unpin(id));
                        scans.remove(at);
                    }
                }
            }
        }
        assert!(pages > 300, "seed {seed}: {pages} pages");
        model.check(&state, seed);
        for scan in scans {
            state.unpin(scan.id);
        }
        assert_eq!((state.stats().pins, state.stats().pinned_bytes), (0, 0), "seed {seed}");
        while state.free_shed(7) {}
    }
}

fn puts(keys: u64, value: &str) -> Vec<Owned> {
    (0..keys).map(|n| Owned::put(format!("{n:05}"), value)).collect()
}

#[test]
fn only_the_first_change_of_a_key_in_its_range_is_kept_and_what_was_read_is_freed() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 0, &puts(100, "old"));
    state.pin(1, "", b"00020", b"00040", LOTS);
    for value in ["new", "newer"] {
        apply(&mut state, 0, &puts(100, value));
        apply(&mut state, 0, &[Owned::put("00020", "elsewhere").within("n"), Owned::put("00021x", "later")]);
    }
    let each = (14 + 5 + 3 + 32) as u64;
    assert_eq!(state.stats().pinned_bytes, 20 * each);
    let index = 1;
    state.narrow(1, index, "", b"00035", b"00040").expect("it is narrower");
    assert_eq!(state.stats().pinned_bytes, 5 * each);
    assert_eq!(whole(&state, 1).iter().map(|(_, _, value)| &value[..]).collect::<Vec<_>>(), [b"old"; 5]);
    assert!(state.unpin(1) && !state.unpin(1));
    assert_eq!(state.stats().pinned_bytes, 0);
    assert!(state.free_shed(4), "one of five is left");
    assert!(!state.free_shed(4));
}

#[test]
fn the_pin_that_keeps_most_is_shed_when_all_keep_too_much() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 0, &puts(1_000, "old"));
    let each = 14 + 5 + 3 + 32;
    state.pin(1, "", b"", b"", 200 * each);
    state.pin(2, "", b"00000", b"00010", 200 * each);
    apply(&mut state, 0, &puts(1_000, "new"));
    assert_eq!(state.narrow(1, 1, "", b"", b""), Err(NotPinned::Gone));
    assert_eq!(whole(&state, 2).len(), 10, "the other goes on");
    assert_eq!(state.stats().pinned_bytes, 10 * each);
}

#[test]
fn a_page_beyond_its_pin_is_refused() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 0, &puts(10, "old"));
    state.pin(1, "", b"b", b"d", LOTS);
    for (index, namespace, from, until, why) in [
        (2, "", "b", "d", NotPinned::Other(1)),
        (1, "n", "b", "d", NotPinned::Outside),
        (1, "", "a", "d", NotPinned::Outside),
        (1, "", "b", "e", NotPinned::Outside),
        (1, "", "b", "", NotPinned::Outside),
    ] {
        let narrowed = state.narrow(1, index, namespace, from.as_bytes(), until.as_bytes());
        assert_eq!(narrowed, Err(why), "{index} {namespace} {from} {until}");
    }
    assert_eq!(state.narrow(1, 1, "", b"c", b"d"), Ok(()));
    assert_eq!(state.narrow(1, 1, "", b"b", b"d"), Err(NotPinned::Outside), "it was narrower already");
    assert_eq!(state.narrow(9, 1, "", b"c", b"d"), Err(NotPinned::Gone));
    assert!(state.pinned(1, b"d", b"b", false).next().is_none(), "a range that ends before it begins");
}
