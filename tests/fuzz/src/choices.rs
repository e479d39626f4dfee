//! A fuzzer's input as a row of choices: how many operations, which ones, which bytes.
//!
//! Read from front to back, each choice a fixed number of bytes, so that a changed byte changes one choice and a cut input is
//! the same story with an earlier end.
//!
//! **Invariant**: it never fails. Behind the end everything is 0, which is always the most ordinary choice.

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Reads `input` from its front.
    pub fn new(input: &'a [u8]) -> Choices<'a> {
        Choices(input)
    }

    /// Nothing is left: every further choice is 0.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Two bytes, little-endian.
    pub fn word(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// Eight bytes, little-endian.
    pub fn long(&mut self) -> u64 {
        self.bytes(8).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let choice = if bound <= 256 { usize::from(self.byte()) } else { usize::from(self.word()) };
        choice % bound
    }

    /// The next `count` bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        now
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A number that formats find hard: the ends of ranges, what is near `usual`, or any.
    pub fn number(&mut self, usual: u64) -> u64 {
        match self.byte() % 16 {
            0..=4 => usual,
            5 => usual.wrapping_add(1),
            6 => usual.wrapping_sub(1),
            7 => 0,
            8 => 1,
            9 => u64::MAX,
            10 => u64::MAX - 1,
            11 => u64::from(u32::MAX),
            12 => usual.wrapping_add(u64::from(self.byte())),
            13 => usual.wrapping_sub(u64::from(self.byte())),
            14 => u64::from(self.byte()),
            _ => self.long(),
        }
    }
}
