//! Exactly once: a write that a client repeats under its session and sequence is applied once, and every answer to it is the
//! same.
//!
//! ```text
//!   clients                    asked (session, sequence), told a revision, told "certainly not", or told nothing
//!   state machines of nodes    at each (index, position) of the log: this write of (session, sequence) was applied,
//!                              was answered with what an earlier one got, or was denied
//! ```
//!
//! The store has no increments to count, so a write is counted by the places of the log at which it was applied: one for a
//! write that was acknowledged, none for one that certainly did not happen, at most one for one that nobody knows of.
//!
//! | what the clients were told | places at which it was applied |
//! |---|---|
//! | a revision, any number of times the same one | exactly that |
//! | certainly not applied | none |
//! | nothing | none or one |
//! | it was never asked | none |
//!
//! **Invariant** of the observer: every write that any state machine runs is noted, on every node, also when it is run again
//! after a restart. What a snapshot brought is not run.
//!
//! **Not here**: whether values are right (`linear.rs`), writes without a session: nothing is promised of their retries.

use std::collections::BTreeMap;

use super::told;
use crate::history::{History, Outcome, Revision, Tag};

/// What a state machine did with a write of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Applied,
    /// Not applied: the answer of the earlier attempt, which was applied there.
    Answered(Revision),
    Denied,
}

/// A write as a state machine ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    pub tag: Option<Tag>,
    /// What is written, in whatever way the observer names it: only equality counts.
    pub key: u64,
    pub effect: Effect,
}

/// What the state machines of all nodes ran, by shard and revision. Nodes that disagree are noted when they do.
#[derive(Clone, Debug, Default)]
pub struct AppliedLog {
    ran: BTreeMap<(u32, Revision), (u64, Ran)>,
    disagreements: Vec<String>,
}

impl AppliedLog {
    /// `node` ran the write at `revision` of the log of `shard`.
    pub fn note(&mut self, node: u64, shard: u32, revision: Revision, ran: Ran) {
        let (first, known) = *self.ran.entry((shard, revision)).or_insert((node, ran));
        if known != ran {
            self.disagreements.push(format!(
                "shard {shard}, {revision}: node {first} ran {}, node {node} ran {}",
                words(&known),
                words(&ran)
            ));
        }
    }

    /// Writes that were applied, of all shards.
    pub fn applied(&self) -> usize {
        self.ran.values().filter(|(_, ran)| ran.effect == Effect::Applied).count()
    }
}

fn words(ran: &Ran) -> String {
    let tag =
        ran.tag.map_or("a write without a session".to_string(), |Tag { session, sequence }| format!("{session}#{sequence}"));
    let effect = match ran.effect {
        Effect::Applied => "applied".to_string(),
        Effect::Answered(revision) => format!("answered with {revision}"),
        Effect::Denied => "denied".to_string(),
    };
    format!("{tag} of key {}: {effect}", ran.key)
}

/// What the clients were told of one write, over all attempts that they recorded.
#[derive(Clone, Debug, Default)]
struct Asked {
    revisions: Vec<Revision>,
    /// One operation at least has no answer.
    unknown: bool,
}

/// What the clients asked, by shard, session and sequence.
fn asked(history: &History) -> BTreeMap<(u32, Tag), Asked> {
    let mut asked = BTreeMap::<(u32, Tag), Asked>::new();
    for operation in history.operations().iter().filter(|operation| operation.writes()) {
        let Some(tag) = operation.tag else { continue };
        let entry = asked.entry((operation.shard, tag)).or_default();
        match operation.outcome {
            Outcome::Written { revision, .. } => entry.revisions.push(revision),
            Outcome::Unknown => entry.unknown = true,
            Outcome::Failed | Outcome::Read { .. } => {}
        }
    }
    asked
}

/// Each write of a session against the places at which it was applied.
pub fn check(history: &History, log: &AppliedLog) -> Vec<String> {
    let asked = asked(history);
    let mut found = told(log.disagreements.clone());
    found.extend(told(one_answer(&asked)));
    let mut places = BTreeMap::<(u32, Tag), Vec<Revision>>::new();
    for ((shard, revision), (_, ran)) in &log.ran {
        if let (Some(tag), Effect::Applied) = (ran.tag, ran.effect) {
            places.entry((*shard, tag)).or_default().push(*revision);
        }
    }
    found.extend(told(one_place(&places)));
    found.extend(told(right_duplicates(log, &places)));
    found.extend(told(as_told(&asked, &places)));
    found
}

