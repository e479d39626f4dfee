//! Snapshots: consistent while apply goes on, and refused unless whole.

use super::model::{Model, Work};
use super::{Owned, Random, apply, open, small_limits};
use crate::state::limits::VISIT_COST_BYTES;
use crate::state::{AlreadyFrozen, Limits, Loader, Malformed, State};

fn all_slices(state: &mut State, bytes_about: usize) -> Vec<Vec<u8>> {
    state.freeze().expect("not frozen");
    let slices = std::iter::from_fn(|| state.slice(bytes_about)).collect();
    state.thaw();
    slices
}

fn load<'a>(limits: Limits, slices: impl IntoIterator<Item = &'a [u8]>) -> Result<State, Malformed> {
    let mut loader = Loader::new(limits);
    for slice in slices {
        loader.push(slice)?;
    }
    loader.finish()
}

/// A state after random work, with everything in it.
fn worked(seed: u64, steps: usize) -> (State, Model, Work) {
    let (mut state, mut model) = (State::new(small_limits()), Model::default());
    let mut work = Work::new(seed, 3_000);
    for _ in 0..steps {
        step(&mut state, &mut model, &mut work);
    }
    (state, model, work)
}

fn step(state: &mut State, model: &mut Model, work: &mut Work) {
    let writes = work.batch();
    let answers = apply(state, work.ring_time_ms, &writes);
    assert_eq!(answers, model.apply(&small_limits(), work.ring_time_ms, &writes));
    work.learn(&writes, &answers);
}

#[test]
fn snapshot_is_of_the_moment_of_freeze_whatever_is_applied_between_slices() {
    for seed in 0..40 {
        let (mut state, mut model, mut work) = worked(seed, 400);
        let mut random = Random(seed);
        for round in 0..4 {
            let (frozen_model, frozen_hash) = (model.clone(), state.hash());
            let rate = *random.pick(&[1, 10, 60]);
            state.freeze().expect("not frozen");
            let mut slices = Vec::new();
            loop {
                // Before the first slice, between any two, and after the last one.
                for _ in 0..random.below(rate) {
                    step(&mut state, &mut model, &mut work);
                }
                match state.slice(0) {
                    Some(slice) => slices.push(slice),
                    None => break,
                }
            }
            assert_eq!(state.stats().kept_for_snapshot, 0, "all that was kept has gone out; seed {seed}");
            state.thaw();
            model.check(&state, seed);
            let loaded = load(small_limits(), slices.iter().map(Vec::as_slice)).expect("whole");
            assert_eq!(loaded.hash(), frozen_hash, "seed {seed}, round {round}");
            frozen_model.check(&loaded, seed);
        }
    }
}

#[test]
fn loaded_state_goes_on_as_the_one_it_was_taken_from() {
    for seed in 0..10 {
        let (mut state, mut model, mut work) = worked(seed, 300);
        let slices = all_slices(&mut state, 4_096);
        let mut loaded = load(small_limits(), slices.iter().map(Vec::as_slice)).expect("whole");
        for _ in 0..300 {
            let writes = work.batch();
            let answers = apply(&mut state, work.ring_time_ms, &writes);
            assert_eq!(answers, apply(&mut loaded, work.ring_time_ms, &writes), "seed {seed}");
            assert_eq!(answers, model.apply(&small_limits(), work.ring_time_ms, &writes), "seed {seed}");
            work.learn(&writes, &answers);
            assert_eq!(state.hash(), loaded.hash(), "seed {seed}");
        }
        model.check(&loaded, seed);
        let again = all_slices(&mut loaded, 4_096);
        assert_eq!(again, all_slices(&mut state, 4_096), "the bytes are a function of the state");
    }
}

#[test]
fn everything_deleted_before_the_first_slice_is_still_in_the_snapshot() {
    let mut state = State::new(Limits::default());
    let session = open(&mut state, 0);
    for name in ["", "a", "b"] {
        let writes: Vec<Owned> = (0..300).map(|n| Owned::put(format!("{n:05}"), "old").within(name)).collect();
        apply(&mut state, 0, &writes);
    }
    apply(&mut state, 0, &[Owned::put("k", "v").by(session, 1, 1)]);
    let hash = state.hash();
    state.freeze().expect("not frozen");
    for name in ["", "a", "b"] {
        let writes: Vec<Owned> = (0..300).map(|n| Owned::delete(format!("{n:05}")).within(name)).collect();
        apply(&mut state, 0, &writes);
    }
    apply(&mut state, 0, &[Owned::delete("k"), Owned::close(session), Owned::put("new", "").within("c")]);
    assert_eq!(state.stats().kept_for_snapshot, 902);
    let slices: Vec<Vec<u8>> = std::iter::from_fn(|| state.slice(0)).collect();
    assert_eq!(load(Limits::default(), slices.iter().map(Vec::as_slice)).expect("whole").hash(), hash);
}

