//! Golden frames, broken in every place: nothing may panic, and what still parses must be whole.

use std::hint::black_box;

use ringbeam_wire::client;
use ringbeam_wire::frame::{Decoder, FrameError, HEADER_BYTES, append_frame};
use ringbeam_wire::peer::{self, Membership};

use crate::goldens;

/// Gives `payload` to every parser, whatever it was, and encodes what was parsed: that reads every field of it.
fn read_as_everything(payload: &[u8]) {
    let mut out = Vec::new();
    if let Ok(request) = client::parse_request(payload) {
        client::Encoder::new().request(&mut out, request.id, request.deadline_ms, &request.body);
        let again = client::parse_request(&out[HEADER_BYTES..]).map_err(|malformed| malformed.to_string());
        assert_eq!(again, Ok(request));
    }
    out.clear();
    if let Ok(reply) = client::parse_reply(payload) {
        client::Encoder::new().reply(&mut out, reply.id, &reply.body);
        let again = client::parse_reply(&out[HEADER_BYTES..]).map_err(|malformed| malformed.to_string());
        assert_eq!(again, Ok(reply));
    }
    out.clear();
    if let Ok(request) = peer::parse_request(payload) {
        peer::Encoder::new().request(&mut out, request.id, &request.body);
        let again = peer::parse_request(&out[HEADER_BYTES..]).map_err(|malformed| malformed.to_string());
        assert_eq!(again, Ok(request));
    }
    out.clear();
    if let Ok(reply) = peer::parse_reply(payload) {
        peer::Encoder::new().reply(&mut out, reply.id, &reply.body);
        let again = peer::parse_reply(&out[HEADER_BYTES..]).map_err(|malformed| malformed.to_string());
        assert_eq!(again, Ok(reply));
    }
    if let Ok(membership) = Membership::decode(payload) {
        assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
    }
}

/// What a decoder makes of `bytes` that arrive at once.
fn decode(bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
    let mut decoder = Decoder::new(1 << 20);
    decoder.space()[..bytes.len()].copy_from_slice(bytes);
    decoder.filled(bytes.len());
    decoder.next().map(|payload| payload.map(|payload| payload.to_vec()))
}

#[test]
fn no_damaged_payload_panics_a_parser() {
    for golden in goldens() {
        let mut payload = golden.frame[HEADER_BYTES..].to_vec();
        for at in 0..payload.len() {
            let good = payload[at];
            let flips = (0..8).map(|bit| good ^ (1 << bit));
            for bad in flips.chain([0x00, 0x7f, 0xff, good.wrapping_add(1), good.wrapping_sub(1)]) {
                payload[at] = bad;
                read_as_everything(&payload);
            }
            payload[at] = good;
        }
        for length in 0..payload.len() {
            read_as_everything(&payload[..length]);
            read_as_everything(&payload[payload.len() - length..]);
        }
    }
}

#[test]
fn no_payload_with_several_wounds_panics_a_parser() {
    // xorshift64*: the same wounds in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    for golden in goldens() {
        for _ in 0..500 {
            let mut payload = golden.frame[HEADER_BYTES..].to_vec();
            for _ in 0..2 + random(6) {
                let (at, length) = (random(payload.len()), payload.len());
                match random(4) {
                    0 => payload[at] = random(256) as u8,
                    1 => payload[at] = random(length.min(256)) as u8, // looks like an offset
                    2 => payload.copy_within(at.., random(at + 1)),
                    _ => payload[at] ^= 1 << random(8),
                }
            }
            read_as_everything(&payload);
        }
    }
}

#[test]
fn no_garbage_panics_a_parser() {
    for byte in [0x00, 0x01, 0x04, 0x7f, 0x80, 0xff] {
        for length in 0..200 {
            read_as_everything(&vec![byte; length]);
        }
    }
}

#[test]
fn every_damaged_or_cut_frame_is_noticed() {
    for golden in goldens() {
        let frame = &golden.frame;
        assert_eq!(decode(frame), Ok(Some(frame[HEADER_BYTES..].to_vec())), "{}", golden.name);
        for length in 0..frame.len() {
            assert_eq!(decode(&frame[..length]), Ok(None), "{} cut to {length} bytes", golden.name);
        }
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut bad = frame.clone();
                bad[at] ^= 1 << bit;
                let decoded = decode(&bad);
                // A length that is larger but allowed only makes the decoder wait; nothing wrong comes out.
                assert!(!matches!(decoded, Ok(Some(_))), "{}: bit {bit} of byte {at}: {decoded:?}", golden.name);
            }
        }
    }
}

#[test]
fn a_damaged_payload_with_a_right_checksum_reaches_the_verifier() {
    let mut refused = 0;
    for golden in goldens() {
        for at in HEADER_BYTES..golden.frame.len() {
            let mut payload = golden.frame[HEADER_BYTES..].to_vec();
            payload[at - HEADER_BYTES] ^= 0xff;
            let mut frame = Vec::new();
            append_frame(&mut frame, &payload);
            let arrived = decode(&frame).expect("the checksum is right").expect("the frame is whole");
            read_as_everything(&arrived);
            refused += usize::from(client::parse_request(&arrived).is_err());
        }
    }
    assert!(black_box(refused) > 1_000, "the damage was hardly noticed: {refused}");
}
