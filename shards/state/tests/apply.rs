//! Batches: their bytes, and what applying them does.

use super::model::{Model, Work};
use super::{Owned, Random, apply, batch, small_limits};
use crate::state::command::{Builder, Op, Write, parse};
use crate::state::limits::{KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, VALUE_BYTES_HARD_MAX};
use crate::state::{Limits, Revision, State};

#[test]
fn state_equals_model_under_random_work() {
    let mut denials = std::collections::BTreeSet::new();
    let mut duplicates = 0;
    for seed in 0..60 {
        let limits = small_limits();
        let (mut state, mut model) = (State::new(limits), Model::default());
        let mut work = Work::new(seed, if seed % 2 == 0 { 40 } else { 4_000 });
        for step in 0..600 {
            let writes = work.batch();
            let answers = apply(&mut state, work.ring_time_ms, &writes);
            assert_eq!(answers, model.apply(&limits, work.ring_time_ms, &writes), "seed {seed}, step {step}");
            denials.extend(answers.iter().filter_map(|a| a.outcome.err()));
            duplicates += answers.iter().filter(|a| a.duplicate).count();
            work.learn(&writes, &answers);
            if step % 50 == 0 {
                model.check(&state, seed);
            }
        }
        model.check(&state, seed);
    }
    assert_eq!(denials.len(), 10, "the work must meet every denial, it met {denials:?}");
    assert!(duplicates > 100, "the work must retry, it had {duplicates} duplicates");
}

#[test]
fn same_batches_give_same_hash_and_any_difference_another() {
    let run = |seed, ring_time_ms| {
        let mut state = State::new(small_limits());
        let mut work = Work::new(seed, 100);
        for _ in 0..300 {
            let writes = work.batch();
            let answers = apply(&mut state, work.ring_time_ms + ring_time_ms, &writes);
            work.learn(&writes, &answers);
        }
        state.hash()
    };
    assert_eq!(run(1, 0), run(1, 0));
    assert_ne!(run(1, 0), run(2, 0));
    assert_ne!(run(1, 0), run(1, 1));

    let mut state = State::new(Limits::default());
    let mut seen = vec![state.hash()];
    for write in [Owned::put("a", "1"), Owned::put("a", "1"), Owned::put("a", "2"), Owned::put("a", "1").within("n")] {
        apply(&mut state, 5, &[write]);
        seen.push(state.hash());
    }
    state.advance(state.applied() + 1);
    seen.push(state.hash());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6);
}

#[test]
fn ring_time_never_goes_back() {
    let mut state = State::new(Limits::default());
    assert_eq!(apply(&mut state, 70, &[Owned::put("k", "v")])[0].ring_time_ms, 70);
    assert_eq!(apply(&mut state, 60, &[Owned::put("k", "v")])[0].ring_time_ms, 70);
    assert_eq!(state.ring_time_ms(), 70);
}

#[test]
fn revision_is_that_of_the_last_change_and_a_delete_leaves_nothing() {
    let mut state = State::new(Limits::default());
    let answers = apply(&mut state, 0, &[Owned::put("a", "1"), Owned::put("b", "2"), Owned::put("a", "3")]);
    assert_eq!(answers.iter().map(|a| a.existed).collect::<Vec<_>>(), [false, false, true]);
    let found = state.get("", b"a").expect("put above");
    assert_eq!((found.value, found.revision), (&b"3"[..], Revision { index: 1, position: 2 }));
    assert_eq!(state.get("other", b"a"), None);
    assert!(apply(&mut state, 0, &[Owned::delete("a")])[0].existed);
    assert!(!apply(&mut state, 0, &[Owned::delete("a")])[0].existed);
    assert_eq!(state.get("", b"a"), None);
    apply(&mut state, 0, &[Owned::delete("b")]);
    assert_eq!((state.keys(), state.bytes(), state.stats().namespaces), (0, 0, 0));
}

#[test]
#[should_panic(expected = "log index 1 applied after 1")]
fn an_entry_applied_twice_stops_the_shard() {
    let mut state = State::new(Limits::default());
    state.advance(1);
    state.advance(1);
}

#[test]
fn table_shrinks_and_grows_in_any_order_of_keys() {
    let keys = 60_000u64; // more than a table has that is searched without fetching ahead
    for order in ["ascending", "descending", "random"] {
        let mut random = Random(7);
        let mut state = State::new(Limits::default());
        let mut numbers: Vec<u64> = (0..keys).collect();
        let arrange = |numbers: &mut Vec<u64>, random: &mut Random| match order {
            "ascending" => numbers.sort(),
            "descending" => numbers.sort_by(|a, b| b.cmp(a)),
            _ => numbers.sort_by_cached_key(|_| random.next()),
        };
        arrange(&mut numbers, &mut random);
        for some in numbers.chunks(500) {
            let writes: Vec<Owned> = some.iter().map(|n| Owned::put(format!("{n:08}"), n.to_le_bytes())).collect();
            apply(&mut state, 0, &writes);
        }
        state.contents.tables.get("").expect("it has keys").check();
        assert_eq!(state.keys(), keys);
        arrange(&mut numbers, &mut random);
        for some in numbers.chunks(500) {
            let writes: Vec<Owned> = some.iter().map(|n| Owned::delete(format!("{n:08}"))).collect();
            assert!(apply(&mut state, 0, &writes).iter().all(|a| a.existed));
            if let Some(table) = state.contents.tables.get("") {
                table.check();
            }
        }
        assert_eq!(state.keys(), 0);
    }
}

