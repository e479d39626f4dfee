//! The decoder, fed in every way a connection may feed it.

use bytes::Bytes;
use ringbeam_wire::frame::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Decoder, FrameError, HEADER_BYTES, append_frame};

const MAX: usize = 4 << 20;

/// Reads at most `read_bytes_max` bytes at once, takes all payloads after each read.
fn feed(decoder: &mut Decoder, mut stream: &[u8], read_bytes_max: usize) -> Result<Vec<Bytes>, FrameError> {
    let mut payloads = Vec::new();
    while !stream.is_empty() {
        let space = decoder.space();
        let bytes = space.len().min(stream.len()).min(read_bytes_max);
        space[..bytes].copy_from_slice(&stream[..bytes]);
        decoder.filled(bytes);
        stream = &stream[bytes..];
        while let Some(payload) = decoder.next()? {
            payloads.push(payload);
        }
    }
    Ok(payloads)
}

fn payload(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    payloads.iter().for_each(|payload| append_frame(&mut stream, payload));
    stream
}

#[test]
fn frames_come_out_whole_however_the_bytes_come_in() {
    let sizes = [1, 7, 8, 9, 300, 4_087, 4_088, 4_089, 5_000, 1, 65_528, 65_536, 70_000, 2, 300_000, 3];
    let payloads: Vec<_> = sizes.iter().zip(0..).map(|(&bytes, seed)| payload(bytes, seed)).collect();
    let stream = stream(&payloads);
    for read_bytes_max in [1, 2, 3, 7, 8, 9, 100, 1_000, 4_096, 10_000, 65_536, 1 << 20] {
        let mut decoder = Decoder::new(MAX);
        let decoded = feed(&mut decoder, &stream, read_bytes_max).expect("good frames");
        assert!(decoded == payloads, "reads of {read_bytes_max}");
        assert_eq!(decoder.buffered(), 0);
    }
}

#[test]
fn a_payload_is_a_slice_of_what_was_read() {
    let stream = stream(&[payload(300, 1), payload(300, 2)]);
    let mut decoder = Decoder::new(MAX);
    let space = decoder.space();
    space[..stream.len()].copy_from_slice(&stream);
    let start = space.as_ptr() as usize;
    decoder.filled(stream.len());
    for at in [HEADER_BYTES, 300 + 2 * HEADER_BYTES] {
        let payload = decoder.next().expect("good").expect("whole");
        assert_eq!(payload.as_ptr() as usize, start + at);
    }
}

#[test]
fn an_oversize_length_is_refused_before_its_payload_is_buffered() {
    let mut decoder = Decoder::new(1_000);
    let mut header = 1_001_u32.to_le_bytes().to_vec();
    header.extend([0; 4]);
    let error = FrameError::TooLarge { bytes: 1_001, bytes_max: 1_000 };
    assert_eq!(feed(&mut decoder, &header, 100), Err(error));
    assert_eq!(error.to_string(), "a frame announces a payload of 1001 bytes, the limit of this connection is 1000");
    assert!(decoder.capacity() <= CHUNK_BYTES_MIN);
    let mut decoder = Decoder::new(1_000);
    assert_eq!(feed(&mut decoder, &stream(&[payload(1_000, 0)]), 100).map(|payloads| payloads.len()), Ok(1));
}

#[test]
fn an_announced_length_commits_no_memory_that_was_not_earned() {
    let bytes = 4_u32 << 20;
    let mut decoder = Decoder::new(bytes as usize);
    let mut sent = bytes.to_le_bytes().to_vec();
    sent.extend([0; 4]);
    let mut received = 0;
    for _ in 0..30 {
        feed(&mut decoder, &sent, usize::MAX).expect("not whole yet");
        received += sent.len();
        decoder.space();
        assert!(decoder.capacity() <= 2 * received.max(CHUNK_BYTES_MAX) + CHUNK_BYTES_MIN, "after {received} bytes");
        sent = vec![0; received.min(100_000)];
    }
}

#[test]
fn a_decoder_that_failed_stays_dead() {
    let mut stream = stream(&[payload(100, 1), payload(100, 2), payload(100, 3)]);
    stream[HEADER_BYTES + 100 + HEADER_BYTES] ^= 1; // in the second payload
    let mut decoder = Decoder::new(MAX);
    decoder.space()[..stream.len()].copy_from_slice(&stream);
    decoder.filled(stream.len());
    assert!(matches!(decoder.next(), Ok(Some(_))));
    let error = decoder.next().expect_err("the second payload is damaged");
    assert!(matches!(error, FrameError::Checksum { .. }), "{error}");
    let good = self::stream(&[payload(5, 5)]);
    assert_eq!(feed(&mut decoder, &good, 100), Err(error), "a good frame after it is of no use");
    assert_eq!(decoder.next(), Err(error));
    assert_eq!(decoder.buffered(), 0, "and is not kept");
}

#[test]
fn zeroed_memory_is_not_an_endless_stream_of_empty_frames() {
    assert_eq!(feed(&mut Decoder::new(MAX), &[0; 64], 64), Err(FrameError::Empty));
}

#[test]
fn a_quiet_connection_keeps_one_small_chunk() {
    let mut decoder = Decoder::new(MAX);
    assert_eq!(decoder.capacity(), 0, "a connection that never spoke");
    // A burst of pipelined requests makes it read large chunks...
    let burst = stream(&vec![payload(300, 1); 2_000]);
    feed(&mut decoder, &burst, usize::MAX).expect("good frames");
    decoder.space();
    assert!(decoder.capacity() >= CHUNK_BYTES_MAX / 2, "{}", decoder.capacity());
    // ... and a few lone ones make it small again.
    let lone = stream(&[payload(300, 1)]);
    for _ in 0..5 {
        feed(&mut decoder, &lone, usize::MAX).expect("a good frame");
    }
    decoder.space();
    assert!(decoder.capacity() <= CHUNK_BYTES_MIN, "{}", decoder.capacity());
    // One large frame alone does not make its connection a busy one.
    feed(&mut decoder, &stream(&[payload(1 << 20, 1)]), usize::MAX).expect("a good frame");
    decoder.space();
    assert!(decoder.capacity() <= CHUNK_BYTES_MIN, "{}", decoder.capacity());
    decoder.release();
    assert_eq!(decoder.capacity(), 0);
}

#[test]
fn release_keeps_what_is_buffered() {
    let stream = stream(&[payload(300, 1)]);
    let mut decoder = Decoder::new(MAX);
    feed(&mut decoder, &stream[..100], 100).expect("not whole yet");
    decoder.release();
    assert_eq!(feed(&mut decoder, &stream[100..], 100).expect("whole"), [payload(300, 1)]);
}

/// A peer that sends byte by byte must not make the decoder copy what it has again and again. Copies are counted by where the
/// room begins: a move is a copy of all that is buffered.
#[test]
fn a_slow_sender_costs_no_more_copies_than_a_fast_one() {
    let frame = stream(&[payload(200_000, 1)]);
    let mut decoder = Decoder::new(MAX);
    let (mut copied, mut expected_at) = (0, 0);
    for byte in &frame {
        let buffered = decoder.buffered();
        let space = decoder.space();
        if space.as_ptr() as usize != expected_at {
            copied += buffered;
        }
        space[0] = *byte;
        expected_at = space.as_ptr() as usize + 1;
        decoder.filled(1);
        decoder.next().expect("good");
    }
    assert!(copied <= 2 * frame.len(), "{copied} bytes were copied for {} received", frame.len());
}
