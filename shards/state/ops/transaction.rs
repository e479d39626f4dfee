//! A transaction in the log: its bytes, and what applying it does.
//!
//! ```text
//! 0            2        4             6       8
//! | compares   | then   | otherwise   | 0     | compare.. | step of then.. | step of otherwise.. |
//! | u16        | u16    | u16         | u16   |
//!
//! a compare or step:
//! 0      1          2           4           8
//! | kind | relation | key bytes | value     | key | value |         kinds: 1 get, 2 put, 3 delete,
//! | u8   | u8       | u16       | bytes u32 |                       4 compare revision (value: index u64, position u32), 5 value,
//!                                                                 6 put with a life (value: ttl ms u64, lease u64, value)
//!
//! what its gets found, one after the other:
//! | 0 u32 |     no value         | 1 + value bytes u32 | index u64 | position u32 | value |        all integers little-endian
//! ```
//!
//! It reads before it writes: compares and gets see the state as it was before, then the puts and deletes are done, all at the revision
//! of the transaction. So one that is denied, because its gets found too much or a lease has ended, has changed nothing.
//!
//! **Invariants**: what [`Transaction::parse`] has accepted can be iterated without failing; no list writes a key twice.
//!
//! **Not here**: which shard its keys are of, and its bytes as a whole: checked before the log (`ringbeam_wire::client::Transact`).

use ringbeam_wire::client::{Compare, Life, Relation, Revision as WireRevision, Step, Target, Transact, written_twice};
use ringbeam_wire::limits::{TRANSACTION_PARTS_MAX, TRANSACTION_RESULT_BYTES_MAX};

use crate::state::answer::{Answer, Denied, Revision};
use crate::state::command::{Front, LIFE_BYTES, split_life};
use crate::state::events::{ChangeKind, Sink};
use crate::state::kept::Kept;
use crate::state::limits::{KEY_BYTES_MAX, VALUE_BYTES_HARD_MAX};
use crate::state::reader::{Malformed, Reader};
use crate::state::{Contents, Found};

/// Bytes before the first part.
pub(in crate::state) const HEAD_BYTES: usize = 8;

/// Bytes of a transaction that have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction<'a>(&'a [u8]);

enum Part<'a> {
    Compare(Compare<'a>),
    Step(Step<'a>),
}

/// The bytes of a transaction that [`Transact::check`] has let through.
pub fn encode(transact: &Transact<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + transact.bytes());
    for count in [transact.compares.len(), transact.then.len(), transact.otherwise.len(), 0] {
        bytes.extend_from_slice(&(count as u16).to_le_bytes());
    }
    let mut part_of = |kind: u8, relation: u8, key: &[u8], front: &[u8], value: &[u8]| {
        bytes.extend_from_slice(&[kind, relation]);
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&((front.len() + value.len()) as u32).to_le_bytes());
        [key, front, value].into_iter().for_each(|field| bytes.extend_from_slice(field));
    };
    let mut part = |kind, relation, key: &[u8], value: &[u8]| part_of(kind, relation, key, &[], value);
    for compare in &transact.compares {
        let relation = match compare.relation {
            Relation::Equal => 0,
            Relation::NotEqual => 1,
            Relation::Less => 2,
            Relation::Greater => 3,
        };
        match compare.target {
            Target::Value(value) => part(5, relation, compare.key, value),
            Target::Revision(revision) => {
                let mut value = [0; 12];
                value[..8].copy_from_slice(&revision.index.to_le_bytes());
                value[8..].copy_from_slice(&revision.position.to_le_bytes());
                part(4, relation, compare.key, &value);
            }
        }
    }
    for step in transact.then.iter().chain(&transact.otherwise) {
        match *step {
            Step::Get { key } => part_of(1, 0, key, &[], &[]),
            Step::Put { key, value, life } if life == Life::default() => part_of(2, 0, key, &[], value),
            Step::Put { key, value, life } => part_of(6, 0, key, Front::of(&[life.ttl_ms, life.lease]).bytes(), value),
            Step::Delete { key } => part_of(3, 0, key, &[], &[]),
        }
    }
    bytes
}

