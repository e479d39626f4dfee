//! A delta to a value: its bytes in the log, and what applying it does.
//!
//! ```text
//! 0      1       4                 8
//! | fold | 0 0 0 | value bytes max | delta |        fold: 1 concatenate, 2 merge patch; u32, little-endian
//! | u8   |       | u32             |
//! ```
//!
//! The longest value that the leader allows goes with the delta, so that every node decides alike whether the result is too long.
//!
//! | fold | the key has | what is stored |
//! |---|---|---|
//! | concatenate | nothing, or a value | value and delta, at once: it costs the same copy as keeping them apart |
//! | concatenate | a base and patches | what they fold to, and the delta behind it: no JSON any more |
//! | merge patch | nothing | `null`, patched |
//! | merge patch | a value that is JSON | a base and this patch |
//! | merge patch | a base and patches | one patch more; folded into a new base when they are more than [`DELTAS_MAX`], or their bytes more than [`DELTAS_BYTES_MAX`], or all together more than a value may be |
//!
//! **Invariants**: a denied delta changes nothing. When a value is folded is a function of what is stored and of the delta.
//!
//! **Not here**: the stored form (`deltas.rs`), whether a patch is JSON at all: that is refused before the log, too (`data.rs`).

use ringbeam_wire::client::{Extend, Fold};

use crate::state::Contents;
use crate::state::answer::{Answer, Denied};
use crate::state::deltas::{Deltas, canonical, json, of_base};
use crate::state::events::{Change, ChangeKind, Sink};
use crate::state::kept::Kept;
use crate::state::limits::{DELTAS_BYTES_MAX, DELTAS_MAX, MERGED_BYTES_MAX};
use crate::state::reader::{Malformed, Reader};
use crate::state::record::Extras;

/// Bytes before the delta.
pub(in crate::state) const HEAD_BYTES: usize = 8;

/// A delta in the log, checked as far as its form goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a>(&'a [u8]);

/// The bytes of a delta, to values of at most `value_bytes_max`.
pub fn encode(extend: &Extend<'_>, value_bytes_max: u32) -> Vec<u8> {
    let fold = match extend.fold {
        Fold::Concatenate => 1,
        Fold::MergePatch => 2,
    };
    [&[fold, 0, 0, 0][..], &value_bytes_max.to_le_bytes(), extend.delta].concat()
}

/// Whether these bytes can be a merge patch; if not, where and why.
pub fn check_json(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<serde_json::Value>(bytes).map(drop).map_err(|why| why.to_string())
}

impl<'a> Extension<'a> {
    /// Checks the bytes, apart from whether a patch is JSON.
    pub fn parse(bytes: &'a [u8]) -> Result<Extension<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let (fold, zeros) = (reader.u8()?, reader.take(3)?);
        reader.u32()?;
        if !(1..=2).contains(&fold) || zeros != [0; 3] {
            return Err(Malformed::new(0, format!("fold {fold} and {zeros:?}, known are 1 and 2, and zeros")));
        }
        Ok(Extension(bytes))
    }

    pub(in crate::state) fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn fold(self) -> Fold {
        if self.0[0] == 2 { Fold::MergePatch } else { Fold::Concatenate }
    }

    fn merges(self) -> bool {
        self.fold() == Fold::MergePatch
    }

    fn value_bytes_max(self) -> usize {
        let mut reader = Reader::new(&self.0[4..]);
        reader.u32().expect("checked when it was parsed") as usize
    }

    /// The delta itself.
    pub fn delta(self) -> &'a [u8] {
        &self.0[HEAD_BYTES..]
    }

    /// Runs it at the revision of the answer, and says in there what came of it.
    pub(in crate::state) fn run<S: Sink>(
        self,
        contents: &mut Contents,
        namespace: &str,
        key: &[u8],
        kept: &mut Kept,
        answer: &mut Answer,
        sink: &mut S,
    ) {
        contents.folds.forget();
        let record = contents.record(namespace, key);
        // Whatever ends the key's life goes on to do so.
        let extras = record.map_or(Extras::default(), |record| record.extras());
        let before = record.map(|record| record.value());
        let next = if self.merges() { self.merge(before, extras.deltas) } else { self.append(before, extras.deltas) };
        match next {
            Ok(value) => {
                let extras = Extras { deltas: self.merges(), ..extras };
                let previous = if sink.wants_previous() { contents.get(namespace, key) } else { None };
                let (kind, revision) = (ChangeKind::Extend(self.fold()), answer.revision);
                sink.changed(&Change { kind, namespace, key, value: self.delta(), revision, previous });
                answer.existed = contents.put(answer.revision, namespace, key, extras, &value, kept);
            }
            Err(denied) => answer.outcome = Err(denied),
        }
    }

    /// What is stored when the delta is appended to this.
    fn append(self, before: Option<&[u8]>, deltas: bool) -> Result<Vec<u8>, Denied> {
        let folded = before.filter(|_| deltas).map(|stored| canonical(&Deltas::of(stored).fold()));
        let value = folded.as_deref().or(before).unwrap_or_default();
        if value.len() + self.delta().len() > self.value_bytes_max() {
            return Err(Denied::ValueTooLarge);
        }
        Ok([value, self.delta()].concat())
    }

    /// What is stored when the patch comes to this.
    fn merge(self, before: Option<&[u8]>, deltas: bool) -> Result<Vec<u8>, Denied> {
        let bytes_max = self.value_bytes_max().min(MERGED_BYTES_MAX);
        let delta = Some(self.delta()).filter(|delta| delta.len() <= MERGED_BYTES_MAX).ok_or(Denied::ValueTooLarge)?;
        let delta = canonical(&json(delta).ok_or(Denied::NotJson)?);
        let based; // of a value that was no base yet
        let stored = match before {
            Some(stored) if deltas => stored,
            Some(value) if value.len() > MERGED_BYTES_MAX => return Err(Denied::ValueTooLarge),
            value => {
                based = of_base(&canonical(&json(value.unwrap_or(b"null")).ok_or(Denied::NotJson)?));
                &based
            }
        };
        let now = Deltas::of(stored);
        let bytes = now.bytes() + delta.len();
        let keeps = before.is_some() && now.count() < DELTAS_MAX && bytes <= DELTAS_BYTES_MAX;
        // Parts are never shorter than what they come to.
        if keeps && now.base_bytes() + bytes <= bytes_max {
            return Ok(now.and(&delta));
        }
        let all = now.and(&delta);
        let loses = planted!(FoldLosesPatch) && before.is_some();
        let folded = canonical(&Deltas::of(if loses { stored } else { &all }).fold());
        if folded.len() > bytes_max { Err(Denied::ValueTooLarge) } else { Ok(of_base(&folded)) }
    }
}
