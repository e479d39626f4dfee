//! The model: two ordered maps and the rules said once more, without any thought of speed or memory; and random work.

use std::collections::BTreeMap;

use ringbeam_wire::client::Life;

use super::leases::{self, Lives};
use super::transactions::{self, OwnedStep};
use super::{Owned, OwnedOp, Random};
use super::{counters, erase_ranges, extends};
use crate::state::{Answer, Denied, Limits, Revision, State};

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub keys: BTreeMap<(String, Vec<u8>), (Revision, Vec<u8>)>,
    pub sessions: BTreeMap<u64, ModelSession>,
    pub lives: Lives,
    pub ring_time_ms: u64,
    pub applied: u64,
}

#[derive(Clone, Debug, Default)]
pub struct ModelSession {
    floor: u64,
    last_use_s: u64,
    answers: BTreeMap<u64, (Answer, Owned)>,
}

impl Model {
    pub fn apply(&mut self, limits: &Limits, ring_time_ms: u64, writes: &[Owned]) -> Vec<Answer> {
        self.applied += 1;
        self.ring_time_ms = self.ring_time_ms.max(ring_time_ms);
        let now = self.ring_time_ms;
        // All at once, where the state forgets some a batch: nobody may be able to tell.
        self.sessions.retain(|_, s| now < (s.last_use_s + 1) * 1_000 + limits.session_lifetime_ms);
        (0..).zip(writes).map(|(position, write)| self.apply_one(limits, position, write)).collect()
    }

    fn apply_one(&mut self, limits: &Limits, position: u32, write: &Owned) -> Answer {
        let revision = Revision { index: self.applied, position };
        let ring_time_ms = self.ring_time_ms;
        let ok =
            || Answer { outcome: Ok(()), revision, ring_time_ms, existed: false, never: false, duplicate: false, gets: None };
        let denied = |why| Answer { outcome: Err(why), ..ok() };
        let last_use_s = self.ring_time_ms / 1_000;
        match write.op {
            OwnedOp::Open if self.sessions.len() >= limits.sessions_max as usize => {
                return denied(Denied::TooManySessions);
            }
            OwnedOp::Open => {
                let session = ModelSession { floor: 1, last_use_s, answers: BTreeMap::new() };
                self.sessions.insert(revision.index * (1 << 20) + u64::from(position), session);
                return ok();
            }
            OwnedOp::Close => {
                return Answer { existed: self.sessions.remove(&write.session).is_some(), ..ok() };
            }
            _ => {}
        }
        if write.session != 0 {
            let Some(session) = self.sessions.get_mut(&write.session) else {
                return denied(Denied::SessionExpired);
            };
            session.last_use_s = last_use_s;
            session.floor = session.floor.max(write.answered_below);
            session.answers = session.answers.split_off(&session.floor);
            if write.sequence < session.floor {
                return denied(Denied::AlreadyAnswered);
            }
            if let Some((first, command)) = session.answers.get(&write.sequence) {
                let same = write.op == OwnedOp::Resolve || command.op == write.op && command.namespace == write.namespace;
                return if same { Answer { duplicate: true, ..first.clone() } } else { denied(Denied::SequenceReused) };
            }
            if session.answers.len() >= limits.session_window as usize {
                return denied(Denied::SessionWindowFull);
            }
        }
        let (mut gets, never) = (None, write.op == OwnedOp::Resolve);
        let existed = match &write.op {
            OwnedOp::Put(key, value) => self.put(write, key, Life::default(), value, revision),
            OwnedOp::PutFor(key, life, value) if self.lives.grants(*life, self.ring_time_ms) => {
                self.put(write, key, *life, value, revision)
            }
            OwnedOp::PutFor(..) => return denied(Denied::LeaseNotFound),
            OwnedOp::Delete(key) => self.delete(write, key),
            OwnedOp::Transact(transact) => {
                let held = transact.held(|key| self.found(&write.namespace, key));
                let steps = transact.steps(held);
                for step in steps {
                    if let OwnedStep::Put(_, life, _) = step
                        && !self.lives.grants(*life, self.ring_time_ms)
                    {
                        return denied(Denied::LeaseNotFound);
                    }
                }
                gets = transactions::gets(steps, |key| self.found(&write.namespace, key));
                for step in steps {
                    match step {
                        OwnedStep::Get(_) => {}
                        OwnedStep::Put(key, life, value) => drop(self.put(write, key, *life, value, revision)),
                        OwnedStep::Delete(key) => drop(self.delete(write, key)),
                    }
                }
                held
            }
            OwnedOp::Add(key, bytes) => {
                let value = match counters::sum(self.found(&write.namespace, key).map(|(_, value)| value), bytes) {
                    Ok(value) => value,
                    Err(why) => return denied(why),
                };
                gets = transactions::gets(&[OwnedStep::Get(key.clone())], |_| Some((revision, &value)));
                self.keys.insert((write.namespace.clone(), key.clone()), (revision, value)).is_some()
            }
            OwnedOp::DeleteRange(from, value) => {
                let due = erase_ranges::due(&self.keys, &write.namespace, from, value);
                for key in &due.0 {
                    self.delete(write, key);
                }
                gets = Some(erase_ranges::note(due.0.len(), due.1, revision));
                !due.0.is_empty()
            }
            OwnedOp::Extend(key, bytes) => {
                let before = self.found(&write.namespace, key).map(|(_, value)| value);
                let value = match extends::extended(before, bytes) {
                    Ok(value) => value,
                    Err(why) => return denied(why),
                };
                // Its life goes on.
                self.keys.insert((write.namespace.clone(), key.clone()), (revision, value)).is_some()
            }
            OwnedOp::Resolve => false,
            _ => match self.run_of_leases(write, revision).expect("all others were answered above") {
                Ok(existed) => existed,
                Err(why) => return denied(why),
            },
        };
        let answer = Answer { existed, never, gets, ..ok() };
        if let Some(session) = self.sessions.get_mut(&write.session) {
            session.answers.insert(write.sequence, (answer.clone(), write.clone()));
        }
        answer
    }

