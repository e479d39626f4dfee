//! Histories made by hand, each good or bad for one reason, and made by a real register at random and then damaged.

use super::search::Effort;
use super::{Ranks, Verdict, check};
use crate::history::{History, Op, Operation, Outcome, Revision};
use crate::random::Random;

/// An operation of key 1 on shard 0, told in short. Times are what they are; a client each.
#[derive(Clone, Copy, Debug)]
pub struct Told(pub Operation);

impl Told {
    fn new(op: Op, invoked_ns: u64, completed_ns: Option<u64>, outcome: Outcome) -> Told {
        Told(Operation { client: 0, shard: 0, key: 1, op, tag: None, invoked_ns, completed_ns, outcome })
    }

    pub fn put(from: u64, to: u64, value: u64, at: (u64, u32), existed: bool) -> Told {
        Told::new(Op::Put { value }, from, Some(to), written(at, existed))
    }

    pub fn lost_put(from: u64, value: u64) -> Told {
        Told::new(Op::Put { value }, from, None, Outcome::Unknown)
    }

    pub fn failed_put(from: u64, to: u64, value: u64) -> Told {
        Told::new(Op::Put { value }, from, Some(to), Outcome::Failed)
    }

    pub fn delete(from: u64, to: u64, at: (u64, u32), existed: bool) -> Told {
        Told::new(Op::Delete, from, Some(to), written(at, existed))
    }

    pub fn lost_delete(from: u64) -> Told {
        Told::new(Op::Delete, from, None, Outcome::Unknown)
    }

    pub fn get(from: u64, to: u64, found: Option<(u64, (u64, u32))>, index: u64) -> Told {
        Told::new(Op::Get, from, Some(to), read(found, index))
    }

    pub fn local(from: u64, to: u64, found: Option<(u64, (u64, u32))>, index: u64) -> Told {
        Told::new(Op::GetLocal { node: 1 }, from, Some(to), read(found, index))
    }

    pub fn of(self, key: u32) -> Told {
        Told(Operation { key, ..self.0 })
    }

    pub fn on_shard(self, shard: u32) -> Told {
        Told(Operation { shard, ..self.0 })
    }
}

fn written((index, position): (u64, u32), existed: bool) -> Outcome {
    Outcome::Written { revision: Revision { index, position }, existed, duplicate: false }
}

fn read(found: Option<(u64, (u64, u32))>, index: u64) -> Outcome {
    Outcome::Read { found: found.map(|(value, (index, position))| (value, Revision { index, position })), index }
}

pub fn history(told: &[Told]) -> History {
    let mut history = History::default();
    for (client, told) in told.iter().enumerate() {
        history.push(Operation { client: client as u32, ..told.0 });
    }
    history
}

/// With revisions and without them.
fn good(told: &[Told]) {
    let history = history(told);
    for ranks in [Ranks::Believed, Ranks::Ignored] {
        assert_eq!(check(&history, ranks, Effort::default()), Verdict::Linearizable, "{ranks:?}\n{}", history.story(20));
    }
}

/// By values and times alone, and so with revisions too.
fn bad(told: &[Told]) -> String {
    violation(told, Ranks::Ignored);
    violation(told, Ranks::Believed)
}

/// By revisions only.
fn bad_by_rank(told: &[Told]) {
    let verdict = check(&history(told), Ranks::Ignored, Effort::default());
    assert_eq!(verdict, Verdict::Linearizable);
    let story = violation(told, Ranks::Believed);
    assert!(story.contains("it is the revisions"), "{story}");
}

fn violation(told: &[Told], ranks: Ranks) -> String {
    match check(&history(told), ranks, Effort::default()) {
        Verdict::Violated(stories) if stories.len() == 1 => stories[0].clone(),
        other => panic!("{ranks:?} {other:?}\n{}", history(told).story(20)),
    }
}

// ---- by hand ----

#[test]
fn one_after_the_other() {
    good(&[
        Told::get(0, 1, None, 0),
        Told::put(2, 3, 1, (1, 0), false),
        Told::get(4, 5, Some((1, (1, 0))), 1),
        Told::put(6, 7, 2, (2, 0), true),
        Told::delete(8, 9, (3, 0), true),
        Told::get(10, 11, None, 3),
        Told::put(12, 13, 3, (4, 0), false),
    ]);
}

