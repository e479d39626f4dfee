//! The world of the random tests: a state, its history and watches, connections that have room or not, and clients that check
//! each message against the whole truth.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ringbeam_wire::client::{EventKind, Events, Step, Transact, WatchEnded};
use ringbeam_wire::refusal::Code;

use crate::io::Instant;
use crate::state::command::{Builder, Op, Write, parse};
use crate::state::events::{Change, ChangeKind, Sink};
use crate::state::transaction::{self, Transaction};
use crate::state::{Limits, Revision, State};
use crate::watch::engine::{Engine, NotTaken, Out, Wanted};
use crate::watch::history::{Bounds, History};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One change, as it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub kind: ChangeKind,
    pub namespace: String,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub revision: Revision,
    pub previous: Option<Vec<u8>>,
}

#[derive(Default)]
struct Facts(Vec<Fact>);

impl Sink for Facts {
    fn wants_previous(&self) -> bool {
        true
    }
    fn changed(&mut self, change: &Change<'_>) {
        self.0.push(Fact {
            kind: change.kind,
            namespace: change.namespace.into(),
            key: change.key.to_vec(),
            value: change.value.to_vec(),
            revision: change.revision,
            previous: change.previous.map(|found| found.value.to_vec()),
        });
    }
}

/// What a client knows of its watch.
pub struct Client {
    pub wanted: Wanted,
    /// It was told all behind this revision.
    pub begun: Revision,
    /// The index when it asked.
    asked_at: u64,
    pub index: u64,
    /// In the order of arrival; those of a copy are in `keys` only.
    pub events: Vec<(EventKind, Vec<u8>, Vec<u8>, Revision)>,
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A copy is under way, and has come to this key.
    pub copying: Option<Option<Vec<u8>>>,
    pub copied_again: bool,
    pub conflated: u64,
    pub ended: Option<WatchEnded>,
    pub messages: u64,
    /// Some events of an index have come, the others have not.
    partial: bool,
}

/// See the head of this file.
pub struct World {
    pub state: State,
    pub shadow: State,
    pub history: History,
    pub engine: Engine,
    pub now: Instant,
    pub ways: Ways,
    ring_time_ms: u64,
}

/// All connections, from the clients' side.
#[derive(Default)]
pub struct Ways {
    pub facts: Vec<Fact>,
    pub clients: BTreeMap<(u64, u64), Client>,
    /// How many more messages each takes.
    pub room: BTreeMap<u64, u64>,
}

impl Client {
    fn covers(&self, fact: &Fact) -> bool {
        let Wanted { namespace, from, until, no_puts, no_deletes, .. } = &self.wanted;
        let filtered = if fact.kind == ChangeKind::Put { *no_puts } else { *no_deletes };
        !filtered && fact.namespace == *namespace && fact.key >= *from && (until.is_empty() || fact.key < *until)
    }

    /// All that it has, if it has all up to its index.
    pub fn check(&self, facts: &[Fact], index: u64) {
        let mine = || facts.iter().filter(|fact| self.covers(fact) && fact.revision.index <= index);
        if !self.wanted.snapshot && !self.copied_again && self.conflated == 0 {
            let due = mine().filter(|fact| fact.revision > self.begun);
            let due: Vec<_> = due.map(|fact| (fact.key.clone(), fact.value.clone(), fact.revision)).collect();
            let has: Vec<_> =
                self.events.iter().map(|(_, key, value, revision)| (key.clone(), value.clone(), *revision)).collect();
            assert_eq!(has, due, "up to {index}, behind {:?}", self.begun);
        }
        if (self.wanted.snapshot || self.copied_again) && !self.wanted.no_deletes && !self.wanted.no_puts {
            let mut keys = BTreeMap::new();
            for fact in mine() {
                keys.remove(&fact.key);
                if fact.kind == ChangeKind::Put {
                    keys.insert(fact.key.clone(), fact.value.clone());
                }
            }
            match &self.copying {
                None => {}
                Some(None) => keys.clear(),
                Some(Some(to)) => keys.retain(|key, _| key <= to),
            }
            assert_eq!(self.keys, keys, "the state at {index}, copied to {:?}", self.copying);
        }
    }
}

