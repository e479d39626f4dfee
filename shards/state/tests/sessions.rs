//! Exactly-once, rule by rule.

use super::{Owned, apply, open, small_limits};
use crate::state::limits::EXPIRED_PER_BATCH_MAX;
use crate::state::{Answer, Denied, Limits, State};

fn one(state: &mut State, ring_time_ms: u64, write: Owned) -> Answer {
    apply(state, ring_time_ms, &[write]).remove(0)
}

fn value<'a>(state: &'a State, key: &str) -> Option<&'a [u8]> {
    state.get("", key.as_bytes()).map(|found| found.value)
}

#[test]
fn session_id_is_the_revision_of_its_opening() {
    let mut state = State::new(Limits::default());
    let answers = apply(&mut state, 0, &[Owned::put("a", ""), Owned::open(), Owned::open()]);
    assert_eq!(answers[1].revision.session_id(), (1 << 20) | 1);
    assert_eq!(answers[2].revision.session_id(), (1 << 20) | 2);
    assert_eq!(state.sessions(), 2);
}

#[test]
fn retry_gets_the_first_answer_and_is_not_applied_again() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    let write = Owned::put("k", "1").by(session, 1, 1);
    let first = one(&mut state, 10, write.clone());
    one(&mut state, 20, Owned::put("k", "2"));
    let second = one(&mut state, 30, write);
    assert_eq!(second, Answer { duplicate: true, ..first.clone() });
    assert_eq!(value(&state, "k"), Some(&b"2"[..]));
    assert_eq!(state.outcome(session, 1), Some(second));
    assert_eq!(state.outcome(session, 2), None);
}

#[test]
fn retry_in_the_same_batch_is_a_duplicate_too() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    let write = Owned::put("k", "1").by(session, 1, 1);
    let answers = apply(&mut state, 0, &[write.clone(), write]);
    assert_eq!(answers[1], Answer { duplicate: true, ..answers[0].clone() });
}

#[test]
fn retried_delete_still_says_that_the_key_existed() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    one(&mut state, 0, Owned::put("k", "1"));
    let write = Owned::delete("k").by(session, 1, 1);
    assert!(one(&mut state, 0, write.clone()).existed);
    assert!(one(&mut state, 0, write).existed);
}

#[test]
fn sequences_may_arrive_in_any_order() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    for sequence in [3, 1, 2, 7, 5] {
        let answer = one(&mut state, 0, Owned::put("k", [sequence as u8]).by(session, sequence, 1));
        assert_eq!((answer.outcome, answer.duplicate), (Ok(()), false));
    }
    assert!((1..=7).all(|s| state.outcome(session, s).is_some() == [1, 2, 3, 5, 7].contains(&s)));
}

#[test]
fn sequence_below_the_floor_was_already_answered() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    one(&mut state, 0, Owned::put("k", "1").by(session, 1, 1));
    one(&mut state, 0, Owned::put("k", "2").by(session, 2, 2));
    let late = one(&mut state, 0, Owned::put("k", "1").by(session, 1, 1));
    assert_eq!(late.outcome, Err(Denied::AlreadyAnswered));
    assert_eq!(one(&mut state, 0, Owned::delete("k").by(session, 0, 0)).outcome, Err(Denied::AlreadyAnswered));
    assert_eq!(value(&state, "k"), Some(&b"2"[..]));
    assert_eq!(state.outcome(session, 1), None);
}

#[test]
fn same_sequence_with_another_command_is_denied() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    one(&mut state, 0, Owned::put("k", "1").by(session, 1, 1));
    for other in
        [Owned::put("k", "2"), Owned::put("j", "1"), Owned::delete("k"), Owned::put("k", "1").within("n"), Owned::put("k1", "")]
    {
        assert_eq!(one(&mut state, 0, other.by(session, 1, 1)).outcome, Err(Denied::SequenceReused));
    }
    assert_eq!((value(&state, "k"), state.keys()), (Some(&b"1"[..]), 1));
}

