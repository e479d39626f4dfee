//! Transactions: what holds, what is read before what is written, what is kept for a retry; and what random work needs of them.

use std::rc::Rc;

use ringbeam_wire::client::{Compare, Life, Relation, Revision as WireRevision, Step, Target, Transact};

use super::{Owned, Random, apply, batch, open, small_limits};
use crate::state::command::parse;
use crate::state::transaction::{self, Transaction};
use crate::state::{Answer, Denied, Found, Limits, Loader, Revision, State};

/// A transaction that owns its parts, and its bytes in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedTransact {
    compares: Vec<(Vec<u8>, Relation, OwnedTarget)>,
    then: Vec<OwnedStep>,
    otherwise: Vec<OwnedStep>,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OwnedTarget {
    Revision(Revision),
    Value(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedStep {
    Get(Vec<u8>),
    Put(Vec<u8>, Life, Vec<u8>),
    Delete(Vec<u8>),
}

impl OwnedTransact {
    pub fn of(transact: &Transact<'_>) -> OwnedTransact {
        let target = |target| match target {
            Target::Revision(WireRevision { index, position }) => OwnedTarget::Revision(Revision { index, position }),
            Target::Value(value) => OwnedTarget::Value(value.to_vec()),
        };
        let steps = |steps: &[Step<'_>]| {
            let owned = steps.iter().map(|step| match *step {
                Step::Get { key } => OwnedStep::Get(key.to_vec()),
                Step::Put { key, value, life } => OwnedStep::Put(key.to_vec(), life, value.to_vec()),
                Step::Delete { key } => OwnedStep::Delete(key.to_vec()),
            });
            owned.collect()
        };
        OwnedTransact {
            compares: transact.compares.iter().map(|c| (c.key.to_vec(), c.relation, target(c.target))).collect(),
            then: steps(&transact.then),
            otherwise: steps(&transact.otherwise),
            bytes: transaction::encode(transact),
        }
    }

    /// Whether all compares hold, as the model says it.
    pub fn held<'a>(&self, found: impl Fn(&[u8]) -> Option<(Revision, &'a [u8])>) -> bool {
        self.compares.iter().all(|(key, relation, target)| {
            let order = match (target, found(key)) {
                (OwnedTarget::Revision(given), has) => has.map_or(Revision::default(), |(revision, _)| revision).cmp(given),
                (OwnedTarget::Value(given), Some((_, value))) => value.cmp(given),
                (OwnedTarget::Value(_), None) => return false,
            };
            match relation {
                Relation::Equal => order.is_eq(),
                Relation::NotEqual => order.is_ne(),
                Relation::Less => order.is_lt(),
                Relation::Greater => order.is_gt(),
            }
        })
    }

    pub fn steps(&self, held: bool) -> &[OwnedStep] {
        if held { &self.then } else { &self.otherwise }
    }
}

/// What the gets among the steps find, in the bytes that an answer keeps.
pub fn gets<'a>(steps: &[OwnedStep], found: impl Fn(&[u8]) -> Option<(Revision, &'a [u8])>) -> Option<Rc<[u8]>> {
    let mut gets: Option<Vec<u8>> = None;
    for step in steps {
        let OwnedStep::Get(key) = step else { continue };
        let bytes = gets.get_or_insert_default();
        match found(key) {
            None => bytes.extend([0; 4]),
            Some((Revision { index, position }, value)) => {
                bytes.extend((1 + value.len() as u32).to_le_bytes());
                bytes.extend(index.to_le_bytes());
                bytes.extend(position.to_le_bytes());
                bytes.extend(value);
            }
        }
    }
    gets.map(Rc::from)
}

