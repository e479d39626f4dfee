//! Sessions that open, close and go, and what snapshots and questions see of them.

use super::{Kept, Moment, Session, Sessions, expired};
use crate::state::answer::{Answer, Denied, Revision};
use crate::state::freeze::Frozen;
use crate::state::limits::Limits;
use crate::state::snapshot::digest::Digest;

impl Sessions {
    /// Opens a session with the id of `revision`, unless as many as may be are in use.
    pub fn open(
        &mut self,
        revision: Revision,
        now: Moment,
        limits: &Limits,
        frozen: Option<&mut Frozen>,
    ) -> Result<(), Denied> {
        if self.by_id.len() >= limits.sessions_max as usize && !self.remove_oldest_expired(now, limits, frozen) {
            return Err(Denied::TooManySessions);
        }
        let id = revision.session_id();
        let session = Session { floor: 1, last_use_s: now.ring_time_ms / 1_000, changed_at: now.index, ..Session::default() };
        assert!(self.insert(id, session), "session ids are unique, being revisions");
        Ok(())
    }

    /// Closes a session; whether it was open. Closing twice is no error: the second wants what already is.
    pub fn close(&mut self, id: u64, now: Moment, limits: &Limits, frozen: Option<&mut Frozen>) -> bool {
        let open = self.by_id.get(&id).is_some_and(|s| !expired(s.last_use_s, now.ring_time_ms, limits));
        self.remove(id, frozen);
        open
    }

    /// The kept answer of a session's write.
    pub fn outcome(&self, id: u64, sequence: u64) -> Option<Answer> {
        let session = self.by_id.get(&id)?;
        let at = session.find(sequence).ok()?;
        Some(session.window[at].answer())
    }

    /// Adds a session as it is; false, and nothing done, if there is one with this id.
    pub fn insert(&mut self, id: u64, session: Session) -> bool {
        if self.by_id.contains_key(&id) {
            return false;
        }
        self.answers += session.places;
        self.by_last_use.insert((session.last_use_s, id));
        self.by_id.insert(id, session);
        true
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// The sessions with ids above `id`, in order.
    pub fn after(&self, id: u64) -> impl Iterator<Item = (u64, &Session)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id.range((Excluded(id), Unbounded)).map(|(id, session)| (*id, session))
    }

    pub(super) fn remove(&mut self, id: u64, frozen: Option<&mut Frozen>) {
        let Some(session) = self.by_id.remove(&id) else {
            return;
        };
        assert!(self.by_last_use.remove(&(session.last_use_s, id)), "each session is in the order by last use");
        self.answers -= session.places;
        if let Some(frozen) = frozen {
            frozen.keep_removed_session(id, session);
        }
    }
}

impl Session {
    /// Adds an answer behind all others, as a snapshot has it.
    pub fn push_last(&mut self, kept: Kept) {
        self.places += kept.places();
        self.window.push_back(kept);
    }

    pub fn digest(&self, id: u64, digest: &mut Digest) {
        for word in [id, self.floor, self.last_use_s, self.window.len() as u64] {
            digest.word(word);
        }
        for kept in &self.window {
            digest.word(kept.sequence);
            digest.word(kept.index);
            digest.word(kept.ring_time_ms);
            digest.word(u64::from(kept.position_and_existed) << 32 | u64::from(kept.command_crc));
            kept.gets.iter().for_each(|gets| digest.bytes(gets));
        }
    }
}
