//! Nanoseconds of each step that a write takes through this crate.
//!
//! `cargo bench --bench wire`. Median of 501 rounds of 0.1 ms; no harness, since one number per step is all there is to say.

use std::hint::black_box;
use std::time::Instant;

use ringbeam_wire::client::{self, Breakdown, Put, ReplyBody, RequestBody, Revision, Written};
use ringbeam_wire::frame::{Decoder, HEADER_BYTES};
use ringbeam_wire::peer::{self, AppendHead, EntryKind, EntryOut, LogId, PeerRequestBody, Vote};

const ROUNDS: usize = 501;
const WARM_UP_CALLS: u128 = 1_000;
/// Long against the clock's resolution, short against a scheduler's time slice: most rounds are not interrupted.
const ROUND_NS: u128 = 100_000;

fn main() {
    println!("{:<58} {:>10}", "step", "median ns");
    for value_bytes in [256, 4096] {
        put(value_bytes);
    }
    written();
    for (entries, payload_bytes) in [(1, 17_000), (64, 256)] {
        append(entries, payload_bytes);
    }
}

fn put(value_bytes: usize) {
    let value = vec![7; value_bytes];
    let body = RequestBody::Put(Put {
        namespace: "sessions",
        key: b"user:0123456789:session",
        value: &value,
        session: 1 << 30,
        sequence: 77,
        answered_below: 70,
        ..Put::default()
    });
    let mut encoder = client::Encoder::new();
    let mut out = Vec::new();
    measure(&format!("put {value_bytes} B: encode to frame"), || {
        out.clear();
        encoder.request(&mut out, 123_456, 1_000, black_box(&body));
        black_box(&out);
    });
    let payload = &out[HEADER_BYTES..];
    measure(&format!("put {value_bytes} B: crc of {} B", payload.len()), || {
        black_box(crc32fast::hash(black_box(payload)));
    });
    measure(&format!("put {value_bytes} B: parse (verify and check)"), || {
        black_box(client::parse_request(black_box(payload)).is_ok());
    });

    const FRAMES: usize = 50;
    let stream = out.repeat(FRAMES);
    let mut decoder = Decoder::new(1 << 20);
    let mut payloads = Vec::with_capacity(FRAMES);
    let name = format!("put {value_bytes} B: decode {FRAMES} frames, crc included, for each");
    measure_divided(&name, FRAMES, || {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let space = decoder.space();
            let bytes = space.len().min(rest.len());
            space[..bytes].copy_from_slice(&rest[..bytes]);
            decoder.filled(bytes);
            rest = &rest[bytes..];
            while let Some(payload) = decoder.next().expect("good frames") {
                payloads.push(payload);
            }
        }
        assert_eq!(payloads.len(), FRAMES);
        payloads.clear();
    });
}

fn written() {
    let body = ReplyBody::Written(Written {
        revision: Revision { index: 1_000_000, position: 17 },
        ring_time_ms: 86_400_000,
        existed: true,
        duplicate: false,
        breakdown: Breakdown { queue_us: 40, fsync_us: 120, quorum_us: 310, apply_us: 3 },
    });
    let mut encoder = client::Encoder::new();
    let mut out = Vec::new();
    measure("written: encode to frame", || {
        out.clear();
        encoder.reply(&mut out, 123_456, black_box(&body));
        black_box(&out);
    });
    let payload = &out[HEADER_BYTES..];
    measure(&format!("written: parse {} B (verify and check)", payload.len()), || {
        black_box(client::parse_reply(black_box(payload)).is_ok());
    });
}

fn append(entries: usize, payload_bytes: usize) {
    let payload = vec![7; payload_bytes];
    let id = |index| LogId { term: 3, leader: 1, index };
    let vote = Vote { term: 3, node: 1, committed: true };
    let head = AppendHead { vote, previous: Some(id(1_000)), committed: Some(id(990)), settled: 0 };
    let mut encoder = peer::Encoder::new();
    let mut out = Vec::new();
    let name = format!("append {entries} x {payload_bytes} B");
    measure(&format!("{name}: encode to frame"), || {
        out.clear();
        let entries =
            (0..entries).map(|at| EntryOut { id: id(1_001 + at as u64), kind: EntryKind::Batch, payload: black_box(&payload) });
        encoder.append(&mut out, 9, head, entries);
        black_box(&out);
    });
    let payload = &out[HEADER_BYTES..];
    measure(&format!("{name}: parse and read {} B", payload.len()), || {
        let request = peer::parse_request(black_box(payload)).expect("a good append");
        let PeerRequestBody::Append(append) = request.body else { unreachable!("it was an append") };
        black_box(append.entries().map(|entry| entry.payload.len()).sum::<usize>());
    });
}

fn measure(name: &str, call: impl FnMut()) {
    measure_divided(name, 1, call);
}

/// Prints the median time of `call`, divided by the number of `things` that it does.
fn measure_divided(name: &str, things: usize, mut call: impl FnMut()) {
    let mut round = |calls: u128| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_nanos()
    };
    let warm = round(WARM_UP_CALLS) / WARM_UP_CALLS;
    let calls = (ROUND_NS / warm.max(1)).max(1);
    let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| round(calls)).collect();
    rounds.sort_unstable();
    let median_ns = rounds[ROUNDS / 2] as f64 / calls as f64 / things as f64;
    println!("{name:<58} {median_ns:>10.1}");
}
