//! Messages of clients and answers to them, any bytes; then a write on its way into a batch, as `connection.rs` takes it.

use ringbeam_shards::state::command::{self, Builder, Op, Write};
use ringbeam_wire::client::{self, Encoder, Request, RequestBody};
use ringbeam_wire::frame::HEADER_BYTES;

/// One input: the payload of one frame, read as a request and as a reply.
pub fn run(input: &[u8]) {
    let mut frame = Vec::new();
    match client::parse_request(input) {
        Ok(request) => {
            Encoder::new().request(&mut frame, request.id, request.deadline_ms, &request.body);
            assert_eq!(client::parse_request(&frame[HEADER_BYTES..]).as_ref(), Ok(&request), "it comes back");
            into_a_batch(&request);
        }
        Err(malformed) => assert!(!malformed.message.is_empty() && !malformed.message.contains(['\n', '\t']), "{malformed:?}"),
    }
    frame.clear();
    match client::parse_reply(input) {
        Ok(reply) => {
            Encoder::new().reply(&mut frame, reply.id, &reply.body);
            assert_eq!(client::parse_reply(&frame[HEADER_BYTES..]).as_ref(), Ok(&reply), "it comes back");
        }
        Err(malformed) => assert!(!malformed.message.is_empty() && !malformed.message.contains(['\n', '\t']), "{malformed:?}"),
    }
}

fn into_a_batch(request: &Request<'_>) {
    let write = match &request.body {
        RequestBody::Put(put) => Write {
            namespace: put.namespace,
            session: put.session,
            sequence: put.sequence,
            answered_below: put.answered_below,
            op: Op::Put { key: put.key, value: put.value },
        },
        RequestBody::Delete(delete) => Write {
            namespace: delete.namespace,
            session: delete.session,
            sequence: delete.sequence,
            answered_below: delete.answered_below,
            op: Op::Delete { key: delete.key },
        },
        RequestBody::CloseSession { session } => {
            Write { namespace: "", session: *session, sequence: 0, answered_below: 0, op: Op::CloseSession }
        }
        RequestBody::OpenSession => Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op: Op::OpenSession },
        _ => return,
    };
    let mut builder = Builder::new();
    builder.start(1);
    match builder.push(&write) {
        Ok(()) => {
            let bytes = builder.finish();
            let batch = command::parse(&bytes).expect("the builder puts nothing into a batch that the parser refuses");
            assert_eq!(batch.iter().collect::<Vec<_>>(), [write], "it is in its batch as it was");
        }
        Err(malformed) => assert!(builder.is_empty() && !malformed.why.is_empty()),
    }
}
