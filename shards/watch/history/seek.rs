//! Reading the history: where an offset or a revision is, and events out of bytes. `history.rs` draws them.

use ringbeam_wire::client::Fold;

use super::{Gone, HEAD_BYTES, History, Past};
use crate::state::events::ChangeKind;
use crate::state::{Found, Revision};

impl History {
    /// The offset of the first event that is still here.
    pub fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.start)
    }

    /// The oldest revision behind which everything is here.
    pub fn oldest(&self) -> Revision {
        match self.floor {
            0 => Revision::default(),
            floor => Revision { index: floor, position: u32::MAX },
        }
    }

    /// The offset of the first event behind `after`.
    pub(in crate::watch) fn seek(&self, after: Revision) -> Result<u64, Gone> {
        if after < self.oldest() {
            return Err(Gone { oldest: self.oldest() });
        }
        let chunk = self.chunks.partition_point(|chunk| chunk.last <= after);
        let Some(chunk) = self.chunks.get(chunk) else { return Ok(self.end) };
        let behind = self.from(chunk.start).find(|(_, past)| past.revision > after);
        Ok(behind.map_or(self.end, |(offset, _)| offset))
    }

    /// The events from `offset` on, each with its own offset. `offset` is one of an event, or the end.
    pub(in crate::watch) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, Past<'_>)> {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let mut chunks = self.chunks.range(first..);
        let mut chunk = chunks.next();
        let mut at = chunk.map_or(0, |chunk| offset.saturating_sub(chunk.start) as usize);
        std::iter::from_fn(move || {
            let mut here = chunk?;
            if at == here.bytes.len() {
                chunk = chunks.next();
                here = chunk?;
                at = 0;
            }
            let (past, bytes) = Past::decode(here.bytes.get(at..)?)?;
            let offset = here.start + at as u64;
            at += bytes;
            Some((offset, past))
        })
    }
}

impl<'a> Past<'a> {
    /// The event at the front of these bytes, and how many are its own.
    pub fn decode(bytes: &'a [u8]) -> Option<(Past<'a>, usize)> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let (value_bytes, before) = (u32_at(20)? as usize, u32_at(24)?);
        let (namespace, rest) = rest.split_at_checked(usize::from(head[30]))?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[28], head[29]])))?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        let mut bytes = HEAD_BYTES + namespace.len() + key.len() + value.len();
        let previous = match before.checked_sub(1) {
            None => None,
            Some(previous_bytes) => {
                let (index, rest) = rest.split_first_chunk()?;
                let (position, rest) = rest.split_first_chunk()?;
                let revision = Revision { index: u64::from_le_bytes(*index), position: u32::from_le_bytes(*position) };
                let value = rest.get(..previous_bytes as usize)?;
                bytes += 12 + value.len();
                Some(Found { value, revision })
            }
        };
        let revision = Revision { index: u64_at(0)?, position: u32_at(16)? };
        let kind = kind_in(head[31])?;
        Some((Past { kind, namespace, key, value, revision, ring_time_ms: u64_at(8)?, previous }, bytes))
    }
}

fn kind_in(number: u8) -> Option<ChangeKind> {
    match number {
        0 => Some(ChangeKind::Put),
        1 => Some(ChangeKind::Delete),
        2 => Some(ChangeKind::Expire),
        3 => Some(ChangeKind::Extend(Fold::Concatenate)),
        4 => Some(ChangeKind::Extend(Fold::MergePatch)),
        _ => None,
    }
}
