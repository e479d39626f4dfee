//! Writes beyond put and delete: counters, values that grow, ranges that go, leases, and the outcome of a lost write.
//!
//! **Invariants**: as everywhere in this protocol, what parsed is complete, and sizes are the node's to refuse ([`Extend::check`] and its
//! likes say the same on both sides).

use super::build::{Body, Builder, build_breakdown, build_items, build_revision, bytes, namespace};
use super::parse::{parse_breakdown, parse_items, parse_revision};
use super::{Breakdown, Item, Revision};
use crate::limits::{DELETE_RANGE_KEYS_MAX, KEY_BYTES_MAX, LEASE_TTL_MS_MAX, check_namespace};
use crate::malformed::Malformed;
use crate::refusal::{Code, Refusal};
use crate::schema;

/// How long a key stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Life {
    /// Milliseconds of ring time after the put; 0: it stays.
    pub ttl_ms: u64,
    /// The lease of the same shard with which it ends; 0: none.
    pub lease: u64,
}

/// Adds to a decimal number. A key without a value counts as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// What is added.
    pub delta: i64,
    /// A sum below this is refused, and nothing changes.
    pub min: i64,
    /// A sum above this is refused, and nothing changes.
    pub max: i64,
    /// As in [`Put::session`](super::Put::session).
    pub session: u64,
    /// As in [`Put::sequence`](super::Put::sequence).
    pub sequence: u64,
    /// As in [`Put::answered_below`](super::Put::answered_below).
    pub answered_below: u64,
}

impl Default for Add<'_> {
    fn default() -> Self {
        Add { namespace: "", key: &[], delta: 0, min: i64::MIN, max: i64::MAX, session: 0, sequence: 0, answered_below: 0 }
    }
}

/// How a delta changes a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fold {
    /// It comes behind it.
    #[default]
    Concatenate,
    /// Both are JSON: a merge patch (RFC 7396).
    MergePatch,
}

/// Changes a value by a delta, which is all that goes through the log. A key without a value begins with an empty one, or with `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extend<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// How the delta changes the value.
    pub fold: Fold,
    /// The delta.
    pub delta: &'a [u8],
    /// As in [`Put::session`](super::Put::session).
    pub session: u64,
    /// As in [`Put::sequence`](super::Put::sequence).
    pub sequence: u64,
    /// As in [`Put::answered_below`](super::Put::answered_below).
    pub answered_below: u64,
}

/// Deletes the keys of a range from its first one on, a bounded number at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteRange<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// As in [`Scan::from`](super::Scan::from).
    pub from: &'a [u8],
    /// As in [`Scan::until`](super::Scan::until).
    pub until: &'a [u8],
    /// Keys at most; 0: as many as may be, [`DELETE_RANGE_KEYS_MAX`].
    pub limit: u32,
    /// As in [`Put::session`](super::Put::session).
    pub session: u64,
    /// As in [`Put::sequence`](super::Put::sequence).
    pub sequence: u64,
    /// As in [`Put::answered_below`](super::Put::answered_below).
    pub answered_below: u64,
}

/// The place of a write in a session, for commands that have nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// As in [`Put::session`](super::Put::session).
    pub session: u64,
    /// As in [`Put::sequence`](super::Put::sequence).
    pub sequence: u64,
    /// As in [`Put::answered_below`](super::Put::answered_below).
    pub answered_below: u64,
}

/// A counter after an addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of the key, from this addition.
    pub revision: Revision,
    /// Ring time of the batch, milliseconds.
    pub ring_time_ms: u64,
    /// The sum.
    pub value: i64,
    /// The answer of an earlier, identical request of this session.
    pub duplicate: bool,
    /// Where the time went.
    pub breakdown: Breakdown,
}

/// A slice of a range is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeDeleted {
    /// Of the deletion.
    pub revision: Revision,
    /// Ring time of the batch, milliseconds.
    pub ring_time_ms: u64,
    /// Keys that went.
    pub deleted: u32,
    /// The range had more: ask again.
    pub more: bool,
    /// The answer of an earlier, identical request of this session.
    pub duplicate: bool,
    /// Where the time went.
    pub breakdown: Breakdown,
}

/// A lease as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its id, unique in its shard.
    pub lease: u64,
    /// It ends this long after it was kept alive last, milliseconds of ring time.
    pub ttl_ms: u64,
    /// Ring time until it ends, milliseconds.
    pub left_ms: u64,
    /// Keys that go with it.
    pub keys: u64,
    /// Of the write that granted or kept it; zero when it was only asked for.
    pub revision: Revision,
    /// Ring time of the answer, milliseconds.
    pub ring_time_ms: u64,
    /// The answer of an earlier, identical request of this session.
    pub duplicate: bool,
}

