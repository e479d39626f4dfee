//! A session that is kept through all faults: a write that is repeated, however much later and to whichever leader, gets the
//! answer that it got the first time.

use std::time::{Duration, Instant};

use ringbeam_wire::client::{Put, RequestBody, Revision, Written};
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::Code;

use crate::ring::Ring;
use crate::ring::raw::{Got, Raw, hello};
use crate::stage::SOON;

/// A session of shard 0, and the first answers to all its writes.
pub struct Sessions {
    session: u64,
    answers: Vec<Revision>,
}

const KEY: &[u8] = b"session";

/// How long one answer may take before it is asked for again.
const PATIENCE: Duration = Duration::from_secs(3);

impl Sessions {
    /// A new session.
    pub async fn open(ring: &Ring) -> Sessions {
        let session = ask_leader(ring, &RequestBody::OpenSession, |got| match got {
            Got::Session(session) => Some(*session),
            _ => None,
        })
        .await;
        Sessions { session, answers: Vec::new() }
    }

    /// One more write, and all that there were once again.
    pub async fn look(&mut self, ring: &Ring) {
        for sequence in 1..=self.answers.len() as u64 + 1 {
            let written = self.write(ring, sequence).await;
            match self.answers.get(sequence as usize - 1) {
                None => self.answers.push(written.revision),
                Some(first) => {
                    let same = written.duplicate && written.revision == *first;
                    assert!(same, "write {sequence} of a session was answered with {first:?}, and now with {written:?}");
                }
            }
        }
    }

    /// The write with this number, until it is answered.
    async fn write(&self, ring: &Ring, sequence: u64) -> Written {
        let value = sequence.to_string();
        // None of the answers is given up: the session keeps them all.
        let put =
            Put { key: KEY, value: value.as_bytes(), session: self.session, sequence, answered_below: 1, ..Put::default() };
        ask_leader(ring, &RequestBody::Put(put), |got| match got {
            Got::Written(written) => Some(*written),
            _ => None,
        })
        .await
    }

    /// The session is as old as it may be: it is refused.
    pub async fn wait_expired(&self, ring: &Ring, limit: Duration) {
        let put = Put { key: KEY, value: b"1", session: self.session, sequence: 1, answered_below: 1, ..Put::default() };
        // To ask is to use it, so it is asked once.
        tokio::time::sleep(limit).await;
        let code = ask_leader(ring, &RequestBody::Put(put), |got| match got {
            Got::Refused(refusal) if refusal.code == Code::SessionExpired => Some("refused"),
            Got::Written(_) => Some("answered"),
            _ => None,
        })
        .await;
        assert_eq!(code, "refused", "a session that nobody used for {limit:?}");
    }
}

/// Asks whoever leads, until the answer is one that counts.
async fn ask_leader<T>(ring: &Ring, body: &RequestBody<'_>, counts: impl Fn(&Got) -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        let leader = ring.leader(0).await;
        let got = ask(&ring.node(leader).client, body);
        if let Some(wanted) = got.as_ref().and_then(&counts) {
            return wanted;
        }
        if let Some(Got::Refused(refusal)) = &got {
            let forgotten = [Code::SessionExpired, Code::AlreadyAnswered, Code::SequenceReused].contains(&refusal.code);
            assert!(!forgotten, "a session that is in use, within its lifetime, is refused: {refusal:?}");
        }
        assert!(began.elapsed() < SOON, "no answer within {SOON:?}, but {got:?}\n{}", ring.tails());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One question to one node.
fn ask(address: &str, body: &RequestBody<'_>) -> Option<Got> {
    let stream = std::net::TcpStream::connect_timeout(&address.parse().expect("an address"), PATIENCE).ok()?;
    let mut raw = Raw::over(stream);
    raw.bytes(&Preamble::new(Kind::Client, 0).encode());
    raw.send(PATIENCE.as_millis() as u32, &hello());
    raw.next_got(PATIENCE)?;
    raw.send(PATIENCE.as_millis() as u32, body);
    raw.next_got(PATIENCE)
}
