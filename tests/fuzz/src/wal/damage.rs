//! A log by the real writer, damaged: bits, bytes, blocks, files; with checksums as they come, or made right again.
//!
//! While checksums are as they come, the log that was written says what may be found: damage is refused, or what is found is a
//! beginning of what was written, flush by flush. When the damage has left no block unwritten, nothing may be missing at all.

use super::format::{BLOCK, seal_segment};
use super::trial::{Said, recover};
use super::{CONFIG, DIR, OWNER, path};
use crate::choices::Choices;
use crate::disk::{Files, files_of, world_with};
use bytes::Bytes;
use ringbeam_shards::io::Env;
use ringbeam_shards::io::channel::oneshot;
use ringbeam_shards::io::sim::{Sim, SimDisk};
use ringbeam_shards::wal::{Entry, LogId, Vote, Wal};
use std::time::Duration;

/// Changes of one log, at most.
const EDITS_MAX: usize = 12;
const STEPS_MAX: usize = 20;

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let mut trial = choices.clone();
    choices.bytes(5);
    let (mut files, history) = written(&mut choices);
    let mut edits = 0;
    let mut only_rot = true;
    while !choices.is_over() && edits < EDITS_MAX {
        only_rot &= edit(&mut files, &mut choices);
        edits += 1;
    }
    let sealed = flags & 1 == 1 && edits > 0;
    if sealed {
        files.values_mut().filter(|file| file.len() > BLOCK).for_each(|file| seal_segment(file));
    }
    let verdict = recover(&files, &mut trial);
    let written = history.last().expect("a new log is empty");
    match verdict {
        Err(why) => assert!(edits > 0, "an undamaged log is refused: {why}"),
        Ok(_) if sealed => {}
        Ok(said) if edits == 0 => assert!(is(&said, written), "written was {written:?}, found {said:?}"),
        Ok(said) => {
            let step = history.iter().rposition(|then| is(&said, then));
            assert!(step.is_some(), "the log never was what was found: {said:?}");
            assert!(!only_rot || is(&said, written), "rot has taken {:?} away, found {said:?}", written);
        }
    }
}

/// The commit position is written when something else is: it may be older.
fn is(said: &Said, then: &Said) -> bool {
    (said.vote, said.purged, said.last, &said.entries) == (then.vote, then.purged, then.last, &then.entries)
}

/// A log as the choices have it, and all that it was on its way, oldest first.
fn written(choices: &mut Choices<'_>) -> (Files, Vec<Said>) {
    let (world, host) = world_with(1, &Files::new());
    let disk = world.disk(host);
    let history = world.block_on(host, write(disk.clone(), choices));
    (files_of(&disk), history)
}

async fn write(disk: SimDisk, choices: &mut Choices<'_>) -> Vec<Said> {
    let mut wal = Wal::<Sim>::open(disk.clone(), DIR, OWNER, CONFIG).await.expect("a new log");
    let mut now = Said { vote: None, committed: None, purged: None, last: None, entries: Vec::new() };
    let mut history = vec![now.clone()];
    let mut term = 1;
    for _ in 0..choices.below(STEPS_MAX + 1) {
        let kind = choices.byte();
        let held = |now: &Said, at: u8| now.entries.get(usize::from(at) % now.entries.len().max(1)).map(|entry| entry.id);
        match kind % 16 {
            0..=7 => {
                let from = now.last.map_or(0, |last| last.index + 1);
                let lengths = choices.bytes(1 + choices.clone().below(4));
                let few: Vec<Entry> = (from..)
                    .zip(lengths)
                    .map(|(index, length)| {
                        let bytes = [usize::from(*length), usize::from(*length) * 23][usize::from(kind >> 7)];
                        let payload = Bytes::from(vec![index as u8 ^ *length; bytes]);
                        Entry { id: LogId { term, leader: 1, index }, kind: kind >> 4 & 3, payload }
                    })
                    .collect();
                for entry in &few {
                    // Many go into more than one flush.
                    now.entries.push(entry.clone());
                    now.last = Some(entry.id);
                    history.push(now.clone());
                }
                durable(|flushed| wal.append(few, flushed)).await;
            }
            8 => {
                term += 1;
                let vote = Vote { term, node: u64::from(kind >> 4 & 3), committed: kind >= 128 };
                now.vote = Some(vote);
                durable(|flushed| wal.save_vote(vote, flushed)).await;
            }
            9 => {
                let after = held(&now, choices.byte()).or(now.purged);
                if after >= now.purged && after.is_some() {
                    now.entries.retain(|entry| Some(entry.id) <= after);
                    now.last = after;
                    term += 1;
                    durable(|flushed| wal.truncate_after(after, flushed)).await;
                }
            }
            10 | 11 => {
                // Also beyond the end, as after a snapshot from a peer.
                let beyond = now.last.map_or(3, |last| last.index + 3);
                let upto = match choices.byte() {
                    255 => Some(LogId { term, leader: 1, index: beyond }),
                    at => held(&now, at),
                };
                if let Some(upto) = upto {
                    now.entries.retain(|entry| entry.id.index > upto.index);
                    now.purged = Some(upto);
                    now.last = now.entries.last().map_or(Some(upto), |entry| Some(entry.id));
                    durable(|flushed| wal.purge(upto, flushed)).await;
                }
            }
            12 | 13 => {
                let id = held(&now, choices.byte());
                wal.save_committed(id.max(now.purged));
            }
            14 => {
                wal.close().await;
                wal = Wal::open(disk.clone(), DIR, OWNER, CONFIG).await.expect("it was closed in order");
            }
            // Chores get on.
            _ => Sim::sleep(Duration::from_micros(u64::from(choices.word()) % 8_192)).await,
        }
        if history.last() != Some(&now) {
            history.push(now.clone());
        }
    }
    history
}