    fn put(&mut self, write: &Owned, key: &[u8], life: Life, value: &[u8], revision: Revision) -> bool {
        let name = (write.namespace.clone(), key.to_vec());
        self.lives.put(&name, life, self.ring_time_ms);
        self.keys.insert(name, (revision, value.to_vec())).is_some()
    }

    fn delete(&mut self, write: &Owned, key: &[u8]) -> bool {
        let name = (write.namespace.clone(), key.to_vec());
        self.lives.keys.remove(&name);
        self.keys.remove(&name).is_some()
    }

    fn found(&self, namespace: &str, key: &[u8]) -> Option<(Revision, &[u8])> {
        let (revision, value) = self.keys.get(&(namespace.to_string(), key.to_vec()))?;
        Some((*revision, value))
    }

    /// Panics unless `state` holds exactly what this model does.
    pub fn check(&self, state: &State, seed: u64) {
        assert_eq!((state.applied(), state.ring_time_ms()), (self.applied, self.ring_time_ms), "seed {seed}");
        assert_eq!(state.keys(), self.keys.len() as u64, "seed {seed}");
        // What a base and its deltas take is not what they fold to; all other records have the bytes of their parts.
        let records = || state.contents.tables.iter().flat_map(|(_, table)| table.iter());
        assert_eq!(state.bytes(), records().map(|record| record.bytes()).sum::<u64>(), "seed {seed}");
        if records().all(|record| !record.has_deltas()) {
            let bytes: usize = self.keys.iter().map(|((_, key), (_, value))| 14 + key.len() + value.len()).sum();
            assert_eq!(state.bytes(), (bytes + self.lives.bytes()) as u64, "seed {seed}");
        }
        self.check_lives(state, seed);
        for ((namespace, key), (revision, value)) in &self.keys {
            let found = state.get(namespace, key).expect("the model has this key");
            assert_eq!((found.revision, found.value), (*revision, &value[..]), "seed {seed}");
        }
        let all: Vec<(String, Vec<u8>)> = state
            .contents
            .tables
            .iter()
            .flat_map(|(name, table)| table.iter().map(|record| (name.to_string(), record.key().to_vec())))
            .collect();
        assert!(all.iter().eq(self.keys.keys()), "in order; seed {seed}");
        for (name, table) in state.contents.tables.iter() {
            assert!(!table.is_empty(), "namespace {name:?} is empty; seed {seed}");
            table.check();
        }
        for (id, session) in &self.sessions {
            for (sequence, (answer, _)) in &session.answers {
                assert_eq!(state.outcome(*id, *sequence), Some(Answer { duplicate: true, ..answer.clone() }), "seed {seed}");
            }
        }
    }
}