/// Some compares and steps on these keys.
pub fn random(random: &mut Random, keys: &[Vec<u8>], lease: u64) -> Owned {
    let values: Vec<Vec<u8>> = (0..6).map(|n| vec![n % 3; *random.pick(&[0, 3, 3, 40])]).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let mut transact = Transact::default();
    for _ in 0..random.below(3) {
        let (key, value) = (*random.pick(&keys), *random.pick(&values));
        let relation = *random.pick(&[Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
        let target = match random.below(3) {
            0 => Target::Revision(WireRevision::default()),
            1 => Target::Revision(WireRevision { index: random.below(600), position: random.below(4) as u32 }),
            _ => Target::Value(value),
        };
        transact.compares.push(Compare { key, relation, target });
    }
    for list in [&mut transact.then, &mut transact.otherwise] {
        for (at, &key) in keys.iter().enumerate() {
            let value = *random.pick(&values);
            match random.below(5) {
                0 => list.push(Step::Get { key }),
                // Keys may be equal, and none is written twice.
                1 if !keys[..at].contains(&key) => list.push(Step::Delete { key }),
                2 if !keys[..at].contains(&key) => {
                    let life = match random.below(6) {
                        0 => Life { ttl_ms: 40, lease: 0 },
                        1 => Life { ttl_ms: 40, lease },
                        2 => Life { ttl_ms: 0, lease },
                        _ => Life::default(),
                    };
                    list.push(Step::Put { key, value, life });
                }
                _ => {}
            }
        }
    }
    if transact.keys().next().is_none() {
        transact.then.push(Step::Get { key: keys[0] });
    }
    Owned::transact(&transact)
}

fn run(state: &mut State, transact: &Transact<'_>) -> Answer {
    apply(state, 0, &[Owned::transact(transact)]).remove(0)
}

fn found(answer: &Answer) -> Vec<Option<(&[u8], Revision)>> {
    answer.found().map(|found| found.map(|Found { value, revision }| (value, revision))).collect()
}

fn revision_is(key: &[u8], revision: Revision) -> Compare<'_> {
    Compare { key, relation: Relation::Equal, target: Target::Revision(revision.into()) }
}

#[test]
fn compare_and_set_by_revision_sets_once() {
    let mut state = State::new(Limits::default());
    let first = apply(&mut state, 0, &[Owned::put("k", "1")])[0].revision;
    let set = |value| Transact {
        compares: vec![revision_is(b"k", first)],
        then: vec![Step::put(b"k", value)],
        otherwise: vec![Step::Get { key: b"k" }],
        ..Transact::default()
    };
    let won = run(&mut state, &set(b"2"));
    assert!(won.existed && won.outcome == Ok(()) && found(&won).is_empty());
    assert_eq!(state.get("", b"k"), Some(Found { value: b"2", revision: won.revision }));
    let lost = run(&mut state, &set(b"3"));
    assert!(!lost.existed);
    assert_eq!(found(&lost), [Some((&b"2"[..], won.revision))]);
    assert_eq!(state.get("", b"k").map(|found| found.value), Some(&b"2"[..]));
}

#[test]
fn a_key_without_a_value_has_revision_zero_and_no_compare_of_its_value_holds() {
    let mut state = State::new(Limits::default());
    let create = Transact {
        compares: vec![revision_is(b"k", Revision::default())],
        then: vec![Step::put(b"k", b"")],
        ..Transact::default()
    };
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater] {
        let compares = vec![Compare { key: b"k", relation, target: Target::Value(b"") }];
        assert!(!run(&mut state, &Transact { compares, ..Transact::default() }).existed, "{relation:?}");
    }
    assert!(run(&mut state, &create).existed);
    assert!(!run(&mut state, &create).existed, "there is an empty value now");
}

#[test]
fn reads_come_before_writes_and_all_writes_share_a_revision() {
    let mut state = State::new(Limits::default());
    let before = apply(&mut state, 0, &[Owned::put("a", "old")])[0].revision;
    let swap = Transact {
        then: vec![Step::put(b"a", b"new"), Step::Get { key: b"a" }, Step::put(b"b", b"too"), Step::Get { key: b"b" }],
        ..Transact::default()
    };
    let answer = run(&mut state, &swap);
    assert_eq!(found(&answer), [Some((&b"old"[..], before)), None]);
    for key in [b"a", b"b"] {
        assert_eq!(state.get("", key).map(|found| found.revision), Some(answer.revision));
    }
}

#[test]
fn a_transaction_that_finds_too_much_changes_nothing() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    apply(&mut state, 0, &[Owned::put("large", vec![1; 65_536 - 15])]);
    let transact = |key| Transact { then: vec![Step::put(b"k", b"v"), Step::Get { key }], ..Transact::default() };
    let before = (state.keys(), state.stats().answers);
    let denied = apply(&mut state, 0, &[Owned::transact(&transact(b"large")).by(session, 1, 1)]).remove(0);
    assert_eq!((denied.outcome, denied.gets), (Err(Denied::ResultTooLarge), None));
    assert_eq!((state.keys(), state.stats().answers), before);
    // One byte less is what may be.
    apply(&mut state, 0, &[Owned::put("large", vec![1; 65_536 - 16])]);
    let answer = apply(&mut state, 0, &[Owned::transact(&transact(b"large")).by(session, 1, 1)]).remove(0);
    assert_eq!((answer.outcome, state.keys()), (Ok(()), 2));
    assert_eq!(state.stats().answers, 1 + 65_536 / 32, "what was found counts as the answers it takes the place of");
    apply(&mut state, 0, &[Owned::put("k", "w").by(session, 2, 2)]);
    assert_eq!(state.stats().answers, 1, "and all of that ends with its acknowledgement");
}