async fn durable(start: impl FnOnce(Box<dyn FnOnce(std::io::Result<()>)>)) {
    let (done, waiting) = oneshot::channel();
    start(Box::new(move |outcome| drop(done.send(outcome.map_err(|error| error.to_string())))));
    assert_eq!(waiting.await.ok(), Some(Ok(())), "the disk works");
}

/// Changes one thing. True when it can only make blocks rotten: none unwritten, none that was elsewhere or earlier.
fn edit(files: &mut Files, choices: &mut Choices<'_>) -> bool {
    let kind = choices.byte();
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return false;
    }
    let name = &names[choices.below(names.len())];
    let other = &names[choices.below(names.len())];
    let file = files.get_mut(name).expect("it is listed");
    let blocks = (file.len() / BLOCK).max(1);
    let (block, target) = (choices.below(blocks), choices.below(blocks));
    if file.len() < BLOCK {
        return false;
    }
    let of = |file: &[u8], block: usize| file.get(block * BLOCK..(block + 1) * BLOCK).map(<[u8]>::to_vec);
    match kind % 12 {
        0 | 1 => {
            let at = block * BLOCK + place(choices);
            // A block of zeros that gets a bit is rotten, and was no part of the log.
            file[at] ^= 1 << choices.below(8);
            return true;
        }
        2 => {
            let at = block * BLOCK + place(choices);
            let length = (1 + choices.below(32)).min(file.len() - at);
            let bytes = choices.bytes(length);
            let end = at + bytes.len();
            file[at..end].copy_from_slice(bytes);
        }
        3 | 4 => {
            // A field: of the block, or of a record in it.
            let field = [8, 16, 24, 26, 28, HEAD_OF_RECORD, HEAD_OF_RECORD + 4, HEAD_OF_RECORD + 8][choices.below(8)];
            let shift = choices.below(64) * 8 * usize::from(kind >> 7);
            let at = block * BLOCK + (field + shift) % (BLOCK - 8);
            let width = [1, 2, 4, 8][choices.below(4)];
            let usual = u64::from_le_bytes(std::array::from_fn(|byte| file[at + byte]));
            let number = choices.number(usual).to_le_bytes();
            file[at..at + width].copy_from_slice(&number[..width]);
        }
        5 => file[block * BLOCK..(block + 1) * BLOCK].fill(0),
        6 => {
            if let Some(copy) = of(file, block) {
                file[target * BLOCK..(target + 1) * BLOCK].copy_from_slice(&copy);
            }
        }
        7 => {
            for at in 0..BLOCK {
                file.swap(block * BLOCK + at, target * BLOCK + at);
            }
        }
        8 => file.truncate(block * BLOCK),
        9 => {
            // From another file: what a misdirected write would do.
            let (copy, to) = (of(file, block), files.get_mut(other));
            if let (Some(copy), Some(to)) = (copy, to.filter(|to| to.len() >= (target + 1) * BLOCK)) {
                to[target * BLOCK..(target + 1) * BLOCK].copy_from_slice(&copy);
            }
        }
        10 => {
            let contents = files.remove(name).unwrap_or_default();
            if kind >> 4 & 1 == 1 {
                files.insert(path(choices.number(2)), contents);
            }
        }
        _ => {
            // The tail of the file, as if it had never been written.
            file[block * BLOCK..].fill(0);
        }
    }
    false
}

const HEAD_OF_RECORD: usize = super::format::HEAD;

/// Where in a block: half of the time near its front, where its header and its first record are.
fn place(choices: &mut Choices<'_>) -> usize {
    let word = usize::from(choices.word());
    if word & 1 == 0 { word / 2 % 128 } else { word / 2 % BLOCK }
}
