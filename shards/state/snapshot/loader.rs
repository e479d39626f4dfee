//! A snapshot's bytes back into a state.
//!
//! Takes the slices one after another as one stream of bytes, cut anywhere: whole slices, file blocks, network chunks. Bytes
//! come from disk or from a peer, so nothing is believed: a slice counts once its checksum holds, its contents must be in
//! order and within the limits, and the state counts once the digest of all of it is the one that its maker wrote last.
//!
//! **Invariants**: never panics, for any bytes. Holds at most one slice that is not whole yet. After an error, every call
//! returns that error. A state comes out only if it equals the frozen one.

use ringbeam_wire::limits::TRANSACTION_RESULT_BYTES_MAX;

use crate::state::answer::Revision;
use crate::state::deltas::Deltas;
use crate::state::digest::Digest;
use crate::state::leases::Lease;
use crate::state::limits::{
    INDEX_MAX, KEY_BYTES_MAX, LEASES_MAX, Limits, NAMESPACE_BYTES_MAX, POSITION_BITS, POSITIONS_MAX, SESSION_PLACES_MAX,
    VALUE_BYTES_HARD_MAX,
};
use crate::state::reader::{Malformed, Reader};
use crate::state::record::{self, Extras, HAS_EXTRAS};
use crate::state::sessions::{HAS_GETS, Kept, POSITION_AND_BITS_MAX, Session};
use crate::state::slice::{First, HEAD_BYTES, Kind, Parsed, parse, parse_first, slice_bytes};
use crate::state::table::Table;
use crate::state::transaction::check_found;
use crate::state::{State, digest_moment};

/// See the module.
#[derive(Debug)]
pub struct Loader {
    state: State,
    first: Option<First>,
    finished: bool,
    failed: Option<Malformed>,
    digest: Digest,
    /// Begin of a slice whose rest has not come yet.
    pending: Vec<u8>,
    /// Bytes of all slices taken.
    taken: u64,
    slices: u32,
    last_kind: Option<Kind>,
    last_session: u64,
    last_lease: u64,
    /// The namespace that records go to; taken out of the state while it is filled.
    filling: Option<(Box<str>, Table)>,
}

impl Loader {
    /// For a state under `limits`, which must be those of the snapshot.
    pub fn new(limits: Limits) -> Loader {
        Loader {
            state: State::new(limits),
            first: None,
            finished: false,
            failed: None,
            digest: Digest::new(),
            pending: Vec::new(),
            taken: 0,
            slices: 0,
            last_kind: None,
            last_session: 0,
            last_lease: 0,
            filling: None,
        }
    }

