//! Counters: sums, what is denied and changes nothing, what a retry is told; and what random work needs of them.

use ringbeam_wire::client::Add;

use super::{Owned, Random, apply, batch, open, small_limits};
use crate::state::command::parse;
use crate::state::counter::{self, ADDITION_BYTES};
use crate::state::{Denied, Limits, Loader, State};

/// What an addition makes of a value, as the model says it: in numbers that cannot overflow.
pub fn sum(before: Option<&[u8]>, bytes: &[u8; ADDITION_BYTES]) -> Result<Vec<u8>, Denied> {
    let [delta, least, most] = [0, 8, 16].map(|at| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")));
    let text = before.map_or("0".to_string(), |before| String::from_utf8_lossy(before).into_owned());
    let before: i128 = text.parse().map_err(|_| Denied::NotANumber)?;
    if before.to_string() != text || i64::try_from(before).is_err() {
        return Err(Denied::NotANumber);
    }
    let sum = before + i128::from(delta);
    let bounds = i128::from(least)..=i128::from(most);
    if bounds.contains(&sum) { Ok(sum.to_string().into_bytes()) } else { Err(Denied::OutOfBounds) }
}

/// An addition to this key, or a put of what can be added to.
pub fn random(random: &mut Random, key: Vec<u8>) -> Owned {
    match random.below(8) {
        0 => Owned::put(key, random.below(100).to_string()),
        1 => Owned::put(key, i64::MAX.to_string()),
        2 => Owned::add(key, *random.pick(&[i64::MAX, i64::MIN]), i64::MIN, i64::MAX),
        3 => Owned::add(key, random.below(9) as i64 - 4, -2, 3),
        _ => Owned::add(key, random.below(2_000) as i64 - 1_000, i64::MIN, i64::MAX),
    }
}

#[test]
fn sums_are_exact_and_what_is_denied_changes_nothing() {
    let mut state = State::new(Limits::default());
    let all = |delta| Owned::add("n", delta, i64::MIN, i64::MAX);
    let answers = apply(&mut state, 0, &[all(5), all(-7), all(0)]);
    assert_eq!(
        answers.iter().map(|a| (a.sum(), a.existed)).collect::<Vec<_>>(),
        [(Some(5), false), (Some(-2), true), (Some(-2), true)]
    );
    let found = state.get("", b"n").expect("counted above");
    assert_eq!((found.value, found.revision), (&b"-2"[..], answers[2].revision));
    assert_eq!(apply(&mut state, 0, &[Owned::put("n", i64::MAX.to_string())])[0].outcome, Ok(()));
    let before = state.get("", b"n").map(|found| found.revision);
    let denied = [all(1), Owned::add("n", -1, i64::MAX, i64::MAX), Owned::add("new", 5, 0, 4)];
    for answer in apply(&mut state, 0, &denied) {
        assert_eq!((answer.outcome, answer.sum()), (Err(Denied::OutOfBounds), None));
    }
    assert_eq!(state.get("", b"n").map(|found| found.revision), before);
    assert_eq!((state.get("", b"new"), state.keys()), (None, 1));
    apply(&mut state, 0, &[Owned::put("n", "1.5")]);
    assert_eq!(apply(&mut state, 0, &[all(1)])[0].outcome, Err(Denied::NotANumber));
    assert_eq!(state.get("", b"n").map(|found| found.value), Some(&b"1.5"[..]));
}

#[test]
fn a_retry_is_told_the_sum_of_the_first_time_also_after_a_snapshot() {
    let mut state = State::new(small_limits());
    let session = open(&mut state, 0);
    let first = Owned::add("n", 2, 0, 10).by(session, 1, 1);
    assert_eq!(apply(&mut state, 0, std::slice::from_ref(&first))[0].sum(), Some(2));
    // Denied is not kept: the sequence may be tried again when there is room.
    let beyond = Owned::add("n", 9, 0, 10).by(session, 2, 1);
    assert_eq!(apply(&mut state, 0, std::slice::from_ref(&beyond))[0].outcome, Err(Denied::OutOfBounds));
    apply(&mut state, 0, &[Owned::put("n", "1")]);
    assert_eq!(apply(&mut state, 0, std::slice::from_ref(&beyond))[0].sum(), Some(10));

    state.freeze().expect("no snapshot is under way");
    let mut loader = Loader::new(small_limits());
    while let Some(slice) = state.slice(4096) {
        loader.push(&slice).expect("a slice of our own");
    }
    state.thaw();
    let mut loaded = loader.finish().expect("it is whole");
    assert_eq!(loaded.hash(), state.hash());
    for state in [&mut state, &mut loaded] {
        for (write, sum) in [(&first, 2), (&beyond, 10)] {
            let answer = &apply(state, 0, std::slice::from_ref(write))[0];
            assert_eq!((answer.sum(), answer.duplicate), (Some(sum), true));
        }
        let other = Owned::add("n", 3, 0, 10).by(session, 1, 1);
        assert_eq!(apply(state, 0, &[other])[0].outcome, Err(Denied::SequenceReused));
        assert_eq!(state.get("", b"n").map(|found| found.value), Some(&b"10"[..]));
    }
}

#[test]
fn an_addition_in_the_log_is_taken_whole_or_refused() {
    let good = batch(0, &[Owned::add("n", 1, 0, 5)]);
    assert!(parse(&good).is_ok());
    let mut bounds = good.to_vec();
    let at = bounds.len() - 16;
    bounds[at..at + 8].copy_from_slice(&counter::encode(&Add { delta: 6, ..Add::default() })[..8]);
    assert!(parse(&bounds).expect_err("6 to 5").why.contains("a counter of 6 to 5"));
    let mut shorter = good.to_vec();
    shorter.pop();
    assert!(parse(&shorter).is_err());
}
