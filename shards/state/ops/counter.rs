//! Counters: a value that is a decimal number, and an addition to it in the log.
//!
//! ```text
//! 0         8       16      24
//! | delta   | least | most  |       i64 each, little-endian
//! ```
//!
//! A counter's value is its number in ASCII as people write it (`-7`, `0`, `42`; no sign before a positive one, no leading zeros), so
//! that a get shows it and a put can set it. A key without a value counts as 0.
//!
//! The sum is kept with the answer, as what a transaction's gets find: a retry is told the sum of the first time, whatever the counter
//! has become.
//!
//! **Invariants**: a denied addition changes nothing. `least` is not above `most`.

use std::io::Write as _;

use ringbeam_wire::client::Add;

use crate::state::answer::{Answer, Denied};
use crate::state::events::Sink;
use crate::state::kept::Kept;
use crate::state::reader::{Malformed, Reader};
use crate::state::record::{Extras, Record};
use crate::state::{Contents, Found, transaction};

/// Bytes of an addition in the log.
pub const ADDITION_BYTES: usize = 24;
/// Digits and sign of the longest number.
const NUMBER_BYTES_MAX: usize = 20;

/// Bytes of an addition that have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition<'a>(&'a [u8]);

/// The bytes of an addition that [`Add::check`] has let through.
pub fn encode(add: &Add<'_>) -> [u8; ADDITION_BYTES] {
    let mut bytes = [0; ADDITION_BYTES];
    for (place, number) in bytes.chunks_exact_mut(8).zip([add.delta, add.min, add.max]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl<'a> Addition<'a> {
    /// Checks the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Addition<'a>, Malformed> {
        if bytes.len() != ADDITION_BYTES {
            return Err(Malformed::new(0, format!("an addition of {} bytes, it has {ADDITION_BYTES}", bytes.len())));
        }
        let addition = Addition(bytes);
        let [_, least, most] = addition.numbers();
        if least > most {
            return Err(Malformed::new(8, format!("a counter of {least} to {most}, which no number is in")));
        }
        Ok(addition)
    }

    pub(in crate::state) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Delta, least and most sum.
    fn numbers(self) -> [i64; 3] {
        let mut reader = Reader::new(self.0);
        [(); 3].map(|()| reader.u64().expect("three numbers, checked when it was parsed").cast_signed())
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
        // Whatever ends the key's life goes on to do so.
        let extras = contents.record(namespace, key).map_or(Extras::default(), Record::extras);
        let extras = Extras { deltas: false, ..extras };
        let before = contents.get(namespace, key).map(|found| found.value);
        let sum = match self.sum(before) {
            Ok(sum) => sum,
            Err(denied) => return answer.outcome = Err(denied),
        };
        let mut digits = [0; NUMBER_BYTES_MAX];
        let value = decimal(sum, &mut digits);
        contents.tell_put(answer.revision, namespace, key, value, sink);
        answer.existed = contents.put(answer.revision, namespace, key, extras, value, kept);
        let mut gets = Vec::with_capacity(16 + NUMBER_BYTES_MAX);
        transaction::note(&mut gets, Some(Found { value, revision: answer.revision }));
        answer.gets = Some(gets.into());
    }

    fn sum(self, before: Option<&[u8]>) -> Result<i64, Denied> {
        let [delta, least, most] = self.numbers();
        let before = before.map_or(Some(0), number).ok_or(Denied::NotANumber)?;
        let sum = before.checked_add(delta).ok_or(Denied::OutOfBounds)?;
        if (least..=most).contains(&sum) { Ok(sum) } else { Err(Denied::OutOfBounds) }
    }
}

/// The number that a value is, written as numbers are.
pub fn number(value: &[u8]) -> Option<i64> {
    let number = std::str::from_utf8(value).ok()?.parse().ok()?;
    (decimal(number, &mut [0; NUMBER_BYTES_MAX]) == value).then_some(number)
}

fn decimal(number: i64, digits: &mut [u8; NUMBER_BYTES_MAX]) -> &[u8] {
    let mut left = &mut digits[..];
    write!(left, "{number}").expect("no number is longer");
    let used = NUMBER_BYTES_MAX - left.len();
    &digits[..used]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_as_numbers_are_is_a_number() {
        for good in [0, 1, -1, 42, i64::MIN, i64::MAX] {
            assert_eq!(number(good.to_string().as_bytes()), Some(good));
        }
        for bad in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "1e3", "\u{661}"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn additions_that_are_none_are_refused() {
        let add = Add { delta: 5, min: -3, max: 9, ..Add::default() };
        assert_eq!(Addition::parse(&encode(&add)).map(Addition::numbers), Ok([5, -3, 9]));
        assert!(Addition::parse(&encode(&add)[1..]).is_err());
        assert!(Addition::parse(&encode(&Add { min: 10, ..add })).is_err());
    }
}