#[test]
fn overlapping_operations_may_have_either_order() {
    good(&[Told::put(0, 10, 1, (1, 0), false), Told::get(1, 2, None, 0), Told::get(3, 4, Some((1, (1, 0))), 1)]);
    good(&[Told::put(0, 10, 1, (2, 0), true), Told::put(0, 10, 2, (1, 0), false), Told::get(11, 12, Some((1, (2, 0))), 2)]);
    // They touch: the end of one is the call of the other.
    good(&[Told::put(0, 5, 1, (2, 0), true), Told::put(5, 9, 2, (1, 0), false), Told::get(11, 12, Some((1, (2, 0))), 2)]);
}

#[test]
fn stale_read() {
    let story = bad(&[
        Told::put(0, 1, 1, (1, 0), false),
        Told::put(2, 3, 2, (2, 0), true),
        Told::get(4, 5, Some((1, (1, 0))), 1),
        Told::get(6, 7, Some((2, (2, 0))), 2),
    ]);
    assert!(story.contains("put k1 = v2") && story.contains("get k1 -> v1"), "{story}");
    assert!(!story.contains("get k1 -> v2"), "what came later is no part of it: {story}");
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::get(2, 3, None, 0)]);
}

#[test]
fn reads_that_go_back() {
    bad(&[
        Told::put(0, 9, 1, (1, 0), false),
        Told::put(0, 9, 2, (2, 0), true),
        Told::get(1, 2, Some((1, (1, 0))), 1),
        Told::get(3, 4, Some((2, (2, 0))), 2),
        Told::get(5, 6, Some((1, (1, 0))), 1),
    ]);
}

#[test]
fn lost_write() {
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::put(2, 3, 2, (2, 0), false)]);
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::get(2, 3, None, 1)]);
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::delete(2, 3, (2, 0), false)]);
}

#[test]
fn write_applied_twice() {
    // Its only put finds its own value.
    bad(&[Told::put(0, 1, 1, (2, 0), true)]);
    // The second time comes behind another one's.
    bad(&[
        Told::put(0, 1, 1, (1, 0), false),
        Told::put(2, 3, 2, (2, 0), true),
        Told::get(4, 5, Some((2, (2, 0))), 2),
        Told::get(6, 7, Some((1, (1, 0))), 3),
    ]);
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::delete(2, 3, (2, 0), true), Told::get(4, 5, Some((1, (1, 0))), 3)]);
}

#[test]
fn value_that_nobody_wrote() {
    bad(&[Told::get(0, 1, Some((9, (1, 0))), 1)]);
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::failed_put(2, 3, 2), Told::get(4, 5, Some((2, (2, 0))), 2)]);
    // Read before it was written.
    bad(&[Told::get(0, 1, Some((9, (1, 0))), 1), Told::put(2, 3, 9, (1, 0), false)]);
}

#[test]
fn failed_write_is_not_there() {
    good(&[Told::put(0, 1, 1, (1, 0), false), Told::failed_put(2, 3, 2), Told::get(4, 5, Some((1, (1, 0))), 2)]);
}

#[test]
fn unknown_write_may_come_late_or_never() {
    good(&[Told::lost_put(0, 1), Told::get(5, 6, None, 1), Told::get(7, 8, None, 1)]);
    good(&[Told::lost_put(0, 1), Told::get(5, 6, None, 1), Told::get(7, 8, Some((1, (2, 0))), 2)]);
    good(&[Told::lost_put(0, 1), Told::put(2, 3, 2, (1, 0), false), Told::get(7, 8, Some((1, (2, 0))), 2)]);
    good(&[
        Told::put(0, 1, 1, (1, 0), false),
        Told::lost_delete(2),
        Told::get(4, 5, Some((1, (1, 0))), 1),
        Told::get(6, 7, None, 2),
    ]);
    // Seen by what it changed only: the next put finds a value.
    good(&[Told::lost_put(0, 1), Told::put(2, 3, 2, (2, 0), true)]);
    good(&[Told::lost_put(0, 1), Told::lost_delete(0), Told::put(2, 3, 2, (2, 0), true), Told::put(4, 5, 3, (4, 0), false)]);
    // Each of two explains one.
    good(&[
        Told::lost_put(0, 1),
        Told::lost_put(6, 2),
        Told::delete(2, 3, (2, 0), true),
        Told::get(4, 5, None, 2),
        Told::put(7, 8, 3, (4, 0), true),
    ]);
}

