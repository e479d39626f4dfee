//! Frames and preambles: any bytes, cut anywhere.
//!
//! The input makes a stream of whole frames, damaged frames and plain bytes, and says how it is cut into reads. A second decoder,
//! which has the whole stream at hand and no buffer to manage, says what must come out.

use crate::choices::Choices;
use ringbeam_wire::frame::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Decoder, FrameError, HEADER_BYTES, append_frame};
use ringbeam_wire::preamble::{self, Preamble};

type Frames = (Vec<Vec<u8>>, Option<FrameError>);

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let bytes_max = [64, 1024, 70_000, usize::MAX][choices.below(4)];
    let cuts = choices.bytes(8);
    let stream = stream_of(&mut choices);
    let whole = reference(&stream, bytes_max);
    let cut = decode(&stream, bytes_max, cuts);
    assert_eq!(cut, whole, "cut by {cuts:?}");
    assert_eq!(decode(&stream, bytes_max, &[255]), whole, "in the largest pieces");
    if let Some(bytes) = stream.first_chunk::<{ preamble::BYTES }>() {
        match Preamble::decode(bytes) {
            Ok(preamble) if preamble.version == preamble::VERSION => assert_eq!(preamble.encode(), *bytes),
            Ok(_) => {}
            Err(bad) => assert!(!bad.to_string().is_empty()),
        }
    }
}

fn stream_of(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !choices.is_over() && stream.len() < 300_000 {
        // Long frames are rare, or nothing else would be tried.
        match Some(choices.byte()).filter(|kind| *kind >= 248).unwrap_or_else(|| choices.byte() % 31) {
            0..=15 => {
                let length = 1 + choices.below(64);
                append_frame(&mut stream, &filled(choices.bytes(length), length));
            }
            // Longer than what a connection reads at once.
            248.. => {
                let length = 1 + usize::from(choices.word()) * 2;
                append_frame(&mut stream, &filled(choices.bytes(4), length));
            }
            16..=20 => {
                let at = stream.len();
                append_frame(&mut stream, &filled(choices.bytes(8), 8));
                let damaged = at + choices.below(HEADER_BYTES + 8);
                stream[damaged] ^= 1 << choices.below(8);
            }
            21..=23 => stream.extend_from_slice(&(choices.long() as u32).to_le_bytes()),
            24..=29 => {
                let length = choices.below(64);
                stream.extend_from_slice(choices.bytes(length));
            }
            _ => stream.extend_from_slice(choices.rest()),
        }
    }
    stream
}

/// `length` bytes that begin with `bytes` and go on with them.
fn filled(bytes: &[u8], length: usize) -> Vec<u8> {
    let bytes = if bytes.is_empty() { b"x" } else { bytes };
    bytes.iter().copied().cycle().take(length).collect()
}

/// What the format says, with the whole stream at hand.
fn reference(mut stream: &[u8], bytes_max: usize) -> Frames {
    let mut frames = Vec::new();
    loop {
        let Some(header) = stream.first_chunk::<HEADER_BYTES>() else { return (frames, None) };
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (bytes, stated) = (word(0), word(4));
        if bytes == 0 {
            return (frames, Some(FrameError::Empty));
        }
        let most = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        if bytes > most {
            return (frames, Some(FrameError::TooLarge { bytes, bytes_max: most }));
        }
        let Some(payload) = stream.get(HEADER_BYTES..HEADER_BYTES + bytes as usize) else { return (frames, None) };
        let found = crc32fast::hash(payload);
        if found != stated {
            return (frames, Some(FrameError::Checksum { stated, found }));
        }
        frames.push(payload.to_vec());
        stream = &stream[HEADER_BYTES + bytes as usize..];
    }
}

/// The real decoder, fed in pieces whose lengths go round through `cuts`; 255 stands for all that there is room for.
fn decode(mut stream: &[u8], bytes_max: usize, cuts: &[u8]) -> Frames {
    let mut decoder = Decoder::new(bytes_max);
    let mut frames = Vec::new();
    for cut in cuts.iter().copied().chain([255]).cycle() {
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error), "after an error, always that error");
                    // Bytes go on arriving, and are not kept.
                    let room = decoder.space().len();
                    decoder.filled(room);
                    assert_eq!((decoder.next(), decoder.buffered()), (Err(error), 0));
                    assert!(!error.to_string().is_empty());
                    return (frames, Some(error));
                }
            }
        }
        if stream.is_empty() {
            return (frames, None);
        }
        if cut == 0 {
            decoder.release();
        }
        let space = decoder.space();
        assert!(!space.is_empty(), "there is always room");
        let wanted = if cut == 255 { usize::MAX } else { 1 + usize::from(cut) * usize::from(cut) / 8 };
        let bytes = wanted.min(space.len()).min(stream.len());
        space[..bytes].copy_from_slice(&stream[..bytes]);
        decoder.filled(bytes);
        stream = &stream[bytes..];
        // Memory is not committed on the word of the other side.
        let most = (3 * decoder.buffered()).max(2 * CHUNK_BYTES_MAX) + CHUNK_BYTES_MIN;
        assert!(decoder.capacity() <= most, "{} bytes set aside for {}", decoder.capacity(), decoder.buffered());
    }
    unreachable!("the cuts go round")
}
