//! Linearizability: for each key there is one order of all its operations, in which each stands between its call and its
//! answer, and in which every answer is right.
//!
//! Keys are judged one by one, because a history is linearizable exactly when each of its objects is (Herlihy and Wing,
//! "Linearizability: a correctness condition for concurrent objects", ACM TOPLAS 12(3), 1990, theorem 1).
//!
//! | operation of a key | in the search (`linear/search.rs`) |
//! |---|---|
//! | acknowledged write | a step; `existed` must fit; its revision is its rank |
//! | write without an answer, its value was read somewhere | a step without an end; its rank is the revision that was read |
//! | write without an answer, otherwise | floats: at any time after its call, or never |
//! | linearizable read | a step; its rank is behind all writes of its index |
//! | local read | no step, but it shows that its value was written |
//! | failed operation, read without an answer | nothing |
//!
//! **A counterexample is small.** First the shortest beginning of the history that has no order is searched: linearizability of
//! a beginning follows from that of the whole, so halving finds it. Then, while there is still no order, reads are left out and
//! it is forgotten what writes found; then the silent writes are made to float. Each only makes an order easier to find, so
//! what remains contradicts itself.
//!
//! **Invariants**: `Violated` is never wrong about the history that it was given, and `Undecided` is never success.
//!
//! **Not here**: contradictions that need no search, over all keys (`evidence.rs`).

pub mod search;

use std::collections::{BTreeMap, BTreeSet};

use self::search::{Act, Effort, Found, Register, State, Step, search};
use super::evidence::{Evidence, place_of_read, place_of_write};
use super::told;
use crate::history::{History, Op, Operation, Outcome};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// In words, a counterexample for each key.
    Violated(Vec<String>),
    /// The effort was not enough; what for.
    Undecided(Vec<String>),
}

/// What answers are believed to say about their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranks {
    /// Revisions and indexes name places.
    Believed,
    /// Only values and times count.
    Ignored,
}

/// Judges every key of the history. The effort is for each of them.
pub fn check(history: &History, ranks: Ranks, effort: Effort) -> Verdict {
    let mut keys: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
    for operation in history.operations() {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let (mut violated, mut undecided) = (Vec::new(), Vec::new());
    for (key, operations) in keys {
        match judge(&operations, ranks, effort) {
            Found::Order(_) => {}
            Found::None { .. } => violated.push(counterexample(key, &operations, ranks, effort)),
            Found::GaveUp { steps } => {
                undecided.push(format!("k{key}: no order of {} operations was found in {steps} steps", operations.len()));
            }
        }
    }
    match (violated.is_empty(), undecided.is_empty()) {
        (false, _) => Verdict::Violated(told(violated)),
        (true, false) => Verdict::Undecided(told(undecided)),
        (true, true) => Verdict::Linearizable,
    }
}

fn judge(operations: &[Operation], ranks: Ranks, effort: Effort) -> Found {
    search(&register(operations, &vec![Voice::Full; operations.len()], ranks).0, effort)
}

/// How much of an operation counts. Each one below another makes an order easier to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Full,
    /// A write has its place, but nobody looks at what it found. A read is left out.
    Silent,
    /// As if no answer had come.
    Floating,
}

/// The register of one key, and the operation that each of its steps is.
fn register(operations: &[Operation], voices: &[Voice], ranks: Ranks) -> (Register, Vec<usize>) {
    let heard = |at: &usize| voices[*at] == Voice::Full || operations[*at].writes();
    let kept: Vec<usize> = (0..operations.len()).filter(heard).collect();
    let cut = |at: &usize| match voices[*at] {
        Voice::Floating if operations[*at].outcome != Outcome::Failed => unanswered(&operations[*at]),
        _ => operations[*at],
    };
    let part: Vec<Operation> = kept.iter().map(cut).collect();
    let evidence = Evidence::of(&part);
    let (mut register, mut of_step) = (Register::default(), Vec::new());
    for (at, operation) in part.iter().enumerate() {
        let (act, place) = match (operation.op, operation.outcome, evidence.revisions.get(&at)) {
            (Op::Get, Outcome::Read { found, index }, _) => {
                (Act::Read { found: found.map(|(value, _)| value) }, place_of_read(index))
            }
            (Op::Put { .. } | Op::Delete, Outcome::Written { existed, revision, .. }, _) => {
                let existed = (voices[kept[at]] == Voice::Full).then_some(existed);
                (Act::Write { to: written(operation), existed }, place_of_write(revision))
            }
            (Op::Put { .. }, Outcome::Unknown, Some(revision)) => {
                (Act::Write { to: written(operation), existed: None }, place_of_write(*revision))
            }
            (Op::Put { .. }, Outcome::Unknown, None) => {
                register.floating_puts.push(operation.invoked_ns);
                continue;
            }
            (Op::Delete, Outcome::Unknown, _) => {
                register.floating_deletes.push(operation.invoked_ns);
                continue;
            }
            _ => continue,
        };
        let rank = (ranks == Ranks::Believed).then_some(place);
        register.steps.push(Step { act, called_ns: operation.invoked_ns, ended_ns: operation.ends_ns(), rank });
        of_step.push(kept[at]);
    }
    register.floating_puts.sort_unstable();
    register.floating_deletes.sort_unstable();
    (register, of_step)
}

/// What the key is after this write.
fn written(operation: &Operation) -> State {
    match operation.op {
        Op::Put { value } => Some(value),
        Op::Delete | Op::Get | Op::GetLocal { .. } => None,
    }
}

fn unanswered(operation: &Operation) -> Operation {
    Operation { outcome: Outcome::Unknown, completed_ns: None, ..*operation }
}