#[test]
fn write_refused_when_window_full_until_answers_are_acknowledged() {
    let limits = small_limits();
    let mut state = State::new(limits);
    let session = open(&mut state, 0);
    for sequence in 1..=u64::from(limits.session_window) {
        assert_eq!(one(&mut state, 0, Owned::put("k", "1").by(session, sequence, 1)).outcome, Ok(()));
    }
    assert_eq!(one(&mut state, 0, Owned::put("k", "5").by(session, 5, 1)).outcome, Err(Denied::SessionWindowFull));
    assert_eq!(value(&state, "k"), Some(&b"1"[..]));
    assert!(one(&mut state, 0, Owned::put("k", "1").by(session, 4, 1)).duplicate, "a retry still gets its answer");
    assert_eq!(one(&mut state, 0, Owned::put("k", "5").by(session, 5, 2)).outcome, Ok(()));
}

#[test]
fn answers_of_all_sessions_together_are_bounded() {
    let mut state = State::new(Limits { answers_max: 3, ..Limits::default() });
    let sessions = [open(&mut state, 0), open(&mut state, 0)];
    for (session, sequence) in [(0, 1), (1, 1), (0, 2)] {
        assert_eq!(one(&mut state, 0, Owned::put("k", "").by(sessions[session], sequence, 1)).outcome, Ok(()));
    }
    let full = one(&mut state, 0, Owned::put("k", "").by(sessions[1], 2, 1));
    assert_eq!(full.outcome, Err(Denied::SessionWindowFull));
    one(&mut state, 0, Owned::close(sessions[0]));
    assert_eq!(state.stats().answers, 1);
    assert_eq!(one(&mut state, 0, Owned::put("k", "").by(sessions[1], 2, 1)).outcome, Ok(()));
}

#[test]
fn unknown_session_is_expired_and_changes_nothing() {
    let mut state = State::new(Limits::default());
    assert_eq!(one(&mut state, 0, Owned::put("k", "1").by(77, 1, 1)).outcome, Err(Denied::SessionExpired));
    assert_eq!(value(&state, "k"), None);
}

#[test]
fn closed_session_is_gone_and_closing_again_is_no_error() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    assert!(one(&mut state, 0, Owned::close(session)).existed);
    let again = one(&mut state, 0, Owned::close(session));
    assert_eq!((again.outcome, again.existed), (Ok(()), false));
    assert_eq!(one(&mut state, 0, Owned::put("k", "1").by(session, 1, 1)).outcome, Err(Denied::SessionExpired));
    assert_eq!(state.sessions(), 0);
}

#[test]
fn session_lives_for_its_lifetime_after_the_last_second_of_use() {
    let mut state = State::new(small_limits()); // 3 s
    let session = open(&mut state, 500);
    let mut write =
        |ring_time_ms, sequence| one(&mut state, ring_time_ms, Owned::put("k", "1").by(session, sequence, sequence)).outcome;
    assert_eq!(write(3_999, 1), Ok(()), "used in second 0, until 1000 + 3000");
    assert_eq!(write(6_999, 2), Ok(()), "used in second 3, until 4000 + 3000");
    assert_eq!(write(9_999, 1), Err(Denied::AlreadyAnswered), "a denied write is use, too");
    assert_eq!(write(12_999, 3), Ok(()));
    assert_eq!(write(16_000, 4), Err(Denied::SessionExpired));
}

#[test]
fn sessions_whose_time_is_up_are_refused_at_once_and_removed_some_a_batch() {
    let sessions = 3 * EXPIRED_PER_BATCH_MAX as u64 + 1;
    let mut state = State::new(Limits::default());
    let ids: Vec<u64> = (0..sessions).map(|_| open(&mut state, 0)).collect();
    let late = 10_000_000;
    let mut left = sessions;
    while left > 0 {
        let last = *ids.last().expect("there are some");
        assert_eq!(one(&mut state, late, Owned::put("k", "").by(last, 1, 1)).outcome, Err(Denied::SessionExpired));
        left = left.saturating_sub(EXPIRED_PER_BATCH_MAX as u64);
        assert_eq!(state.sessions(), left);
    }
}

#[test]
fn open_refused_when_all_sessions_are_in_use_and_allowed_when_one_expires() {
    let limits = small_limits();
    let mut state = State::new(limits);
    let ids: Vec<u64> = (0..limits.sessions_max).map(|_| open(&mut state, 0)).collect();
    assert_eq!(one(&mut state, 0, Owned::open()).outcome, Err(Denied::TooManySessions));
    for id in &ids[1..] {
        assert_eq!(one(&mut state, 2_000, Owned::put("k", "").by(*id, 1, 1)).outcome, Ok(()));
    }
    let answers = apply(&mut state, 4_000, &[Owned::open(), Owned::open()]);
    assert_eq!((answers[0].outcome, answers[1].outcome), (Ok(()), Err(Denied::TooManySessions)));
}