/// What became of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// It was applied. False: it was not, and never will be.
    pub happened: bool,
    /// As in [`Written::existed`](super::Written::existed); of a transaction: its compares held.
    pub existed: bool,
    /// Of the write.
    pub revision: Revision,
    /// Ring time of its batch, milliseconds.
    pub ring_time_ms: u64,
    /// What the gets of a transaction found, in their order.
    pub gets: Vec<Item<'a>>,
}

impl Add<'_> {
    /// Refuses bounds that no number is in.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.min <= self.max {
            return Ok(());
        }
        let why = format!("the counter's bounds are {} to {}; the first must not be greater", self.min, self.max);
        Err(Refusal::new(Code::BadRequest, why))
    }
}

impl DeleteRange<'_> {
    /// Refuses what no node takes.
    pub fn check(&self) -> Result<(), Refusal> {
        check_namespace(self.namespace)?;
        if self.limit > DELETE_RANGE_KEYS_MAX {
            let why = format!("{} keys are to be deleted at once, the limit is {DELETE_RANGE_KEYS_MAX}", self.limit);
            return Err(Refusal::new(Code::BadRequest, why));
        }
        check_range("range to delete", self.from, self.until)
    }
}

/// Refuses bounds of a range that are longer than what comes behind the longest key.
pub(crate) fn check_range(what: &str, from: &[u8], until: &[u8]) -> Result<(), Refusal> {
    for (name, key) in [("from", from), ("until", until)] {
        if key.len() > KEY_BYTES_MAX as usize + 1 {
            let why = format!("`{name}` of the {what} has {} bytes, the limit is {}", key.len(), KEY_BYTES_MAX + 1);
            return Err(Refusal::new(Code::KeyTooLarge, why));
        }
    }
    Ok(())
}

