//! A JSON value that is kept as a base and the merge patches (RFC 7396) that came after it, unfolded until somebody reads it.
//!
//! ```text
//! 0            4         4+b
//! | base bytes | base    | delta bytes | delta | delta bytes | delta | ...         the value of a record with the flag for it
//! | u32 = b    | JSON    | u32         | JSON  |                                    integers little-endian
//! ```
//!
//! Appending a small patch to a large state then costs a copy, not a parse. A read folds: it parses the base and its patches, and gives
//! what they come to. A base without patches is what a read gives, as it is.
//!
//! **Canonical form.** What is stored and hashed is this unfolded form. When it is folded is a function of the log alone (`extend.rs`), so
//! nodes agree, whether they applied the log or loaded a snapshot. Base and patches are stored as this library writes JSON: no blanks,
//! object keys in byte order, the last of equal keys, numbers as 64-bit integers or doubles. So the bytes of all parts together are never less than those
//! of what they fold to, and whether a value stays within its limit is known without folding.
//!
//! **Invariants**: what [`Deltas::parse`] has accepted folds without failing. No part is nested deeper than the library's 128.
//!
//! **Not here**: concatenation, which needs no base: it is done at once.

use serde_json::Value;

use crate::state::reader::{Malformed, Reader};

/// Bytes before the base, and before each delta.
const LENGTH_BYTES: usize = 4;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Deltas<'a> {
    base: &'a [u8],
    /// Deltas with their lengths.
    rest: &'a [u8],
}

/// The JSON of these bytes; `None`: they are none, or nested too deep.
pub(in crate::state) fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// JSON as it is stored.
pub(in crate::state) fn canonical(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value without maps of other keys than text is written to memory")
}

/// The stored form of a base without deltas.
pub(in crate::state) fn of_base(base: &[u8]) -> Vec<u8> {
    [&(base.len() as u32).to_le_bytes(), base].concat()
}

impl<'a> Deltas<'a> {
    /// Of a record of ours.
    pub fn of(stored: &'a [u8]) -> Deltas<'a> {
        Deltas::split(stored).expect("a record's own bytes")
    }

    /// Checks foreign bytes, to the last.
    pub fn parse(stored: &'a [u8]) -> Result<Deltas<'a>, Malformed> {
        let deltas = Deltas::split(stored)?;
        let mut rest = Reader::new(deltas.rest);
        let mut parts = vec![deltas.base];
        while !rest.is_empty() {
            let bytes = rest.u32()? as usize;
            parts.push(rest.take(bytes)?);
        }
        if parts.iter().any(|part| json(part).is_none()) {
            return Err(Malformed::new(0, "a base or delta that is no JSON"));
        }
        Ok(deltas)
    }

    fn split(stored: &'a [u8]) -> Result<Deltas<'a>, Malformed> {
        let mut reader = Reader::new(stored);
        let bytes = reader.u32()? as usize;
        let base = reader.take(bytes)?;
        Ok(Deltas { base, rest: reader.take(reader.left())? })
    }

    fn each(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Reader::new(self.rest);
        std::iter::from_fn(move || {
            let bytes = rest.u32().ok()? as usize;
            rest.take(bytes).ok()
        })
    }

    /// Deltas that are not folded.
    pub fn count(&self) -> usize {
        self.each().count()
    }

    /// Bytes of those.
    pub fn bytes(&self) -> usize {
        self.each().map(<[u8]>::len).sum()
    }

    /// What a read gives, if nothing is to be folded.
    pub fn plain(&self) -> Option<&'a [u8]> {
        self.rest.is_empty().then_some(self.base)
    }

    pub fn base_bytes(&self) -> usize {
        self.base.len()
    }

    /// All of it as one value.
    pub fn fold(&self) -> Value {
        let mut value = json(self.base).expect("checked when it was stored");
        for delta in self.each() {
            json_patch::merge(&mut value, &json(delta).expect("checked when it was stored"));
        }
        value
    }

    /// The stored form with one more delta, which is canonical JSON.
    pub fn and(&self, delta: &[u8]) -> Vec<u8> {
        let mut stored = Vec::with_capacity(2 * LENGTH_BYTES + self.base.len() + self.rest.len() + delta.len());
        for part in [&(self.base.len() as u32).to_le_bytes(), self.base, self.rest, &(delta.len() as u32).to_le_bytes(), delta]
        {
            stored.extend_from_slice(part);
        }
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(base: &str, deltas: &[&str]) -> String {
        let mut stored = of_base(base.as_bytes());
        for delta in deltas {
            stored = Deltas::of(&stored).and(delta.as_bytes());
        }
        let deltas = Deltas::parse(&stored).expect("as stored");
        String::from_utf8(canonical(&deltas.fold())).expect("JSON is text")
    }

    /// The table of RFC 7396, appendix A.
    #[test]
    fn patches_merge_as_the_standard_says() {
        for (base, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(folded(base, &[patch]), result, "{base} with {patch}");
        }
        assert_eq!(folded("{}", &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":null}"#]), r#"{"b":2}"#);
    }

    /// A feature of the library that another crate of a build turned on, or another version of it, would make nodes differ: a change
    /// here is a change of the format.
    #[test]
    fn json_is_written_the_same_by_every_build() {
        let text = r#" {"b": 1.50, "a": [1e2, -0, 18446744073709551616, "\u00e9\/"], "b": 2} "#;
        let value = json(text.as_bytes()).expect("JSON");
        let written = String::from_utf8(canonical(&value)).expect("text");
        assert_eq!(written, "{\"a\":[100.0,-0.0,1.8446744073709552e+19,\"\u{e9}/\"],\"b\":2}");
        assert_eq!(json(written.as_bytes()).map(|again| canonical(&again)), Some(written.into_bytes()), "and stays so");
    }

    #[test]
    fn bytes_that_are_no_deltas_are_refused() {
        let stored = Deltas::of(&of_base(b"{}")).and(b"{\"a\":1}");
        assert!(Deltas::parse(&stored).is_ok());
        for end in 0..stored.len() {
            assert!(end == 6 || Deltas::parse(&stored[..end]).is_err(), "{end} bytes");
        }
        for text in ["{", "", &"[".repeat(200)] {
            assert!(Deltas::parse(&of_base(text.as_bytes())).is_err(), "{text:?}");
        }
    }
}