/// The smallest part of the history of a key that contradicts itself, in words.
fn counterexample(key: u32, operations: &[Operation], ranks: Ranks, effort: Effort) -> String {
    let impossible =
        |part: &[Operation], voices: &[Voice]| matches!(search(&register(part, voices, ranks).0, effort), Found::None { .. });
    let beginning = shortest_beginning(operations, |part| impossible(part, &vec![Voice::Full; part.len()]));
    let mut voices = vec![Voice::Full; beginning.len()];
    lower(&mut voices, Voice::Silent, |voices| impossible(&beginning, voices));
    lower(&mut voices, Voice::Floating, |voices| impossible(&beginning, voices));
    let (register, of_step) = register(&beginning, &voices, ranks);
    let Found::None { longest, state } = search(&register, effort) else {
        return format!("k{key} is not linearizable, but no part of its history shows why");
    };
    let mut story = format!("k{key} is not linearizable, as of {} of its {} operations", beginning.len(), operations.len());
    let shown = to_show(&register, &longest, |step| voices[of_step[step]] == Voice::Full);
    for step in &shown {
        story += &format!("\n  ({}) {}", step + 1, beginning[of_step[*step]]);
    }
    let more = register.steps.len() - shown.len();
    let floating = register.floating_puts.len() + register.floating_deletes.len();
    story += &format!("\n  and {more} more that have their place, {floating} that may have happened and do not help");
    let last: Vec<String> =
        longest[longest.len().saturating_sub(LAST_SHOWN)..].iter().map(|s| format!("({})", s + 1)).collect();
    let state = state.map_or("nothing".to_string(), |value| format!("v{value}"));
    story += &format!(
        "\n  the order that goes furthest has {} steps and ends {}; k{key} is then {state}",
        longest.len(),
        last.join(" ")
    );
    for step in shown.iter().filter(|step| !longest.contains(step)) {
        story += &format!("\n  ({}) cannot be next: {}", step + 1, obstacle(&register, &longest, *step));
    }
    if ranks == Ranks::Believed && !matches!(judge(operations, Ranks::Ignored, effort), Found::None { .. }) {
        story += "\n  by their values alone an order may exist: it is the revisions that contradict it";
    }
    story
}

/// Steps at the end of the longest order that a counterexample shows, and steps that found no place.
const LAST_SHOWN: usize = 4;

/// What is worth showing: steps whose answers contradict, what was placed last, and what has no place.
fn to_show(register: &Register, longest: &[usize], speaks: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut shown: BTreeSet<usize> = (0..register.steps.len()).filter(|step| speaks(*step)).collect();
    shown.extend(longest.iter().rev().take(LAST_SHOWN));
    let placed: BTreeSet<usize> = longest.iter().copied().collect();
    shown.extend((0..register.steps.len()).filter(|step| !placed.contains(step)).take(LAST_SHOWN));
    shown.into_iter().collect()
}

/// Why a step cannot be placed next, behind those of `longest`.
fn obstacle(register: &Register, longest: &[usize], step: usize) -> String {
    let this = &register.steps[step];
    let waiting = || (0..register.steps.len()).filter(|other| *other != step && !longest.contains(other));
    if let Some(other) = waiting().find(|other| register.steps[*other].ended_ns.is_some_and(|end| end < this.called_ns)) {
        return format!("({}) ended before it began", other + 1);
    }
    let earlier = |other: &usize| register.steps[*other].rank.zip(this.rank).is_some_and(|(other, own)| other < own);
    if let Some(other) = waiting().find(earlier) {
        return format!("({}) has an earlier place in the log", other + 1);
    }
    match this.act {
        Act::Write { existed: Some(true), .. } => "it found a value".to_string(),
        Act::Write { existed: Some(false), .. } => "it found nothing".to_string(),
        Act::Read { found: Some(value) } => format!("it read v{value}"),
        Act::Read { found: None } => "it read nothing".to_string(),
        Act::Write { existed: None, .. } => "what follows it then has no place".to_string(),
    }
}

/// The history as it was at the earliest moment at which it was impossible: what was not answered by then is open.
fn shortest_beginning(operations: &[Operation], impossible: impl Fn(&[Operation]) -> bool) -> Vec<Operation> {
    let mut ends: Vec<u64> = operations.iter().filter_map(Operation::ends_ns).collect();
    ends.sort_unstable();
    let until = |end_ns: u64| -> Vec<Operation> {
        let begun = operations.iter().filter(|operation| operation.invoked_ns <= end_ns);
        let cut = |operation: &Operation| match operation.ends_ns() {
            Some(end) if end > end_ns => unanswered(operation),
            _ => *operation,
        };
        begun.map(cut).collect()
    };
    let first = ends.partition_point(|end| !impossible(&until(*end)));
    match ends.get(first) {
        Some(end) => until(*end),
        // The effort was not enough for the shorter ones.
        None => operations.to_vec(),
    }
}

/// Lowers as many voices as can be while it is still impossible: delta debugging (Zeller and Hildebrandt, IEEE TSE 28(2),
/// 2002), all at once, then halves, quarters, and so on. A full voice is not taken away by the second round, only silent ones.
fn lower(voices: &mut [Voice], to: Voice, impossible: impl Fn(&[Voice]) -> bool) {
    let from = if to == Voice::Silent { Voice::Full } else { Voice::Silent };
    let mut size = voices.len();
    while size > 0 {
        for begin in (0..voices.len()).step_by(size) {
            let part = begin..voices.len().min(begin + size);
            let before = voices[part.clone()].to_vec();
            voices[part.clone()].iter_mut().filter(|voice| **voice == from).for_each(|voice| *voice = to);
            if before != voices[part.clone()] && !impossible(voices) {
                voices[part].copy_from_slice(&before);
            }
        }
        size /= 2;
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
#[path = "linear/tests.rs"]
pub mod tests;