#[test]
fn empty_state_has_a_snapshot() {
    let mut state = State::new(Limits::default());
    let slices = all_slices(&mut state, 4_096);
    assert_eq!(slices.len(), 2);
    assert_eq!(load(Limits::default(), slices.iter().map(Vec::as_slice)).expect("whole").hash(), state.hash());
}

/// The format outlives the process and crosses nodes: a change of these numbers is a new format version.
#[test]
fn snapshot_bytes_and_hash_are_the_same_on_every_build() {
    let mut state = State::new(Limits { answers_max: 1_000, ..small_limits() });
    let session = open(&mut state, 1_234);
    apply(&mut state, 2_345, &[Owned::put("a", "1").by(session, 1, 1), Owned::put("b", "22").within("n")]);
    assert_eq!(state.hash(), 2_890_060_843_576_655_413);
    let bytes = all_slices(&mut state, 4_096).concat();
    assert_eq!((bytes.len(), crc32fast::hash(&bytes)), (304, 2_713_399_873));
}

#[test]
fn one_snapshot_at_a_time_and_none_without_freeze() {
    let mut state = State::new(Limits::default());
    assert_eq!(state.slice(4_096), None);
    state.freeze().expect("not frozen");
    assert_eq!(state.freeze(), Err(AlreadyFrozen));
    state.thaw();
    assert_eq!(state.slice(4_096), None);
    state.freeze().expect("thawed");
}

#[test]
fn thaw_drops_what_was_kept() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 0, &[Owned::put("k", "1")]);
    state.freeze().expect("not frozen");
    apply(&mut state, 0, &[Owned::put("k", "2")]);
    assert_eq!(state.stats().kept_for_snapshot, 1);
    state.thaw();
    assert_eq!(state.stats().kept_for_snapshot, 0);
}

/// A slice that only counted the records it took would walk over all that were put since the freeze in one call.
#[test]
fn slice_visits_a_bounded_number_of_records_even_when_it_takes_none() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 0, &[Owned::put("zz", "old"), Owned::put("a", "old")]);
    let hash = state.hash();
    state.freeze().expect("not frozen");
    for thousand in 0..20 {
        let writes: Vec<Owned> = (0..1_000).map(|n| Owned::put(format!("n{:06}", thousand * 1_000 + n), "new")).collect();
        apply(&mut state, 0, &writes);
    }
    let budget = 8_192;
    let slices: Vec<Vec<u8>> = std::iter::from_fn(|| state.slice(budget)).collect();
    let least = 20_000 / (budget / VISIT_COST_BYTES);
    assert!(slices.len() >= least, "{} slices, each may visit {}", slices.len(), budget / VISIT_COST_BYTES);
    assert!(slices.len() <= least + 4, "every slice comes nearer to the end");
    assert_eq!(load(Limits::default(), slices.iter().map(Vec::as_slice)).expect("whole").hash(), hash);
}

/// Keys that keep being added ahead of the cursor must not keep the snapshot from ending.
#[test]
fn snapshot_ends_though_new_keys_are_added_faster_than_slices_pass_them() {
    let mut state = State::new(Limits::default());
    let old: Vec<Owned> = (0..500).map(|n| Owned::put(format!("a{n:06}"), "old")).collect();
    apply(&mut state, 0, &old);
    state.freeze().expect("not frozen");
    let mut slices = 0;
    while state.slice(0).is_some() {
        slices += 1;
        assert!(slices < 50, "the snapshot does not end");
        let new: Vec<Owned> = (0..200).map(|n| Owned::put(format!("b{slices:06}{n:06}"), "new")).collect();
        apply(&mut state, 0, &new);
    }
}

#[test]
fn slice_is_about_as_long_as_asked_and_a_large_record_is_one_slice() {
    let mut state = State::new(Limits::default());
    let writes: Vec<Owned> = (0..2_000).map(|n| Owned::put(format!("{n:06}"), [1; 100])).collect();
    apply(&mut state, 0, &writes);
    apply(&mut state, 0, &[Owned::put("large", vec![2; 1 << 20])]);
    for bytes_about in [4_096, 65_536] {
        let slices = all_slices(&mut state, bytes_about);
        let (large, others): (Vec<_>, Vec<_>) = slices.iter().partition(|s| s.len() > 1 << 20);
        assert_eq!(large.len(), 1);
        assert!(others.iter().all(|s| s.len() < bytes_about + 200), "a slice goes over by one record at most");
        assert!(others.len() > 200_000 / bytes_about);
    }
}

#[test]
fn loader_takes_the_bytes_cut_anywhere() {
    let (mut state, _, _) = worked(5, 300);
    let bytes = all_slices(&mut state, 4_096).concat();
    let mut random = Random(5);
    for piece_max in [1, 3, 40, 500, 10_000] {
        let mut loader = Loader::new(small_limits());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((1 + random.below(piece_max) as usize).min(rest.len()));
            loader.push(piece).expect("whole so far");
            rest = later;
        }
        assert_eq!(loader.finish().expect("whole").hash(), state.hash());
    }
}