/// The same session and sequence never gets two answers.
fn one_answer(asked: &BTreeMap<(u32, Tag), Asked>) -> Vec<String> {
    let differ = |told: &Asked| told.revisions.windows(2).any(|pair| pair[0] != pair[1]);
    let words = |(write, told): (&(u32, Tag), &Asked)| format!("{}: answered with {}", name(write), list(&told.revisions));
    asked.iter().filter(|(_, told)| differ(told)).map(words).collect()
}

/// It is never applied at two places.
fn one_place(places: &BTreeMap<(u32, Tag), Vec<Revision>>) -> Vec<String> {
    let words =
        |(write, at): (&(u32, Tag), &Vec<Revision>)| format!("{}: applied {} times, at {}", name(write), at.len(), list(at));
    places.iter().filter(|(_, at)| at.len() > 1).map(words).collect()
}

/// A repeated one is answered with the place at which it was applied, which is an earlier one.
fn right_duplicates(log: &AppliedLog, places: &BTreeMap<(u32, Tag), Vec<Revision>>) -> Vec<String> {
    let mut found = Vec::new();
    for ((shard, revision), (node, ran)) in &log.ran {
        let (Some(tag), Effect::Answered(with)) = (ran.tag, ran.effect) else { continue };
        let at = places.get(&(*shard, tag)).map_or(&[][..], Vec::as_slice);
        if !at.contains(&with) || with >= *revision {
            let place = if at.is_empty() { "nowhere".to_string() } else { format!("at {}", list(at)) };
            let write = name(&(*shard, tag));
            found.push(format!("{write}: node {node} answered it at {revision} with {with}, it was applied {place}"));
        }
    }
    found
}

/// What was applied is what the clients were told.
fn as_told(asked: &BTreeMap<(u32, Tag), Asked>, places: &BTreeMap<(u32, Tag), Vec<Revision>>) -> Vec<String> {
    let mut found = Vec::new();
    for (write, told) in asked {
        let at = places.get(write).map_or(&[][..], Vec::as_slice);
        match told.revisions.first() {
            Some(revision) if at.is_empty() => {
                found.push(format!("{}: acknowledged with {revision}, no state machine ever applied it", name(write)));
            }
            Some(revision) if !at.contains(revision) => {
                found.push(format!("{}: acknowledged with {revision}, applied at {}", name(write), list(at)));
            }
            None if !told.unknown && !at.is_empty() => {
                found.push(format!("{}: certainly not applied, the client was told; applied at {}", name(write), list(at)));
            }
            _ => {}
        }
    }
    for (write, at) in places.iter().filter(|(write, _)| !asked.contains_key(write)) {
        found.push(format!("{}: applied at {}, no client asked for it", name(write), list(at)));
    }
    found
}

fn name((shard, Tag { session, sequence }): &(u32, Tag)) -> String {
    format!("shard {shard}, session {session}, sequence {sequence}")
}

