//! Frames: how payloads lie on a connection.
//!
//! ```text
//!  0                        4                     8
//!  | payload length, bytes  | crc32 of payload    | payload (one flatbuffer) ...      integers little-endian
//! ```
//!
//! The checksum is there because the verifier of flatbuffers does not see a flipped bit in a value, and TCP's does not see many.
//!
//! On the way of a write this is the second step: socket -> **frame** -> admission.
//!
//! **Invariants** of the [`Decoder`]
//! - Memory is never committed on the word of the other side: a length beyond the limit is refused when its 8 bytes are there,
//!   and below it the buffer at most doubles what has really arrived (beyond [`CHUNK_BYTES_MAX`]).
//! - A received byte is copied once on average at worst, and not at all when its frame does not straddle a chunk's end.
//!   Payloads are slices of the buffer they were read into, which lives as long as the last of them.
//! - A connection whose last few reads were small keeps [`CHUNK_BYTES_MIN`] bytes.
//! - After the first bad frame there is no next one: where it would begin is unknown.
//!
//! **Not here**: reading and writing sockets; what a payload means.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// Length and checksum before each payload.
pub const HEADER_BYTES: usize = 8;

/// What a quiet connection keeps to read into, bytes. 10,000 idle connections keep 40 MB.
pub const CHUNK_BYTES_MIN: usize = 4 << 10;
/// What a busy connection reads at once, bytes: some hundred small requests per receive.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Less room than this is not worth a receive, bytes.
const SPACE_BYTES_MIN: usize = 1 << 10;

const _: () =
    assert!(SPACE_BYTES_MIN >= HEADER_BYTES && SPACE_BYTES_MIN < CHUNK_BYTES_MIN && CHUNK_BYTES_MIN < CHUNK_BYTES_MAX);

