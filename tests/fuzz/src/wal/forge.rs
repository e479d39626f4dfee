//! Segments out of any records, all checksums right: what no disk does, and a defect of ours might.
//!
//! Mostly what is ordinary (the next index, the next sequence, the state as it is), so that the story goes on for long; now and
//! then what is not. The state that a segment begins with is kept here a second time, as docs/format.md tells it.

use super::format::{BLOCK, flush, header, record, seal_segment, state};
use super::trial::recover;
use super::{CONFIG, path};
use crate::choices::Choices;
use crate::disk::{Files, padded};
use ringbeam_shards::wal::LogId;

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut trial = choices.clone();
    choices.bytes(5);
    let files = if choices.byte() % 8 == 7 { raw(&mut choices) } else { forged(&mut choices) };
    // Nothing was written, so there is nothing that should be found: what `recover` holds is all.
    let _ = recover(&files, &mut trial);
}

/// Segments whose blocks are the input; headers and checksums are made right.
fn raw(choices: &mut Choices<'_>) -> Files {
    let (count, seal) = (1 + choices.below(2), choices.byte() % 2 == 0);
    let mut files = Files::new();
    for number in 1..=count as u64 {
        let length = choices.below(65_536);
        let blocks = padded(choices.bytes(length.min(7 * BLOCK)).to_vec());
        let mut file = header(number, number, (BLOCK + blocks.len()) as u64);
        file.extend_from_slice(&blocks);
        if seal {
            seal_segment(&mut file);
        }
        files.insert(path(number), file);
    }
    files
}

/// The state as records make it: vote, committed, purged, last.
#[derive(Default)]
struct Model([Option<LogId>; 4]);

impl Model {
    fn last(&self) -> u64 {
        self.0[3].map_or(u64::MAX, |id| id.index)
    }

    fn apply(&mut self, kind: u8, flags: u16, id: LogId) {
        let [vote, committed, purged, last] = &mut self.0;
        let given = (flags & 1 == 1).then_some(id);
        let index = |id: &Option<LogId>| id.map(|id| id.index);
        match kind {
            1 => *last = Some(id),
            2 => *vote = Some(LogId { index: u64::from(flags & 1), ..id }),
            3 => *last = if index(purged) >= index(&given) { *purged } else { given },
            4 => {
                if index(purged) <= Some(id.index) {
                    *purged = Some(id);
                }
                if index(purged) >= index(last) {
                    *last = *purged;
                }
            }
            5 => *committed = given,
            _ => {}
        }
        if index(committed) > index(last) {
            *committed = *last;
        }
    }
}

fn forged(choices: &mut Choices<'_>) -> Files {
    let mut files = Files::new();
    let mut model = Model::default();
    let mut number = if choices.byte() % 4 == 3 { choices.number(1) } else { 1 };
    let mut sequence = if number == 1 { 1 } else { choices.number(5) };
    if number != 1 {
        // Older segments are gone: the first one's state tells what they held.
        model.0 = std::array::from_fn(|_| (choices.byte() % 4 != 0).then(|| id(choices, 7)));
    }
    for _ in 0..=choices.below(4) {
        let segment_id = choices.number(number);
        let length = if choices.byte() % 16 == 15 { 2 + choices.below(12) } else { CONFIG.segment_bytes as usize / BLOCK };
        let mut file = header(number, segment_id, (length * BLOCK) as u64);
        for at in 0..choices.below(8) {
            let mut payload = Vec::new();
            if at == 0 {
                payload.extend(record(7, 0, 0, LogId::default(), &state(model.0)));
            }
            for _ in 0..=choices.below(5) {
                payload.extend(any_record(choices, &mut model));
            }
            let blocks = flush(&payload, segment_id, sequence);
            if file.len() + blocks.len() > length * BLOCK {
                break;
            }
            file.extend_from_slice(&blocks);
            sequence = if choices.byte() % 32 == 31 { choices.number(sequence) } else { sequence.wrapping_add(1) };
        }
        file.resize(length * BLOCK, 0);
        files.insert(path(number), file);
        number = if choices.byte() % 32 == 31 { choices.number(number) } else { number.wrapping_add(1) };
        if choices.is_over() {
            break;
        }
    }
    files
}

fn any_record(choices: &mut Choices<'_>, model: &mut Model) -> Vec<u8> {
    let kind = choices.byte();
    let next = model.last().wrapping_add(1);
    let (kind, flags, usual, bytes) = match kind % 16 {
        0..=7 => (1, 0, next, choices.below(256) * usize::from(1 + kind / 16)),
        8 => (2, u16::from(kind / 16), 0, 0),
        9 | 10 => (3, u16::from(kind / 16), next.wrapping_sub(2), 0),
        11 | 12 => (4, 1, next.wrapping_sub(2), 0),
        13 => (5, u16::from(kind / 16), next.wrapping_sub(1), 0),
        14 => (6, 0, 0, 0),
        _ => (choices.byte(), u16::from(choices.byte()), next, choices.below(200)),
    };
    let mut id = id(choices, usual);
    if kind == 1 && choices.byte() % 16 != 15 {
        id.index = next;
    }
    if choices.byte() % 64 == 63 {
        return choices.bytes(64).to_vec();
    }
    model.apply(kind, flags, id);
    record(kind, choices.byte() % 4, flags, id, &vec![kind; bytes])
}

fn id(choices: &mut Choices<'_>, usual: u64) -> LogId {
    let (term, index) = (1 + u64::from(choices.byte() % 4), choices.number(usual));
    LogId { term: if term == 4 { choices.number(3) } else { term }, leader: 1, index }
}
