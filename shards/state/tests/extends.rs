//! Deltas: what a value becomes, what is denied and changes nothing, when it is folded, what a snapshot has of it; and what random work
//! needs of them.

use ringbeam_wire::client::{Extend, Fold};
use serde_json::Value;

use super::{Owned, Random, apply, batch, open, small_limits};
use crate::state::command::parse;
use crate::state::limits::{DELTAS_BYTES_MAX, DELTAS_MAX, MERGED_BYTES_MAX};
use crate::state::{Denied, Limits, Loader, State, extend};

/// What a delta makes of a value, as the model says it.
pub fn extended(before: Option<&[u8]>, bytes: &[u8]) -> Result<Vec<u8>, Denied> {
    let max = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    let (kind, max) = if bytes[0] == 1 { (Fold::Concatenate, max) } else { (Fold::MergePatch, max.min(MERGED_BYTES_MAX)) };
    let value = folded(kind, before, &bytes[8..])?;
    if value.len() > max { Err(Denied::ValueTooLarge) } else { Ok(value) }
}

/// The same, whatever its length.
pub fn folded(fold: Fold, before: Option<&[u8]>, delta: &[u8]) -> Result<Vec<u8>, Denied> {
    if fold == Fold::Concatenate {
        return Ok([before.unwrap_or_default(), delta].concat());
    }
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|_| Denied::NotJson);
    let patch = json(delta)?;
    let mut value = json(before.unwrap_or(b"null"))?;
    merge(&mut value, &patch);
    Ok(value.to_string().into_bytes())
}

