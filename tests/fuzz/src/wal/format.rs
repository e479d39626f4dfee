//! Blocks, records and headers of the log as docs/format.md draws them: a second writer, which writes anything, and what makes
//! checksums right again.

use super::OWNER;
use ringbeam_shards::wal::LogId;

pub const BLOCK: usize = 4096;
pub const HEAD: usize = 32;
/// Payload bytes of a block.
pub const ROOM: usize = BLOCK - HEAD;
pub const RECORD_HEAD: usize = 40;

/// Block 0 of a segment.
pub fn header(number: u64, id: u64, bytes: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[4..8].copy_from_slice(b"RBWS");
    block[8] = 1;
    block[12..16].copy_from_slice(&OWNER.shard.to_le_bytes());
    for (at, value) in [(16, number), (24, id), (32, OWNER.ring), (40, OWNER.node), (48, OWNER.incarnation), (56, bytes)] {
        block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    seal_block(&mut block);
    block
}

/// The blocks of one flush.
pub fn flush(payload: &[u8], id: u64, sequence: u64) -> Vec<u8> {
    let count = payload.len().div_ceil(ROOM).max(1) as u16;
    let mut out = Vec::new();
    for number in 0..count {
        let from = usize::from(number) * ROOM;
        let part = &payload[from..payload.len().min(from + ROOM)];
        let mut block = vec![0; BLOCK];
        block[4..8].copy_from_slice(b"RBB\x01");
        block[8..16].copy_from_slice(&id.to_le_bytes());
        block[16..24].copy_from_slice(&sequence.to_le_bytes());
        block[24..26].copy_from_slice(&number.to_le_bytes());
        block[26..28].copy_from_slice(&count.to_le_bytes());
        block[28..30].copy_from_slice(&(part.len() as u16).to_le_bytes());
        block[HEAD..HEAD + part.len()].copy_from_slice(part);
        seal_block(&mut block);
        out.extend_from_slice(&block);
    }
    out
}

/// One record.
pub fn record(kind: u8, entry_kind: u8, flags: u16, id: LogId, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; RECORD_HEAD];
    out[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out[8] = kind;
    out[9] = entry_kind;
    out[10..12].copy_from_slice(&flags.to_le_bytes());
    out[16..24].copy_from_slice(&id.term.to_le_bytes());
    out[24..32].copy_from_slice(&id.leader.to_le_bytes());
    out[32..40].copy_from_slice(&id.index.to_le_bytes());
    out.extend_from_slice(payload);
    seal_record(&mut out);
    out
}

/// The payload of a state record: vote, committed, purged, last.
pub fn state(parts: [Option<LogId>; 4]) -> Vec<u8> {
    let mut out = vec![0; 128];
    for (slot, id) in out.chunks_exact_mut(32).zip(parts) {
        if let Some(id) = id {
            slot[0] = 1;
            slot[8..16].copy_from_slice(&id.term.to_le_bytes());
            slot[16..24].copy_from_slice(&id.leader.to_le_bytes());
            slot[24..32].copy_from_slice(&id.index.to_le_bytes());
        }
    }
    out
}

/// Zeros, or a block of some flush. Everything else may pass for a flush of one block that was damaged.
pub fn is_whole(block: &[u8]) -> bool {
    let number = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let (place, count, used) = (number(24), number(26), usize::from(number(28)));
    let shaped = place < count && used > 0 && (used == ROOM || used < ROOM && place + 1 == count);
    let whole = crc32fast::hash(&block[4..]).to_le_bytes() == block[..4] && block[4..8] == *b"RBB\x01";
    whole && shaped && block[16..24] != [0xff; 8] || block.iter().all(|byte| *byte == 0)
}

pub fn seal_block(block: &mut [u8]) {
    let crc = crc32fast::hash(&block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

fn seal_record(record: &mut [u8]) {
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the checksums of a segment's records and blocks right for what is there, as far as it can be read at all. Blocks of zeros
/// stay what they are.
pub fn seal_segment(file: &mut [u8]) {
    let mut block = BLOCK;
    while block + BLOCK <= file.len() {
        let count = usize::from(word(file, block + 26)).clamp(1, (file.len() - block) / BLOCK);
        let used = |file: &[u8], at: usize| usize::from(word(file, at + 28)).min(ROOM);
        let mut payload = Vec::new();
        for number in 0..count {
            let at = block + number * BLOCK;
            payload.extend_from_slice(&file[at + HEAD..at + HEAD + used(file, at)]);
        }
        let mut at = 0;
        while at + RECORD_HEAD <= payload.len() {
            let length = u32::from_le_bytes([payload[at + 4], payload[at + 5], payload[at + 6], payload[at + 7]]) as usize;
            let Some(end) = (at + RECORD_HEAD).checked_add(length).filter(|end| *end <= payload.len()) else { break };
            seal_record(&mut payload[at..end]);
            at = end;
        }
        let mut rest = &payload[..];
        for number in 0..count {
            let at = block + number * BLOCK;
            let (now, later) = rest.split_at(used(file, at));
            file[at + HEAD..at + HEAD + now.len()].copy_from_slice(now);
            rest = later;
        }
        block += count * BLOCK;
    }
    for block in file.chunks_exact_mut(BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            seal_block(block);
        }
    }
}

fn word(file: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([file[at], file[at + 1]])
}
