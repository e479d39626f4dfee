//! Reads little-endian fields out of foreign bytes, and says where they are wrong.
//!
//! **Invariants**: no method panics for any bytes. A failed read leaves the reader where it was.

use std::fmt;

/// Foreign bytes that are not what they should be: the place, and a sentence with the value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte offset in what was being read.
    pub at: u64,
    /// What is wrong there.
    pub why: String,
}

impl Malformed {
    pub(super) fn new(at: u64, why: impl Into<String>) -> Malformed {
        Malformed { at, why: why.into() }
    }
}
impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.why)
    }
}
impl std::error::Error for Malformed {}

/// A position in borrowed bytes.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
    /// A refusal that names the present place.
    pub fn malformed(&self, why: impl Into<String>) -> Malformed {
        Malformed::new(self.at as u64, why)
    }
    #[inline]
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..bytes)) {
            Some(taken) => {
                self.at += bytes;
                Ok(taken)
            }
            None => Err(self.malformed(format!("{bytes} bytes are due and {} are left", self.left()))),
        }
    }
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns exactly the bytes asked for"))
    }
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// UTF-8 of `bytes` bytes.
    #[inline]
    pub fn text(&mut self, bytes: usize) -> Result<&'a str, Malformed> {
        let at = self.at;
        let taken = self.take(bytes)?;
        std::str::from_utf8(taken).map_err(|e| Malformed::new(at as u64, format!("a name that is not UTF-8: {e}")))
    }
}
