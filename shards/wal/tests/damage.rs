//! Damage of every kind at every kind of place: cut, refused with its place, or harmless with the reason.

use super::super::block::{FlushWriter, blocks_for};
use super::super::record::Record;
use super::super::recovery::class::{Class, classify};
use super::super::segments::header::SegmentHeader;
use super::*;

const BLOCK: usize = 4096;
const FIRST: &str = "wal-0000000000000001.seg";

/// The flushes of a segment file: first block and number of blocks.
fn flushes(bytes: &[u8]) -> Vec<(usize, usize)> {
    let id = SegmentHeader::decode(&bytes[..BLOCK]).expect("a segment").id;
    let mut out = Vec::new();
    for (at, block) in bytes.chunks(BLOCK).enumerate().skip(1) {
        if let Class::Own(header) = classify(block, id)
            && header.number == 0
        {
            out.push((at, usize::from(header.blocks)));
        }
    }
    out
}

/// A log as a crash leaves it: six flushes of 1, 1, 3, 1, 2 and 4 blocks with two entries each.
async fn crashed() -> (Scratch, Vec<(usize, usize)>) {
    let scratch = Scratch::new("damage");
    let wal = scratch.open(SMALL).await.expect("a new log");
    for (flush, bytes) in [10, 100, 5000, 50, 3000, 7000].into_iter().enumerate() {
        let index = flush as u64 * 2;
        append(&wal, vec![entry(1, index, bytes), entry(1, index + 1, bytes)]).await.expect("flushed");
    }
    // The next segment is prepared, as it nearly always is.
    while !scratch.names().contains(&"wal-0000000000000002.seg".to_owned()) {
        Uring::sleep(std::time::Duration::from_millis(1)).await;
    }
    let copy = scratch.copy("crashed");
    wal.close().await;
    let flushes = flushes(&copy.read(FIRST));
    assert_eq!(flushes.iter().map(|flush| flush.1).collect::<Vec<_>>(), [1, 1, 3, 1, 2, 4]);
    (copy, flushes)
}

fn entries(count: u64) -> Vec<Entry> {
    (0..count).map(|i| entry(1, i, [10, 100, 5000, 50, 3000, 7000][i as usize / 2])).collect()
}

/// Opens, expects exactly these entries, and that the log goes on and opens again.
async fn expect_entries(scratch: &Scratch, expected: &[Entry], what: &str) {
    let wal = scratch.open(SMALL).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(all(&wal).await, expected, "{what}");
    let next = entry(7, expected.len() as u64, 9000);
    append(&wal, vec![next.clone()]).await.expect("flushed");
    wal.close().await;
    let wal = scratch.open(SMALL).await.unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(all(&wal).await.last(), Some(&next), "{what}");
    wal.close().await;
}

/// Opens and expects `Corrupt` with this place and a sentence that contains `says`.
async fn expect_corrupt(scratch: &Scratch, name: &str, block: usize, next_index: u64, says: &str) {
    match scratch.open(SMALL).await {
        Ok(_) => panic!("opened, though {name} block {block}: {says}"),
        Err(OpenError::Corrupt { file, offset, index, why }) => {
            assert_eq!((file, offset), (format!("log/{name}"), (block * BLOCK) as u64), "{why}");
            assert_eq!(index, next_index, "{why}");
            assert!(why.contains(says), "{why} / {says}");
        }
        Err(other) => panic!("{other}"),
    }
}

/// A whole block of another segment: what a recycled file is full of.
fn stale_block() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut writer = FlushWriter::new(&mut block);
    Record::Seal.encode(|bytes| writer.put(bytes));
    writer.finish(0xDEAD, 6);
    block
}

#[test]
fn a_torn_last_flush_is_cut_and_exactly_the_durable_prefix_remains() {
    run(async {
        let (crashed, flushes) = crashed().await;
        expect_entries(&crashed.copy("whole"), &entries(12), "undamaged").await;
        let (first, blocks) = flushes[5];
        // Every proper subset of the flush's blocks, zeroed; and the same with an old block instead of zeros.
        for missing in 1u32..1 << blocks {
            for unwritten in [vec![0; BLOCK], stale_block()] {
                let scratch = crashed.copy("torn");
                for block in (0..blocks).filter(|block| missing >> block & 1 == 1) {
                    scratch.overwrite(FIRST, (first + block) * BLOCK, &unwritten);
                }
                expect_entries(&scratch, &entries(10), &format!("missing {missing:b}")).await;
            }
        }
        // One block missing, another damaged: the missing one proves that nobody was told.
        let scratch = crashed.copy("both");
        scratch.overwrite(FIRST, first * BLOCK, &[0; BLOCK]);
        scratch.flip(FIRST, (first + 1) * BLOCK + 100);
        expect_entries(&scratch, &entries(10), "missing and rotten").await;
    });
}

