//! Measures the state machine alone: time per put, resident bytes per key, time per slice.
//!
//! ```text
//! state memory [state|set|map] [random|ascending]   1 million 16 B keys with 64 B values, one layout a process
//! state apply [keys] [sessions]                     batches of 64 puts of 256 B over that many keys
//! state history [keys] [value bytes]                the same beside each other with and without the history of watches
//! state erase [keys]                                slices of a range that goes, with and without a snapshot under way
//! state snapshot [keys]                             slices of 64 KiB, with puts between them, and loading them
//! ```
//!
//! Times are medians of short steps (64 puts, one slice), so that what else runs on the machine moves them little.
//!
//! `set` and `map` are the layouts that were tried and not taken: a `BTreeSet` of the same one-box records, and a `BTreeMap`
//! from a boxed key to a boxed value and its revision.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use ringbeam_shards::state::command::{Builder, Op, Write, parse};
use ringbeam_shards::state::erase::{self, Erasure};
use ringbeam_shards::state::{Limits, Loader, State};
use ringbeam_shards::watch::{Bounds, History};
use ringbeam_wire::client::DeleteRange;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| arguments.get(at).map(String::as_str).unwrap_or("");
    let number = |at: usize, default| word(at).parse().unwrap_or(default);
    match word(0) {
        "memory" => memory(word(1), word(2) == "ascending"),
        "apply" => apply(number(1, 1_000_000), number(2, 0)),
        "history" => history(number(1, 1_000_000), number(2, 256) as usize),
        "erase" => erase(number(1, 1_000_000)),
        "snapshot" => snapshot(number(1, 1_000_000)),
        _ => eprintln!(
            "memory [state|set|map] [random|ascending] | apply [keys] [sessions] | history [keys] [value bytes] | erase [keys] | snapshot [keys]"
        ),
    }
}

fn key(number: u64, ascending: bool) -> [u8; 16] {
    let number = if ascending { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) };
    let mut key = [0; 16];
    for (at, digit) in key.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * at) & 15) as usize];
    }
    key
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("the second field is pages");
    pages * 4096
}

fn put(key: &[u8], value: &[u8], session: u64, sequence: u64, push: &mut Builder) {
    let answered_below = sequence.saturating_sub(64);
    let op = Op::Put { key, value };
    let write = Write { namespace: "", session, sequence, answered_below, op };
    push.push(&write).expect("within bounds");
}

/// Writes in a batch.
const WRITES: u64 = 64;

/// How long each of many equal steps took.
#[derive(Default)]
struct Times(Vec<Duration>);
impl Times {
    fn time<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = step();
        self.0.push(start.elapsed());
        done
    }
    fn at(&mut self, part: f64) -> Duration {
        self.0.sort();
        self.0[((self.0.len() - 1) as f64 * part) as usize]
    }
    /// Nanoseconds of one put in the median step.
    fn put_ns(&mut self) -> u128 {
        self.at(0.5).as_nanos() / u128::from(WRITES)
    }
}

/// A record as `record.rs` has it, for the layouts that were not taken.
struct Record(Box<[u8]>);
impl Record {
    fn new(index: u64, key: &[u8], value: &[u8]) -> Record {
        let head = [&index.to_le_bytes()[..], &[0; 4], &(key.len() as u16).to_le_bytes()].concat();
        Record([&head, key, value].concat().into())
    }
    fn key(&self) -> &[u8] {
        &self.0[14..14 + usize::from(u16::from_le_bytes([self.0[12], self.0[13]]))]
    }
}
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Record {}
impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Record) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Record {
    fn cmp(&self, other: &Record) -> Ordering {
        self.key().cmp(other.key())
    }
}

/// Revision index, position and value.
type Boxed = (u64, u32, Box<[u8]>);

