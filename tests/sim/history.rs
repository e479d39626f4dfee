//! What clients asked and what they were told: the history that the checkers judge.
//!
//! ```text
//!   invoke ──────────────────────── complete      written, read: took effect at one moment in between
//!   invoke ──────────────────────── complete      failed: "certainly not applied", took effect never
//!   invoke ───────────────────────────────── ...  unknown: takes effect at some moment from here on, or never
//! ```
//!
//! Times are nanoseconds since the beginning of the run: virtual ones in the simulator, monotonic ones on a real machine. A
//! value is a number that no other write of the history has; [`value_bytes`] makes bytes of any length of it, and [`value_of`]
//! takes nothing for a value that is not whole. A revision is a position in the log of the key's shard. An increment is a put
//! of the next number with a session and a sequence.
//!
//! As a file, a history is one line an operation ([`History::write_to`]), so that a failing run of hours can be judged again.
//!
//! **Invariants**
//! - An operation is completed at most once, and not before it was invoked.
//! - An operation that was not completed has an unknown outcome.
//! - No two writes have the same value.
//!
//! **What a recorder must keep**: a timeout, a lost reply, a connection that broke, and a refusal of a retry whose earlier
//! attempt has no answer are all [`Outcome::Unknown`]. Only what says of *every* attempt that it was certainly not applied is
//! [`Outcome::Failed`].
//!
//! **Not here**: what any of it means (`check/`), clocks, clients.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, Write};

/// Log index, and position in the batch of that index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub index: u64,
    pub position: u32,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.position)
    }
}

/// What a client asks of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value is unique in the history.
    Put {
        value: u64,
    },
    Delete,
    /// Linearizable.
    Get,
    /// Whatever the node has applied.
    GetLocal {
        node: u64,
    },
}

/// What the client knows of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, or one that does not say.
    Unknown,
    /// Certainly not applied, or a read that was refused.
    Failed,
    /// `existed`: the key had a value before. `duplicate`: the answer of an earlier attempt, given again.
    Written { revision: Revision, existed: bool, duplicate: bool },
    /// The value with the revision that wrote it; `index` is the applied log index that the answer reflects.
    Read { found: Option<(u64, Revision)>, index: u64 },
}

/// Names a write for exactly-once: a session of a shard, and the number of the write in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub session: u64,
    pub sequence: u64,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u32,
    pub shard: u32,
    pub key: u32,
    pub op: Op,
    pub tag: Option<Tag>,
    pub invoked_ns: u64,
    /// When the client knew, or gave up. None: never.
    pub completed_ns: Option<u64>,
    pub outcome: Outcome,
}

impl Operation {
    pub fn writes(&self) -> bool {
        matches!(self.op, Op::Put { .. } | Op::Delete)
    }

    /// The revision of an acknowledged write.
    pub fn revision(&self) -> Option<Revision> {
        match self.outcome {
            Outcome::Written { revision, .. } => Some(revision),
            _ => None,
        }
    }

    /// The moment until which it may take effect: that of the answer, or none when there was no answer that says.
    pub fn ends_ns(&self) -> Option<u64> {
        if self.outcome == Outcome::Unknown { None } else { self.completed_ns }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:>12} .. ", Millis(self.invoked_ns))?;
        match self.completed_ns {
            Some(at) => write!(f, "{:>12}]", Millis(at))?,
            None => write!(f, "{:>12}]", "never")?,
        }
        write!(f, " client {} ", self.client)?;
        match self.op {
            Op::Put { value } => write!(f, "put k{} = v{value}", self.key)?,
            Op::Delete => write!(f, "delete k{}", self.key)?,
            Op::Get => write!(f, "get k{}", self.key)?,
            Op::GetLocal { node } => write!(f, "get k{} from node {node}, local", self.key)?,
        }
        if let Some(Tag { session, sequence }) = self.tag {
            write!(f, " ({session}#{sequence})")?;
        }
        match self.outcome {
            Outcome::Unknown => write!(f, " -> unknown"),
            Outcome::Failed => write!(f, " -> failed, certainly not applied"),
            Outcome::Written { revision, existed, duplicate } => {
                let before = if existed { "over a value" } else { "over nothing" };
                write!(f, " -> written at {revision}, {before}{}", if duplicate { ", a duplicate" } else { "" })
            }
            Outcome::Read { found: Some((value, revision)), index } => write!(f, " -> v{value} of {revision}, as of {index}"),
            Outcome::Read { found: None, index } => write!(f, " -> nothing, as of {index}"),
        }
    }
}