#[test]
fn damage_before_the_tail_is_refused_with_its_place() {
    run(async {
        let (crashed, flushes) = crashed().await;
        for (number, &(first, blocks)) in flushes.iter().enumerate().take(5) {
            let next_index = number as u64 * 2;
            for block in first..first + blocks {
                // Block header (each field), payload, padding.
                for at in [0, 4, 8, 16, 24, 26, 28, 32, 2000, 4095] {
                    let scratch = crashed.copy("flip");
                    scratch.flip(FIRST, block * BLOCK + at);
                    expect_corrupt(&scratch, FIRST, block, next_index, "was written after it").await;
                }
                for missing in [vec![0; BLOCK], stale_block()] {
                    let scratch = crashed.copy("hole");
                    scratch.overwrite(FIRST, block * BLOCK, &missing);
                    expect_corrupt(&scratch, FIRST, block, next_index, "was written after it").await;
                }
            }
        }
    });
}

#[test]
fn rot_in_the_last_flush_is_refused_because_it_may_have_been_acknowledged() {
    run(async {
        let (crashed, flushes) = crashed().await;
        let (first, blocks) = flushes[5];
        for block in first..first + blocks {
            for at in [0, 8, 16, 24, 32, 4095] {
                let scratch = crashed.copy("rot");
                scratch.flip(FIRST, block * BLOCK + at);
                expect_corrupt(&scratch, FIRST, block, 10, "may have been acknowledged").await;
            }
        }
        // A last flush of one block: nothing else tells of it.
        for block in first..first + blocks {
            crashed.overwrite(FIRST, block * BLOCK, &[0; BLOCK]);
        }
        let (first, _) = flushes[4];
        crashed.overwrite(FIRST, (first + 1) * BLOCK, &[0; BLOCK]);
        crashed.overwrite(FIRST, first * BLOCK, &[0; BLOCK]);
        let (first, _) = flushes[3];
        crashed.flip(FIRST, first * BLOCK + 50);
        expect_corrupt(&crashed, FIRST, first, 6, "may have been acknowledged").await;
    });
}

#[test]
fn rot_where_nothing_was_written_is_harmless_but_right_behind_the_tail() {
    run(async {
        let (crashed, flushes) = crashed().await;
        let tail = flushes[5].0 + flushes[5].1;
        for block in [tail + 1, tail + 5, 63] {
            let scratch = crashed.copy("unused");
            scratch.flip(FIRST, block * BLOCK + 17);
            expect_entries(&scratch, &entries(12), "unused space").await;
        }
        // Here it cannot be told from an acknowledged flush of one block.
        crashed.flip(FIRST, tail * BLOCK + 17);
        expect_corrupt(&crashed, FIRST, tail, 12, "may have been acknowledged").await;
    });
}

/// A fuzzer's: that the next segment begins with a torn flush was all that told that the damaged block before it was never used.
/// Once that flush was wiped, the next opening refused the log.
#[test]
fn damage_that_a_torn_flush_excuses_is_wiped_before_it() {
    run(async {
        let scratch = Scratch::new("excused");
        let wal = scratch.open(SMALL).await.expect("a new log");
        let written: Vec<Entry> = (0..16).map(|i| entry(1, i, 13_000)).collect();
        for entry in &written {
            append(&wal, vec![entry.clone()]).await.expect("flushed");
        }
        let crashed = scratch.copy("crashed");
        wal.close().await;
        let second = "wal-0000000000000002.seg";
        assert_eq!(
            (flushes(&crashed.read(FIRST)).last(), &flushes(&crashed.read(second))[..]),
            (Some(&(57, 4)), &[(1, 4)][..])
        );
        crashed.flip(FIRST, 61 * BLOCK + 17);
        crashed.overwrite(second, 2 * BLOCK, &[0; BLOCK]);
        let wal = crashed.open(SMALL).await.expect("the damaged block was never used");
        assert_eq!(all(&wal).await, written[..15]);
        let again = crashed.copy("again");
        wal.close().await;
        expect_entries(&again, &written[..15], "opened once, and crashed").await;
    });
}