#[test]
fn denied_numbers_are_those_of_the_wire() {
    use Denied::*;
    let all = [SessionExpired, AlreadyAnswered, SessionWindowFull, TooManySessions, SequenceReused];
    assert_eq!(all.map(Denied::code), [13, 14, 15, 16, 24]);
}

#[test]
fn a_lost_write_that_happened_is_found_with_its_answer() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    one(&mut state, 5, Owned::put("k", "0"));
    let lost = Owned::put("k", "1").by(session, 1, 1);
    let first = one(&mut state, 10, lost.clone());
    let counted = Owned::add("n", 7, 0, 9).by(session, 2, 1);
    one(&mut state, 10, counted.clone());
    one(&mut state, 20, Owned::put("k", "2"));
    assert_eq!(one(&mut state, 30, Owned::resolve(&lost)), Answer { duplicate: true, ..first.clone() });
    assert_eq!(one(&mut state, 30, Owned::resolve(&counted)).sum(), Some(7), "whatever its command was");
    assert_eq!(one(&mut state, 30, lost), Answer { duplicate: true, ..first }, "and the write's own retry is told the same");
    assert_eq!(value(&state, "k"), Some(&b"2"[..]));
}

#[test]
fn a_lost_write_that_did_not_happen_never_will_however_late_its_copy() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    let lost = Owned::put("k", "1").by(session, 3, 1);
    let never = one(&mut state, 10, Owned::resolve(&lost));
    assert_eq!((never.outcome, never.never, never.duplicate), (Ok(()), true, false));
    assert_eq!(one(&mut state, 20, lost.clone()).outcome, Err(Denied::SequenceReused));
    assert_eq!(one(&mut state, 20, Owned::resolve(&lost)), Answer { duplicate: true, ..never.clone() });
    // A snapshot carries the fence.
    state.freeze().expect("no snapshot is under way");
    let mut loader = crate::state::Loader::new(Limits::default());
    while let Some(slice) = state.slice(4096) {
        loader.push(&slice).expect("a slice of our own");
    }
    let mut loaded = loader.finish().expect("it is whole");
    assert_eq!(one(&mut loaded, 20, lost.clone()).outcome, Err(Denied::SequenceReused));
    assert_eq!(one(&mut loaded, 20, Owned::resolve(&lost)), Answer { duplicate: true, ..never });
    assert_eq!(value(&loaded, "k"), None);
}

/// What the fence is for: without it, a late copy is a write that was said never to happen. No simulated client has come there.
#[cfg(feature = "sim")]
#[test]
fn without_the_fence_a_late_copy_happens() {
    use crate::planted::{Bug, plant};

    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    let lost = Owned::put("k", "1").by(session, 3, 1);
    plant(Some(Bug::NeverWithoutFence));
    assert!(one(&mut state, 10, Owned::resolve(&lost)).never);
    assert_eq!(one(&mut state, 20, lost).outcome, Ok(()));
    plant(None);
}

#[test]
fn what_cannot_be_known_any_more_is_said_to_be_so() {
    let mut state = State::new(small_limits());
    let session = open(&mut state, 0);
    let lost = Owned::put("k", "1").by(session, 1, 1);
    one(&mut state, 0, lost.clone());
    one(&mut state, 0, Owned::put("k", "2").by(session, 2, 2));
    assert_eq!(one(&mut state, 0, Owned::resolve(&lost)).outcome, Err(Denied::AlreadyAnswered));
    assert_eq!(one(&mut state, 9_000, Owned::resolve(&lost)).outcome, Err(Denied::SessionExpired));
    // A fence takes a place in the window like any write, and none is left.
    let session = open(&mut state, 9_000);
    for sequence in 1..=4 {
        one(&mut state, 9_000, Owned::put("k", "3").by(session, sequence, 1));
    }
    let fifth = Owned::put("k", "4").by(session, 5, 1);
    assert_eq!(one(&mut state, 9_000, Owned::resolve(&fifth)).outcome, Err(Denied::SessionWindowFull));
}