#[test]
fn loader_refuses_a_snapshot_with_any_end_missing() {
    let (mut state, _, _) = worked(6, 60);
    let bytes = all_slices(&mut state, 4_096).concat();
    for end in 0..bytes.len() {
        let mut loader = Loader::new(small_limits());
        loader.push(&bytes[..end]).expect("whole so far");
        let refused = loader.finish().expect_err("the end is missing");
        assert!(refused.why.contains("last slice is missing"), "{refused}");
    }
}

#[test]
fn loader_refuses_slices_missing_repeated_moved_or_too_many() {
    let (mut state, _, _) = worked(7, 400);
    let slices = all_slices(&mut state, 4_096);
    assert!(slices.len() > 5);
    let refused = |slices: &[Vec<u8>], what: &str| {
        assert!(load(small_limits(), slices.iter().map(Vec::as_slice)).is_err(), "{what}");
    };
    for at in 0..slices.len() {
        let mut missing = slices.clone();
        missing.remove(at);
        refused(&missing, "missing");
        if at + 1 < slices.len() {
            let mut loader = Loader::new(small_limits());
            slices[..at].iter().for_each(|s| loader.push(s).expect("whole so far"));
            let refused = loader.push(&slices[at + 1]).expect_err("not the one that is due");
            assert!(refused.why.contains(&format!("number {}, {at} is due", at + 1)), "{refused}");
        }
        let mut repeated = slices.clone();
        repeated.insert(at, slices[at].clone());
        refused(&repeated, "repeated");
        for with in 0..at {
            let mut moved = slices.clone();
            moved.swap(at, with);
            refused(&moved, "moved");
        }
    }
    let mut more = slices.clone();
    more.extend(slices.iter().cloned());
    refused(&more, "twice");
}

#[test]
fn loader_refuses_slices_of_another_snapshot() {
    let (mut state, mut model, mut work) = worked(8, 400);
    let older = all_slices(&mut state, 4_096);
    step(&mut state, &mut model, &mut work);
    let newer = all_slices(&mut state, 4_096);
    let mixed = [&newer[..2], &older[2..]].concat();
    let refused = load(small_limits(), mixed.iter().map(Vec::as_slice)).expect_err("mixed");
    assert!(refused.why.contains("slice 2: a slice at log index 400 among those at 401"), "{refused}");
}

#[test]
fn loader_refuses_any_flipped_bit() {
    let (mut state, _, _) = worked(9, 40);
    let slices = all_slices(&mut state, 4_096);
    let bytes = slices.concat();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(load(small_limits(), [&flipped[..]]).is_err(), "byte {at}, bit {bit}");
        }
    }
}

/// A flipped byte under a checksum that was made right again: what a broken writer could make. Nothing may panic, and
/// nothing but the same state may come out.
#[test]
fn loader_refuses_wrong_contents_under_a_right_checksum() {
    let (mut state, _, _) = worked(10, 60);
    let hash = state.hash();
    let slices = all_slices(&mut state, 4_096);
    for (number, slice) in slices.iter().enumerate() {
        for at in 0..slice.len() {
            for flip in [1, 0x80, 0xff] {
                let mut wrong = slice.clone();
                wrong[at] ^= flip;
                wrong[24..28].fill(0);
                let crc = crc32fast::hash(&wrong);
                wrong[24..28].copy_from_slice(&crc.to_le_bytes());
                let all = slices[..number].iter().chain([&wrong]).chain(&slices[number + 1..]);
                if let Ok(loaded) = load(small_limits(), all.map(Vec::as_slice)) {
                    assert_eq!(loaded.hash(), hash, "slice {number}, byte {at}");
                }
            }
        }
    }
}

#[test]
fn loader_refuses_other_limits_by_name_and_stays_refused() {
    let (mut state, _, _) = worked(1, 10);
    let slices = all_slices(&mut state, 4_096);
    let mut loader = Loader::new(Limits::default());
    let refused = loader.push(&slices[0]).expect_err("other limits");
    assert!(refused.why.contains("all nodes of a ring need the same"), "{refused}");
    assert_eq!(loader.push(&slices[0]), Err(refused.clone()));
    assert_eq!(loader.finish().err(), Some(refused));
}

#[test]
fn random_bytes_never_panic_the_loader() {
    let mut random = Random(12);
    for _ in 0..20_000 {
        let mut bytes = b"rbsl\x01\0".to_vec();
        bytes.extend((0..random.below(200)).map(|_| random.next() as u8 & *random.pick(&[0, 1, 255])));
        assert!(load(Limits::default(), [&bytes[..]]).is_err());
    }
}
