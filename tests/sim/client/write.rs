//! The writes of a simulated client, as they are sent.

use ringbeam_sdk::session::Ticket;
use ringbeam_wire::client::{
    Add, Compare, Delete, DeleteRange, Extend, Fold, Life, Place, Put, RequestBody, Revision, Step, Transact,
};

use crate::lives;

/// A write of a session.
pub enum Write<'a> {
    Add(&'a [u8], i64),
    Put(&'a [u8], &'a [u8]),
    /// A put if the key has this revision; reads the key in any case.
    Swap(&'a [u8], &'a [u8], Revision),
    Delete(&'a [u8]),
    /// In this namespace, here and below.
    PutIn(&'a str, &'a [u8], &'a [u8]),
    DeleteIn(&'a str, &'a [u8]),
    Extend(&'a str, &'a [u8], Fold, &'a [u8]),
    /// Of the shard of its first key.
    Erase(&'a str, &'a [u8], &'a [u8], u32),
    /// In a namespace of its own.
    For(&'a [u8], &'a [u8], Life),
    /// Of the shard of this key, here and below.
    Grant(&'a [u8], u64),
    Keep(&'a [u8], u64),
    Revoke(&'a [u8], u64),
}

impl Write<'_> {
    /// The key that says of which shard it is.
    pub fn key(&self) -> &[u8] {
        match self {
            Write::Put(key, _) | Write::Add(key, _) | Write::Swap(key, ..) | Write::Delete(key) | Write::For(key, ..) => key,
            Write::PutIn(_, key, _) | Write::DeleteIn(_, key) | Write::Extend(_, key, ..) | Write::Erase(_, key, ..) => key,
            Write::Grant(key, _) | Write::Keep(key, _) | Write::Revoke(key, _) => key,
        }
    }

    /// As it is sent, in its place of a session.
    pub fn body(&self, ticket: Ticket) -> RequestBody<'_> {
        let Ticket { session, sequence, answered_below } = ticket;
        match self {
            Write::Put(key, value) => RequestBody::Put(Put { key, value, session, sequence, answered_below, ..Put::default() }),
            Write::Swap(key, value, revision) => RequestBody::Transact(Box::new(Transact {
                compares: vec![Compare::revision(*key, *revision)],
                then: vec![Step::Get { key }, Step::put(key, value)],
                otherwise: vec![Step::Get { key }],
                session,
                sequence,
                answered_below,
                ..Transact::default()
            })),
            Write::Add(key, delta) => {
                RequestBody::Add(Add { key, delta: *delta, session, sequence, answered_below, ..Add::default() })
            }
            Write::Delete(key) => RequestBody::Delete(Delete { namespace: "", key, session, sequence, answered_below }),
            &Write::PutIn(namespace, key, value) => {
                RequestBody::Put(Put { namespace, key, value, session, sequence, answered_below, ..Put::default() })
            }
            &Write::DeleteIn(namespace, key) => {
                RequestBody::Delete(Delete { namespace, key, session, sequence, answered_below })
            }
            &Write::Extend(namespace, key, fold, delta) => {
                RequestBody::Extend(Extend { namespace, key, fold, delta, session, sequence, answered_below })
            }
            &Write::Erase(namespace, from, until, limit) => {
                RequestBody::DeleteRange(DeleteRange { namespace, from, until, limit, session, sequence, answered_below })
            }
            &Write::For(key, value, life) => {
                RequestBody::Put(Put { namespace: lives::NAMESPACE, key, value, session, sequence, answered_below, life })
            }
            Write::Grant(_, ttl_ms) => {
                RequestBody::GrantLease { ttl_ms: *ttl_ms, place: Place { session, sequence, answered_below } }
            }
            Write::Keep(_, lease) => RequestBody::KeepLease { lease: *lease },
            Write::Revoke(_, lease) => {
                RequestBody::RevokeLease { lease: *lease, place: Place { session, sequence, answered_below } }
            }
        }
    }
}
