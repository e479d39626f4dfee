//! The 16 bytes that open every connection, before TLS and before the first frame.
//!
//! ```text
//!  0         4          6     7     8         12        16
//!  | "RBM1"  | version  | kind|  0  | shard   | 0       |     little-endian
//! ```
//!
//! They are all that the accepting core reads: it hands the connection to the core that owns `shard`. Nothing in them is
//! secret or trusted; `Hello` repeats what matters.

use std::fmt;

/// Length of a preamble.
pub const BYTES: usize = 16;
/// The first four bytes of every connection.
pub const MAGIC: [u8; 4] = *b"RBM1";
/// The protocol version that this build speaks.
pub const VERSION: u16 = 1;

/// Which protocol the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Request` and `Reply`. On the wire: 1.
    Client,
    /// `PeerRequest` and `PeerReply`. On the wire: 2.
    Peer,
}

/// What the opening of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Protocol version of the connecting side. Whether it is acceptable is decided at `Hello`, which can answer.
    pub version: u16,
    /// Which protocol follows.
    pub kind: Kind,
    /// The shard that the connection is for.
    pub shard: u32,
}

/// Why 16 bytes are not a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPreamble {
    /// Bytes 0 to 3 are not [`MAGIC`]: something else than ringbeam connected.
    Magic([u8; 4]),
    /// Bytes 4 and 5 hold version 0, which never existed.
    VersionZero,
    /// Byte 6 is neither 1 nor 2.
    Kind(u8),
    /// Byte 7 or bytes 12 to 15 are not zero, but version 1 leaves them zero.
    Reserved,
}

impl Preamble {
    /// A preamble of this build's [`VERSION`].
    pub fn new(kind: Kind, shard: u32) -> Preamble {
        Preamble { version: VERSION, kind, shard }
    }

    /// The bytes to send.
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = match self.kind {
            Kind::Client => 1,
            Kind::Peer => 2,
        };
        bytes[8..12].copy_from_slice(&self.shard.to_le_bytes());
        bytes
    }

    /// Reads what the other side sent. A later version may use the reserved bytes, so they are only checked in version 1.
    pub fn decode(bytes: &[u8; BYTES]) -> Result<Preamble, BadPreamble> {
        let [m0, m1, m2, m3, v0, v1, kind, r0, s0, s1, s2, s3, r1 @ ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(BadPreamble::Magic([m0, m1, m2, m3]));
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version == 0 {
            return Err(BadPreamble::VersionZero);
        }
        let kind = match kind {
            1 => Kind::Client,
            2 => Kind::Peer,
            other => return Err(BadPreamble::Kind(other)),
        };
        if version == 1 && (r0 != 0 || r1 != [0; 4]) {
            return Err(BadPreamble::Reserved);
        }
        Ok(Preamble { version, kind, shard: u32::from_le_bytes([s0, s1, s2, s3]) })
    }
}

impl fmt::Display for BadPreamble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPreamble::Magic(found) => {
                write!(f, "the connection opens with \"{}\", a ringbeam connection opens with \"RBM1\"", found.escape_ascii())
            }
            BadPreamble::VersionZero => {
                write!(f, "the preamble's version is 0, the first version is 1")
            }
            BadPreamble::Kind(found) => write!(f, "the preamble's kind is {found}, known are 1 (client) and 2 (peer)"),
            BadPreamble::Reserved => write!(f, "the preamble's bytes 7 and 12 to 15 are not zero, as version 1 has them"),
        }
    }
}

impl std::error::Error for BadPreamble {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_as_drawn() {
        let bytes = Preamble::new(Kind::Peer, 0x0102_0304).encode();
        assert_eq!(bytes, *b"RBM1\x01\x00\x02\x00\x04\x03\x02\x01\x00\x00\x00\x00");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for kind in [Kind::Client, Kind::Peer] {
            for (version, shard) in [(1, 0), (1, u32::MAX), (7, 255)] {
                let preamble = Preamble { version, kind, shard };
                assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
            }
        }
    }

    #[test]
    fn every_wrong_byte_is_named() {
        let good = Preamble::new(Kind::Client, 3).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Preamble::decode(&bytes).map_err(|bad| bad.to_string())
        };
        assert_eq!(with(0, b'G'), Err("the connection opens with \"GBM1\", a ringbeam connection opens with \"RBM1\"".into()));
        assert_eq!(with(4, 0), Err("the preamble's version is 0, the first version is 1".into()));
        assert_eq!(with(6, 3), Err("the preamble's kind is 3, known are 1 (client) and 2 (peer)".into()));
        for reserved in [7, 12, 13, 14, 15] {
            assert!(with(reserved, 1).is_err(), "byte {reserved}");
        }
        assert!(with(4, 2).is_ok(), "a later version is refused at Hello, which can answer, not here");
    }
}