/// A moment in milliseconds with its fraction.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000))
    }
}

/// An operation that was invoked and can be completed, once.
#[derive(Debug)]
#[must_use = "an operation that is never completed has an unknown outcome"]
pub struct Ticket(usize);

/// Operations in the order of their invocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
    values: BTreeSet<u64>,
}

impl History {
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// A client asks. The outcome is unknown until [`complete`](Self::complete).
    pub fn invoke(&mut self, client: u32, shard: u32, key: u32, op: Op, tag: Option<Tag>, now_ns: u64) -> Ticket {
        let (completed_ns, outcome) = (None, Outcome::Unknown);
        self.push(Operation { client, shard, key, op, tag, invoked_ns: now_ns, completed_ns, outcome });
        Ticket(self.operations.len() - 1)
    }

    /// The write got its session and number after it was invoked: sessions are opened on the way.
    pub fn tag(&mut self, ticket: &Ticket, tag: Tag) {
        self.operations[ticket.0].tag = Some(tag);
    }

    /// The client knows, or gives up.
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome, now_ns: u64) {
        let operation = &mut self.operations[ticket.0];
        let fits = match outcome {
            Outcome::Unknown | Outcome::Failed => true,
            Outcome::Written { .. } => operation.writes(),
            Outcome::Read { .. } => !operation.writes(),
        };
        assert!(fits, "{outcome:?} answers {:?}", operation.op);
        assert!(operation.invoked_ns <= now_ns, "{operation} completed at {now_ns}, before it was invoked");
        (operation.outcome, operation.completed_ns) = (outcome, Some(now_ns));
    }

    /// A whole operation, as it was read or made.
    pub fn push(&mut self, operation: Operation) {
        if let Op::Put { value } = operation.op {
            assert!(self.values.insert(value), "value {value} is put a second time: values must be unique, {operation}");
        }
        self.operations.push(operation);
    }

    /// The last `count` operations that ended or are open, readable, by the time at which each was last heard of.
    pub fn story(&self, count: usize) -> String {
        let mut order: Vec<&Operation> = self.operations.iter().collect();
        order.sort_by_key(|operation| operation.completed_ns.unwrap_or(operation.invoked_ns));
        let skipped = order.len().saturating_sub(count);
        let mut story = String::new();
        if skipped > 0 {
            story += &format!("({skipped} operations before)\n");
        }
        for operation in &order[skipped..] {
            story += &format!("{operation}\n");
        }
        story
    }

    /// One line an operation, fields apart by one space, `-` for what there is none of.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        writeln!(to, "{HEADER}")?;
        for operation in &self.operations {
            let Operation { client, shard, key, op, tag, invoked_ns, completed_ns, outcome } = operation;
            write!(to, "{client} {shard} {key} ")?;
            match op {
                Op::Put { value } => write!(to, "put {value}")?,
                Op::Delete => write!(to, "delete -")?,
                Op::Get => write!(to, "get -")?,
                Op::GetLocal { node } => write!(to, "local {node}")?,
            }
            match tag {
                Some(Tag { session, sequence }) => write!(to, " {session} {sequence}")?,
                None => write!(to, " - -")?,
            }
            match completed_ns {
                Some(at) => write!(to, " {invoked_ns} {at}")?,
                None => write!(to, " {invoked_ns} -")?,
            }
            match outcome {
                Outcome::Unknown => writeln!(to, " unknown")?,
                Outcome::Failed => writeln!(to, " failed")?,
                Outcome::Written { revision: Revision { index, position }, existed, duplicate } => {
                    writeln!(to, " written {index} {position} {} {}", u8::from(*existed), u8::from(*duplicate))?;
                }
                Outcome::Read { found: Some((value, Revision { index: of, position })), index } => {
                    writeln!(to, " found {index} {value} {of} {position}")?;
                }
                Outcome::Read { found: None, index } => writeln!(to, " nothing {index}")?,
            }
        }
        Ok(())
    }

    /// What [`write_to`](Self::write_to) wrote; else the line that is wrong.
    pub fn read_from(from: impl BufRead) -> Result<History, String> {
        let mut lines = from.lines();
        match lines.next() {
            Some(Ok(line)) if line == HEADER => {}
            other => return Err(format!("line 1 is {other:?}, not {HEADER:?}")),
        }
        let mut history = History::default();
        for (number, line) in lines.enumerate() {
            let line = line.map_err(|e| format!("line {}: {e}", number + 2))?;
            let operation = parse(&line).map_err(|why| format!("line {}: {why}: {line:?}", number + 2))?;
            if let Op::Put { value } = operation.op
                && history.values.contains(&value)
            {
                return Err(format!("line {}: value {value} is put a second time", number + 2));
            }
            history.push(operation);
        }
        Ok(history)
    }
}

