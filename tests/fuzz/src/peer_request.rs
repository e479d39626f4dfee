//! Messages of peers and answers to them, any bytes; then what raft is given of them.
//!
//! The first byte chooses: a message, a membership, or an append whose entries have payloads out of the input (no fuzzer finds
//! its way through an append's tables to a membership's in reasonable time).

use crate::choices::Choices;
use bytes::Bytes;
use ringbeam_shards::io::sim::Sim;
use ringbeam_shards::raft::sim_doors;
use ringbeam_wire::frame::HEADER_BYTES;
use ringbeam_wire::peer::{
    self, AppendHead, Encoder, EntryKind, EntryRef, LogId, Membership, PeerRequestBody, SnapshotOffer, Vote,
};

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.byte() % 4 {
        0 => membership(choices.rest()),
        1 => append(&mut choices),
        2 => offer(&mut choices),
        _ => message(choices.rest()),
    }
}

fn message(payload: &[u8]) {
    let mut frame = Vec::new();
    match peer::parse_request(payload) {
        Ok(request) => {
            Encoder::new().request(&mut frame, request.id, &request.body);
            assert_eq!(peer::parse_request(&frame[HEADER_BYTES..]).as_ref(), Ok(&request), "it comes back");
        }
        Err(malformed) => assert!(!malformed.message.is_empty() && !malformed.message.contains(['\n', '\t']), "{malformed:?}"),
    }
    into_raft(payload);
    frame.clear();
    match peer::parse_reply(payload) {
        Ok(reply) => {
            Encoder::new().reply(&mut frame, reply.id, &reply.body);
            assert_eq!(peer::parse_reply(&frame[HEADER_BYTES..]).as_ref(), Ok(&reply), "it comes back");
        }
        Err(malformed) => assert!(!malformed.message.is_empty() && !malformed.message.contains(['\n', '\t']), "{malformed:?}"),
    }
}

fn membership(bytes: &[u8]) {
    match Membership::decode(bytes) {
        Ok(membership) => assert_eq!(Membership::decode(&membership.encode()), Ok(membership), "it comes back"),
        Err(malformed) => assert!(malformed.id.is_none() && !malformed.message.is_empty()),
    }
}

fn append(choices: &mut Choices<'_>) {
    let vote = Vote { term: choices.number(3), node: choices.number(1), committed: choices.byte() % 2 == 0 };
    let head = AppendHead { vote, previous: id(choices), committed: id(choices), settled: choices.number(0) };
    let first = choices.number(head.previous.map_or(0, |id| id.index.wrapping_add(1)));
    let mut entries = Vec::new();
    for at in 0..choices.below(8) as u64 {
        let kind = EntryKind::from_u8(choices.byte() % 3).expect("three kinds");
        let length = usize::from(choices.word());
        let id = LogId { term: choices.number(vote.term), leader: vote.node, index: first.wrapping_add(at) };
        entries.push(EntryRef { id, kind, payload: choices.bytes(length) });
    }
    let mut frame = Vec::new();
    Encoder::new().append(&mut frame, choices.long(), head, entries.iter().copied());
    let payload = &frame[HEADER_BYTES..];
    if let Ok(request) = peer::parse_request(payload) {
        let PeerRequestBody::Append(append) = request.body else { panic!("an append is an append") };
        assert_eq!(append.head, head);
        assert!(append.entries().eq(entries.iter().copied()), "every entry arrives as it was sent");
    } else {
        assert!(first.checked_add(entries.len() as u64).is_none(), "only indexes beyond the last are refused");
    }
    into_raft(payload);
}

fn offer(choices: &mut Choices<'_>) {
    let offer = SnapshotOffer {
        vote: Vote { term: choices.number(3), node: choices.number(1), committed: true },
        last: id(choices),
        membership_at: id(choices),
        bytes: choices.number(4096),
        crc: choices.word().into(),
        snapshot: "snapshot",
        membership: choices.rest(),
    };
    let mut frame = Vec::new();
    Encoder::new().request(&mut frame, 1, &PeerRequestBody::SnapshotOffer(offer));
    let request = peer::parse_request(&frame[HEADER_BYTES..]).expect("our encoder made it");
    assert_eq!(request.body, PeerRequestBody::SnapshotOffer(offer), "it comes back");
    into_raft(&frame[HEADER_BYTES..]);
}

fn id(choices: &mut Choices<'_>) -> Option<LogId> {
    let id = LogId { term: choices.number(2), leader: choices.number(1), index: choices.number(7) };
    (choices.byte() % 4 != 0).then_some(id)
}

fn into_raft(payload: &[u8]) {
    let frame = Bytes::copy_from_slice(payload);
    match (sim_doors::peer_request::<Sim>(&frame), peer::parse_request(payload)) {
        (Ok(entries), Ok(request)) => {
            if let PeerRequestBody::Append(append) = request.body {
                assert_eq!(entries, append.len(), "every entry reaches raft");
            }
        }
        (Ok(_), Err(malformed)) => panic!("raft takes what is malformed: {malformed}"),
        (Err(error), _) => assert!(!error.to_string().is_empty()),
    }
}