/// Appends a whole frame around `payload`, which has at least one byte and fewer than 4 GiB.
pub fn append_frame(out: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("messages are bounded far below 4 GiB, see limits.rs");
    assert!(length > 0, "no message is empty; the decoder refuses such a frame");
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Why a connection's bytes are not frames. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The payload would be longer than this side accepts.
    TooLarge {
        /// What the header says, bytes.
        bytes: u32,
        /// What is accepted, bytes.
        bytes_max: u32,
    },
    /// The header says 0: zeroed memory, not a frame.
    Empty,
    /// The payload is not what was sent.
    Checksum {
        /// What the header says.
        stated: u32,
        /// What the payload has.
        found: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLarge { bytes, bytes_max } => {
                write!(f, "a frame announces a payload of {bytes} bytes, the limit of this connection is {bytes_max}")
            }
            FrameError::Empty => write!(f, "a frame announces a payload of 0 bytes, no message is empty"),
            FrameError::Checksum { stated, found } => {
                write!(f, "a frame's payload has CRC32 {found:08x}, its header says {stated:08x}: it was damaged on the way")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes payloads out of one connection's bytes.
///
/// ```
/// # use ringbeam_wire::frame::{Decoder, append_frame};
/// let mut sent = Vec::new();
/// append_frame(&mut sent, b"one");
/// append_frame(&mut sent, b"two");
///
/// let mut decoder = Decoder::new(1024);
/// decoder.space()[..sent.len()].copy_from_slice(&sent); // a read into space()
/// decoder.filled(sent.len());
/// assert_eq!(&decoder.next()?.unwrap()[..], b"one");
/// assert_eq!(&decoder.next()?.unwrap()[..], b"two");
/// assert_eq!(decoder.next()?, None);
/// # Ok::<(), ringbeam_wire::frame::FrameError>(())
/// ```
pub struct Decoder {
    /// `filled` received bytes, then initialised room.
    buffer: BytesMut,
    filled: usize,
    /// What the next chunk should have: doubles when a read fills all room, halves when it fills little.
    chunk_bytes: usize,
    payload_bytes_max: u32,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder that refuses payloads of more than `frame_bytes_max` bytes. Allocates nothing yet.
    pub fn new(frame_bytes_max: usize) -> Decoder {
        Decoder {
            buffer: BytesMut::new(),
            filled: 0,
            chunk_bytes: CHUNK_BYTES_MIN,
            payload_bytes_max: u32::try_from(frame_bytes_max).unwrap_or(u32::MAX),
            failed: None,
        }
    }

    /// Room to read into, never empty. Take all payloads by [`Decoder::next`] first.
    pub fn space(&mut self) -> &mut [u8] {
        let room = self.buffer.len() - self.filled;
        let missing = self.bytes_missing();
        let room_min = if missing == 0 { SPACE_BYTES_MIN } else { missing.min(CHUNK_BYTES_MIN) };
        let quiet = self.filled == 0 && self.chunk_bytes == CHUNK_BYTES_MIN;
        if room < room_min || (quiet && room > CHUNK_BYTES_MIN) {
            self.make_room(missing);
        }
        &mut self.buffer[self.filled..]
    }

    /// Says that the first `bytes` bytes of the last [`Decoder::space`] have been received.
    pub fn filled(&mut self, bytes: usize) {
        let room = self.buffer.len() - self.filled;
        assert!(bytes <= room, "{bytes} bytes were read into a space of {room}");
        if self.failed.is_some() {
            return; // nothing more will come out, so nothing more is kept
        }
        self.filled += bytes;
        // A frame larger than a chunk gets a buffer of its own and says nothing about the next reads.
        let large = self.buffer.len().max(self.bytes_missing()) > self.chunk_bytes;
        if bytes == room && !large {
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        } else if bytes < self.chunk_bytes / 4 {
            self.chunk_bytes = (self.chunk_bytes / 2).max(CHUNK_BYTES_MIN);
        }
    }

    /// The next whole payload, its checksum verified; `None` when more bytes are needed. After an error, always that error.
    #[allow(clippy::should_implement_trait)] // it fails, and `None` is not the end
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some((bytes, stated)) = self.header() else {
            return Ok(None);
        };
        if bytes == 0 {
            return Err(self.fail(FrameError::Empty));
        }
        if bytes > self.payload_bytes_max {
            return Err(self.fail(FrameError::TooLarge { bytes, bytes_max: self.payload_bytes_max }));
        }
        let frame_bytes = HEADER_BYTES + bytes as usize;
        if self.filled < frame_bytes {
            return Ok(None);
        }
        let found = crc32fast::hash(&self.buffer[HEADER_BYTES..frame_bytes]);
        if found != stated {
            return Err(self.fail(FrameError::Checksum { stated, found }));
        }
        self.filled -= frame_bytes;
        let mut frame = self.buffer.split_to(frame_bytes);
        frame.advance(HEADER_BYTES);
        Ok(Some(frame.freeze()))
    }

    /// Received bytes that are not yet part of a whole payload.
    pub fn buffered(&self) -> usize {
        self.filled
    }

    /// Bytes of memory set aside for receiving.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives the memory back if nothing is buffered: for a connection that has been idle for long.
    pub fn release(&mut self) {
        if self.filled == 0 {
            self.buffer = BytesMut::new();
            self.chunk_bytes = CHUNK_BYTES_MIN;
        }
    }

    /// Payload length and checksum of the frame at the front.
    fn header(&self) -> Option<(u32, u32)> {
        let header = self.buffer[..self.filled].first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        Some((u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([c0, c1, c2, c3])))
    }

    /// How much of the frame at the front is still to come; 0 when unknown or not acceptable.
    fn bytes_missing(&self) -> usize {
        match self.header() {
            Some((bytes, _)) if bytes <= self.payload_bytes_max => (HEADER_BYTES + bytes as usize).saturating_sub(self.filled),
            _ => 0,
        }
    }

    /// Moves what is buffered to a new chunk, or to a buffer for the frame at the front as far as its sender has earned it.
    /// That buffer then has all that is missing, or twice what has arrived: so bytes are copied once on average.
    fn make_room(&mut self, missing: usize) {
        let earned = self.filled.max(CHUNK_BYTES_MAX);
        let room = if missing == 0 { self.filled.max(SPACE_BYTES_MIN) } else { missing.min(earned) };
        let mut buffer = BytesMut::zeroed((self.filled + room).max(self.chunk_bytes));
        buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = buffer;
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.failed = Some(error);
        self.buffer = BytesMut::new();
        self.filled = 0;
        error
    }
}