/// Refuses a time that a lease or a key cannot have.
pub fn check_ttl(what: &str, ttl_ms: u64, min_ms: u64) -> Result<(), Refusal> {
    if (min_ms..=LEASE_TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    let why = format!("the time of the {what} is {ttl_ms} ms, it must be {min_ms} to {LEASE_TTL_MS_MAX}");
    Err(Refusal::new(Code::BadRequest, why))
}

// ---- from bytes ----

pub(super) fn parse_add(add: schema::Add<'_>) -> Add<'_> {
    Add {
        namespace: add.namespace().unwrap_or_default(),
        key: add.key().map_or(&[], |key| key.bytes()),
        delta: add.delta(),
        min: add.min(),
        max: add.max(),
        session: add.session(),
        sequence: add.sequence(),
        answered_below: add.answered_below(),
    }
}

pub(super) fn parse_fold(fold: schema::Fold, id: u64, place: &str) -> Result<Fold, Malformed> {
    match fold {
        schema::Fold::Concatenate => Ok(Fold::Concatenate),
        schema::Fold::MergePatch => Ok(Fold::MergePatch),
        schema::Fold(other) => {
            Err(Malformed::new(id, format!("{place}.fold is {other}, known are 0 (concatenate), 1 (merge patch)")))
        }
    }
}

pub(super) fn parse_extend(extend: schema::Extend<'_>, id: u64) -> Result<Extend<'_>, Malformed> {
    Ok(Extend {
        namespace: extend.namespace().unwrap_or_default(),
        key: extend.key().map_or(&[], |key| key.bytes()),
        fold: parse_fold(extend.fold(), id, "request.body")?,
        delta: extend.delta().map_or(&[], |delta| delta.bytes()),
        session: extend.session(),
        sequence: extend.sequence(),
        answered_below: extend.answered_below(),
    })
}

pub(super) fn parse_delete_range(range: schema::DeleteRange<'_>) -> DeleteRange<'_> {
    DeleteRange {
        namespace: range.namespace().unwrap_or_default(),
        from: range.from().map_or(&[], |from| from.bytes()),
        until: range.until().map_or(&[], |until| until.bytes()),
        limit: range.limit(),
        session: range.session(),
        sequence: range.sequence(),
        answered_below: range.answered_below(),
    }
}

pub(super) fn parse_counted(counted: schema::Counted<'_>, id: u64) -> Result<Counted, Malformed> {
    let revision = counted.revision().ok_or_else(|| Malformed::absent(id, "reply.body.revision"))?;
    Ok(Counted {
        revision: parse_revision(revision),
        ring_time_ms: counted.ring_time_ms(),
        value: counted.value(),
        duplicate: counted.duplicate(),
        breakdown: counted.breakdown().map_or_else(Breakdown::default, parse_breakdown),
    })
}

pub(super) fn parse_range_deleted(gone: schema::RangeDeleted<'_>, id: u64) -> Result<RangeDeleted, Malformed> {
    let revision = gone.revision().ok_or_else(|| Malformed::absent(id, "reply.body.revision"))?;
    Ok(RangeDeleted {
        revision: parse_revision(revision),
        ring_time_ms: gone.ring_time_ms(),
        deleted: gone.deleted(),
        more: gone.more(),
        duplicate: gone.duplicate(),
        breakdown: gone.breakdown().map_or_else(Breakdown::default, parse_breakdown),
    })
}

pub(super) fn parse_lease(lease: schema::Lease<'_>) -> Lease {
    Lease {
        lease: lease.lease(),
        ttl_ms: lease.ttl_ms(),
        left_ms: lease.left_ms(),
        keys: lease.keys(),
        revision: lease.revision().map_or_else(Revision::default, parse_revision),
        ring_time_ms: lease.ring_time_ms(),
        duplicate: lease.duplicate(),
    }
}

pub(super) fn parse_resolved(resolved: schema::Resolved<'_>, id: u64) -> Result<Resolved<'_>, Malformed> {
    Ok(Resolved {
        happened: resolved.happened(),
        existed: resolved.existed(),
        revision: resolved.revision().map_or_else(Revision::default, parse_revision),
        ring_time_ms: resolved.ring_time_ms(),
        gets: parse_items(resolved.gets(), id)?,
    })
}

// ---- to bytes ----

pub(super) fn build_add(b: &mut Builder, add: &Add<'_>) -> Body {
    let args = schema::AddArgs {
        namespace: namespace(b, add.namespace),
        key: bytes(b, add.key),
        delta: add.delta,
        min: add.min,
        max: add.max,
        session: add.session,
        sequence: add.sequence,
        answered_below: add.answered_below,
    };
    schema::Add::create(b, &args).as_union_value()
}

pub(super) fn build_fold(fold: Fold) -> schema::Fold {
    match fold {
        Fold::Concatenate => schema::Fold::Concatenate,
        Fold::MergePatch => schema::Fold::MergePatch,
    }
}

pub(super) fn build_extend(b: &mut Builder, extend: &Extend<'_>) -> Body {
    let args = schema::ExtendArgs {
        namespace: namespace(b, extend.namespace),
        key: bytes(b, extend.key),
        fold: build_fold(extend.fold),
        delta: bytes(b, extend.delta),
        session: extend.session,
        sequence: extend.sequence,
        answered_below: extend.answered_below,
    };
    schema::Extend::create(b, &args).as_union_value()
}

pub(super) fn build_delete_range(b: &mut Builder, range: &DeleteRange<'_>) -> Body {
    let args = schema::DeleteRangeArgs {
        namespace: namespace(b, range.namespace),
        from: bytes(b, range.from),
        until: bytes(b, range.until),
        limit: range.limit,
        session: range.session,
        sequence: range.sequence,
        answered_below: range.answered_below,
    };
    schema::DeleteRange::create(b, &args).as_union_value()
}

pub(super) fn build_counted(b: &mut Builder, counted: &Counted) -> Body {
    let args = schema::CountedArgs {
        revision: Some(&build_revision(counted.revision)),
        ring_time_ms: counted.ring_time_ms,
        value: counted.value,
        duplicate: counted.duplicate,
        breakdown: Some(&build_breakdown(&counted.breakdown)),
    };
    schema::Counted::create(b, &args).as_union_value()
}

pub(super) fn build_range_deleted(b: &mut Builder, gone: &RangeDeleted) -> Body {
    let args = schema::RangeDeletedArgs {
        revision: Some(&build_revision(gone.revision)),
        ring_time_ms: gone.ring_time_ms,
        deleted: gone.deleted,
        more: gone.more,
        duplicate: gone.duplicate,
        breakdown: Some(&build_breakdown(&gone.breakdown)),
    };
    schema::RangeDeleted::create(b, &args).as_union_value()
}

pub(super) fn build_lease(b: &mut Builder, lease: &Lease) -> Body {
    let args = schema::LeaseArgs {
        lease: lease.lease,
        ttl_ms: lease.ttl_ms,
        left_ms: lease.left_ms,
        keys: lease.keys,
        revision: Some(&build_revision(lease.revision)),
        ring_time_ms: lease.ring_time_ms,
        duplicate: lease.duplicate,
    };
    schema::Lease::create(b, &args).as_union_value()
}

pub(super) fn build_resolved(b: &mut Builder, resolved: &Resolved<'_>) -> Body {
    let gets = build_items(b, &resolved.gets);
    let args = schema::ResolvedArgs {
        happened: resolved.happened,
        existed: resolved.existed,
        revision: Some(&build_revision(resolved.revision)),
        ring_time_ms: resolved.ring_time_ms,
        gets: Some(b.create_vector(&gets)),
    };
    schema::Resolved::create(b, &args).as_union_value()
}