#[test]
fn unknown_write_does_not_come_and_go() {
    // It was there, then it was not, and nobody took it away.
    bad(&[Told::lost_put(0, 1), Told::get(2, 3, Some((1, (1, 0))), 1), Told::get(4, 5, None, 2)]);
    bad(&[
        Told::put(0, 1, 1, (1, 0), false),
        Told::lost_put(2, 2),
        Told::get(3, 4, Some((2, (2, 0))), 2),
        Told::get(5, 6, Some((1, (1, 0))), 2),
    ]);
    // Seen by a local read, it is written; a later read may not be without it.
    bad_by_rank(&[Told::lost_put(0, 1), Told::local(2, 3, Some((1, (1, 0))), 1), Told::get(4, 5, None, 1)]);
}

#[test]
fn unknown_write_takes_effect_once() {
    bad(&[Told::lost_put(0, 1), Told::delete(2, 3, (2, 0), true), Told::put(4, 5, 2, (4, 0), true)]);
    // Not before it was called.
    bad(&[Told::put(0, 1, 2, (2, 0), true), Told::lost_put(2, 1)]);
    bad(&[Told::put(0, 1, 1, (1, 0), false), Told::get(2, 3, None, 2), Told::lost_delete(4)]);
    good(&[Told::put(0, 3, 2, (2, 0), true), Told::lost_put(2, 1)]);
}

#[test]
fn revisions_that_contradict_the_order() {
    // Values alone allow it: the first two overlap.
    bad_by_rank(&[
        Told::put(0, 9, 1, (1, 0), true),
        Told::put(0, 9, 2, (2, 0), false),
        Told::get(10, 11, Some((1, (1, 0))), 2),
    ]);
    // A read as of an index does not see what is above it, and sees all below it.
    bad_by_rank(&[Told::put(0, 9, 1, (5, 0), false), Told::get(1, 9, Some((1, (5, 0))), 4)]);
    bad_by_rank(&[Told::put(0, 9, 1, (5, 0), false), Told::get(1, 9, None, 5)]);
}

#[test]
fn other_keys_do_not_matter() {
    let told = [
        Told::put(0, 1, 1, (1, 0), false),
        Told::put(2, 3, 2, (2, 0), false).of(2),
        Told::get(4, 5, None, 2).of(3),
        Told::get(4, 5, None, 2).of(2),
    ];
    let story = bad(&told);
    assert!(story.starts_with("k2 is not"), "{story}");
}

#[test]
fn too_little_effort_is_undecided() {
    // Sixteen writes that overlap, and a read that contradicts whatever their order is.
    let mut told: Vec<Told> = (1..=16).map(|value| Told::put(0, 100, value, (value, 0), value != 1)).collect();
    told.push(Told::get(101, 102, None, 20));
    let effort = Effort { steps_max: 1_000, time_max: None };
    let verdict = check(&history(&told), Ranks::Ignored, effort);
    assert!(matches!(verdict, Verdict::Undecided(_)), "{verdict:?}");
    // Revisions leave nothing to search.
    assert!(matches!(check(&history(&told), Ranks::Believed, effort), Verdict::Violated(_)));
}

#[test]
fn counterexample_is_small_and_says_why() {
    let mut told = Vec::new();
    for round in 0..200u64 {
        let at = round * 10;
        told.push(Told::put(at, at + 3, round, (round * 2, 0), round > 0));
        let reads = if round == 150 { 140 } else { round };
        told.push(Told::get(at + 4, at + 6, Some((reads, (reads * 2, 0))), round * 2));
    }
    let story = violation(&told, Ranks::Ignored);
    let lines: Vec<&str> = story.lines().collect();
    assert!(lines.len() <= 12, "{story}");
    assert!(lines[0].contains("302 of its 400 operations"), "{story}");
    assert!(story.contains("get k1 -> v140 of 280.0") && story.contains("cannot be next"), "{story}");
}

// ---- at random ----

/// A run of a register with one order, seen by overlapping clients.
struct Run {
    random: Random,
    /// Percent of the answers that get lost. As many writes do not happen, and their answers are lost too.
    loss: u64,
    told: Vec<Told>,
    keys: Vec<Option<(u64, (u64, u32))>>,
    index: u64,
}

impl Run {
    /// Every operation takes effect at its own moment, in the order of the list; its call and end lie around it.
    fn new(seed: u64, operations: u64, clients: u64, keys: u32) -> Run {
        Run::with(seed, operations, clients, keys, 6)
    }