#[test]
fn a_retry_gets_what_was_found_the_first_time_also_from_a_snapshot() {
    let mut state = State::new(small_limits());
    let session = open(&mut state, 0);
    apply(&mut state, 0, &[Owned::put("k", "old")]);
    let transact = Transact {
        then: vec![Step::Get { key: b"k" }, Step::Get { key: b"none" }, Step::put(b"k", b"new")],
        ..Transact::default()
    };
    let write = Owned::transact(&transact).by(session, 1, 1);
    let first = apply(&mut state, 0, std::slice::from_ref(&write)).remove(0);
    state.freeze().expect("not frozen");
    let mut loader = Loader::new(small_limits());
    while let Some(slice) = state.slice(0) {
        loader.push(&slice).expect("a good slice");
    }
    state.thaw();
    let mut loaded = loader.finish().expect("whole");
    assert_eq!(loaded.hash(), state.hash());
    assert_eq!(loaded.stats().answers, state.stats().answers);
    for state in [&mut state, &mut loaded] {
        apply(state, 0, &[Owned::put("k", "newer")]);
        let again = apply(state, 0, std::slice::from_ref(&write)).remove(0);
        assert_eq!(again, Answer { duplicate: true, ..first.clone() });
        assert_eq!(found(&again)[0].map(|(value, _)| value), Some(&b"old"[..]));
        let other = Transact { then: vec![Step::Delete { key: b"k" }], ..Transact::default() };
        let reused = apply(state, 0, &[Owned::transact(&other).by(session, 1, 1)]).remove(0);
        assert_eq!(reused.outcome, Err(Denied::SequenceReused));
    }
}

#[test]
fn one_session_cannot_keep_more_than_its_places() {
    let limits = Limits { session_window: 4_096, ..Limits::default() };
    let mut state = State::new(limits);
    let session = open(&mut state, 0);
    apply(&mut state, 0, &[Owned::put("large", vec![1; 60_000])]);
    let read = Transact { then: vec![Step::Get { key: b"large" }], ..Transact::default() };
    let mut kept = 0;
    let full = loop {
        let answer = apply(&mut state, 0, &[Owned::transact(&read).by(session, kept + 1, 1)]).remove(0);
        if let Err(why) = answer.outcome {
            break why;
        }
        kept += 1;
    };
    assert_eq!(full, Denied::SessionWindowFull);
    assert!((60..80).contains(&kept), "4 MiB hold {kept} answers of 60,000 bytes");
    let put = apply(&mut state, 0, &[Owned::put("k", "v").by(session, kept + 1, 1)]).remove(0);
    assert_eq!(put.outcome, Ok(()), "one that finds nothing has room");
}

#[test]
fn bytes_that_are_no_transaction_are_refused_with_their_place() {
    let good = transaction::encode(&Transact {
        compares: vec![revision_is(b"k", Revision { index: 7, position: 1 })],
        then: vec![Step::put(b"k", b"v")],
        otherwise: vec![Step::Get { key: b"k" }],
        ..Transact::default()
    });
    assert!(Transaction::parse(&good).is_ok());
    for end in 0..good.len() {
        assert!(Transaction::parse(&good[..end]).is_err(), "cut at {end}");
    }
    let wrong = |at: usize, byte: u8, why: &str| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let refused = Transaction::parse(&bytes).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused:?} does not say {why:?}");
    };
    wrong(6, 1, "byte 6: reserved");
    wrong(0, 129, "131 compares and steps");
    wrong(8, 9, "byte 8: part 9");
    wrong(9, 4, "byte 8: relation 4");
    wrong(8, 2, "byte 8: a compare among the steps, or a step among the compares");
    wrong(8, 1, "byte 8: a relation or value that step 1 does not take");
    wrong(29, 4, "8 bytes are due and 1 are left");
    wrong(29, 5, "byte 29: a compare among the steps");
    let mut longer = good.clone();
    longer.push(0);
    assert!(Transaction::parse(&longer).is_err());
    let mut twice = Transact { then: vec![Step::put(b"k", b"v"); 2], ..Transact::default() };
    let why = Transaction::parse(&transaction::encode(&twice)).expect_err("twice").to_string();
    assert_eq!(why, "byte 0: a transaction that writes a key twice in one list");
    twice.then.pop();
    let in_batch = batch(0, &[Owned::transact(&twice)]);
    assert!(parse(&in_batch).is_ok());
    let mut broken = in_batch.to_vec();
    broken[16 + 8 + 8] = 9;
    assert_eq!(parse(&broken).expect_err("part 9").to_string(), "byte 16: its transaction: byte 8: part 9, known are 1 to 6");
}