fn memory(layout: &str, ascending: bool) {
    const KEYS: u64 = 1_000_000;
    let value = [7; 64];
    let mut set: BTreeSet<Record> = BTreeSet::new();
    let mut map: BTreeMap<Box<[u8]>, Boxed> = BTreeMap::new();
    let mut state = State::new(Limits::default());
    let (mut builder, mut answers) = (Builder::new(), Vec::new());
    let mut seed = 1;
    let order: Vec<u64> = (0..KEYS).map(|_| random(&mut seed) % KEYS).collect();
    let before = resident_bytes();
    let mut one = |key: &[u8; 16], index: u64| match layout {
        "set" => drop(set.replace(Record::new(index, key, &value))),
        "map" => match map.get_mut(&key[..]) {
            Some(old) => *old = (index, 0, Box::from(&value[..])),
            None => drop(map.insert(Box::from(&key[..]), (index, 0, Box::from(&value[..])))),
        },
        _ => {
            builder.start(0);
            put(key, &value, 0, 0, &mut builder);
            let batch = builder.finish();
            answers.clear();
            state.apply(index, &parse(&batch).expect("just built"), &mut answers);
        }
    };
    let (mut inserts, mut overwrites) = (Times::default(), Times::default());
    for step in 0..KEYS / WRITES {
        let numbers = step * WRITES..(step + 1) * WRITES;
        inserts.time(|| numbers.for_each(|i| one(&key(i, ascending), i + 1)));
    }
    let resident = resident_bytes() - before - 16 * (KEYS / WRITES);
    for (step, numbers) in order.chunks(WRITES as usize).enumerate() {
        let indexes = KEYS + 1 + step as u64 * WRITES..;
        overwrites.time(|| indexes.zip(numbers).for_each(|(i, k)| one(&key(*k, ascending), i)));
    }
    println!(
        "{layout} ascending={ascending}: {:.1} resident bytes a key; one by one: {} ns an insert, {} ns an overwrite",
        resident as f64 / KEYS as f64,
        inserts.put_ns(),
        overwrites.put_ns(),
    );
    black_box((set.len(), map.len()));
}

fn apply(keys: u64, sessions: u64) {
    let value = [7; 256];
    let (mut builder, mut answers, mut state) = (Builder::new(), Vec::new(), State::new(Limits::default()));
    let mut index = 0;
    if sessions > 0 {
        builder.start(0);
        for _ in 0..sessions {
            let open = Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op: Op::OpenSession };
            builder.push(&open).expect("within bounds");
        }
        index = 1;
        state.apply(index, &parse(&builder.finish()).expect("just built"), &mut answers);
    }
    let ids: Vec<u64> = answers.iter().map(|a| a.revision.session_id()).collect();
    let mut sequences = vec![0; ids.len()];
    let mut seed = 1;
    let (mut parsing, mut applying) = (Times::default(), Times::default());
    let fill = keys.div_ceil(WRITES);
    let batches = fill + 20_000;
    for batch in 0..batches {
        if batch == fill {
            report("insert", &mut parsing, &mut applying);
            (parsing, applying) = (Times::default(), Times::default());
        }
        builder.start(batch / 100);
        for position in 0..WRITES {
            let number = if batch < fill { batch * WRITES + position } else { random(&mut seed) % keys };
            let (session, sequence) = match ids.len() as u64 {
                0 => (0, 0),
                n => {
                    let at = (random(&mut seed) % n) as usize;
                    sequences[at] += 1;
                    (ids[at], sequences[at])
                }
            };
            put(&key(number, false), &value, session, sequence, &mut builder);
        }
        let bytes = builder.finish();
        answers.clear();
        index += 1;
        let parsed = parsing.time(|| parse(&bytes).expect("just built"));
        applying.time(|| state.apply(index, &parsed, &mut answers));
        assert!(answers.iter().all(|a| a.outcome.is_ok()));
    }
    report("overwrite", &mut parsing, &mut applying);
    let start = Instant::now();
    black_box(state.hash());
    println!("hash of {} keys: {:?}", state.keys(), start.elapsed());
}

/// The same batches to two states in turns, of which one tells a history.
fn history(keys: u64, value_bytes: usize) {
    let value = vec![7; value_bytes];
    let (mut builder, mut answers) = (Builder::new(), Vec::new());
    let (mut alone, mut told) = (State::new(Limits::default()), State::new(Limits::default()));
    let mut history = History::new(Bounds::default());
    let (mut without, mut with) = (Times::default(), Times::default());
    let (mut seed, fill) = (1, keys.div_ceil(WRITES));
    for batch in 0..fill + 20_000 {
        builder.start(batch / 100);
        for position in 0..WRITES {
            let number = if batch < fill { batch * WRITES + position } else { random(&mut seed) % keys };
            put(&key(number, false), &value, 0, 0, &mut builder);
        }
        let (bytes, index) = (builder.finish(), batch + 1);
        let parsed = parse(&bytes).expect("just built");
        let mut tell = |times: &mut Times, answers: &mut Vec<_>| {
            answers.clear();
            times.time(|| {
                told.apply_to(index, &parsed, answers, &mut history.recorder(batch / 100));
                history.applied_through(index);
            });
        };
        if batch % 2 == 0 {
            tell(&mut with, &mut answers);
        }
        answers.clear();
        without.time(|| alone.apply(index, &parsed, &mut answers));
        if batch % 2 == 1 {
            tell(&mut with, &mut answers);
        }
        if batch == fill {
            (without, with) = (Times::default(), Times::default());
        }
    }
    assert_eq!(alone.hash(), told.hash());
    let (without, with) = (without.put_ns(), with.put_ns());
    println!("overwrite of {value_bytes} B: apply {without} ns a put without history, {with} ns with it");
}

