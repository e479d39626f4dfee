//! A range of keys that goes, a bounded slice at a time: its bytes in the log, and what applying it does.
//!
//! ```text
//! key: the first key (empty: the very first)
//! value: 0            4
//!        | keys most  | the key before which it ends (empty: none) |          u32, little-endian
//! ```
//!
//! One write of the log is applied without a pause, so it takes a bounded number of keys and bytes from the beginning of the range, and
//! its answer says how many went and whether there are more: who wants the whole range asks again. Each slice is one moment; a
//! range of several is not.
//!
//! **Invariants**: what went and what its answer says depend on nothing but the log. A slice of a range that has keys takes one at least.

use std::io::Write as _;

use ringbeam_wire::client::DeleteRange;
use ringbeam_wire::limits::DELETE_RANGE_KEYS_MAX;

use crate::state::answer::{Answer, Revision};
use crate::state::events::{ChangeKind, Sink};
use crate::state::kept::Kept;
use crate::state::limits::{ERASED_BYTES_MAX, KEY_BYTES_MAX};
use crate::state::reader::{Malformed, Reader};
use crate::state::{Contents, Found, transaction};

const HEAD_BYTES: usize = 4;
/// Longest bound of a range: what comes right behind the longest key.
pub(in crate::state) const BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;

/// The value of a range delete, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erasure<'a>(&'a [u8]);

/// The value of a range delete that [`DeleteRange::check`] has let through.
pub fn encode(range: &DeleteRange<'_>) -> Vec<u8> {
    let most = if range.limit == 0 { DELETE_RANGE_KEYS_MAX } else { range.limit };
    [&most.to_le_bytes(), range.until].concat()
}

impl<'a> Erasure<'a> {
    /// Checks the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Erasure<'a>, Malformed> {
        let most = Reader::new(bytes).u32()?;
        if !(1..=DELETE_RANGE_KEYS_MAX).contains(&most) {
            return Err(Malformed::new(
                0,
                format!("{most} keys to be deleted at once, it must be 1 to {DELETE_RANGE_KEYS_MAX}"),
            ));
        }
        let until = bytes.len() - HEAD_BYTES;
        if until > BOUND_BYTES_MAX {
            return Err(Malformed::new(
                4,
                format!("a range that ends with {until} bytes, at most {BOUND_BYTES_MAX} are allowed"),
            ));
        }
        Ok(Erasure(bytes))
    }

    pub(in crate::state) fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn most(self) -> usize {
        Reader::new(self.0).u32().expect("checked when it was parsed") as usize
    }

    fn until(self) -> &'a [u8] {
        &self.0[HEAD_BYTES..]
    }

    /// Runs it at the revision of the answer, and says in there what came of it.
    pub(in crate::state) fn run<S: Sink>(
        self,
        contents: &mut Contents,
        namespace: &str,
        from: &[u8],
        kept: &mut Kept,
        answer: &mut Answer,
        sink: &mut S,
    ) {
        let mut nothing = Kept::default();
        let kept = if planted!(SliceGoesFromFrozen) { &mut nothing } else { kept };
        let (keys, more) = self.due(contents, namespace, from);
        for key in &keys {
            contents.remove(ChangeKind::Delete, answer.revision, namespace, key, kept, sink);
        }
        answer.existed = !keys.is_empty();
        answer.gets = Some(note(keys.len(), more, answer.revision).into());
    }

    /// The keys that go, and whether the range has more.
    fn due(self, contents: &Contents, namespace: &str, from: &[u8]) -> (Vec<Box<[u8]>>, bool) {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let Some(table) = contents.tables.get(namespace) else { return (keys, false) };
        let (most, until) = (self.most(), self.until());
        for record in table.starting(from).take_while(|record| until.is_empty() || record.key() < until) {
            if keys.len() == most || bytes >= ERASED_BYTES_MAX {
                return (keys, true);
            }
            bytes += record.bytes();
            keys.push(record.key().into());
        }
        (keys, false)
    }
}

/// What is kept with the answer, in the form of what gets find: a number in decimal, and an empty value if there is more.
fn note(keys: usize, more: bool, revision: Revision) -> Vec<u8> {
    let (mut gets, mut digits) = (Vec::with_capacity(40), Vec::with_capacity(4));
    write!(digits, "{keys}").expect("memory takes it");
    transaction::note(&mut gets, Some(Found { value: &digits, revision }));
    transaction::note(&mut gets, more.then_some(Found { value: &[], revision }));
    gets
}

/// Keys that went, and whether the range has more, out of an answer.
pub(in crate::state) fn noted(answer: &Answer) -> Option<(u32, bool)> {
    let mut found = answer.found();
    let keys = std::str::from_utf8(found.next()??.value).ok()?.parse().ok()?;
    Some((keys, found.next()?.is_some()))
}