fn list(revisions: &[Revision]) -> String {
    revisions.iter().map(Revision::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;
    use crate::history::Op;

    const AT: Revision = Revision { index: 5, position: 1 };
    const LATER: Revision = Revision { index: 6, position: 0 };
    const TAG: Tag = Tag { session: 3, sequence: 1 };
    const APPLIED: Ran = Ran { tag: Some(TAG), key: 1, effect: Effect::Applied };

    fn answered(revision: Revision) -> Outcome {
        Outcome::Written { revision, existed: false, duplicate: false }
    }

    /// A write of the tag for each outcome.
    fn history(outcomes: &[Outcome]) -> History {
        let mut history = History::default();
        for (value, outcome) in outcomes.iter().enumerate() {
            let ticket = history.invoke(0, 0, 1, Op::Put { value: value as u64 }, Some(TAG), 0);
            history.complete(ticket, *outcome, 1);
        }
        history
    }

    fn log(ran: &[(Revision, Ran)]) -> AppliedLog {
        let mut log = AppliedLog::default();
        for (revision, ran) in ran {
            for node in 1..=3 {
                log.note(node, 0, *revision, *ran);
            }
        }
        log
    }

    fn broken(outcomes: &[Outcome], ran: &[(Revision, Ran)], expected: &str) {
        let found = check(&history(outcomes), &log(ran));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(expected), "{found:#?}");
    }

    #[test]
    fn acknowledged_once_and_applied_once() {
        let again = Ran { effect: Effect::Answered(AT), ..APPLIED };
        let log = log(&[(AT, APPLIED), (LATER, again)]);
        assert_eq!(check(&history(&[answered(AT)]), &log), Vec::<String>::new());
        assert_eq!(check(&history(&[Outcome::Unknown, answered(AT)]), &log), Vec::<String>::new());
        assert_eq!(log.applied(), 1);
    }

    #[test]
    fn unknown_write_is_applied_at_most_once() {
        assert_eq!(check(&history(&[Outcome::Unknown]), &log(&[])), Vec::<String>::new());
        assert_eq!(check(&history(&[Outcome::Unknown]), &log(&[(AT, APPLIED)])), Vec::<String>::new());
        broken(&[Outcome::Unknown], &[(AT, APPLIED), (LATER, APPLIED)], "applied 2 times, at 5.1, 6.0");
    }

    #[test]
    fn write_applied_twice_with_the_first_answer_given() {
        broken(&[answered(AT)], &[(AT, APPLIED), (LATER, APPLIED)], "applied 2 times");
    }

    #[test]
    fn write_answered_twice_differently() {
        let found = check(&history(&[answered(AT), answered(LATER)]), &log(&[(AT, APPLIED)]));
        assert!(found[0].contains("answered with 5.1, 6.0"), "{found:#?}");
    }

    #[test]
    fn acknowledged_write_that_was_not_applied() {
        broken(&[answered(AT)], &[], "no state machine ever applied it");
        broken(&[answered(AT)], &[(LATER, APPLIED)], "acknowledged with 5.1, applied at 6.0");
        broken(&[answered(AT)], &[(AT, Ran { effect: Effect::Denied, ..APPLIED })], "no state machine ever applied it");
    }

    #[test]
    fn failed_write_that_was_applied() {
        broken(&[Outcome::Failed], &[(AT, APPLIED)], "certainly not applied");
        // One attempt failed, another one has no answer.
        assert_eq!(check(&history(&[Outcome::Failed, Outcome::Unknown]), &log(&[(AT, APPLIED)])), Vec::<String>::new());
    }

    #[test]
    fn write_that_nobody_asked_for() {
        broken(&[], &[(AT, APPLIED)], "no client asked");
    }

    #[test]
    fn duplicate_answered_with_anothers_place() {
        let wrong = Ran { effect: Effect::Answered(Revision { index: 4, position: 0 }), ..APPLIED };
        broken(&[answered(AT)], &[(AT, APPLIED), (LATER, wrong)], "with 4.0, it was applied at 5.1");
        broken(&[Outcome::Unknown], &[(LATER, wrong)], "it was applied nowhere");
    }

    #[test]
    fn node_that_has_forgotten_an_answer() {
        // A node that got a snapshot without the session's answers applies what the others answer.
        let mut log = log(&[(AT, APPLIED), (LATER, Ran { effect: Effect::Answered(AT), ..APPLIED })]);
        log.note(3, 0, LATER, APPLIED);
        let found = check(&history(&[answered(AT)]), &log);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].contains("node 1 ran 3#1 of key 1: answered with 5.1, node 3 ran 3#1 of key 1: applied"),
            "{found:#?}"
        );
    }

    #[test]
    fn shards_have_sessions_of_their_own() {
        let mut log = log(&[(AT, APPLIED)]);
        log.note(1, 1, LATER, APPLIED);
        let mut history = history(&[answered(AT)]);
        let ticket = history.invoke(0, 1, 1, Op::Delete, Some(TAG), 0);
        history.complete(ticket, answered(LATER), 1);
        assert_eq!(check(&history, &log), Vec::<String>::new());
    }
}