/// Deletes all keys slice by slice, plainly and then with a snapshot under way that keeps each.
fn erase(keys: u64) {
    let value = [7; 64];
    for frozen in [false, true] {
        let (mut builder, mut answers, mut state) = (Builder::new(), Vec::new(), State::new(Limits::default()));
        let mut index = 0;
        for batch in 0..keys.div_ceil(WRITES) {
            builder.start(0);
            (0..WRITES).for_each(|position| put(&key(batch * WRITES + position, false), &value, 0, 0, &mut builder));
            let bytes = builder.finish();
            index += 1;
            state.apply(index, &parse(&bytes).expect("just built"), &mut answers);
            answers.clear();
        }
        if frozen {
            state.freeze().expect("no snapshot is under way");
        }
        let range = erase::encode(&DeleteRange::default());
        let erasure = Erasure::parse(&range).expect("as encoded");
        let mut slices = Times::default();
        while state.keys() > 0 {
            builder.start(0);
            let op = Op::DeleteRange { from: &[], erasure };
            builder.push(&Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op }).expect("within bounds");
            let bytes = builder.finish();
            let parsed = parse(&bytes).expect("just built");
            index += 1;
            slices.time(|| state.apply(index, &parsed, &mut answers));
        }
        let [middle, high, most] = [0.5, 0.99, 1.0].map(|part| slices.at(part));
        println!("snapshot under way {frozen}: a slice of 1,000 keys takes {middle:?}, p99 {high:?}, at most {most:?}");
    }
}

fn report(what: &str, parsing: &mut Times, applying: &mut Times) {
    let (parse, apply) = (parsing.put_ns(), applying.put_ns());
    println!("{what}: parse {parse} ns, apply {apply} ns a put");
}

fn snapshot(keys: u64) {
    let value = [7; 64];
    let (mut builder, mut answers, mut state) = (Builder::new(), Vec::new(), State::new(Limits::default()));
    let mut index = 0;
    let mut seed = 1;
    let mut batch = |state: &mut State, numbers: &mut dyn Iterator<Item = u64>, times: &mut Times| {
        builder.start(0);
        numbers.for_each(|n| put(&key(n, false), &value, 0, 0, &mut builder));
        let bytes = builder.finish();
        answers.clear();
        index += 1;
        let parsed = parse(&bytes).expect("just built");
        times.time(|| state.apply(index, &parsed, &mut answers));
    };
    let (mut filling, mut applying, mut slicing) = (Times::default(), Times::default(), Times::default());
    for b in 0..keys / WRITES {
        batch(&mut state, &mut (b * WRITES..(b + 1) * WRITES), &mut filling);
    }
    state.freeze().expect("not frozen yet");
    let mut slices = Vec::new();
    loop {
        let mut numbers = (0..WRITES).map(|_| random(&mut seed) % keys);
        batch(&mut state, &mut numbers, &mut applying);
        match slicing.time(|| state.slice(64 << 10)) {
            Some(slice) => slices.push(slice),
            None => break,
        }
    }
    let bytes: usize = slices.iter().map(Vec::len).sum();
    println!(
        "{} slices, {} MiB, {:?} in the median, {:?} at p99; a put between them {} ns",
        slices.len(),
        bytes >> 20,
        slicing.at(0.5),
        slicing.at(0.99),
        applying.put_ns(),
    );
    state.thaw();
    let start = Instant::now();
    let mut loader = Loader::new(Limits::default());
    slices.iter().for_each(|s| loader.push(s).expect("just made"));
    let loaded = loader.finish().expect("whole");
    println!("loaded {} keys in {:?}", loaded.keys(), start.elapsed());
}
