//! A batch out of the log: any bytes; then the state that comes of it.
//!
//! The input is either a batch as it is, or makes batches of valid writes, so that sessions, windows and namespaces are reached.

use crate::choices::Choices;
use ringbeam_shards::state::command::{self, Builder, Op, Write};
use ringbeam_shards::state::counter::Addition;
use ringbeam_shards::state::erase::Erasure;
use ringbeam_shards::state::extend::Extension;
use ringbeam_shards::state::{Answer, Limits, Loader, State};
use ringbeam_wire::client::Life;

/// Small, so that they are reached.
pub const LIMITS: Limits = Limits { sessions_max: 4, session_window: 3, answers_max: 8, session_lifetime_ms: 5_000 };

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let batches = if choices.byte() % 2 == 0 { vec![choices.rest().to_vec()] } else { batches(&mut choices, 12) };
    let (mut one, mut other) = (State::new(LIMITS), State::new(LIMITS));
    let mut refused = 0;
    for (index, bytes) in (1..).zip(&batches) {
        let batch = match command::parse(bytes) {
            Ok(batch) => batch,
            Err(malformed) => {
                assert!(malformed.at <= bytes.len() as u64 && !malformed.why.is_empty(), "{malformed:?}");
                refused += 1;
                continue;
            }
        };
        assert_eq!(batch.len(), batch.iter().count(), "what was checked can be read");
        let mut builder = Builder::new();
        builder.start(batch.ring_time_ms);
        for write in batch.iter() {
            builder.push(&write).expect("what the parser takes, the builder takes");
        }
        assert_eq!(builder.finish(), bytes[..], "there is one encoding of a batch");
        let before = one.ring_time_ms();
        let (mut answers, mut same) = (Vec::<Answer>::new(), Vec::new());
        one.apply(index, &batch, &mut answers);
        other.apply(index, &batch, &mut same);
        assert_eq!(answers.len(), batch.len(), "one answer a write");
        assert_eq!(answers, same, "equal logs, equal answers");
        assert!(one.ring_time_ms() >= before, "ring time never goes back");
        assert!(one.sessions() <= u64::from(LIMITS.sessions_max), "sessions are bounded");
        assert!(one.stats().answers <= u64::from(LIMITS.answers_max), "answers are bounded");
    }
    assert!(batches.len() == 1 || refused == 0, "the builder made them");
    assert_eq!(one.hash(), other.hash(), "equal logs, equal states");
    let loaded = load(&slices(&mut one, 4096)).expect("a state's own snapshot");
    assert_eq!((loaded.hash(), loaded.stats()), (one.hash(), one.stats()), "a snapshot holds the state");
}

/// Valid batches, at most `most`.
pub fn batches(choices: &mut Choices<'_>, most: usize) -> Vec<Vec<u8>> {
    let mut builder = Builder::new();
    let mut batches = Vec::new();
    let mut ring_time_ms = 0u64;
    while !choices.is_over() && batches.len() < most {
        ring_time_ms = match choices.byte() % 8 {
            0 => choices.number(ring_time_ms),
            step => ring_time_ms.saturating_add(u64::from(step) * 700),
        };
        builder.start(ring_time_ms);
        for _ in 0..=choices.below(6) {
            // Beyond the format's limits is refused, and the batch is as before.
            let _ = builder.push(&write_of(choices));
        }
        batches.push(builder.finish().to_vec());
    }
    batches
}

/// 1 of all numbers; 7, up to 9; the least number.
const ADDITIONS: [&[u8]; 3] = [
    b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x80\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
    b"\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\x80\xff\xff\xff\xff\xff\xff\xff\x7f",
];
/// To values of at most 255 bytes, or 8.
const DELTAS: [&[u8]; 6] = [
    b"\x01\0\0\0\xff\0\0\0more",
    b"\x02\0\0\0\xff\0\0\0{\"a\":{\"b\":1e2}}",
    b"\x02\0\0\0\xff\0\0\0{\"a\":null,\"c\":[]}",
    b"\x02\0\0\0\xff\0\0\0{\"a\":",
    b"\x02\0\0\0\x08\0\0\0{\"long\":\"longer\"}",
    b"\x02\0\0\0\xff\0\0\0{}",
];
/// To the last key, two at once; before "b"; before the first.
const RANGES: [&[u8]; 3] = [b"\x02\0\0\0", b"\x05\0\0\0b", b"\x01\0\0\0\0"];