impl Out for Ways {
    fn has_room(&self, connection: u64) -> bool {
        self.room.get(&connection).is_some_and(|room| *room > 0)
    }

    fn events(&mut self, connection: u64, request: u64, events: Events<'_>) {
        let client = self.clients.get_mut(&(connection, request)).expect("a message for a watch that is none");
        assert_eq!(client.ended, None);
        assert!(events.index >= client.index, "{} after {}", events.index, client.index);
        client.index = events.index;
        client.messages += 1;
        client.partial = false;
        let mut last = Revision::default();
        for event in &events.events {
            let revision = Revision { index: event.revision.index, position: event.revision.position };
            client.partial |= revision.index > events.index;
            client.conflated += u64::from(event.conflated);
            if event.kind == EventKind::Snapshot {
                if client.copying.is_none() {
                    assert!(client.wanted.conflate && event.conflated, "a copy nobody asked for");
                    (client.copying, client.copied_again) = (Some(None), true);
                }
                if client.copying == Some(None) {
                    client.keys.clear();
                }
                assert!(client.copying.as_ref().is_some_and(|to| to.as_deref() < Some(event.key)), "in the order of keys");
                client.copying = Some(Some(event.key.to_vec()));
                client.keys.insert(event.key.to_vec(), event.value.to_vec());
                continue;
            }
            assert!(revision >= last, "{revision:?} after {last:?}");
            last = revision;
            client.keys.remove(event.key);
            if event.kind == EventKind::Put {
                client.keys.insert(event.key.to_vec(), event.value.to_vec());
            }
            let fact =
                self.facts.iter().rev().find(|fact| fact.revision == revision && fact.key == event.key).expect("it happened");
            match event.previous {
                Some(item) => assert_eq!(Some(item.value), fact.previous.as_deref()),
                None => assert!(
                    !client.wanted.previous || fact.previous.is_none() || revision.index <= client.asked_at,
                    "what was before {revision:?} is known"
                ),
            }
            client.events.push((event.kind, event.key.to_vec(), event.value.to_vec(), revision));
        }
        if events.snapshot_ends {
            if !matches!(client.copying, Some(Some(_))) {
                // A copy of nothing.
                client.copied_again |= client.copying.is_none();
                client.keys.clear();
            }
            client.copying = None;
        }
        if !client.partial {
            client.check(&self.facts, client.index);
            let room = self.room.entry(connection).or_default();
            *room = room.saturating_sub(1);
        }
    }

    fn ended(&mut self, connection: u64, request: u64, ended: &WatchEnded) {
        let client = self.clients.get_mut(&(connection, request)).expect("an end of a watch that is none");
        assert_eq!((ended.code, ended.index), (Code::WatchTooSlow as u16, client.index));
        let Wanted { conflate, no_puts, .. } = client.wanted;
        assert!(!conflate || no_puts || client.copying.is_some(), "it would have taken a copy");
        assert!(ended.oldest.index > client.index, "{} can still go on behind {:?}", client.index, ended.oldest);
        client.ended = Some(ended.clone());
    }
}

impl World {
    pub fn new(bytes_max: u64) -> World {
        World {
            state: State::new(Limits::default()),
            shadow: State::new(Limits::default()),
            history: History::new(Bounds { bytes_max, age_ms_max: 60_000 }),
            engine: Engine::default(),
            now: Instant(1),
            ways: Ways::default(),
            ring_time_ms: 0,
        }
    }

    /// Applies a batch of random writes.
    pub fn write(&mut self, random: &mut Random, writes: u64) {
        let batch = self.batch(random, writes);
        self.apply(&batch, false);
    }

