//! How a new data directory comes to a ring: by founding it together with the others, or by being added to it.
//!
//! ```text
//! new ─┬─ lowest founder id: all founders answer "new" ─▶ mint the ring's id, save, tell them ─┐
//!      ├─ another founder: is told, or asks "who am I?" and hears it ──────────────────────────┼─▶ founded: shards start
//!      ├─ not a founder: waits until `ring add` at a member tells it ───────────────────────────┘
//!      └─ a member knows this id with other data: refused for good
//! ```
//!
//! It runs on plain blocking sockets before any shard exists: once in the life of a directory, with nothing to be fast for.
//!
//! **Invariants**
//! - A ring is minted only by the founder with the lowest id, only while every founder is new, and saved there before anyone
//!   else hears of it: a crash at any point leaves either no ring or one that all founders can learn.
//! - The members that everybody saves are the same, incarnations included.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ringbeam_shards::io::uring::{StopFlag, wait_for_predecessor};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::peer::{self, Encoder, Identity, Member, PeerReplyBody, PeerRequestBody, Standing};
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::Code;

use crate::identity::DataDirectory;

/// A founder as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// Node id.
    pub node: u64,
    /// Its peer address, host:port.
    pub peer: String,
}

const ASK_TIMEOUT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(25);
const ASK_EVERY: Duration = Duration::from_millis(150);
const REMIND_EVERY: Duration = Duration::from_secs(10);
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Makes `directory` part of a ring, however long that takes. `Ok(false)`: stopped before.
pub fn settle(directory: &mut DataDirectory, founders: &[Founder], listen: &str, stop: &Arc<StopFlag>) -> Result<bool, String> {
    if directory.identity.ring != 0 {
        return check_ring(&directory.identity, founders).map(|()| true);
    }
    let listener = wait_for_predecessor(|| TcpListener::bind(listen)).map_err(|e| format!("listen.peer {listen}: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| format!("listen.peer {listen}: {e}"))?;
    let shared = Arc::new(Mutex::new(directory.clone()));
    // Answering must not wait for asking: nodes that ask each other at once would all wait for answers.
    let over = AtomicBool::new(false);
    let settled = thread::scope(|scope| {
        let answering = scope.spawn(|| answer_all(&listener, &shared, &over));
        let settled = wait(&shared, founders, stop);
        over.store(true, Ordering::Relaxed);
        answering.join().map_err(|_| "the answering thread panicked".to_string()).and(settled)
    });
    *directory = lock(&shared).clone();
    settled
}

fn lock(shared: &Mutex<DataDirectory>) -> MutexGuard<'_, DataDirectory> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn wait(shared: &Arc<Mutex<DataDirectory>>, founders: &[Founder], stop: &Arc<StopFlag>) -> Result<bool, String> {
    let me = lock(shared).identity.clone();
    let others: Vec<&Founder> = founders.iter().filter(|f| f.node != me.node).collect();
    let is_founder = others.len() < founders.len();
    let coordinates = is_founder && others.iter().all(|f| f.node > me.node);
    let mut asked = Instant::now() - ASK_EVERY;
    let mut reminded = Instant::now();
    while !stop.is_stopped() {
        if lock(shared).identity.ring != 0 {
            // The one who told us waits for the answer on its own connection; give it time to leave.
            thread::sleep(POLL);
            return Ok(true);
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            ask_members(shared, &me, &others)?;
            if coordinates {
                found(shared, &me, &others)?;
            }
        }
        if reminded.elapsed() >= REMIND_EVERY {
            reminded = Instant::now();
            remind(&me, is_founder, &others);
        }
        thread::sleep(POLL);
    }
    Ok(false)
}

fn answer_all(listener: &TcpListener, shared: &Arc<Mutex<DataDirectory>>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = shared.clone();
                thread::spawn(move || answer(stream, &shared));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn remind(me: &Identity, is_founder: bool, others: &[&Founder]) {
    if is_founder {
        let silent: Vec<String> = others
            .iter()
            .filter(|f| ask(&f.peer, &PeerRequestBody::Identify).is_err())
            .map(|f| format!("node {} at {}", f.node, f.peer))
            .collect();
        tracing::info!("the ring is not founded yet; no answer from: {}", silent.join(", "));
    } else {
        tracing::info!("waiting to be added: ringbeam ring add --node {} --peer {}", me.node, me.member.peer);
    }
}

/// Asks every contact whether the ring knows this node.
fn ask_members(shared: &Mutex<DataDirectory>, me: &Identity, others: &[&Founder]) -> Result<(), String> {
    for other in others {
        let question = PeerRequestBody::WhoAmI { node: me.node, incarnation: me.incarnation };
        let Ok(PeerReplyBody::YouAre { standing, ring, shards, members }) = ask(&other.peer, &question) else { continue };
        match standing {
            Standing::Known if ring != 0 => return join(shared, ring, shards, members),
            Standing::OtherIncarnation => return Err(replaced(me, ring, &members)),
            Standing::Known | Standing::Unknown => {}
        }
    }
    Ok(())
}

fn replaced(me: &Identity, ring: u64, members: &[Member]) -> String {
    let known = members.iter().find(|m| m.node == me.node).map_or(0, |m| m.incarnation);
    format!(
        "this data directory is new ({:016x}), but ring {ring:016x} knows node {} with other data ({known:016x}). A node that \
         lost its disk must never vote again under its id. Give this node an id that was never used (node.id = NEW_ID), start \
         it, and run: ringbeam ring replace --node {} --by NEW_ID --peer {}",
        me.incarnation, me.node, me.node, me.member.peer
    )
}

fn join(shared: &Mutex<DataDirectory>, ring: u64, shards: u32, members: Vec<Member>) -> Result<(), String> {
    let mut directory = lock(shared);
    if directory.identity.ring != 0 {
        return Ok(());
    }
    if shards != directory.identity.shards {
        return Err(format!(
            "ring {ring:016x} has {shards} shards, this node's configuration says {} (ring.shards)",
            directory.identity.shards
        ));
    }
    directory.join(ring, members).map_err(|e| format!("saving the identity: {e}"))?;
    tracing::info!(ring = format!("{ring:016x}"), "joined");
    Ok(())
}

/// The lowest founder's part: once every founder is known to be new, mints the ring and tells them.
fn found(shared: &Mutex<DataDirectory>, me: &Identity, others: &[&Founder]) -> Result<(), String> {
    let mut members = vec![me.member.clone()];
    for other in others {
        let Ok(PeerReplyBody::Identity(identity)) = ask(&other.peer, &PeerRequestBody::Identify) else { return Ok(()) };
        if identity.node != other.node {
            return Err(format!(
                "ring.founders says that node {} is at {}, but node {} answers there",
                other.node, other.peer, identity.node
            ));
        }
        if identity.ring != 0 {
            // It was told by an earlier life of ours that is gone, or is of another ring: `ask_members` decides.
            return Ok(());
        }
        if identity.shards != me.shards {
            return Err(format!(
                "node {} is configured for {} shards, this node for {} (ring.shards): all founders must agree",
                other.node, identity.shards, me.shards
            ));
        }
        members.push(identity.member.clone());
    }
    members.sort_by_key(|m| m.node);
    let ring = loop {
        match rand::random::<u64>() {
            0 => continue,
            n => break n,
        }
    };
    join(shared, ring, me.shards, members.clone())?;
    tracing::info!(ring = format!("{ring:016x}"), nodes = members.len(), shards = me.shards, "ring founded");
    for other in others {
        // Who misses it asks "who am I?" later.
        let _ = ask(&other.peer, &PeerRequestBody::Found { ring, shards: me.shards, members: members.clone() });
    }
    Ok(())
}

/// A founded directory: refuses to start beside nodes of another ring, or that know this node with other data.
fn check_ring(me: &Identity, founders: &[Founder]) -> Result<(), String> {
    let asks: Vec<_> = founders
        .iter()
        .filter(|f| f.node != me.node)
        .map(|f| {
            let (peer, question) = (f.peer.clone(), (me.node, me.incarnation));
            let ask = move || {
                let (node, incarnation) = question;
                ask(&peer, &PeerRequestBody::WhoAmI { node, incarnation }).map(|reply| (peer.clone(), reply))
            };
            thread::spawn(ask)
        })
        .collect();
    for answer in asks {
        let Ok(Ok((peer, PeerReplyBody::YouAre { standing, ring, members, .. }))) = answer.join() else { continue };
        if ring != 0 && ring != me.ring {
            return Err(format!(
                "the data directory belongs to ring {:016x}, the node at {peer} (ring.founders) to ring {ring:016x}: use the \
                 directory of that ring, or correct the addresses",
                me.ring
            ));
        }
        if standing == Standing::OtherIncarnation {
            return Err(replaced(me, ring, &members));
        }
    }
    Ok(())
}

/// One question to a peer's control door.
fn ask(address: &str, body: &PeerRequestBody<'_>) -> io::Result<PeerReplyBody> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    stream.set_write_timeout(Some(ASK_TIMEOUT))?;
    let mut out = Preamble::new(Kind::Peer, 0).encode().to_vec();
    Encoder::new().request(&mut out, 1, body);
    stream.write_all(&out)?;
    let frame = read_frame(&mut stream, &mut Decoder::new(FRAME_BYTES_MAX))?;
    let frame = frame.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok(peer::parse_reply(&frame).map_err(io::Error::other)?.body)
}

fn read_frame(stream: &mut TcpStream, decoder: &mut Decoder) -> io::Result<Option<bytes::Bytes>> {
    loop {
        if let Some(frame) = decoder.next().map_err(io::Error::other)? {
            return Ok(Some(frame));
        }
        match stream.read(decoder.space())? {
            0 => return Ok(None),
            n => decoder.filled(n),
        }
    }
}

/// Serves one connection while this directory is new.
fn answer(mut stream: TcpStream, shared: &Mutex<DataDirectory>) {
    let mut serve = || -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        stream.set_write_timeout(Some(ASK_TIMEOUT))?;
        let mut preamble = [0; 16];
        stream.read_exact(&mut preamble)?;
        if Preamble::decode(&preamble).map(|p| p.kind) != Ok(Kind::Peer) {
            return Ok(());
        }
        let mut decoder = Decoder::new(FRAME_BYTES_MAX);
        while let Some(frame) = read_frame(&mut stream, &mut decoder)? {
            let request = peer::parse_request(&frame).map_err(io::Error::other)?;
            let reply = reply_to(request.body, shared);
            let mut out = Vec::new();
            Encoder::new().reply(&mut out, request.id, &reply);
            stream.write_all(&out)?;
        }
        Ok(())
    };
    // A peer that leaves is no news.
    let _ = serve();
}

fn reply_to(body: PeerRequestBody<'_>, shared: &Mutex<DataDirectory>) -> PeerReplyBody {
    let refused = |code: Code, message: String| PeerReplyBody::Refused { code: code as u16, message };
    let me = lock(shared).identity.clone();
    match body {
        PeerRequestBody::Identify => PeerReplyBody::Identity(Box::new(me)),
        PeerRequestBody::WhoAmI { node, incarnation } => {
            let standing = match me.members.iter().find(|m| m.node == node) {
                None => Standing::Unknown,
                Some(m) if m.incarnation == incarnation => Standing::Known,
                Some(_) => Standing::OtherIncarnation,
            };
            PeerReplyBody::YouAre { standing, ring: me.ring, shards: me.shards, members: me.members }
        }
        PeerRequestBody::Found { ring, shards, members } => {
            let knows_me = members.iter().any(|m| m.node == me.node && m.incarnation == me.incarnation);
            if !knows_me {
                return refused(Code::Incarnation, format!("node {} with data {:016x} is not in it", me.node, me.incarnation));
            }
            match join(shared, ring, shards, members) {
                Ok(()) => PeerReplyBody::Identity(Box::new(lock(shared).identity.clone())),
                Err(why) => refused(Code::BadRequest, why),
            }
        }
        _ => refused(Code::NotServing, format!("node {} has no ring yet", me.node)),
    }
}
