//! A client without an SDK: plain sockets and the wire's own frames, so that a test can say what no well-behaved client says.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringbeam_wire::client::{Encoder, Hello, Put, Reply, ReplyBody, RequestBody, Welcome, Written, parse_reply};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::{Code, Refusal};

/// An answer must come within this; a busy machine is slow, a lost answer is for ever.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// One connection.
pub struct Raw {
    pub stream: TcpStream,
    decoder: Decoder,
    encoder: Encoder,
    next: u64,
}

/// What an answer was, without what no test asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Welcome(Welcome),
    Written(Written),
    Value(Option<Vec<u8>>),
    Session(u64),
    Refused(Refusal),
    Done,
    Other,
    /// The node ended the connection.
    Closed,
}

impl Got {
    /// The code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Got::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    fn of(reply: &Reply<'_>) -> Got {
        match &reply.body {
            ReplyBody::Welcome(welcome) => Got::Welcome(welcome.clone()),
            ReplyBody::Written(written) => Got::Written(*written),
            ReplyBody::Value(value) => Got::Value(value.found.then(|| value.value.to_vec())),
            ReplyBody::SessionOpened { session, .. } => Got::Session(*session),
            ReplyBody::Refused(refusal) => Got::Refused(refusal.clone()),
            ReplyBody::Done { .. } => Got::Done,
            _ => Got::Other,
        }
    }
}

impl Raw {
    /// A connection with nothing sent.
    pub fn dial(address: &str) -> Raw {
        let stream = TcpStream::connect(address).expect("the port takes connections");
        Raw::over(stream)
    }

    /// Over a connection that is there.
    pub fn over(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(ANSWER_MAX)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Raw { stream, decoder: Decoder::new(64 << 20), encoder: Encoder::new(), next: 1 }
    }

    /// A connection with a good preamble.
    pub fn announced(address: &str, shard: u32) -> Raw {
        let mut raw = Raw::dial(address);
        raw.bytes(&Preamble::new(Kind::Client, shard).encode());
        raw
    }

    /// A connection with a good preamble and a hello that was answered.
    pub fn greeted(address: &str, shard: u32) -> Raw {
        let mut raw = Raw::announced(address, shard);
        raw.greet();
        raw
    }

    /// Says hello and expects the welcome.
    pub fn greet(&mut self) -> Welcome {
        match self.ask(&hello()) {
            Got::Welcome(welcome) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Sends bytes as they are. The node may have ended the connection meanwhile, which the reading will show.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Frames of requests, and their ids, not sent.
    pub fn frame(&mut self, deadline_ms: u32, body: &RequestBody<'_>) -> (u64, Vec<u8>) {
        let (id, mut out) = (self.next, Vec::new());
        self.next += 1;
        self.encoder.request(&mut out, id, deadline_ms, body);
        (id, out)
    }

    /// Sends a request; its id.
    pub fn send(&mut self, deadline_ms: u32, body: &RequestBody<'_>) -> u64 {
        let (id, out) = self.frame(deadline_ms, body);
        self.bytes(&out);
        id
    }

    /// The next answer and its request's id.
    pub fn receive(&mut self) -> (u64, Got) {
        match self.next_as(|reply| (reply.id, Got::of(reply)), ANSWER_MAX) {
            Ok(got) => got.unwrap_or((0, Got::Closed)),
            Err(e) => panic!("no answer: {e}"),
        }
    }

    /// The next answer, if there is one within `limit`.
    pub fn next_got(&mut self, limit: Duration) -> Option<Got> {
        self.next_as(Got::of, limit).ok().flatten()
    }

    /// What `of` makes of the next answer, which may take `limit`; `None` when the node has ended the connection.
    pub fn next_as<T>(&mut self, mut of: impl FnMut(&Reply<'_>) -> T, limit: Duration) -> io::Result<Option<T>> {
        let began = Instant::now();
        loop {
            if let Some(frame) = self.decoder.next().expect("the node sends whole frames") {
                return Ok(Some(of(&parse_reply(&frame).expect("the node sends replies"))));
            }
            let left = limit.checked_sub(began.elapsed()).filter(|left| !left.is_zero());
            self.stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
            match self.stream.read(self.decoder.space()) {
                Ok(0) => return Ok(None),
                Ok(bytes) => self.decoder.filled(bytes),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset || e.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// One request and its answer.
    pub fn ask(&mut self, body: &RequestBody<'_>) -> Got {
        let id = self.send(10_000, body);
        let (answered, got) = self.receive();
        assert!(got == Got::Closed || answered == id, "answer to {answered}, asked was {id}: {got:?}");
        got
    }

    /// The answer to bytes that are no request; `Closed` at the end of the connection without one.
    pub fn after(mut self, bytes: &[u8]) -> Got {
        self.bytes(bytes);
        self.receive().1
    }
}

/// A good hello.
pub fn hello() -> RequestBody<'static> {
    RequestBody::Hello(Hello { version_min: 1, version_max: 1, client: "abuse", ..Hello::default() })
}

/// A put without a session.
pub fn put<'a>(key: &'a [u8], value: &'a [u8]) -> RequestBody<'a> {
    RequestBody::Put(Put { key, value, ..Put::default() })
}

/// Resident memory of a process, KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number of KiB")
}
