//! The golden frames in `sdk/vectors`: what every SDK must read, and what this crate must write, byte for byte.
//!
//! `RINGBEAM_WRITE_VECTORS=1 cargo test -p ringbeam-wire --test vectors` writes them anew. A change in an existing line means
//! that nodes and clients in the field would be spoken to differently: that is a decision, not a refresh.

mod damage;
mod describe;
mod json;
mod samples;

use std::path::PathBuf;

use ringbeam_wire::client::{self, Reply, Request};
use ringbeam_wire::frame::{HEADER_BYTES, append_frame};
use ringbeam_wire::peer::{self, Membership, PeerReply, PeerRequest, PeerRequestBody};
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::{Code, Refusal};
use ringbeam_wire::slots::{slot_of, tag_of};

use json::{fields, hex};
use samples::{Sample, samples};

/// A sample with its frame.
struct Golden {
    name: &'static str,
    kind: &'static str,
    id: u64,
    sample: Sample,
    frame: Vec<u8>,
}

/// All samples, encoded one after the other by the same two encoders: what an earlier message left behind would show.
fn goldens() -> Vec<Golden> {
    let (mut client, mut peer) = (client::Encoder::new(), peer::Encoder::new());
    let mut goldens = Vec::new();
    for (id, (name, sample)) in (0u64..).zip(samples()) {
        let mut frame = Vec::new();
        let kind = match &sample {
            Sample::Request(deadline_ms, body) => {
                client.request(&mut frame, id, *deadline_ms, body);
                "request"
            }
            Sample::Reply(body) => {
                client.reply(&mut frame, id, body);
                "reply"
            }
            Sample::PeerRequest(body) => {
                peer.request(&mut frame, id, body);
                "peer request"
            }
            Sample::Append(head, entries) => {
                peer.append(&mut frame, id, *head, entries.iter().copied());
                "peer request"
            }
            Sample::PeerReply(body) => {
                peer.reply(&mut frame, id, body);
                "peer reply"
            }
            Sample::Membership(membership) => {
                append_frame(&mut frame, &membership.encode());
                "membership"
            }
        };
        goldens.push(Golden { name, kind, id, sample, frame });
    }
    goldens
}

/// Compares `lines` with a JSON list in `sdk/vectors`, or writes it.
fn check_list(file: &str, lines: &[String]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sdk/vectors").join(file);
    let made = format!("[\n  {}\n]\n", lines.join(",\n  "));
    if std::env::var_os("RINGBEAM_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &made).expect("sdk/vectors is writable");
    }
    let kept = std::fs::read_to_string(&path).expect("sdk/vectors is committed");
    for (kept, made) in kept.lines().zip(made.lines()) {
        assert_eq!(kept, made, "{file}: left is kept, right is what this build makes");
    }
    assert_eq!(kept.len(), made.len(), "{file} has other lines than this build makes");
}

#[test]
fn frames_are_as_kept() {
    let lines: Vec<String> = goldens()
        .iter()
        .map(|golden| {
            let payload = &golden.frame[HEADER_BYTES..];
            let message = match &golden.sample {
                Sample::Request(deadline_ms, body) => describe::request(golden.id, *deadline_ms, body),
                Sample::Reply(body) => describe::reply(golden.id, body),
                Sample::PeerRequest(body) => describe::peer_request(golden.id, body),
                Sample::Append(..) => describe::peer_request(golden.id, &peer::parse_request(payload).expect("an append").body),
                Sample::PeerReply(body) => describe::peer_reply(golden.id, body),
                Sample::Membership(membership) => json::Json::json(membership),
            };
            let (name, kind, frame) = (golden.name, golden.kind, hex(&golden.frame));
            fields!(name: name, kind: kind, message: json::Raw(message), frame: frame)
        })
        .collect();
    check_list("frames.json", &lines);
}

#[test]
fn every_message_comes_back_as_it_was() {
    for Golden { name, id, sample, frame, .. } in goldens() {
        let payload = &frame[HEADER_BYTES..];
        match sample {
            Sample::Request(deadline_ms, body) => {
                assert_eq!(client::parse_request(payload), Ok(Request { id, deadline_ms, body }), "{name}");
            }
            Sample::Reply(body) => assert_eq!(client::parse_reply(payload), Ok(Reply { id, body }), "{name}"),
            Sample::PeerRequest(body) => {
                assert_eq!(peer::parse_request(payload), Ok(PeerRequest { id, body }), "{name}");
            }
            Sample::Append(head, entries) => {
                let request = peer::parse_request(payload).expect(name);
                let PeerRequestBody::Append(append) = &request.body else { panic!("{name}: {request:?}") };
                assert_eq!(append.head, head, "{name}");
                assert_eq!(append.entries().collect::<Vec<_>>(), entries, "{name}");
                assert_eq!((append.len(), append.entries().len()), (entries.len(), entries.len()), "{name}");
                let mut again = Vec::new();
                peer::Encoder::new().request(&mut again, request.id, &request.body);
                assert_eq!(again, frame, "{name}: a parsed append encodes as what it was parsed from");
            }
            Sample::PeerReply(body) => assert_eq!(peer::parse_reply(payload), Ok(PeerReply { id, body }), "{name}"),
            Sample::Membership(membership) => {
                assert_eq!(Membership::decode(payload), Ok(membership), "{name}")
            }
        }
    }
}

#[test]
fn every_refusal_comes_back_as_it_was() {
    let mut encoder = client::Encoder::new();
    for &code in Code::ALL {
        let refusal = Refusal { unknown: true, ..Refusal::new(code, "why") };
        let mut frame = Vec::new();
        encoder.reply(&mut frame, 1, &client::ReplyBody::Refused(refusal.clone()));
        let reply = client::parse_reply(&frame[HEADER_BYTES..]).expect("a reply");
        assert_eq!(reply.body, client::ReplyBody::Refused(refusal));
    }
    let lines: Vec<String> = Code::ALL.iter().map(|&code| fields!(code: code as u16, name: code.as_str())).collect();
    check_list("refusals.json", &lines);
}

#[test]
fn slots_are_as_kept() {
    let keys: &[&[u8]] = &[
        b"",
        b"a",
        b"123456789",
        b"user:17",
        b"{user:17}.cart",
        b"{user:17}.orders",
        b"x{user:17}y{z}",
        b"foo{}{bar}",
        b"foo{{bar}}zap",
        b"foo{bar",
        b"}{a}",
        b"{",
        b"{}",
        b"\x00\xff\x7b\x80\x7d",
        "schlüssel".as_bytes(),
    ];
    let lines: Vec<String> = keys.iter().map(|key| fields!(key: hex(key), tag: hex(tag_of(key)), slot: slot_of(key))).collect();
    check_list("slots.json", &lines);
    assert_eq!(slot_of(b"123456789"), (0xcbf4_3926u32 % 4096) as u16, "the published check value of CRC32");
    assert_eq!(slot_of(b"{user:17}.cart"), slot_of(b"user:17"));
}

#[test]
fn preambles_are_as_kept() {
    let lines: Vec<String> = [(Kind::Client, 0), (Kind::Client, 3), (Kind::Peer, 0x0102_0304)]
        .into_iter()
        .map(|(kind, shard)| {
            let preamble = Preamble::new(kind, shard);
            let kind = if kind == Kind::Client { 1u8 } else { 2 };
            fields!(version: preamble.version, kind: kind, shard: shard, bytes: hex(&preamble.encode()))
        })
        .collect();
    check_list("preambles.json", &lines);
}