    /// The next bytes of the snapshot, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let taken = self.take(bytes);
        if let Err(e) = &taken {
            self.failed = Some(e.clone());
        }
        taken
    }

    /// The state, if the snapshot was whole.
    pub fn finish(mut self) -> Result<State, Malformed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if !self.pending.is_empty() || !self.finished {
            let why = format!("the snapshot ends after {} whole slices, its last slice is missing", self.slices);
            return Err(Malformed::new(self.taken, why));
        }
        assert!(self.filling.is_none() && self.pending.is_empty(), "the last slice settles everything");
        if planted!(SnapshotWithoutSessions) {
            self.state.sessions = Default::default();
        }
        Ok(self.state)
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.pending.is_empty() {
                // The common case: whole slices, read where they are.
                match self.located(slice_bytes(bytes))? {
                    Some(due) if bytes.len() >= due => {
                        self.take_slice(&bytes[..due])?;
                        bytes = &bytes[due..];
                        continue;
                    }
                    _ => {}
                }
            }
            let due = self.located(slice_bytes(&self.pending))?.unwrap_or(HEAD_BYTES);
            let missing = due - self.pending.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.located(slice_bytes(&self.pending))? == Some(self.pending.len()) {
                let whole = std::mem::take(&mut self.pending);
                self.take_slice(&whole)?;
                self.pending = whole;
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// An error of the present slice, placed in the whole snapshot.
    fn located<T>(&self, result: Result<T, Malformed>) -> Result<T, Malformed> {
        result.map_err(|e| Malformed::new(self.taken + e.at, format!("slice {}: {}", self.slices, e.why)))
    }

    fn take_slice(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let result = parse(bytes).and_then(|slice| self.take_parsed(slice));
        self.located(result)?;
        self.taken += bytes.len() as u64;
        self.slices += 1; // 2^32 slices would be refused by their number long before this overflows
        Ok(())
    }

    fn take_parsed(&mut self, mut slice: Parsed<'_>) -> Result<(), Malformed> {
        if slice.number != self.slices {
            return Err(Malformed::new(8, format!("number {}, {} is due", slice.number, self.slices)));
        }
        match (self.last_kind, slice.kind) {
            (None, Kind::First)
            | (Some(Kind::First | Kind::Sessions), Kind::Sessions)
            | (Some(Kind::First | Kind::Sessions | Kind::Leases), Kind::Leases)
            | (Some(Kind::First | Kind::Sessions | Kind::Leases | Kind::Records), Kind::Records | Kind::Last) => {}
            (last, kind) => return Err(Malformed::new(6, format!("kind {kind:?} after {last:?}"))),
        }
        if slice.kind != Kind::First && slice.applied != self.state.applied {
            let why = format!("a slice at log index {} among those at {}", slice.applied, self.state.applied);
            return Err(Malformed::new(16, why));
        }
        self.last_kind = Some(slice.kind);
        let payload = &mut slice.payload;
        match slice.kind {
            Kind::First => self.take_first(slice.applied, payload)?,
            Kind::Sessions => {
                while !payload.is_empty() {
                    self.take_session(payload)?;
                }
            }
            Kind::Leases => {
                while !payload.is_empty() {
                    self.take_lease(payload)?;
                }
            }
            Kind::Records => self.take_records(payload)?,
            Kind::Last => self.take_last(payload)?,
        }
        if !payload.is_empty() {
            return Err(payload.malformed(format!("{} bytes too many", payload.left())));
        }
        Ok(())
    }

    fn take_first(&mut self, applied: u64, payload: &mut Reader<'_>) -> Result<(), Malformed> {
        let first = parse_first(payload)?;
        if first.limits != self.state.limits {
            let (theirs, ours) = (first.limits, self.state.limits);
            let why = format!("a snapshot under {theirs:?}, this node has {ours:?}; all nodes of a ring need the same");
            return Err(payload.malformed(why));
        }
        if applied >= INDEX_MAX {
            return Err(Malformed::new(16, format!("log index {applied}, it must be below {INDEX_MAX}")));
        }
        self.state.applied = applied;
        self.state.ring_time_ms = first.ring_time_ms;
        digest_moment(&mut self.digest, applied, first.ring_time_ms);
        self.first = Some(first);
        Ok(())
    }

    fn take_session(&mut self, payload: &mut Reader<'_>) -> Result<(), Malformed> {
        let State { applied, ring_time_ms, limits, .. } = self.state;
        let (id, floor, last_use_s, answers) = (payload.u64()?, payload.u64()?, payload.u64()?, payload.u32()?);
        payload.u32()?;
        let fits = id > self.last_session && id >> POSITION_BITS <= applied && last_use_s <= ring_time_ms / 1_000;
        if !fits || answers > limits.session_window || self.state.sessions.len() >= limits.sessions_max as usize {
            let why = format!("session {id} with {answers} answers, last used at {last_use_s} s, is out of order or bounds");
            return Err(payload.malformed(why));
        }
        let mut session = Session { floor, last_use_s, changed_at: 0, ..Session::default() };
        let mut sequence_min = floor;
        for _ in 0..answers {
            let mut kept = Kept {
                sequence: payload.u64()?,
                index: payload.u64()?,
                ring_time_ms: payload.u64()?,
                position_and_existed: payload.u32()?,
                command_crc: payload.u32()?,
                gets: None,
            };
            if kept.position_and_existed & HAS_GETS != 0 {
                let bytes = payload.u32()?;
                let gets = payload.take(bytes as usize)?;
                if bytes > TRANSACTION_RESULT_BYTES_MAX {
                    return Err(payload.malformed(format!("an answer of session {id} with {bytes} bytes that gets found")));
                }
                check_found(gets).map_err(|e| payload.malformed(format!("what gets of session {id} found: {e}")))?;
                kept.gets = Some(gets.into());
            }
            let fits = kept.sequence >= sequence_min && kept.index <= applied && kept.ring_time_ms <= ring_time_ms;
            if !fits || kept.position_and_existed >= POSITION_AND_BITS_MAX || session.places > SESSION_PLACES_MAX {
                return Err(payload.malformed(format!("an answer of session {id} out of order or bounds: {kept:?}")));
            }
            sequence_min = kept.sequence.saturating_add(1);
            session.push_last(kept);
        }
        session.digest(id, &mut self.digest);
        self.last_session = id;
        if !self.state.sessions.insert(id, session) {
            return Err(payload.malformed(format!("session {id} twice")));
        }
        Ok(())
    }

    fn take_lease(&mut self, payload: &mut Reader<'_>) -> Result<(), Malformed> {
        let State { applied, ring_time_ms, .. } = self.state;
        let (id, ttl_ms, ends_at_ms) = (payload.u64()?, payload.u64()?, payload.u64()?);
        let fits = id > self.last_lease && id >> POSITION_BITS <= applied && ttl_ms > 0;
        let leases = &mut self.state.contents.leases;
        if !fits || ends_at_ms > ring_time_ms.saturating_add(ttl_ms) || leases.len() >= LEASES_MAX as usize {
            let why = format!("lease {id} of {ttl_ms} ms, which ends at {ends_at_ms} ms, is out of order or bounds");
            return Err(payload.malformed(why));
        }
        let lease = Lease { ttl_ms, ends_at_ms, ..Lease::default() };
        lease.digest(id, &mut self.digest);
        self.last_lease = id;
        if !leases.insert(id, lease) {
            return Err(payload.malformed(format!("lease {id} twice")));
        }
        Ok(())
    }

    fn take_records(&mut self, payload: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut named = false;
        while !payload.is_empty() {
            match payload.u16()? {
                0 => {
                    let name_bytes = usize::from(payload.u8()?);
                    let name = payload.text(name_bytes)?;
                    self.enter_namespace(name).map_err(|why| payload.malformed(why))?;
                    named = true;
                }
                marked => {
                    let key_bytes = marked & !HAS_EXTRAS;
                    let (value_bytes, index, position) = (payload.u32()? as usize, payload.u64()?, payload.u32()?);
                    let key = payload.take(usize::from(key_bytes))?;
                    let extras = if marked == key_bytes { Extras::default() } else { Extras::parse(payload)? };
                    let value = payload.take(value_bytes)?;
                    let fits = key_bytes > 0 && key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_HARD_MAX;
                    if !fits || index > self.state.applied || position >= POSITIONS_MAX || !named {
                        let why =
                            format!("a record of {key_bytes} + {value_bytes} bytes at {index}.{position} is out of bounds");
                        return Err(payload.malformed(why));
                    }
                    let revision = Revision { index, position };
                    self.take_record(revision, key, extras, value).map_err(|why| payload.malformed(why))?;
                }
            }
        }
        Ok(())
    }

    fn enter_namespace(&mut self, name: &str) -> Result<(), String> {
        if name.len() > NAMESPACE_BYTES_MAX {
            return Err(format!("a namespace of {} bytes, at most {NAMESPACE_BYTES_MAX} are allowed", name.len()));
        }
        if let Some((filling, _)) = &self.filling {
            if **filling == *name {
                return Ok(()); // a slice repeats it
            }
            if **filling > *name {
                return Err(format!("namespace {name:?} after {filling:?}"));
            }
        }
        self.leave_namespace()?;
        self.digest.bytes(name.as_bytes());
        self.filling = Some((name.into(), Table::new()));
        Ok(())
    }

    fn leave_namespace(&mut self) -> Result<(), String> {
        if let Some((name, table)) = self.filling.take() {
            if table.is_empty() {
                return Err(format!("namespace {name:?} without records"));
            }
            self.state.contents.tables.insert(name, table);
        }
        Ok(())
    }

    fn take_record(&mut self, revision: Revision, key: &[u8], extras: Extras, value: &[u8]) -> Result<(), String> {
        if extras.deltas {
            Deltas::parse(value).map_err(|why| why.to_string())?;
        }
        let Some((namespace, table)) = &mut self.filling else {
            return Err("a record before its namespace".into());
        };
        let leases = &mut self.state.contents.leases;
        if extras.lease != 0 && !leases.contains(extras.lease) {
            return Err(format!("a record of lease {}, which is not among the leases", extras.lease));
        }
        let Some(record) = table.push_last(revision, key, extras, value) else {
            return Err("a key that is not after the one before it".into());
        };
        self.digest.bytes(record.as_bytes());
        leases.moved(namespace, key, Extras::default(), extras);
        self.state.contents.keys += 1;
        self.state.contents.bytes += record::bytes_of(key, extras, value);
        Ok(())
    }

    fn take_last(&mut self, payload: &mut Reader<'_>) -> Result<(), Malformed> {
        let (digest, bytes) = (payload.u64()?, payload.u64()?);
        self.leave_namespace().map_err(|why| payload.malformed(why))?;
        let first = self.first.expect("no other slice comes before the first");
        let due = (digest, bytes, first.keys, first.sessions, u64::from(first.leases));
        let state = &self.state;
        let is = (self.digest.finish(), state.bytes(), state.keys(), state.sessions(), state.leases());
        if is != due {
            let why = format!("(digest, bytes, keys, sessions, leases) should be {due:x?} and are {is:x?}");
            return Err(payload.malformed(why));
        }
        self.finished = true;
        Ok(())
    }
}
