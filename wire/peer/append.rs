//! The one large peer message, left in its payload.

use super::{EntryKind, EntryRef, LogId, Vote};
use crate::malformed::Malformed;
use crate::schema;
use flatbuffers::{ForwardsUOffset, Vector, VectorIter};

/// What an append says besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendHead {
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first one here; `None`: they begin the log.
    pub previous: Option<LogId>,
    /// What the leader knows to be committed.
    pub committed: Option<LogId>,
    /// Everything up to this log index is safe without a tie-breaker's log; 0: not known.
    pub settled: u64,
}

/// Entries for a follower's log; without entries a heartbeat.
#[derive(Clone, Copy)]
pub struct Append<'a> {
    /// All but the entries.
    pub head: AppendHead,
    /// Every entry has been parsed once, by `Append::parse`.
    entries: Option<Vector<'a, ForwardsUOffset<schema::Entry<'a>>>>,
}

impl<'a> Append<'a> {
    pub(super) fn parse(append: schema::Append<'a>, id: u64) -> Result<Append<'a>, Malformed> {
        let vote = append.vote().ok_or_else(|| Malformed::absent(id, "request.body.vote"))?;
        let entries = append.entries();
        let mut before = None;
        for (at, entry) in entries.iter().flatten().enumerate() {
            let place = || format!("request.body.entries[{at}]");
            if EntryKind::from_u8(entry.kind().0).is_none() {
                let known = "known are 0 (blank), 1 (batch), 2 (membership)";
                return Err(Malformed::new(id, format!("{}.kind is {}, {known}", place(), entry.kind().0)));
            }
            let index = entry.id().ok_or_else(|| Malformed::absent(id, &format!("{}.id", place())))?.index();
            if let Some(before) = before.filter(|before: &u64| before.checked_add(1) != Some(index)) {
                let why = format!("{}.id.index is {index}, right after {before}", place());
                return Err(Malformed::new(id, why));
            }
            before = Some(index);
        }
        Ok(Append {
            head: AppendHead {
                vote: (*vote).into(),
                previous: append.previous().copied().map(LogId::from),
                committed: append.committed().copied().map(LogId::from),
                settled: append.settled(),
            },
            entries,
        })
    }

    /// The entries, in the order of their indexes. Payloads live as long as the frame's payload, not this view.
    pub fn entries(&self) -> Entries<'a> {
        Entries { entries: self.entries.map(|entries| entries.iter()), remaining: self.len() }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.map_or(0, |entries| entries.len())
    }

    /// A heartbeat.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Append<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Append").field("head", &self.head).field("entries", &self.entries().collect::<Vec<_>>()).finish()
    }
}

impl PartialEq for Append<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && self.entries().eq(other.entries())
    }
}

impl Eq for Append<'_> {}

/// Iterates over the entries of an [`Append`].
#[derive(Clone)]
pub struct Entries<'a> {
    entries: Option<VectorIter<'a, ForwardsUOffset<schema::Entry<'a>>>>,
    remaining: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryRef<'a>;

    fn next(&mut self) -> Option<EntryRef<'a>> {
        let entry = self.entries.as_mut()?.next()?;
        self.remaining -= 1;
        let id = *entry.id().expect("Append::parse has refused entries without an id");
        let kind = EntryKind::from_u8(entry.kind().0).expect("Append::parse has refused unknown kinds");
        Some(EntryRef { id: id.into(), kind, payload: entry.payload().map_or(&[], |payload| payload.bytes()) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Entries<'_> {}