impl<'a> Transaction<'a> {
    /// Checks the bytes, to the last of them.
    pub fn parse(bytes: &'a [u8]) -> Result<Transaction<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let (compares, then, otherwise) = (reader.u16()?, reader.u16()?, reader.u16()?);
        if reader.u16()? != 0 {
            return Err(Malformed::new(6, "reserved bytes that are not 0"));
        }
        let parts = u32::from(compares) + u32::from(then) + u32::from(otherwise);
        if !(1..=TRANSACTION_PARTS_MAX).contains(&parts) {
            let why = format!("a transaction of {parts} compares and steps, it must be 1 to {TRANSACTION_PARTS_MAX}");
            return Err(Malformed::new(0, why));
        }
        for at in 0..parts {
            let here = reader.clone();
            let part = part(&mut reader)?;
            if matches!(part, Part::Compare(_)) != (at < u32::from(compares)) {
                return Err(here.malformed("a compare among the steps, or a step among the compares"));
            }
        }
        if !reader.is_empty() {
            return Err(reader.malformed(format!("{} bytes after the last of {parts} parts", reader.left())));
        }
        let transaction = Transaction(bytes);
        for held in [true, false] {
            if written_twice(transaction.steps(held)).is_some() {
                return Err(Malformed::new(0, "a transaction that writes a key twice in one list"));
            }
        }
        Ok(transaction)
    }

    pub(in crate::state) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Compares, and steps of both lists.
    fn counts(self) -> [usize; 3] {
        let count = |at: usize| self.0.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
        [count(0), count(2), count(4)]
    }

    fn parts(self) -> impl Iterator<Item = Part<'a>> {
        let mut reader = Reader::new(self.0.get(HEAD_BYTES..).unwrap_or_default());
        std::iter::from_fn(move || if reader.is_empty() { None } else { part(&mut reader).ok() })
    }

    fn compares(self) -> impl Iterator<Item = Compare<'a>> {
        self.parts().map_while(|part| match part {
            Part::Compare(compare) => Some(compare),
            Part::Step(_) => None,
        })
    }

    /// The steps of `then`, or of `otherwise`.
    fn steps(self, held: bool) -> impl Iterator<Item = Step<'a>> {
        let [compares, then, otherwise] = self.counts();
        let (skip, take) = if held { (compares, then) } else { (compares + then, otherwise) };
        self.parts().skip(skip).take(take).filter_map(|part| match part {
            Part::Step(step) => Some(step),
            Part::Compare(_) => None,
        })
    }

    /// Every key that it names, as often as it does.
    pub fn keys(self) -> impl Iterator<Item = &'a [u8]> {
        self.parts().map(|part| match part {
            Part::Compare(compare) => compare.key,
            Part::Step(step) => step.key(),
        })
    }

    /// Whether its answer may hold values.
    pub(in crate::state) fn reads(self) -> bool {
        self.parts().any(|part| matches!(part, Part::Step(Step::Get { .. })))
    }

    /// Runs it at the revision of its answer, and says in there what came of it.
    pub(in crate::state) fn run<S: Sink>(
        self,
        contents: &mut Contents,
        namespace: &str,
        kept: &mut Kept,
        answer: &mut Answer,
        sink: &mut S,
    ) {
        contents.folds.forget();
        let succeeded =
            self.compares().all(|compare| holds(&compare, contents.get(namespace, compare.key))) || planted!(ComparesIgnored);
        let (mut gets, mut any) = (Vec::new(), false);
        for step in self.steps(succeeded) {
            match step {
                Step::Get { key } => {
                    any = true;
                    note(&mut gets, contents.get(namespace, key));
                    if gets.len() > TRANSACTION_RESULT_BYTES_MAX as usize {
                        answer.outcome = Err(Denied::ResultTooLarge);
                        return;
                    }
                }
                Step::Put { life, .. } => {
                    if let Err(denied) = contents.leases.extras(life, answer.ring_time_ms) {
                        answer.outcome = Err(denied);
                        return;
                    }
                }
                Step::Delete { .. } => {}
            }
        }
        for step in self.steps(succeeded) {
            match step {
                Step::Get { .. } => {}
                Step::Put { key, value, life } => {
                    let extras = contents.leases.extras(life, answer.ring_time_ms).expect("looked at above");
                    contents.tell_put(answer.revision, namespace, key, value, sink);
                    contents.put(answer.revision, namespace, key, extras, value, kept);
                }
                Step::Delete { key } => {
                    let kind = ChangeKind::Delete;
                    contents.remove(kind, answer.revision, namespace, key, kept, sink);
                }
            }
        }
        answer.existed = succeeded;
        answer.gets = any.then(|| gets.into());
    }
}