    fn with(seed: u64, operations: u64, clients: u64, keys: u32, loss: u64) -> Run {
        let mut run = Run { random: Random::new(seed), loss, told: Vec::new(), keys: vec![None; keys as usize], index: 0 };
        for number in 0..operations {
            let (moment, reach) = (1_000_000 + number * 1_000, clients * 1_000 / 2);
            let from = moment - run.random.below(reach);
            let to = moment + run.random.below(reach);
            let told = run.one(number + 1, from, to);
            run.told.push(told);
        }
        run
    }

    fn one(&mut self, value: u64, from: u64, to: u64) -> Told {
        let key = self.random.below(self.keys.len() as u64) as usize;
        let existed = self.keys[key].is_some();
        let roll = self.random.below(100);
        if roll < 40 {
            return Told::get(from, to, self.keys[key], self.index).of(key as u32);
        }
        if roll < 43 {
            return Told::failed_put(from, to, value).of(key as u32);
        }
        let delete = roll < 55;
        let (happens, known) = (!self.random.chance(self.loss, 100), !self.random.chance(self.loss, 100));
        let at = (self.index + 1, self.random.below(4) as u32);
        let told = match (delete, happens && known) {
            (true, true) => Told::delete(from, to, at, existed),
            (true, false) => Told::lost_delete(from),
            (false, true) => Told::put(from, to, value, at, existed),
            (false, false) => Told::lost_put(from, value),
        };
        if happens {
            self.index += 1;
            self.keys[key] = (!delete).then_some((value, at));
        }
        told.of(key as u32)
    }

    fn verdict(&self, ranks: Ranks) -> Verdict {
        check(&history(&self.told), ranks, Effort::default())
    }

    /// Damages one answer so that it is another one. Whether that is a violation depends on what was going on.
    fn damage(&mut self) -> &'static str {
        let reads: Vec<usize> = (0..self.told.len()).filter(|at| self.told[*at].0.op == Op::Get).collect();
        let writes: Vec<usize> = (0..self.told.len()).filter(|at| self.told[*at].0.revision().is_some()).collect();
        match self.random.below(4) {
            0 => {
                // A read that is a few hundred operations late.
                let at = *self.random.pick(&reads[reads.len() / 2..]);
                let key = self.told[at].0.key;
                let mut earlier = reads.iter().filter(|other| self.told[**other].0.key == key && **other + 300 < at);
                let Some(from) = earlier.next_back() else { return "nothing" };
                self.told[at].0.outcome = self.told[*from].0.outcome;
                "stale read"
            }
            1 => {
                // An acknowledged write that never happened: it leaves no trace but its answer.
                let at = *self.random.pick(&writes);
                let Told(operation) = &mut self.told[at];
                let Outcome::Written { revision, existed, .. } = operation.outcome else { unreachable!("it has a revision") };
                operation.outcome = Outcome::Written { revision, existed: !existed, duplicate: false };
                "wrong existed"
            }
            2 => {
                // Somebody read it: else nobody could know.
                let at = *self.random.pick(&reads);
                let Outcome::Read { found: Some((value, _)), .. } = self.told[at].0.outcome else { return "nothing" };
                let writer = self.told.iter_mut().find(|told| told.0.op == Op::Put { value });
                writer.expect("values that are read are written").0.outcome = Outcome::Failed;
                "failed, yet it happened"
            }
            _ => {
                let at = *self.random.pick(&reads);
                let Outcome::Read { found, index } = self.told[at].0.outcome else { unreachable!("a get is answered") };
                let found = if found.is_some() { None } else { Some((1, (1, 0))) };
                self.told[at].0.outcome = read(found, index);
                "nothing instead of a value, or the first value again"
            }
        }
    }
}

#[test]
fn histories_of_a_real_register_are_linearizable() {
    for (seed, operations, clients, keys) in
        [(1, 5_000, 40, 1), (2, 5_000, 40, 20), (3, 3_000, 10, 3), (4, 10_000, 64, 200), (5, 2_000, 2, 1)]
    {
        let run = Run::new(seed, operations, clients, keys);
        assert_eq!(run.verdict(Ranks::Believed), Verdict::Linearizable, "seed {seed}");
        if clients <= 10 || keys > 10 {
            assert_eq!(run.verdict(Ranks::Ignored), Verdict::Linearizable, "seed {seed}");
        }
    }
    for seed in 100..400 {
        let run = Run::new(seed, 60, 6, 2);
        for ranks in [Ranks::Believed, Ranks::Ignored] {
            assert_eq!(run.verdict(ranks), Verdict::Linearizable, "seed {seed} {ranks:?}");
        }
    }
}

