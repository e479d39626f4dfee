//! A node that is not there: answers on loopback, from threads of this process, as slowly as a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbeam_wire::client::{
    Breakdown, Encoder, Member, ReplyBody, RequestBody, SlotRange, Topology, Value, Welcome, Written, parse_request,
};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::slots::SLOTS;

/// Before the put of this number, counted from 0 over all connections, its connection stalls for this long.
#[derive(Clone, Copy)]
pub struct Stall {
    pub before_put: u64,
    pub time: Duration,
}

/// A ring of one. Gets find 256 bytes. Every answer takes a millisecond.
pub struct Fake {
    pub address: String,
    pub puts: Arc<AtomicU64>,
}

impl Fake {
    pub fn start(stall: Option<Stall>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let (own, puts) = (address.clone(), Arc::new(AtomicU64::new(0)));
        let counted = puts.clone();
        // Threads end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (own, puts) = (own.clone(), counted.clone());
                std::thread::spawn(move || converse(stream, &own, &puts, stall));
            }
        });
        Fake { address, puts }
    }
}

fn converse(mut stream: TcpStream, own: &str, puts: &AtomicU64, stall: Option<Stall>) {
    let mut preamble = [0; 16];
    let _ = stream.read_exact(&mut preamble);
    let (mut decoder, mut encoder, mut out) = (Decoder::new(1 << 20), Encoder::new(), Vec::new());
    loop {
        match stream.read(decoder.space()) {
            Ok(bytes) if bytes > 0 => decoder.filled(bytes),
            _ => return,
        }
        while let Ok(Some(payload)) = decoder.next() {
            let Ok(request) = parse_request(&payload) else {
                return;
            };
            if let RequestBody::Put(_) = request.body {
                let number = puts.fetch_add(1, Ordering::Relaxed);
                if let Some(stall) = stall.filter(|stall| stall.before_put == number) {
                    std::thread::sleep(stall.time);
                }
            }
            encoder.reply(&mut out, request.id, &answer(&request.body, own));
        }
        std::thread::sleep(Duration::from_millis(1));
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

fn answer(body: &RequestBody<'_>, own: &str) -> ReplyBody<'static> {
    match body {
        RequestBody::Hello(_) => ReplyBody::Welcome(Welcome {
            version: 1,
            ring: 1,
            node: 1,
            value_bytes_max: 1 << 20,
            session_window: 4096,
            ..Welcome::default()
        }),
        RequestBody::GetTopology => ReplyBody::Topology(Topology {
            epoch: 1,
            ring: 1,
            leader: 1,
            term: 1,
            slots: vec![SlotRange { first: 0, end: SLOTS, shard: 0 }],
            members: vec![Member { node: 1, client: own.into(), ..Member::default() }],
            ..Topology::default()
        }),
        RequestBody::OpenSession => ReplyBody::SessionOpened { session: 1, lifetime_ms: 60_000 },
        RequestBody::Get(_) => ReplyBody::Value(Value { found: true, value: &[b'x'; 256], ..Value::default() }),
        _ => ReplyBody::Written(Written {
            breakdown: Breakdown { queue_us: 1, fsync_us: 2, quorum_us: 3, apply_us: 4 },
            ..Written::default()
        }),
    }
}
