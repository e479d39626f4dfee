//! A snapshot's slices: frozen from a real state while it goes on, damaged, cut anywhere, and loaded.

use crate::batch::{LIMITS, batches, load, slices};
use crate::choices::Choices;
use ringbeam_shards::state::{Loader, State, command};

const HEAD_BYTES: usize = 32;
const PAYLOAD_BYTES_AT: usize = 12;
const CRC_AT: usize = 24;

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let cuts = choices.bytes(6);
    let edits_from = choices.below(256);
    let (state, mut slices) = frozen(&mut Choices::new(choices.clone().bytes(edits_from * 4)));
    choices.bytes(edits_from * 4);
    let digest = state.hash();
    let mut edits = 0;
    while !choices.is_over() && edits < 12 {
        damage(&mut slices, &mut choices);
        edits += 1;
    }
    if flags & 1 == 1 {
        slices.iter_mut().for_each(|slice| seal(slice));
    }
    let stream = slices.concat();
    let whole = pushed(&stream, &[255]);
    let cut = pushed(&stream, cuts);
    assert_eq!(cut.as_ref().map(State::hash), whole.as_ref().map(State::hash), "the verdict does not depend on the cuts");
    match whole {
        Ok(mut loaded) => {
            if edits == 0 || flags & 1 == 0 {
                assert_eq!((loaded.hash(), loaded.stats()), (digest, state.stats()), "what loads is what was frozen");
            }
            let again = load(&self::slices(&mut loaded, 1 << 16)).expect("what was loaded can be frozen and loaded");
            assert_eq!(again.hash(), loaded.hash());
            assert_eq!(again.applied(), loaded.applied());
            // And goes on like any state.
            let batch = [1, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, b'k', b'v'];
            let batch = command::parse(&batch).expect("one put");
            loaded.apply(loaded.applied() + 1, &batch, &mut Vec::new());
            assert_eq!(loaded.get("", b"k").map(|found| found.value), Some(&b"v"[..]));
        }
        Err(why) => assert!(edits > 0 && !why.is_empty(), "an undamaged snapshot is refused: {why}"),
    }
}

/// A state as it was when it was frozen, and its slices, which were taken while more was applied.
pub fn frozen(choices: &mut Choices<'_>) -> (State, Vec<Vec<u8>>) {
    let (mut live, mut then) = (State::new(LIMITS), State::new(LIMITS));
    let all = batches(choices, 24);
    let moment = all.len() / 2;
    let mut slices = Vec::new();
    let apply = |state: &mut State, index: usize| {
        let batch = command::parse(&all[index]).expect("the builder made it");
        state.apply(index as u64 + 1, &batch, &mut Vec::new());
    };
    for index in 0..moment {
        apply(&mut live, index);
        apply(&mut then, index);
    }
    live.freeze().expect("nothing is frozen");
    for index in moment..all.len() {
        apply(&mut live, index);
        slices.extend(live.slice(4096));
    }
    slices.extend(std::iter::from_fn(|| live.slice(4096)));
    live.thaw();
    (then, slices)
}

/// Changes one thing.
pub fn damage(slices: &mut Vec<Vec<u8>>, choices: &mut Choices<'_>) {
    let Some(last) = slices.len().checked_sub(1) else { return };
    let kind = choices.byte() % 10;
    let (at, other) = (choices.below(slices.len()), choices.below(slices.len()));
    let slice = &mut slices[at];
    let place = usize::from(choices.word()) % slice.len().max(1);
    match kind {
        0 | 1 if !slice.is_empty() => slice[place] ^= 1 << choices.below(8),
        2 | 3 => {
            let length = choices.below(16);
            let end = slice.len();
            for (byte, new) in slice[place.min(end)..].iter_mut().zip(choices.bytes(length)) {
                *byte = *new;
            }
        }
        4 => {
            let usual = place as u64;
            let number = choices.number(usual).to_le_bytes();
            let width = [1, 2, 4, 8][choices.below(4)];
            let end = slice.len();
            for (byte, new) in slice[place.min(end)..].iter_mut().zip(&number[..width]) {
                *byte = *new;
            }
        }
        5 => slice.truncate(place),
        6 => {
            let length = choices.below(64);
            let bytes = choices.bytes(length).to_vec();
            slice.splice(place.min(slice.len())..place.min(slice.len()), bytes);
        }
        7 => slices.swap(at, other),
        8 => {
            let copy = slice.clone();
            slices.insert(other, copy);
        }
        _ if last > 0 => drop(slices.remove(at)),
        _ => {}
    }
}

/// Makes length and checksum right for what is there.
pub fn seal(slice: &mut [u8]) {
    if slice.len() < HEAD_BYTES {
        return;
    }
    let bytes = (slice.len() - HEAD_BYTES) as u32;
    slice[PAYLOAD_BYTES_AT..PAYLOAD_BYTES_AT + 4].copy_from_slice(&bytes.to_le_bytes());
    slice[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32fast::hash(slice);
    slice[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The real loader, fed in pieces whose lengths go round through `cuts`; 255 stands for all.
fn pushed(stream: &[u8], cuts: &[u8]) -> Result<State, String> {
    let mut loader = Loader::new(LIMITS);
    let mut left = stream;
    for cut in cuts.iter().copied().chain([255]).cycle() {
        if left.is_empty() {
            break;
        }
        let wanted = if cut == 255 { left.len() } else { 1 + usize::from(cut) };
        let (now, later) = left.split_at(wanted.min(left.len()));
        left = later;
        if let Err(why) = loader.push(now) {
            assert!(why.at <= stream.len() as u64, "{why} in {} bytes", stream.len());
            assert_eq!(loader.push(stream), Err(why.clone()), "after an error, always that error");
            assert_eq!(loader.finish().err(), Some(why.clone()));
            return Err(why.to_string());
        }
    }
    loader.finish().map_err(|why| why.to_string())
}
