//! The truth table of `recovery.rs`, row by row.

use super::super::block::PAYLOAD_BYTES;
use super::super::recovery::class::{BlockHeader, Class};
use super::super::recovery::*;

const S: u64 = 10;
const U: Class = Class::Unwritten;
const R: Class = Class::Rotten;
fn own(sequence: u64, number: u16, blocks: u16) -> Class {
    Class::Own(BlockHeader { sequence, number, blocks, used: PAYLOAD_BYTES as u16 })
}
fn rot(block: u32) -> Tail {
    Tail::Corrupt { block, why: Why::Rot { expected: S } }
}
fn hole(block: u32, found: u64) -> Tail {
    Tail::Corrupt { block, why: Why::Hole { expected: S, found } }
}
fn misplaced(block: u32, found: u64) -> Tail {
    Tail::Corrupt { block, why: Why::Misplaced { expected: S, found } }
}

/// The first table, row by row.
#[test]
fn each_row_of_a_segments_end() {
    let next = own(S + 1, 0, 1);
    let rows: Vec<(&str, Vec<Class>, Tail)> = vec![
        // A flush after s.
        ("s missing", vec![U, next, U], hole(0, S + 1)),
        ("s rotten", vec![R, next], hole(0, S + 1)),
        ("s half missing", vec![own(S, 0, 2), U, next], hole(1, S + 1)),
        ("s half rotten", vec![own(S, 0, 2), R, next], hole(1, S + 1)),
        ("several missing", vec![U, U, R, U, own(S + 3, 1, 2)], hole(0, S + 3)),
        ("a part of a later flush is enough", vec![U, U, own(S + 1, 1, 3)], hole(0, S + 1)),
        // Where it should not be.
        ("an older flush", vec![own(S - 1, 0, 1), U], misplaced(0, S - 1)),
        ("an older flush further on", vec![U, own(S - 1, 0, 1)], misplaced(1, S - 1)),
        ("s too far on", vec![U, own(S, 0, 1)], misplaced(1, S)),
        ("s of two lengths", vec![own(S, 0, 2), own(S, 1, 3), U], misplaced(1, S)),
        ("s beyond the end", vec![own(S, 0, 3), U], misplaced(0, S)),
        // Torn.
        ("first block missing", vec![U, own(S, 1, 2), U], Tail::Torn { blocks: 2 }),
        ("last block missing", vec![own(S, 0, 2), U], Tail::Torn { blocks: 2 }),
        ("middle block missing", vec![own(S, 0, 3), U, own(S, 2, 3)], Tail::Torn { blocks: 3 }),
        ("one missing, one rotten", vec![own(S, 0, 3), R, U, U], Tail::Torn { blocks: 3 }),
        ("rot behind the torn flush is unused space", vec![own(S, 0, 2), U, R], Tail::Torn { blocks: 2 }),
        ("half wiped", vec![U, U, own(S, 2, 4), own(S, 3, 4)], Tail::Torn { blocks: 4 }),
        // Rot.
        ("first block rotten", vec![R, own(S, 1, 2), U], rot(0)),
        ("last block rotten", vec![own(S, 0, 2), R, U], rot(1)),
        ("all rotten but one", vec![R, R, own(S, 2, 3), U], rot(0)),
        // Nothing of s.
        ("nothing", vec![U, U, U], Tail::Clean),
        ("full", vec![], Tail::Clean),
        ("rot in unused space", vec![U, R, U], Tail::Clean),
        ("rot where s would be", vec![R, U, U], Tail::Suspect),
    ];
    for (name, rest, verdict) in rows {
        assert_eq!(judge(&rest, S), verdict, "{name}");
    }
}

fn walked(flushes: u64, block: u32, tail: Tail) -> Walked {
    Walked { flushes, block, expected: S, tail }
}
fn at(segment: usize, block: u32) -> Spot {
    Spot { segment, block }
}