const HEADER: &str = "ringbeam history 1";

fn parse(line: &str) -> Result<Operation, String> {
    let mut fields = Fields(line.split(' '));
    let (client, shard, key) = (fields.number()?, fields.number()?, fields.number()?);
    let (name, argument) = (fields.word()?, fields.optional::<u64>()?);
    let op = match (name, argument) {
        ("put", Some(value)) => Op::Put { value },
        ("delete", None) => Op::Delete,
        ("get", None) => Op::Get,
        ("local", Some(node)) => Op::GetLocal { node },
        other => return Err(format!("no operation {other:?}")),
    };
    let tag = match (fields.optional()?, fields.optional()?) {
        (Some(session), Some(sequence)) => Some(Tag { session, sequence }),
        (None, None) => None,
        _ => return Err("a session without a sequence".to_string()),
    };
    let (invoked_ns, completed_ns) = (fields.number()?, fields.optional()?);
    let outcome = match fields.word()? {
        "unknown" => Outcome::Unknown,
        "failed" => Outcome::Failed,
        "written" => Outcome::Written {
            revision: Revision { index: fields.number()?, position: fields.number()? },
            existed: fields.number::<u8>()? == 1,
            duplicate: fields.number::<u8>()? == 1,
        },
        "found" => {
            let index = fields.number()?;
            let value = fields.number()?;
            let revision = Revision { index: fields.number()?, position: fields.number()? };
            Outcome::Read { found: Some((value, revision)), index }
        }
        "nothing" => Outcome::Read { found: None, index: fields.number()? },
        other => return Err(format!("no outcome {other:?}")),
    };
    match fields.0.next() {
        None => Ok(Operation { client, shard, key, op, tag, invoked_ns, completed_ns, outcome }),
        Some(more) => Err(format!("{more:?} after the end")),
    }
}

struct Fields<'a>(std::str::Split<'a, char>);

impl<'a> Fields<'a> {
    fn word(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "too short".to_string())
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("{word:?} is not a number that fits"))
    }

    fn optional<T: std::str::FromStr>(&mut self) -> Result<Option<T>, String> {
        match self.word()? {
            "-" => Ok(None),
            word => word.parse().map(Some).map_err(|_| format!("{word:?} is not a number that fits")),
        }
    }
}

/// The bytes of a value, at least 8: the number, then bytes that follow from it and from their place.
pub fn value_bytes(value: u64, bytes: usize) -> Vec<u8> {
    let mut out = value.to_le_bytes().to_vec();
    out.extend((8..bytes).map(|at| filling(value, at)));
    out
}

/// The value of which these are the bytes, or what is wrong with them.
pub fn value_of(bytes: &[u8]) -> Result<u64, String> {
    let number =
        bytes.first_chunk::<8>().ok_or_else(|| format!("a value of {} bytes, at least 8 were written", bytes.len()))?;
    let value = u64::from_le_bytes(*number);
    match bytes.iter().enumerate().skip(8).find(|(at, byte)| **byte != filling(value, *at)) {
        None => Ok(value),
        Some((at, byte)) => {
            Err(format!("value {value}: byte {at} of {} is {byte:#x}, not {:#x}", bytes.len(), filling(value, at)))
        }
    }
}