/// RFC 7396, section 2, as it is written there.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let Value::Object(target) = target else { unreachable!("made one above") };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// A delta to this key, or a put of what patches can change.
pub fn random(random: &mut Random, key: Vec<u8>) -> Owned {
    let name = *random.pick(&["a", "b", "c"]);
    let number = random.below(200);
    match random.below(14) {
        0 => Owned::put(key, format!(r#" {{"b": {{"a": {number}}}, "a": 1.50}}"#)),
        1 => Owned::append(key, vec![b'0' + number as u8 % 10; *random.pick(&[0, 2, 9])], *random.pick(&[20, 1 << 20])),
        2 => Owned::patch(key, format!(r#"{{"{name}":"#), 1 << 20),
        3 => Owned::patch(key, format!(r#"{{"{name}":{{"a":{number}}}}}"#), 30),
        4 => Owned::patch(key, format!(r#"{{"{name}":null}}"#), 1 << 20),
        5 => Owned::patch(key, format!("[{number}]"), 1 << 20),
        6 => Owned::patch(key, format!(r#"{{"{name}":"{}"}}"#, "x".repeat(1_500)), 1 << 20),
        _ => Owned::patch(key, format!(r#"{{ "{name}" : {{"{number}" : [1e1, null]}}}}"#), 1 << 20),
    }
}

fn value(state: &State, key: &str) -> Option<String> {
    state.get("", key.as_bytes()).map(|found| String::from_utf8_lossy(found.value).into_owned())
}

fn one(state: &mut State, write: Owned) -> Result<(), Denied> {
    apply(state, 0, &[write])[0].outcome
}

#[test]
fn values_grow_by_what_is_appended_up_to_their_limit() {
    let mut state = State::new(Limits::default());
    let answers =
        apply(&mut state, 0, &[Owned::append("k", "ab", 5), Owned::append("k", "cde", 5), Owned::append("k", "f", 5)]);
    assert_eq!(
        answers.iter().map(|a| (a.outcome, a.existed)).collect::<Vec<_>>(),
        [(Ok(()), false), (Ok(()), true), (Err(Denied::ValueTooLarge), false)]
    );
    let found = state.get("", b"k").expect("it is there");
    assert_eq!((found.value, found.revision), (&b"abcde"[..], answers[1].revision));
    assert_eq!(one(&mut state, Owned::append("k", "f", 6)), Ok(()), "the limit is the one that goes with the delta");
}

#[test]
fn patches_are_kept_apart_until_they_are_read_and_folded_in_time() {
    let mut state = State::new(Limits::default());
    one(&mut state, Owned::put("k", r#"{ "tiles": {}, "gold": 5 }"#)).expect("a put");
    for n in 1..=DELTAS_MAX {
        one(&mut state, Owned::patch("k", format!(r#"{{"tiles": {{"{n:02}": true}}}}"#), 1 << 20)).expect("a patch");
    }
    let unfolded = state.bytes();
    let tiles: Vec<String> = (1..=DELTAS_MAX).map(|n| format!("\"{n:02}\":true")).collect();
    assert_eq!(value(&state, "k"), Some(format!(r#"{{"gold":5,"tiles":{{{}}}}}"#, tiles.join(","))));
    assert!(!state.contents.folds.is_empty());
    state.forget_folds();
    assert!(state.contents.folds.is_empty());
    one(&mut state, Owned::patch("k", r#"{"tiles":null}"#, 1 << 20)).expect("a patch");
    assert_eq!(value(&state, "k"), Some(r#"{"gold":5}"#.into()));
    assert!(state.bytes() < unfolded / 4, "{} bytes, and {unfolded} before", state.bytes());
    assert!(state.contents.folds.is_empty(), "a base alone is lent as it is");

    // Long patches are folded before they are many.
    let long = format!(r#"{{"long":"{}"}}"#, "x".repeat(DELTAS_BYTES_MAX));
    one(&mut state, Owned::patch("k", &long, 1 << 20)).expect("a patch");
    value(&state, "k").expect("it is there");
    assert!(state.contents.folds.is_empty(), "it was folded at once");
}

#[test]
fn what_is_no_json_or_too_long_is_denied_and_changes_nothing() {
    let mut state = State::new(Limits::default());
    let patch = |text: &str| Owned::patch("k", text, 1 << 20);
    for (before, write, why) in [
        ("text", patch("{}"), Denied::NotJson),
        ("", patch("{}"), Denied::NotJson),
        ("{}", patch("{"), Denied::NotJson),
        ("{}", patch(&"[".repeat(200)), Denied::NotJson),
        ("{}", Owned::patch("k", r#"{"a":123}"#, 8), Denied::ValueTooLarge),
        ("[1]", patch(&format!("\"{}\"", "x".repeat(MERGED_BYTES_MAX - 1))), Denied::ValueTooLarge),
        (&format!("\"{}\"", "x".repeat(MERGED_BYTES_MAX)), patch("{}"), Denied::ValueTooLarge),
    ] {
        one(&mut state, Owned::put("k", before)).expect("a put");
        let hash = state.get("", b"k").map(|found| found.revision);
        assert_eq!(one(&mut state, write), Err(why), "{before:.20}");
        assert_eq!(state.get("", b"k").map(|found| found.revision), hash);
        assert_eq!(value(&state, "k").as_deref(), Some(before));
    }
    assert_eq!(one(&mut state, Owned::patch("new", r#"{"a":{"b":null,"c":1}}"#, 1 << 20)), Ok(()));
    assert_eq!(value(&state, "new").as_deref(), Some(r#"{"a":{"c":1}}"#), "a key without a value is null");
}

#[test]
fn whoever_reads_sees_the_folded_value() {
    let mut state = State::new(small_limits());
    let session = open(&mut state, 0);
    one(&mut state, Owned::put("k", "{}")).expect("a put");
    let patch = Owned::patch("k", r#"{"a":1}"#, 1 << 20).by(session, 1, 1);
    assert_eq!(one(&mut state, patch.clone()), Ok(()));
    assert!(apply(&mut state, 0, &[patch])[0].duplicate, "a retry changes nothing");
    let page: Vec<_> = state.range("", b"", b"", false).map(|(_, found)| found.value.to_vec()).collect();
    assert_eq!(page, [br#"{"a":1}"#]);
    let transact = ringbeam_wire::client::Transact {
        compares: vec![ringbeam_wire::client::Compare::value("k", r#"{"a":1}"#)],
        then: vec![ringbeam_wire::client::Step::get("k")],
        ..Default::default()
    };
    let answer = apply(&mut state, 0, &[Owned::transact(&transact)]).remove(0);
    assert_eq!(
        answer.found().map(|found| found.map(|found| found.value.to_vec())).collect::<Vec<_>>(),
        [Some(br#"{"a":1}"#.to_vec())]
    );
    // Appended to, it is what it reads as, and no JSON any more; a counter takes no object.
    assert_eq!(one(&mut state, Owned::add("k", 1, 0, 9)), Err(Denied::NotANumber));
    assert_eq!(one(&mut state, Owned::append("k", "!", 1 << 20)), Ok(()));
    assert_eq!(value(&state, "k").as_deref(), Some(r#"{"a":1}!"#));
    assert_eq!(one(&mut state, Owned::patch("k", "{}", 1 << 20)), Err(Denied::NotJson));
    assert_eq!(one(&mut state, Owned::patch("n", "7", 1 << 20)), Ok(()));
    assert_eq!(apply(&mut state, 0, &[Owned::add("n", 1, 0, 9)])[0].sum(), Some(8));
}

#[test]
fn a_loaded_snapshot_goes_on_folding_where_the_log_would() {
    let patch = |n: usize| Owned::patch("k", format!(r#"{{"{}":{n}}}"#, n % 40), 1 << 20);
    for loaded_after in [0, 1, DELTAS_MAX - 1, DELTAS_MAX, DELTAS_MAX + 1, 3 * DELTAS_MAX] {
        let mut state = State::new(Limits::default());
        one(&mut state, Owned::put("k", r#"{"b": 1}"#)).expect("a put");
        for n in 0..loaded_after {
            one(&mut state, patch(n)).expect("a patch");
        }
        state.freeze().expect("no snapshot is under way");
        one(&mut state, patch(7)).expect("a patch");
        let mut loader = Loader::new(Limits::default());
        while let Some(slice) = state.slice(4096) {
            loader.push(&slice).expect("a slice of our own");
        }
        state.thaw();
        let mut loaded = loader.finish().expect("it is whole");
        one(&mut loaded, patch(7)).expect("a patch");
        for n in 0..2 * DELTAS_MAX {
            assert_eq!(loaded.hash(), state.hash(), "loaded after {loaded_after}, then {n}");
            for state in [&mut state, &mut loaded] {
                one(state, patch(n + 9)).expect("a patch");
            }
        }
    }
}

#[test]
fn a_delta_in_the_log_is_taken_whole_or_refused() {
    let good = batch(0, &[Owned::append("k", "delta", 9)]).to_vec();
    assert!(parse(&good).is_ok());
    let at = good.len() - 5 - 8;
    for (place, byte) in [(0, 0), (0, 3), (1, 1), (3, 1)] {
        let mut bytes = good.clone();
        bytes[at + place] = byte;
        assert!(parse(&bytes).is_err(), "{byte} at {place}");
    }
    let extend = Extend { fold: Fold::MergePatch, delta: b"{}", ..Extend::default() };
    assert!(extend::Extension::parse(&extend::encode(&extend, 5)[..7]).is_err());
}