    /// The state is replaced by one that has some batches more.
    pub fn install(&mut self, random: &mut Random) {
        let batch = self.batch(random, 10);
        self.apply(&batch, true);
    }

    fn batch(&mut self, random: &mut Random, writes: u64) -> Bytes {
        self.ring_time_ms += random.below(50);
        let mut builder = Builder::new();
        builder.start(self.ring_time_ms);
        for _ in 0..writes {
            let namespace = ["", "", "n", "na"][random.below(4) as usize];
            let keys: Vec<Vec<u8>> = (0..3).map(|_| key(random)).collect();
            let value = vec![random.below(256) as u8; random.below(30) as usize];
            let mut steps = vec![Step::put(&keys[0], &value)];
            if keys[1] != keys[0] {
                steps.push(Step::Delete { key: &keys[1] });
            }
            let bytes = transaction::encode(&Transact { then: steps, ..Transact::default() });
            let op = match random.below(10) {
                0..5 => Op::Put { key: &keys[0], value: &value },
                5..8 => Op::Delete { key: &keys[0] },
                _ => Op::Transact(Transaction::parse(&bytes).expect("just built")),
            };
            let write = Write { namespace, session: 0, sequence: 0, answered_below: 0, op };
            builder.push(&write).expect("within bounds");
        }
        builder.finish()
    }

    fn apply(&mut self, bytes: &Bytes, installed: bool) {
        let (batch, index) = (parse(bytes).expect("just built"), self.state.applied() + 1);
        let mut facts = Facts::default();
        self.shadow.apply_to(index, &batch, &mut Vec::new(), &mut facts);
        self.ways.facts.append(&mut facts.0);
        if installed {
            self.state.apply(index, &batch, &mut Vec::new());
            self.history.reset(index, self.ring_time_ms);
            return;
        }
        let mut recorder = self.history.recorder(self.ring_time_ms);
        self.state.apply_to(index, &batch, &mut Vec::new(), &mut recorder);
        self.history.applied_through(index);
    }

    pub fn ask(&mut self, connection: u64, request: u64, wanted: Wanted) -> Result<(), NotTaken> {
        let taken = self.engine.ask(connection, request, wanted.clone(), &mut self.history, self.now);
        match &taken {
            Ok(started) => {
                let begun = match wanted.after {
                    Some(after) if !wanted.snapshot => after,
                    _ => Revision { index: self.state.applied(), position: u32::MAX },
                };
                assert_eq!(started.oldest, self.history.oldest().into());
                let client = Client {
                    copying: wanted.snapshot.then_some(None),
                    wanted,
                    begun,
                    asked_at: self.state.applied(),
                    index: started.index,
                    events: Vec::new(),
                    keys: BTreeMap::new(),
                    copied_again: false,
                    conflated: 0,
                    ended: None,
                    messages: 0,
                    partial: false,
                };
                self.ways.clients.insert((connection, request), client);
            }
            Err(NotTaken::Compacted { oldest }) => {
                assert!(wanted.after.is_some_and(|after| after < *oldest), "{:?} is behind {oldest:?}", wanted.after);
            }
            Err(_) => {}
        }
        taken.map(drop)
    }

    pub fn room(&mut self, connection: u64, messages: u64) {
        self.ways.room.insert(connection, messages);
        self.engine.room(connection);
    }

    pub fn turn(&mut self) -> bool {
        self.now = self.now + Duration::from_millis(1);
        self.engine.turn(&mut self.history, &self.state, self.now, &mut self.ways)
    }

    /// Turns until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("turns without end");
    }
}

/// Keys with common beginnings, one the beginning of another.
pub fn key(random: &mut Random) -> Vec<u8> {
    let number = random.below(12);
    match number % 3 {
        0 => format!("u/{number:02}").into_bytes(),
        1 => vec![b'z'; 1 + number as usize],
        _ => [&b"u/"[..], &[0xff, number as u8]].concat(),
    }
}