fn holds(compare: &Compare<'_>, found: Option<Found<'_>>) -> bool {
    match compare.target {
        Target::Revision(given) => {
            let has = found.map_or(WireRevision::default(), |found| found.revision.into());
            compare.relation.holds(has, given)
        }
        Target::Value(given) => found.is_some_and(|found| compare.relation.holds(found.value, given)),
    }
}

fn part<'a>(reader: &mut Reader<'a>) -> Result<Part<'a>, Malformed> {
    let start = reader.clone();
    let (kind, relation, key_bytes, value_bytes) = (reader.u8()?, reader.u8()?, reader.u16()?, reader.u32()? as usize);
    let (key, value) = (reader.take(usize::from(key_bytes))?, reader.take(value_bytes)?);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_HARD_MAX + LIFE_BYTES {
        let why = format!("a key of {key_bytes} bytes, 1 to {KEY_BYTES_MAX} are allowed, with a value of {value_bytes}");
        return Err(start.malformed(why));
    }
    let compared = match relation {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Less,
        3 => Relation::Greater,
        other => return Err(start.malformed(format!("relation {other}, known are 0 to 3"))),
    };
    match kind {
        1..=3 | 6 if relation != 0 || matches!(kind, 1 | 3) && !value.is_empty() => {
            Err(start.malformed(format!("a relation or value that step {kind} does not take")))
        }
        1 => Ok(Part::Step(Step::Get { key })),
        2 => Ok(Part::Step(Step::put(key, value))),
        3 => Ok(Part::Step(Step::Delete { key })),
        4 => {
            let mut revision = Reader::new(value);
            let target = Target::Revision(WireRevision { index: revision.u64()?, position: revision.u32()? });
            if !revision.is_empty() {
                return Err(start.malformed(format!("a revision of {value_bytes} bytes, it has 12")));
            }
            Ok(Part::Compare(Compare { key, relation: compared, target }))
        }
        5 => Ok(Part::Compare(Compare { key, relation: compared, target: Target::Value(value) })),
        6 => match split_life(value) {
            Some((life, value)) => Ok(Part::Step(Step::Put { key, value, life })),
            None => Err(start.malformed(format!("a put with a life, which it has not, in {value_bytes} bytes"))),
        },
        other => Err(start.malformed(format!("part {other}, known are 1 to 6"))),
    }
}

pub(in crate::state) fn note(gets: &mut Vec<u8>, found: Option<Found<'_>>) {
    match found {
        None => gets.extend_from_slice(&[0; 4]),
        Some(Found { value, revision }) => {
            gets.extend_from_slice(&(value.len() as u32 + 1).to_le_bytes());
            gets.extend_from_slice(&revision.index.to_le_bytes());
            gets.extend_from_slice(&revision.position.to_le_bytes());
            gets.extend_from_slice(value);
        }
    }
}

/// What a transaction's gets found, in their order; ends at bytes that are none of ours.
pub(in crate::state) fn found(gets: &[u8]) -> impl Iterator<Item = Option<Found<'_>>> {
    let mut reader = Reader::new(gets);
    std::iter::from_fn(move || if reader.is_empty() { None } else { one_found(&mut reader).ok() })
}

/// Checks bytes that are said to be what gets found.
pub(in crate::state) fn check_found(gets: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(gets);
    while !reader.is_empty() {
        one_found(&mut reader)?;
    }
    Ok(())
}

fn one_found<'a>(reader: &mut Reader<'a>) -> Result<Option<Found<'a>>, Malformed> {
    let Some(value_bytes) = reader.u32()?.checked_sub(1) else { return Ok(None) };
    let revision = Revision { index: reader.u64()?, position: reader.u32()? };
    Ok(Some(Found { value: reader.take(value_bytes as usize)?, revision }))
}