#[test]
fn batch_parses_to_what_was_built_and_encodes_to_the_same_bytes() {
    let mut work = Work::new(3, 100);
    work.sessions = vec![1 << 20, 5 << 20];
    for _ in 0..200 {
        let writes = work.batch();
        let bytes = batch(work.ring_time_ms, &writes);
        let parsed = parse(&bytes).expect("just built");
        assert_eq!((parsed.ring_time_ms, parsed.len()), (work.ring_time_ms, writes.len()));
        assert!(parsed.iter().eq(writes.iter().map(Owned::as_write)));
        let size: usize = writes.iter().map(|w| w.as_write().encoded_bytes()).sum();
        assert_eq!(bytes.len(), 16 + size);
    }
}

#[test]
fn batch_bytes_are_as_documented() {
    let bytes = batch(0x0102, &[Owned::put("key", "v").within("n").by(7, 9, 8)]);
    let expected = b"\x01\0\0\0\x01\0\0\0\x02\x01\0\0\0\0\0\0\
        \x81\x01\x03\0\x01\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0nkeyv";
    assert_eq!(&bytes[..], &expected[..]);
}

#[test]
fn batch_refused_with_any_end_missing_or_a_byte_too_many() {
    let bytes = batch(5, &[Owned::put("key", "value").within("n").by(1 << 20, 2, 1), Owned::open()]);
    for end in 0..bytes.len() {
        parse(&bytes[..end]).expect_err("a part of a batch is none");
    }
    let longer = [&bytes[..], &[0]].concat();
    let refused = parse(&longer).expect_err("a byte too many");
    assert_eq!(refused.to_string(), format!("byte {}: 1 bytes after the last of 2 writes", bytes.len()));
}

#[test]
fn any_flipped_byte_is_refused_or_applies_without_panic() {
    let writes = [
        Owned::put("key", "value").within("name").by(1 << 20, 2, 1),
        Owned::delete("k"),
        Owned::open(),
        Owned::close(1 << 20),
        Owned::put("k", ""),
    ];
    let bytes = batch(5, &writes);
    for at in 0..bytes.len() {
        for flip in 1..=255 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= flip;
            let Ok(parsed) = parse(&flipped) else {
                continue;
            };
            let mut state = State::new(small_limits());
            let mut answers = Vec::new();
            state.apply(1, &parsed, &mut answers);
            assert_eq!(answers.len(), parsed.len());
            assert_eq!(parsed.iter().count(), parsed.len());
            // One encoding: what parses, encodes to the same bytes.
            let mut builder = Builder::new();
            builder.start(parsed.ring_time_ms);
            parsed.iter().for_each(|write| builder.push(&write).expect("it was parsed"));
            assert_eq!(&builder.finish()[..], &flipped[..]);
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let length = random.below(80) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8 & *random.pick(&[0, 1, 3, 255])).collect();
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(batch) = parse(&bytes) {
            assert_eq!(batch.iter().count(), batch.len());
        }
    }
}

#[test]
fn write_over_a_bound_is_refused_by_the_builder_and_leaves_the_batch_as_it_was() {
    let long = vec![0; VALUE_BYTES_HARD_MAX + 1];
    let name = "n".repeat(NAMESPACE_BYTES_MAX + 1);
    let write = |namespace, op| Write { namespace, session: 0, sequence: 0, answered_below: 0, op };
    let mut builder = Builder::new();
    builder.start(0);
    for (write, expected) in [
        (write("", Op::Put { key: b"", value: b"" }), "an empty key"),
        (write("", Op::Delete { key: &long[..KEY_BYTES_MAX + 1] }), "a key of 4097 bytes, at most 4096"),
        (write("", Op::Put { key: b"k", value: &long }), "a value of 16777217 bytes, at most 16777216"),
        (write(&name, Op::Delete { key: b"k" }), "a namespace of 65 bytes, at most 64"),
        (write("n", Op::OpenSession), "a namespace on op 3"),
        (write("", Op::CloseSession), "session 0"),
        (Write { sequence: 1, ..write("", Op::Delete { key: b"k" }) }, "a sequence without a session"),
    ] {
        let refused = builder.push(&write).expect_err(expected);
        assert!(refused.why.starts_with(expected), "{refused}");
        assert_eq!((builder.bytes(), builder.len()), (16, 0));
    }
    let largest = write(&name[1..], Op::Put { key: &long[..KEY_BYTES_MAX], value: &long[1..] });
    builder.push(&largest).expect("at the bounds, not over them");
    assert_eq!(parse(&builder.finish()).expect("just built").len(), 1);
}

#[test]
fn builder_uses_its_buffer_again_once_the_batch_is_dropped() {
    let mut builder = Builder::new();
    let mut build = || {
        builder.start(0);
        (0..64).for_each(|_| builder.push(&Owned::put("key", [1; 256]).as_write()).expect("small"));
        builder.finish()
    };
    let first = build().as_ptr();
    let places: std::collections::BTreeSet<_> = (0..100).map(|_| build().as_ptr()).collect();
    assert!(places.len() <= 3, "at {first:?} and then at {} places", places.len());
}
