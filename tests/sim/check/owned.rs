//! Keys that one client has for itself: it asks one thing after the other, so it knows what each answer and each read must be.
//!
//! | promised | looked at |
//! |---|---|
//! | a delta is applied once, in its place, however often it was sent and wherever it was folded | the value is the model's, byte for byte, or as JSON |
//! | a slice of a range takes its first keys, once, and says how many and whether there are more | the answer is the model's |
//! | put, delete and delta say whether there was a value | the answer is the model's |
//!
//! A write without an answer may happen later, or never: whoever has one leaves its keys and takes new ones.
//!
//! **Invariant**: the model knows nothing of how a value is stored; a merge patch is RFC 7396's own seven lines.
//!
//! **Not here**: what is asked (`load/owned.rs`).

use std::collections::BTreeMap;

use serde_json::Value;

/// What the keys of one owner must be.
#[derive(Clone, Debug, Default)]
pub struct Model(BTreeMap<Vec<u8>, Vec<u8>>);

/// How a value must compare: a patched one as JSON, whatever its spaces and the order of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Bytes,
    Json,
}

impl Model {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// All keys, with what they must be.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Whether there was a value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.0.insert(key.to_vec(), value.to_vec()).is_some()
    }

    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.0.remove(key).is_some()
    }

    pub fn append(&mut self, key: &[u8], delta: &[u8]) -> bool {
        let existed = self.0.contains_key(key);
        self.0.entry(key.to_vec()).or_default().extend_from_slice(delta);
        existed
    }

    pub fn patch(&mut self, key: &[u8], patch: &Value) -> bool {
        let before = self.0.get(key).map(|bytes| serde_json::from_slice(bytes).expect("the model's own JSON"));
        let existed = before.is_some();
        let after = merge(before.unwrap_or(Value::Null), patch);
        self.0.insert(key.to_vec(), after.to_string().into_bytes());
        existed
    }

    /// The first `limit` keys of a range go: how many, and whether there are more.
    pub fn erase(&mut self, from: &[u8], until: &[u8], limit: usize) -> (u32, bool) {
        let range: Vec<Vec<u8>> = self.0.range(from.to_vec()..until.to_vec()).map(|(key, _)| key.clone()).collect();
        range.iter().take(limit).for_each(|key| drop(self.0.remove(key)));
        (range.len().min(limit) as u32, range.len() > limit)
    }

    /// What is wrong with a key that was found to be so.
    pub fn judge(&self, key: &[u8], found: Option<&[u8]>, form: Form) -> Option<String> {
        let expected = self.get(key);
        let same = match (expected, found, form) {
            (Some(expected), Some(found), Form::Json) => {
                let json = |bytes| serde_json::from_slice::<Value>(bytes).ok();
                json(found).is_some() && json(expected) == json(found)
            }
            _ => expected == found,
        };
        (!same).then(|| {
            let words = |value: Option<&[u8]>| value.map_or("nothing".to_string(), |v| String::from_utf8_lossy(v).into_owned());
            format!("{} is {}, and must be {}", String::from_utf8_lossy(key), words(found), words(expected))
        })
    }
}

/// RFC 7396, section 2.
fn merge(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(target) = target { target } else { Default::default() };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let before = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), merge(before, value));
        }
    }
    Value::Object(target)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_are_merged_as_the_rfc_has_it() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!(["a", "b"]), json!({"a": 1}), json!({"a": 1})),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (target, patch, result) in cases {
            assert_eq!(merge(target, &patch), result);
        }
    }

    #[test]
    fn a_delta_that_is_lost_or_twice_or_misplaced_is_found() {
        let mut model = Model::default();
        assert!(!model.append(b"text", b"1;"));
        assert!(model.append(b"text", b"2;"));
        assert_eq!(model.judge(b"text", Some(b"1;2;"), Form::Bytes), None);
        for wrong in [&b"1;"[..], b"1;2;2;", b"2;1;", b""] {
            assert!(model.judge(b"text", Some(wrong), Form::Bytes).is_some_and(|why| why.contains("must be 1;2;")));
        }
        assert!(model.judge(b"text", None, Form::Bytes).is_some());
        model.patch(b"doc", &json!({"b": 1}));
        assert!(model.patch(b"doc", &json!({"a": 2})));
        assert_eq!(model.judge(b"doc", Some(br#"{"b":1, "a":2}"#), Form::Json), None);
        assert!(model.judge(b"doc", Some(br#"{"b":1}"#), Form::Json).is_some());
        assert!(model.judge(b"doc", Some(b"no json"), Form::Json).is_some());
        assert!(model.delete(b"doc") && !model.delete(b"doc"));
        assert!(model.judge(b"doc", Some(b"{}"), Form::Json).is_some());
    }

    #[test]
    fn slices_take_the_first_keys_and_say_if_there_are_more() {
        let mut model = Model::default();
        for key in [b"k1", b"k2", b"k3", b"l1"] {
            model.put(key, b"v");
        }
        assert_eq!(model.erase(b"k", b"l", 2), (2, true));
        assert_eq!(model.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"k3", b"l1"]);
        assert_eq!(model.erase(b"k", b"l", 2), (1, false));
        assert_eq!(model.erase(b"k", b"l", 2), (0, false));
    }
}
