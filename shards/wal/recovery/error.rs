//! Why a log cannot be opened, and why it cannot take more.

use crate::wal::Owner;
use std::fmt;
use std::io;

/// Why a log was not opened. But for `Io`, nothing was changed on disk.
#[derive(Debug)]
pub enum OpenError {
    /// A call to the disk failed.
    Io {
        /// File or directory.
        file: String,
        /// What the disk said.
        error: io::Error,
    },
    /// Something that may have been acknowledged is damaged or missing. The shard must be refilled from its peers, or the
    /// disk repaired.
    Corrupt {
        /// The damaged or missing file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// The first log index that may be affected.
        index: u64,
        /// What is wrong, as a sentence.
        why: String,
    },
    /// The log is of another ring, node, data directory or shard.
    WrongOwner {
        /// The segment that says so.
        file: String,
        /// Whose it is.
        found: Owner,
        /// Whose it should be.
        expected: Owner,
    },
    /// The log was written by another version of the format.
    Version {
        /// The segment that says so.
        file: String,
        /// Its version.
        found: u16,
        /// The one that this binary reads and writes.
        supported: u16,
    },
    /// The configuration does not fit together; the sentence says what would.
    Config(String),
}

impl OpenError {
    pub(in crate::wal) fn io(file: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let file = file.into();
        move |error| OpenError::Io { file, error }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { file, error } => write!(f, "log {file}: {error}"),
            OpenError::Corrupt { file, offset, index, why } => write!(
                f,
                "log {file} is corrupt at offset {offset}, log index {index}: {why}. The shard does not start; refill it \
                 from its peers or restore the file"
            ),
            OpenError::WrongOwner { file, found, expected } => {
                let (what, found, expected) = if found.ring != expected.ring {
                    ("ring", found.ring, expected.ring)
                } else if found.node != expected.node {
                    ("node", found.node, expected.node)
                } else if found.shard != expected.shard {
                    ("shard", u64::from(found.shard), u64::from(expected.shard))
                } else {
                    ("data directory (incarnation)", found.incarnation, expected.incarnation)
                };
                write!(f, "log {file} belongs to {what} {found}, not {expected}: check the data directory's path")
            }
            OpenError::Version { file, found, supported } => {
                write!(f, "log {file} has format version {found}, this binary reads version {supported}")
            }
            OpenError::Config(message) => write!(f, "log configuration: {message}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// The log cannot take new writes because its next segment cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// Bytes that the next segment needs on the disk.
    pub missing_bytes: u64,
    /// What the disk said.
    pub why: String,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log needs {} bytes for its next segment: {}", self.missing_bytes, self.why)
    }
}

impl std::error::Error for Full {}
