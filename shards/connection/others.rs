//! Requests that are neither a put nor a delete: each to the room that knows it.

use std::rc::Rc;

use bytes::Bytes;
use ringbeam_wire::client::{ReplyBody, RequestBody, Transact};
use ringbeam_wire::limits;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::batcher::{Form, Waiter};
use crate::error::internal;
use crate::io::Env;
use crate::shard::Shard;
use crate::state::command::{Op, Write};
use crate::state::transaction::{self, Transaction};
use crate::{admin, data, leases, read, scan, topology, watch, write};

pub(super) fn carry_out<E: Env>(
    shard: &Rc<Shard<E>>,
    body: &RequestBody<'_>,
    frame: &Bytes,
    waiter: impl FnOnce(Form) -> Waiter,
) {
    match body {
        RequestBody::OpenSession => {
            let op = Op::OpenSession;
            let command = Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op };
            write::offer(shard, &command, waiter(Form::SessionOpened));
        }
        RequestBody::CloseSession { session } => {
            let op = Op::CloseSession;
            let command = Write { namespace: "", session: *session, sequence: 0, answered_below: 0, op };
            write::offer(shard, &command, waiter(Form::Written));
        }
        RequestBody::Transact(transact) => transact_in(shard, transact, waiter(Form::Transacted)),
        RequestBody::Put(_)
        | RequestBody::GrantLease { .. }
        | RequestBody::KeepLease { .. }
        | RequestBody::RevokeLease { .. } => leases::carry_out(shard, body, waiter(Form::Written)),
        RequestBody::Add(_) | RequestBody::Extend(_) | RequestBody::DeleteRange(_) | RequestBody::Resolve(_) => {
            data::arrive(shard, body, waiter)
        }
        RequestBody::Get(_) | RequestBody::Scan(_) | RequestBody::GetMany(_) | RequestBody::GetLease { .. } => {
            read::arrive(shard, body, frame, waiter(Form::Written));
        }
        &RequestBody::Unpin { pin } => {
            scan::unpin(shard, pin);
            waiter(Form::Written).answer(&ReplyBody::Done { message: String::new() });
        }
        RequestBody::Watch(watch) => watch::ask(shard, watch, waiter(Form::Written)),
        RequestBody::Unwatch { watch } => watch::unwatch(shard, *watch, waiter(Form::Written)),
        RequestBody::Ping => waiter(Form::Written).answer(&ReplyBody::Done { message: String::new() }),
        RequestBody::GetTopology => waiter(Form::Written).answer(&ReplyBody::Topology(admin::topology(shard))),
        RequestBody::FollowTopology => topology::follow(shard, waiter(Form::Written)),
        RequestBody::GetStatus => waiter(Form::Written).answer(&ReplyBody::Status(Box::new(admin::status(shard)))),
        RequestBody::RingAdd { .. }
        | RequestBody::RingPromote { .. }
        | RequestBody::RingRemove { .. }
        | RequestBody::RingTransfer { .. } => {
            // Rare and slow: a task of its own, which parses its frame again.
            E::spawn(admin::change_ring(shard.clone(), frame.clone(), waiter(Form::Written)));
        }
        // `connection.rs` has those.
        RequestBody::Hello(_) | RequestBody::Delete(_) => {
            waiter(Form::Written).answer(&ReplyBody::Refused(internal("a request came to the wrong room")))
        }
    }
}

/// A transaction, in the form that the log keeps.
fn transact_in<E: Env>(shard: &Shard<E>, transact: &Transact<'_>, waiter: Waiter) {
    let settings = &shard.settings;
    let namespace = limits::check_namespace(transact.namespace);
    let checked = namespace.and_then(|()| transact.check(settings.value_bytes_max as u32, settings.shards));
    if let Err(refusal) = checked.and_then(|()| leases::check_lives(transact)) {
        return waiter.answer(&ReplyBody::Refused(refusal));
    }
    let bytes = transaction::encode(transact);
    match Transaction::parse(&bytes) {
        Ok(transaction) => {
            let command = Write {
                namespace: transact.namespace,
                session: transact.session,
                sequence: transact.sequence,
                answered_below: transact.answered_below,
                op: Op::Transact(transaction),
            };
            write::offer(shard, &command, waiter);
        }
        Err(why) => waiter.answer(&ReplyBody::Refused(Refusal::new(Code::BadRequest, why.to_string()))),
    }
}