#[test]
fn damaged_histories_are_found() {
    // By what was damaged, and whether answers got lost.
    let mut found = std::collections::BTreeMap::<(&str, bool), (u32, u32)>::new();
    for seed in 0..80 {
        let lossy = seed % 2 == 1;
        let mut run = Run::with(1_000 + seed, 3_000, 24, 4, if lossy { 6 } else { 0 });
        let entry = found.entry((run.damage(), lossy)).or_default();
        entry.1 += 1;
        match run.verdict(Ranks::Believed) {
            Verdict::Violated(stories) => {
                entry.0 += 1;
                assert!(stories.iter().all(|story| story.lines().count() < 25), "{}", stories.join("\n"));
            }
            Verdict::Linearizable => {}
            Verdict::Undecided(why) => panic!("seed {seed}: {why:?}"),
        }
    }
    found.retain(|(damage, _), _| *damage != "nothing");
    assert_eq!(found.len(), 8, "{found:?}");
    // A delete without an answer explains a read of nothing, and a put without one what a later write found: with lost answers
    // not all damage is a violation. Without them all of it is.
    for ((damage, _), (caught, made)) in found.iter().filter(|((_, lossy), _)| !lossy) {
        assert_eq!(caught, made, "{damage}");
    }
    let lossy = found.iter().filter(|((_, lossy), _)| *lossy);
    let (caught, made) = lossy.fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1));
    assert!(caught * 2 > made, "{caught} of {made}: {found:?}");
}

/// Every order of a few operations, tried one by one: what the search must agree with.
#[test]
fn search_agrees_with_trying_all_orders() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..20_000 {
        // Many lost answers: what may have happened or not is what the search is clever about.
        let mut run = Run::with(seed, 4 + seed % 6, 6, 1, [6, 25, 50][seed as usize % 3]);
        if seed % 4 != 0 {
            run.damage_small();
        }
        let expected = brute(&run.told);
        let verdict = run.verdict(Ranks::Ignored);
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {verdict:?}\n{}", history(&run.told).story(20));
        if expected { yes += 1 } else { no += 1 }
    }
    assert!(yes > 2_000 && no > 2_000, "{yes} linearizable, {no} not: both are needed");
}

impl Run {
    fn damage_small(&mut self) {
        let at = self.random.below(self.told.len() as u64) as usize;
        let some = 1 + self.random.below(self.told.len() as u64);
        let Told(operation) = &mut self.told[at];
        operation.outcome = match operation.outcome {
            Outcome::Written { revision, existed, .. } if some.is_multiple_of(2) => {
                Outcome::Written { revision, existed: !existed, duplicate: false }
            }
            Outcome::Written { .. } => Outcome::Unknown,
            Outcome::Read { found: Some(_), index } if some.is_multiple_of(3) => read(None, index),
            Outcome::Read { index, .. } => read(Some((some, (1, 0))), index),
            other => other,
        };
    }
}

fn brute(told: &[Told]) -> bool {
    let mut operations: Vec<Operation> = told.iter().map(|told| told.0).collect();
    operations.retain(|operation| {
        operation.outcome != Outcome::Failed && (operation.writes() || operation.outcome != Outcome::Unknown)
    });
    fits(&operations, &mut vec![false; operations.len()], None)
}

fn fits(operations: &[Operation], placed: &mut Vec<bool>, state: Option<u64>) -> bool {
    if (0..operations.len()).all(|at| placed[at] || operations[at].outcome == Outcome::Unknown) {
        return true;
    }
    let limit = (0..operations.len()).filter(|at| !placed[*at]).filter_map(|at| operations[at].ends_ns()).min();
    for at in 0..operations.len() {
        let operation = &operations[at];
        if placed[at] || limit.is_some_and(|limit| operation.invoked_ns > limit) {
            continue;
        }
        let next = match (operation.op, operation.outcome) {
            (_, Outcome::Written { existed, .. }) if existed != state.is_some() => continue,
            (_, Outcome::Read { found, .. }) if found.map(|(value, _)| value) != state => continue,
            (Op::Put { value }, _) => Some(value),
            (Op::Delete, _) => None,
            _ => state,
        };
        placed[at] = true;
        if fits(operations, placed, next) {
            return true;
        }
        placed[at] = false;
    }
    false
}
