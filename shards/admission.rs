//! Whether a write may enter the queue. Pure: what it must know is handed in.
//!
//! **Not here**: priorities, tenants, shedding curves: a later stage. What is here keeps every queue bounded and every refusal
//! typed.

use ringbeam_wire::refusal::Code;
use ringbeam_wire::slots;

use crate::state::command::{HEAD_BYTES, Op, Write};

/// The shard's standing, as far as admission cares.
pub(crate) struct Standing<'a> {
    /// This node leads the shard and may serve.
    pub leads: bool,
    /// The node is shutting down.
    pub stopping: bool,
    /// Why the shard does not work, if it does not.
    pub fault: Option<&'a str>,
    /// Bytes that wait for raft, and how many may.
    pub queue_bytes: usize,
    pub queue_bytes_max: usize,
    /// Why the log takes no more, if the disk is full.
    pub disk_full: Option<&'a str>,
    pub names: Names,
    pub value_bytes_max: usize,
}

/// Which names belong here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub key_bytes_max: usize,
    pub shard: u32,
    pub shards: u32,
}

/// Why not; `shard.rs` adds the leader's address and the words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Limit(Code, String),
    NotLeader,
    Overloaded { queue_bytes: usize, queue_bytes_max: usize },
    DiskFull(String),
    Stopping,
    Fault(String),
}

/// The order matters: what is wrong with the request itself is said first, wherever it arrives.
pub(crate) fn admit(standing: &Standing<'_>, write: &Write<'_>) -> Result<(), Reason> {
    check_sizes(standing, write)?;
    if let Some(why) = standing.fault {
        return Err(Reason::Fault(why.to_string()));
    }
    if standing.stopping {
        return Err(Reason::Stopping);
    }
    if !standing.leads {
        return Err(Reason::NotLeader);
    }
    if let Some(why) = standing.disk_full {
        return Err(Reason::DiskFull(why.to_string()));
    }
    let (queue_bytes, queue_bytes_max) = (standing.queue_bytes, standing.queue_bytes_max);
    // It may be the first of its batch, whose head waits with it.
    if queue_bytes + HEAD_BYTES + write.encoded_bytes() > queue_bytes_max {
        return Err(Reason::Overloaded { queue_bytes, queue_bytes_max });
    }
    Ok(())
}

fn check_sizes(standing: &Standing<'_>, write: &Write<'_>) -> Result<(), Reason> {
    let (key, value) = match write.op {
        Op::Put { key, value } | Op::PutFor { key, value, .. } => (key, value),
        Op::Delete { key } | Op::Add { key, .. } => (key, &[][..]),
        Op::Extend { key, extension } => (key, extension.delta()),
        // Its bytes and that all its keys are of one shard: `Transact::check`.
        Op::Transact(transaction) => {
            let check = |key| standing.names.check(write.namespace, key);
            return transaction.keys().try_for_each(check).map_err(|(code, why)| Reason::Limit(code, why));
        }
        _ => return Ok(()),
    };
    if value.len() > standing.value_bytes_max {
        let why =
            format!("value has {} bytes; the limit is {} (limits.value_bytes_max)", value.len(), standing.value_bytes_max);
        return Err(Reason::Limit(Code::ValueTooLarge, why));
    }
    standing.names.check(write.namespace, key).map_err(|(code, why)| Reason::Limit(code, why))
}

impl Names {
    /// The rules for names, for writes and reads alike.
    pub fn check(&self, namespace: &str, key: &[u8]) -> Result<(), (Code, String)> {
        let limit = self.key_bytes_max;
        if key.is_empty() {
            return Err((Code::KeyEmpty, format!("key is empty; it must have 1 to {limit} bytes")));
        }
        if key.len() > limit {
            return Err((
                Code::KeyTooLarge,
                format!("key has {} bytes; the limit is {limit} (limits.key_bytes_max)", key.len()),
            ));
        }
        let limit = ringbeam_wire::limits::NAMESPACE_BYTES_MAX as usize;
        if namespace.len() > limit {
            return Err((Code::BadNamespace, format!("namespace has {} bytes; the limit is {limit}", namespace.len())));
        }
        let (slot, here) = (slots::slot_of(key), self.shard);
        let owner = slots::shard_of(slot, self.shards);
        if owner != here {
            let why = format!("key of slot {slot} belongs to shard {owner} of {}, this is shard {here}", self.shards);
            return Err((Code::WrongShard, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing<'static> {
        Standing {
            leads: true,
            stopping: false,
            fault: None,
            queue_bytes: 0,
            queue_bytes_max: 1000,
            disk_full: None,
            names: Names { key_bytes_max: 16, shard: 0, shards: 1 },
            value_bytes_max: 100,
        }
    }

    fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Write<'a> {
        Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op: Op::Put { key, value } }
    }

    fn code(result: Result<(), Reason>) -> Option<Code> {
        match result {
            Err(Reason::Limit(code, _)) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn write_admitted_at_its_limits_and_refused_one_byte_beyond() {
        assert_eq!(admit(&standing(), &put(&[1; 16], &[2; 100])), Ok(()));
        assert_eq!(code(admit(&standing(), &put(&[1; 17], &[]))), Some(Code::KeyTooLarge));
        assert_eq!(code(admit(&standing(), &put(&[1; 16], &[2; 101]))), Some(Code::ValueTooLarge));
        assert_eq!(code(admit(&standing(), &put(&[], &[]))), Some(Code::KeyEmpty));
    }

    #[test]
    fn write_refused_when_queue_full_or_not_leading_or_disk_full() {
        let write = put(b"k", &[0; 50]);
        let first_of_its_batch = HEAD_BYTES + write.encoded_bytes();
        let room = Standing { queue_bytes: 1000 - first_of_its_batch, ..standing() };
        assert_eq!(admit(&room, &write), Ok(()));
        let full = Standing { queue_bytes: room.queue_bytes + 1, ..standing() };
        assert!(matches!(admit(&full, &write), Err(Reason::Overloaded { .. })));
        let follower = Standing { leads: false, ..full };
        assert_eq!(admit(&follower, &put(b"k", b"v")), Err(Reason::NotLeader));
        let no_room = Standing { disk_full: Some("no space"), ..standing() };
        let elsewhere = Standing { names: Names { shard: 1, shards: 2, ..standing().names }, ..standing() };
        let owner = slots::shard_of(slots::slot_of(b"k"), 2);
        assert_eq!(code(admit(&elsewhere, &put(b"k", b"v"))) == Some(Code::WrongShard), owner != 1);
        assert!(matches!(admit(&no_room, &put(b"k", b"v")), Err(Reason::DiskFull(_))));
    }
}