#[test]
fn a_damaged_segment_header_is_refused_also_of_the_segment_prepared_next() {
    run(async {
        let (crashed, _) = crashed().await;
        for (name, index) in [(FIRST, 0), ("wal-0000000000000002.seg", 12)] {
            for at in [0, 4, 8, 16, 24, 40, 4095] {
                let scratch = crashed.copy("header");
                scratch.flip(name, at);
                expect_corrupt(&scratch, name, 0, index, "the segment header is wrong").await;
            }
        }
        let other = crashed.copy("version");
        let mut block = other.read(FIRST)[..BLOCK].to_vec();
        block[8] = 9;
        let crc = crc32fast::hash(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        other.overwrite(FIRST, 0, &block);
        let error = other.open(SMALL).await.expect_err("another version").to_string();
        assert_eq!(error, format!("log log/{FIRST} has format version 9, this binary reads version 1"));
    });
}

/// Rewrites the flush at `first` with the records that `change` makes of its payload; every block checksum is right.
fn rewrite(scratch: &Scratch, name: &str, (first, blocks): (usize, usize), change: impl FnOnce(&mut Vec<u8>)) {
    let bytes = scratch.read(name);
    let id = SegmentHeader::decode(&bytes[..BLOCK]).expect("a segment").id;
    let mut payload = Vec::new();
    let mut sequence = 0;
    for block in bytes[first * BLOCK..(first + blocks) * BLOCK].chunks(BLOCK) {
        let Class::Own(header) = classify(block, id) else { panic!("a whole flush") };
        payload.extend_from_slice(super::super::recovery::class::payload(block, &header));
        sequence = header.sequence;
    }
    change(&mut payload);
    let mut flush = vec![0; blocks_for(payload.len()) * BLOCK];
    let mut writer = FlushWriter::new(&mut flush);
    writer.put(&payload);
    writer.finish(id, sequence);
    assert_eq!(flush.len(), blocks * BLOCK);
    scratch.overwrite(name, first * BLOCK, &flush);
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(|bytes| out.extend_from_slice(bytes));
    out
}

#[test]
fn records_are_checked_on_their_own_where_the_block_checksum_is_right() {
    run(async {
        let (crashed, flushes) = crashed().await;
        // Each field of a record's header, and its payload; the second flush begins with an entry of 100 bytes.
        for at in [0, 4, 8, 9, 10, 16, 24, 32, 60] {
            let scratch = crashed.copy("record");
            rewrite(&scratch, FIRST, flushes[1], |payload| payload[at] ^= 1);
            expect_corrupt(&scratch, FIRST, flushes[1].0, 2, "record").await;
        }
        // The state record that opens the segment.
        for at in [0, 4, 8, 45, 100] {
            let scratch = crashed.copy("state");
            rewrite(&scratch, FIRST, flushes[0], |payload| payload[at] ^= 1);
            expect_corrupt(&scratch, FIRST, flushes[0].0, 0, "record").await;
        }
        // Whole, but wrong: an entry that does not follow; a truncation of what is not there; a state where none belongs.
        let length = encoded(&Record::Entry(entry(1, 2, 100))).len();
        let wrong = [
            (Record::Entry(entry(1, 4, 100)), "entry 4 does not follow entry 1"),
            (Record::Entry(entry(1, 1, 100)), "entry 1 does not follow entry 1"),
        ];
        for (record, says) in wrong {
            let scratch = crashed.copy("follow");
            rewrite(&scratch, FIRST, flushes[1], |payload| payload[..length].copy_from_slice(&encoded(&record)));
            expect_corrupt(&scratch, FIRST, flushes[1].0, 2, says).await;
        }
        let wrong = [
            (Record::Truncate(Some(id(9, 1))), "a truncation names entry"),
            // A fuzzer's: the next entry then followed one that is not there, which the index did not take.
            (Record::Truncate(Some(id(1, 9))), "a truncation names entry"),
            (Record::State(Default::default()), "a state record stands first in a segment, and nowhere else"),
        ];
        for (record, says) in wrong {
            let scratch = crashed.copy("wrong");
            rewrite(&scratch, FIRST, flushes[1], |payload| {
                payload.splice(..0, encoded(&record));
            });
            expect_corrupt(&scratch, FIRST, flushes[1].0, 2, says).await;
        }
    });
}

/// A fuzzer's: such a log had an end and no entry.
#[test]
fn a_truncation_to_before_the_first_entry_of_a_log_is_refused() {
    run(async {
        let scratch = Scratch::new("before");
        let wal = scratch.open(SMALL).await.expect("a new log");
        for index in [5, 6] {
            append(&wal, vec![entry(1, index, 10)]).await.expect("flushed");
        }
        let crashed = scratch.copy("forged");
        wal.close().await;
        let flushes = flushes(&crashed.read(FIRST));
        rewrite(&crashed, FIRST, flushes[1], |payload| {
            payload.splice(.., encoded(&Record::Truncate(Some(id(1, 0)))));
        });
        expect_corrupt(&crashed, FIRST, flushes[1].0, 6, "a truncation names entry").await;
    });
}

/// A fuzzer's: the number after the last one there is was asked for; and behind a segment 0 came segment 1 with another flush than 1.
#[test]
fn a_segment_with_a_number_that_none_has_is_refused() {
    run(async {
        let (crashed, _) = crashed().await;
        let mut bytes = crashed.read(FIRST);
        let header = SegmentHeader::decode(&bytes[..BLOCK]).expect("a segment");
        for number in [u64::MAX, 0] {
            for name in crashed.names() {
                std::fs::remove_file(crashed.file(&name)).expect("it is there");
            }
            SegmentHeader { number, ..header }.encode(&mut bytes[..BLOCK]);
            let name = format!("wal-{number:016x}.seg");
            std::fs::write(crashed.file(&name), &bytes).expect("the directory can be written");
            expect_corrupt(&crashed, &name, 0, 0, "are those of spares").await;
        }
    });
}

/// A log of several full segments, closed in order.
async fn many_segments(purge: bool) -> (Scratch, Vec<Entry>) {
    let scratch = Scratch::new("many");
    let wal = scratch.open(SMALL).await.expect("a new log");
    let entries: Vec<Entry> = (0..100).map(|i| entry(1, i, 9000)).collect();
    for few in entries.chunks(4) {
        append(&wal, few.to_vec()).await.expect("flushed");
    }
    if purge {
        durable(|f| wal.purge(id(1, 60), f)).await.expect("flushed");
        until_idle(&wal).await;
    }
    wal.close().await;
    (scratch, entries)
}

fn segment(number: u64) -> String {
    format!("wal-{number:016x}.seg")
}

#[test]
fn missing_doubled_and_exchanged_segments_are_refused() {
    run(async {
        let (whole, _) = many_segments(false).await;
        let next_index = |number: u64| {
            // What a segment's first flush says was last before it.
            let bytes = whole.read(&segment(number));
            let Ok((Record::State(state), _)) = Record::decode(&bytes[BLOCK + 32..]) else { panic!("a state record") };
            state.last.map_or(0, |last| last.index + 1)
        };
        let scratch = whole.copy("middle");
        std::fs::remove_file(scratch.file(&segment(3))).expect("removed");
        expect_corrupt(&scratch, &segment(3), 0, next_index(3), "the segment is missing, the one after it is").await;

        let scratch = whole.copy("oldest");
        std::fs::remove_file(scratch.file(&segment(1))).expect("removed");
        expect_corrupt(&scratch, &segment(1), 0, 0, "are not purged and in no segment").await;

        let scratch = whole.copy("doubled");
        std::fs::copy(scratch.file(&segment(2)), scratch.file(&segment(3))).expect("copied");
        expect_corrupt(&scratch, &segment(3), 0, next_index(3), "its header says segment 0x2").await;

        let scratch = whole.copy("short");
        let file = std::fs::OpenOptions::new().write(true).open(scratch.file(&segment(2))).expect("opened");
        file.set_len(50 * BLOCK as u64).expect("cut");
        expect_corrupt(&scratch, &segment(2), 0, next_index(2), "the file has 204800 bytes, its header says").await;
        file.set_len(50 * BLOCK as u64 + 7).expect("cut");
        expect_corrupt(&scratch, &segment(2), 0, next_index(2), "not whole blocks").await;

        // The first flush of a segment in the middle: the hole begins where the segment before ends.
        let scratch = whole.copy("first");
        let bytes = scratch.read(&segment(2));
        let (last, blocks) = *flushes(&bytes).last().expect("flushes");
        scratch.overwrite(&segment(3), BLOCK, &[0; BLOCK]);
        expect_corrupt(&scratch, &segment(2), last + blocks, next_index(3), "was written after it").await;

        // A state record that does not say what the segments before it do.
        let scratch = whole.copy("state");
        let bytes = scratch.read(&segment(3));
        rewrite(&scratch, &segment(3), flushes(&bytes)[0], |payload| {
            let Ok((Record::State(mut state), length)) = Record::decode(payload) else { panic!("a state record") };
            state.vote = Some(Vote { term: 9, node: 9, committed: true });
            payload.splice(..length, encoded(&Record::State(state)));
        });
        expect_corrupt(&scratch, &segment(3), 1, next_index(3), "the segment begins with").await;
    });
}

#[test]
fn the_only_segment_left_without_its_first_flush_is_refused() {
    run(async {
        let (scratch, _) = many_segments(true).await;
        let oldest = scratch.names().into_iter().find(|name| name.starts_with("wal-")).expect("a segment");
        assert_ne!(oldest, FIRST);
        scratch.overwrite(&oldest, BLOCK, &[0; BLOCK]);
        expect_corrupt(&scratch, &oldest, 1, 0, "the first flush of the segment is damaged or missing").await;
    });
}

#[test]
fn damaged_spares_and_unfinished_files_are_harmless() {
    run(async {
        let (scratch, entries) = many_segments(true).await;
        let spares: Vec<String> = scratch.names().into_iter().filter(|name| name.starts_with("spare-")).collect();
        assert_eq!(spares.len(), 2);
        // A spare is never read: it gets a header with a new id before it is used, and its old blocks count as unwritten.
        for at in [0, 24, BLOCK, BLOCK + 16, 20 * BLOCK + 77] {
            scratch.flip(&spares[0], at);
        }
        std::fs::write(scratch.file(&spares[1]), b"short").expect("written");
        std::fs::write(scratch.file("new-0000000000000099.seg"), b"unfinished").expect("written");
        std::fs::write(scratch.file("README"), b"not ours").expect("written");
        let wal = scratch.open(SMALL).await.expect("harmless");
        assert_eq!(all(&wal).await, entries[61..]);
        for i in 100..200 {
            append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
        }
        wal.close().await;
        let wal = scratch.open(SMALL).await.expect("harmless");
        assert_eq!(all(&wal).await.len(), 139);
        wal.close().await;
        assert!(!scratch.names().iter().any(|name| name.starts_with("new-")));
        assert!(scratch.names().contains(&"README".to_owned()));
    });
}

/// A fuzzer's: damage in block 1 of a spare passed for an acknowledged first flush once the spare was a segment, and after a crash
/// the log was refused.
#[test]
fn a_damaged_spare_is_harmless_also_when_it_is_the_next_segment() {
    run(async {
        let (scratch, _) = many_segments(true).await;
        for spare in scratch.names().into_iter().filter(|name| name.starts_with("spare-")) {
            scratch.flip(&spare, BLOCK + 16);
        }
        let wal = scratch.open(SMALL).await.expect("harmless");
        for i in 100..150 {
            append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
            until_idle(&wal).await;
            let crashed = scratch.copy("prepared");
            let found = crashed.open(SMALL).await.expect("a crash is no damage");
            assert_eq!(found.last(), wal.last());
            found.close().await;
        }
        assert!(!scratch.names().iter().any(|name| name.starts_with("spare-")), "all of them were used");
        wal.close().await;
    });
}

#[test]
fn rot_found_by_a_read_names_its_place_and_is_not_returned() {
    run(async {
        let (crashed, flushes) = crashed().await;
        let wal = crashed.open(WalConfig { cache_bytes: 0, ..SMALL }).await.expect("whole");
        crashed.flip(FIRST, flushes[2].0 * BLOCK + 500);
        assert_eq!(wal.read(0..4, usize::MAX).await.expect("before it"), entries(4));
        let error = wal.read(4..5, usize::MAX).await.expect_err("rotten");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let place = format!("log/{FIRST} is corrupt in the flush at {}, log index 4", flushes[2].0 * BLOCK);
        assert!(error.to_string().contains(&place), "{error}");
        wal.close().await;
    });
}