fn write_of<'a>(choices: &mut Choices<'a>) -> Write<'a> {
    let kind = choices.byte();
    let namespace = ["", "a", "b", "a-longer-name"][choices.below(4)];
    let (key_bytes, value_bytes) = (1 + choices.below(4), [0, 1, 8, 300][choices.below(4)]);
    let op = match kind % 16 {
        5 => {
            let addition = Addition::parse(ADDITIONS[choices.below(3)]).expect("as written below");
            Op::Add { key: choices.bytes(key_bytes), addition }
        }
        6 => {
            let extension = Extension::parse(DELTAS[choices.below(6)]).expect("as written below");
            Op::Extend { key: choices.bytes(key_bytes), extension }
        }
        7 if choices.below(2) == 0 => Op::Resolve,
        7 => {
            let erasure = Erasure::parse(RANGES[choices.below(3)]).expect("as written below");
            Op::DeleteRange { from: choices.bytes(key_bytes), erasure }
        }
        0..=4 => Op::Put { key: choices.bytes(key_bytes), value: choices.bytes(value_bytes) },
        8..=10 => Op::Delete { key: choices.bytes(key_bytes) },
        11 | 12 => Op::OpenSession,
        13 => Op::CloseSession,
        14 => Op::PutFor { key: choices.bytes(key_bytes), life: life(choices), value: choices.bytes(value_bytes) },
        _ => match choices.below(4) {
            0 => Op::GrantLease { ttl_ms: 1 + choices.number(1_000) / 2 },
            1 => Op::KeepLease { lease: id(choices) },
            2 => Op::RevokeLease { lease: id(choices) },
            _ => Op::Expire { most: 1 + choices.below(5) as u32 },
        },
    };
    if matches!(op, Op::OpenSession | Op::KeepLease { .. } | Op::Expire { .. }) {
        return Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op };
    }
    let namespace = if matches!(op, Op::GrantLease { .. } | Op::RevokeLease { .. } | Op::Resolve) { "" } else { namespace };
    // The id of a session is the revision of the write that opened it.
    let session = id(choices);
    let (sequence, answered_below) = (choices.number(1), choices.number(0));
    match op {
        Op::CloseSession => Write { namespace: "", session, sequence: 0, answered_below: 0, op },
        Op::Resolve => Write { namespace, session, sequence, answered_below, op },
        _ if kind & 0x40 == 0 => Write { namespace, session: 0, sequence: 0, answered_below: 0, op },
        _ => Write { namespace, session, sequence, answered_below, op },
    }
}

/// An id of a session or a lease that may be there.
fn id(choices: &mut Choices<'_>) -> u64 {
    (1 + choices.below(6) as u64) << 20 | choices.below(3) as u64
}

/// Of a short time, of a lease that may be there, or of both.
fn life(choices: &mut Choices<'_>) -> Life {
    let ttl_ms = 1 + choices.below(3_000) as u64;
    match choices.below(3) {
        0 => Life { ttl_ms, lease: 0 },
        1 => Life { ttl_ms, lease: id(choices) },
        _ => Life { ttl_ms: 0, lease: id(choices) },
    }
}

/// All slices of a snapshot of `state`, as it is now.
pub fn slices(state: &mut State, bytes_about: usize) -> Vec<Vec<u8>> {
    state.freeze().expect("nothing is frozen");
    let slices = std::iter::from_fn(|| state.slice(bytes_about)).collect();
    state.thaw();
    slices
}

/// The state out of whole slices.
pub fn load(slices: &[Vec<u8>]) -> Result<State, String> {
    let mut loader = Loader::new(LIMITS);
    for slice in slices {
        loader.push(slice).map_err(|why| why.to_string())?;
    }
    loader.finish().map_err(|why| why.to_string())
}