/// The second table, row by row.
#[test]
fn each_row_of_the_whole_log() {
    const TORN: Tail = Tail::Torn { blocks: 2 };
    let begun = |tail| walked(3, 7, tail);
    let empty = walked(0, 1, Tail::Clean);
    let end = |spot, torn_blocks, next_prepared| Ok(End { spot, unused: None, torn_blocks, next_prepared });
    let wiped = |unused, spot, torn_blocks| Ok(End { spot, unused: Some(unused), torn_blocks, next_prepared: false });
    let first = |spot| Err((spot, Why::FirstFlush));
    let hole = |spot| Err((spot, Why::Hole { expected: S, found: S }));
    let rot = |spot| Err((spot, Why::Rot { expected: S }));
    let later = walked(0, 1, Tail::Corrupt { block: 0, why: Why::Hole { expected: S, found: S } });
    type Verdict = Result<End, (Spot, Why)>;
    let rows: Vec<(&str, Vec<Walked>, Verdict)> = vec![
        ("new log", vec![empty], end(at(0, 1), 0, false)),
        ("clean", vec![begun(Tail::Clean)], end(at(0, 7), 0, false)),
        ("clean, next prepared", vec![begun(Tail::Clean), empty], end(at(0, 7), 0, true)),
        ("clean, goes on", vec![begun(Tail::Clean), begun(Tail::Clean), empty], end(at(1, 7), 0, true)),
        ("clean, goes on torn", vec![begun(Tail::Clean), walked(0, 1, TORN)], end(at(1, 1), 2, false)),
        ("torn", vec![begun(TORN)], end(at(0, 7), 2, false)),
        ("torn, next prepared", vec![begun(TORN), empty], end(at(0, 7), 2, true)),
        ("torn in a new log", vec![walked(0, 1, TORN)], end(at(0, 1), 2, false)),
        ("torn, flush behind", vec![begun(TORN), begun(Tail::Clean)], hole(at(0, 7))),
        ("torn, torn behind", vec![begun(TORN), walked(0, 1, TORN)], hole(at(0, 7))),
        ("suspect, goes on", vec![begun(Tail::Suspect), begun(Tail::Clean)], end(at(1, 7), 0, false)),
        ("suspect, goes on torn", vec![begun(Tail::Suspect), walked(0, 1, TORN)], wiped(at(0, 7), at(1, 1), 2)),
        ("suspect, nothing behind", vec![begun(Tail::Suspect)], rot(at(0, 7))),
        ("suspect, empty behind", vec![begun(Tail::Suspect), empty], rot(at(0, 7))),
        ("suspect first flush", vec![begun(Tail::Clean), walked(0, 1, Tail::Suspect)], rot(at(1, 1))),
        ("suspect in a new log", vec![walked(0, 1, Tail::Suspect)], rot(at(0, 1))),
        ("missing at the end, later behind", vec![begun(Tail::Clean), later], hole(at(0, 7))),
        ("suspect, later behind", vec![begun(Tail::Suspect), later], hole(at(0, 7))),
        ("no first flush, segment behind", vec![empty, empty], first(at(0, 1))),
        ("torn first flush, segment behind", vec![begun(Tail::Clean), walked(0, 1, TORN), empty], first(at(1, 1))),
        ("two empty", vec![begun(Tail::Clean), empty, empty], first(at(1, 1))),
        ("empty between", vec![begun(Tail::Clean), empty, begun(Tail::Clean)], first(at(1, 1))),
    ];
    for (name, segments, verdict) in rows {
        let mut chain = Chain::default();
        let pushed = segments.into_iter().try_for_each(|walked| chain.push(walked));
        assert_eq!(pushed.and_then(|()| chain.finish()), verdict, "{name}");
    }
}

#[test]
fn a_walk_accepts_flushes_in_order_and_judges_the_rest() {
    use super::super::block::{FlushWriter, blocks_for};
    let flush = |sequence: u64, bytes: usize| {
        let mut buffer = vec![0; blocks_for(bytes) * 4096];
        let mut writer = FlushWriter::new(&mut buffer);
        writer.put(&vec![sequence as u8; bytes]);
        writer.finish(77, sequence);
        buffer
    };
    let mut segment = [flush(5, 100), flush(6, 9000), flush(7, 5000)].concat();
    segment.resize(10 * 4096, 0);
    let walk = |bytes: &[u8], expected| {
        let mut walk = Walk::new(77, expected);
        let mut flushes = Vec::new();
        for block in bytes.chunks(4096) {
            if let Some(flush) = walk.push(block) {
                flushes.push((flush.block, walk.payload().len()));
            }
        }
        (flushes, walk.finish())
    };
    let (flushes, end) = walk(&segment, Some(5));
    assert_eq!(flushes, [(1, 100), (2, 9000), (5, 5000)]);
    assert_eq!(end, Walked { flushes: 3, block: 7, expected: 8, tail: Tail::Clean });
    assert_eq!(walk(&segment, None).1, end, "the oldest segment tells where it begins");

    // A fuzzer's: the number after the last one there is was asked for.
    for (sequence, good) in [(FIRST_SEQUENCE_MAX, true), (FIRST_SEQUENCE_MAX + 1, false), (u64::MAX - 1, false)] {
        let (flushes, end) = walk(&[flush(sequence, 100), vec![0; 4096]].concat(), None);
        assert_eq!((flushes.len() == 1, end.tail == Tail::Clean), (good, good), "{sequence}");
    }

    segment[5 * 4096..6 * 4096].fill(0);
    let (flushes, end) = walk(&segment, Some(5));
    assert_eq!(flushes.len(), 2);
    assert_eq!(end, Walked { flushes: 2, block: 5, expected: 7, tail: Tail::Torn { blocks: 2 } });

    segment[..4096].fill(0);
    assert_eq!(walk(&segment, None).1.tail, Tail::Corrupt { block: 0, why: Why::FirstFlush });
    let torn_at_once = [&flush(5, 5000)[..4096], &[0; 8192]].concat();
    assert_eq!(walk(&torn_at_once, Some(5)).1.tail, Tail::Torn { blocks: 2 });
    assert_eq!(walk(&torn_at_once, None).1.tail, Tail::Corrupt { block: 0, why: Why::FirstFlush });
    let why = Why::Hole { expected: 5, found: 6 };
    assert_eq!(walk(&segment, Some(5)).1.tail, Tail::Corrupt { block: 0, why });
}
