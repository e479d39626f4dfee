//! Reads of one key, and how fresh a read must be.

use super::Revision;

/// Reads a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get<'a> {
    /// Namespace; "" is the default one.
    pub namespace: &'a str,
    /// The key.
    pub key: &'a [u8],
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began. Served by the leader.
    #[default]
    Linearizable,
    /// What the asked node has applied. Served by every node that keeps state.
    Local,
    /// What a node has applied that has come at least so far: one's own writes, and never less than one has seen. Served by every node
    /// that keeps state.
    Session {
        /// Log index of the shard.
        index_min: u64,
    },
    /// Misses nothing that was acknowledged longer ago than this. Served by every node that keeps state and can show it.
    Bounded {
        /// Milliseconds.
        age_ms_max: u32,
        /// When it cannot be shown, answer all the same, and say so.
        stale_ok: bool,
    },
}

/// A read's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value<'a> {
    /// Whether the key has a value.
    pub found: bool,
    /// The value; empty when not found.
    pub value: &'a [u8],
    /// Of the key; zero when not found.
    pub revision: Revision,
    /// The applied log index that this answer reflects.
    pub index: u64,
    /// It reflects every write acknowledged this long before it was made, or longer ago, milliseconds; `None`: not known.
    pub age_ms: Option<u32>,
    /// It may be older than asked for.
    pub stale: bool,
}