/// Random writes that meet each other: few keys, few sessions, retries of what was sent before.
pub struct Work {
    pub random: Random,
    pub ring_time_ms: u64,
    pub sessions: Vec<u64>,
    pub leases: Vec<u64>,
    sequences: BTreeMap<u64, u64>,
    sent: Vec<Owned>,
    keys: u64,
}

impl Work {
    pub fn new(seed: u64, keys: u64) -> Work {
        let (sessions, leases, sequences) = (Vec::new(), Vec::new(), BTreeMap::new());
        Work { random: Random(seed), ring_time_ms: 0, sessions, leases, sequences, sent: Vec::new(), keys }
    }

    /// The writes of the next batch.
    pub fn batch(&mut self) -> Vec<Owned> {
        self.ring_time_ms += match self.random.below(20) {
            0 => self.random.below(4_000),
            _ => self.random.below(30),
        };
        if self.sent.len() > 200 {
            self.sent.drain(..100);
        }
        let writes = self.random.below(12);
        (0..writes).map(|_| self.write()).collect()
    }

    fn write(&mut self) -> Owned {
        if self.random.one_in(6) && !self.sent.is_empty() {
            let sent = self.random.pick(&self.sent).clone(); // a retry, soon or late
            return if self.random.one_in(4) { Owned::resolve(&sent) } else { sent };
        }
        let session = if self.sessions.is_empty() { 0 } else { *self.random.pick(&self.sessions) };
        match self.random.below(40) {
            0 => return Owned::open(),
            1 if session != 0 && self.random.one_in(3) => return Owned::close(session),
            _ => {}
        }
        let namespace = *self.random.pick(&["", "", "a", "ab", "b\u{e9}"]);
        let key = self.key();
        let write = match self.random.below(10) {
            8 | 9 => extends::random(&mut self.random, key),
            6 => counters::random(&mut self.random, key),
            7 if self.random.one_in(3) => erase_ranges::random(&mut self.random, key),
            0 => Owned::delete(key),
            4 | 5 => match leases::random(self, key) {
                write if write.op.is_alone() => return write,
                // None of a lease is in a namespace.
                write if !matches!(write.op, OwnedOp::PutFor(..)) => return self.in_session(session, write),
                write => write,
            },
            1 => {
                let keys = [key, self.key(), self.key()];
                let lease = self.leases.last().copied().unwrap_or(7);
                transactions::random(&mut self.random, &keys, lease)
            }
            _ => {
                let value = vec![self.random.below(3) as u8; *self.random.pick(&[0, 3, 3, 3, 40])];
                Owned::put(key, value)
            }
        };
        self.in_session(session, write.within(namespace))
    }

    /// The write with a place in the session, or without.
    fn in_session(&mut self, session: u64, write: Owned) -> Owned {
        if session == 0 || self.random.one_in(4) {
            return write;
        }
        let next = self.sequences.entry(session).or_insert(1);
        let sequence = match self.random.below(12) {
            0 => self.random.below(*next + 3), // anything near: reused, skipped, far below
            _ => *next,
        };
        *next = (*next).max(sequence + 1);
        let answered_below = next.saturating_sub(self.random.below(6));
        let write = write.by(session, sequence, answered_below);
        if self.random.one_in(8) {
            self.sent.push(write.clone()); // it comes when it has been called off, or never
            return Owned::resolve(&write);
        }
        self.sent.push(write.clone());
        write
    }

    /// Keys with common beginnings of several lengths, one the beginning of another, zeros among them.
    fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(self.keys);
        match number % 4 {
            0 => format!("user:{number:06}").into_bytes(),
            1 => vec![b'z'; 1 + (number % 300) as usize],
            2 => [&b"user:"[..], &vec![0; (number % 7) as usize]].concat(),
            _ => number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec(),
        }
    }

    /// Notes the sessions that a batch opened.
    pub fn learn(&mut self, writes: &[Owned], answers: &[Answer]) {
        for (write, answer) in writes.iter().zip(answers) {
            if write.op == OwnedOp::Open && answer.outcome == Ok(()) {
                self.sessions.push(answer.revision.session_id());
            }
            if matches!(write.op, OwnedOp::Grant(_)) && answer.outcome == Ok(()) {
                self.leases.push(answer.revision.session_id());
            }
        }
        if self.sessions.len() > 8 {
            self.sessions.remove(0);
        }
        if self.leases.len() > 6 {
            self.leases.remove(0);
        }
    }
}