fn filling(value: u64, at: usize) -> u8 {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (at as u8).wrapping_mul(31)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn sample() -> History {
        let mut history = History::default();
        let revision = Revision { index: 17, position: 3 };
        let tag = Some(Tag { session: 1 << 40, sequence: 9 });
        let put = history.invoke(3, 1, 12, Op::Put { value: 77 }, tag, 1_000_000);
        let delete = history.invoke(4, 0, 5, Op::Delete, None, 1_500_000);
        let lost = history.invoke(5, 0, 6, Op::Put { value: 78 }, None, 1_600_000);
        history.tag(&lost, Tag { session: 2, sequence: 1 });
        history.complete(put, Outcome::Written { revision, existed: true, duplicate: true }, 2_000_001);
        let get = history.invoke(3, 1, 12, Op::Get, None, 2_000_002);
        let local = history.invoke(3, 1, 12, Op::GetLocal { node: 2 }, None, 2_000_003);
        history.complete(get, Outcome::Read { found: Some((77, revision)), index: 18 }, 2_000_004);
        history.complete(local, Outcome::Read { found: None, index: 11 }, 2_000_005);
        history.complete(delete, Outcome::Failed, 3_000_000);
        history
    }

    #[test]
    fn file_gives_back_what_was_written() {
        let history = sample();
        let mut file = Vec::new();
        history.write_to(&mut file).expect("a vector takes all");
        let text = String::from_utf8(file).expect("it is text");
        assert_eq!(text.lines().nth(1), Some("3 1 12 put 77 1099511627776 9 1000000 2000001 written 17 3 1 1"));
        assert_eq!(History::read_from(text.as_bytes()), Ok(history));
    }

    #[test]
    fn damaged_file_is_refused_with_its_line() {
        let mut file = Vec::new();
        sample().write_to(&mut file).expect("a vector takes all");
        let text = String::from_utf8(file).expect("it is text");
        for (from, to, line) in [
            ("put 77", "push 77", "line 2"),
            ("written 17 3 1 1", "written 17 3 1", "line 2"),
            ("nothing 11", "nothing 11 1", "line 6"),
            ("put 78", "put 77", "line 4"),
            ("history 1", "history 2", "line 1"),
        ] {
            assert!(text.contains(from), "{from:?} is not in {text}");
            let why = History::read_from(text.replace(from, to).as_bytes()).expect_err(to);
            assert!(why.starts_with(line), "{to}: {why}");
        }
    }

    #[test]
    fn story_is_in_the_order_of_events_and_ends_with_the_last() {
        let story = sample().story(2);
        let lines: Vec<&str> = story.lines().collect();
        assert_eq!(lines.len(), 3, "{story}");
        assert_eq!(lines[0], "(3 operations before)");
        assert!(lines[1].contains("get k12 from node 2, local -> nothing, as of 11"), "{story}");
        assert!(lines[2].contains("1.500000 ..") && lines[2].contains("delete k5 -> failed"), "{story}");
    }

    #[test]
    fn operation_without_an_answer_may_still_take_effect() {
        let history = sample();
        assert_eq!(history.operations()[2].ends_ns(), None);
        let mut gave_up = history.operations()[2];
        gave_up.completed_ns = Some(9);
        assert_eq!(gave_up.ends_ns(), None, "giving up does not end a write");
        assert_eq!(history.operations()[1].ends_ns(), Some(3_000_000));
    }

    #[test]
    #[should_panic(expected = "values must be unique")]
    fn value_that_was_put_before_is_refused() {
        let mut history = sample();
        let _ = history.invoke(1, 1, 1, Op::Put { value: 77 }, None, 9_000_000);
    }

    #[test]
    fn damaged_value_is_no_value() {
        for length in [8, 9, 64, 5_000] {
            let bytes = value_bytes(123_456_789, length);
            assert_eq!((bytes.len(), value_of(&bytes)), (length, Ok(123_456_789)));
            for at in 8..length {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert!(value_of(&damaged).is_err(), "byte {at}");
            }
        }
        assert_eq!(value_bytes(1, 0).len(), 8);
        assert!(value_of(&[0; 7]).is_err());
        let (mut torn, other) = (value_bytes(1, 64), value_bytes(2, 64));
        torn[32..].copy_from_slice(&other[32..]);
        assert!(value_of(&torn).is_err(), "two halves of two values");
    }
}
