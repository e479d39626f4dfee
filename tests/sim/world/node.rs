//! What a simulated node's process runs: the same as `src/node.rs`, with the real shards and a simulated outside.
//!
//! ```text
//!   lost a log? ─▶ in a ring? ─ no: waits at its peer port to be told of one (as src/founding.rs does)
//!                     │ yes
//!                     ▼
//!   one shard::run each, all in one process ─▶ asked to stop: hands over, seals ─▶ ends
//! ```
//! The identity (`src/identity.rs`) is a value of the node's host here, always whole: the real one is a file that is replaced
//! atomically, before anything that depends on it.
//!
//! **Not here**: the founding itself. The founders' identities are minted by seed, as founding leaves them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ringbeam_shards::io::channel::Notify;
use ringbeam_shards::io::sim::{Sim, SimDisk, SimNet, SimReader, SimWriter, listen, stop_listening};
use ringbeam_shards::io::{Disk, Env, Net, PreambleBytes, Reader, Writer};
use ringbeam_shards::planted::{self, Bug};
use ringbeam_shards::raft::replica::Timers;
use ringbeam_shards::shard::{self, Settings};
use ringbeam_shards::state::Limits;
use ringbeam_shards::wal::WalConfig;
use ringbeam_shards::watch::Bounds;
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::peer::{self, Encoder, Identity, Member, PeerReplyBody, PeerRequestBody, Standing};
use ringbeam_wire::preamble::{Kind, Preamble};
use ringbeam_wire::refusal::Code;

/// What every node of a ring is set up with.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub log: WalConfig,
    pub snapshot_after_bytes: u64,
    pub snapshot_pause: Duration,
    pub timers: Timers,
    pub state: Limits,
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    pub queue_bytes_max: usize,
    pub batch_bytes_max: usize,
    pub history: Bounds,
}

impl Default for NodeSettings {
    /// The proportions of the real defaults, with small logs: segments turn, snapshots and purges come every few seconds.
    fn default() -> Self {
        let ms = Duration::from_millis;
        NodeSettings {
            log: WalConfig {
                segment_bytes: 512 << 10,
                cache_bytes: 64 << 10,
                spare_segments: 2,
                stock_ahead: true,
                entry_bytes_max: 128 << 10,
            },
            snapshot_after_bytes: 1 << 20,
            snapshot_pause: ms(2),
            timers: Timers {
                heartbeat: ms(100),
                election_timeout_min: ms(300),
                election_timeout_max: ms(600),
                read_lease: ms(0),
            },
            state: Limits { sessions_max: 1024, session_window: 64, ..Limits::default() },
            key_bytes_max: 1 << 10,
            value_bytes_max: 16 << 10,
            queue_bytes_max: 256 << 10,
            batch_bytes_max: 64 << 10,
            history: Bounds { bytes_max: 1 << 20, age_ms_max: 60_000 },
        }
    }
}

/// A node's directory besides its shards' files. It lives with the host's disk.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub identity: Identity,
    /// It was among the ring's first members.
    pub founder: bool,
}

/// How a process ended, or how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    #[default]
    Running,
    /// Asked to stop, it did.
    Stopped,
    /// It refuses to start, or a shard did: in its words.
    Failed(String),
}

/// What the driver holds of a running process.
#[derive(Default)]
pub struct Control {
    nets: RefCell<Vec<SimNet>>,
    stop_asked: Cell<bool>,
    stop: Notify,
    pub outcome: RefCell<Outcome>,
    /// Why shards that serve nobody do not start.
    pub faults: RefCell<Vec<String>>,
    pub opened: Cell<u32>,
}

impl Control {
    /// SIGTERM.
    pub fn stop(&self) {
        self.stop_asked.set(true);
        self.stop.notify_one();
        self.nets.borrow().iter().for_each(SimNet::stop);
    }

    /// Asked to stop.
    pub fn stops(&self) -> bool {
        self.stop_asked.get()
    }

    pub fn is_over(&self) -> bool {
        *self.outcome.borrow() != Outcome::Running
    }
}

/// The process, from its start to its end.
pub async fn serve(directory: Rc<RefCell<Directory>>, settings: NodeSettings, disk: SimDisk, control: Rc<Control>) {
    let outcome = match run(&directory, &settings, disk, &control).await {
        Ok(()) => Outcome::Stopped,
        Err(why) => Outcome::Failed(why),
    };
    *control.outcome.borrow_mut() = outcome;
}

async fn run(
    directory: &Rc<RefCell<Directory>>,
    settings: &NodeSettings,
    disk: SimDisk,
    control: &Rc<Control>,
) -> Result<(), String> {
    let identity = directory.borrow().identity.clone();
    if identity.started
        && !planted::is(Bug::EmptyDiskVotes)
        && let Some(shard) = lost_shard(&identity, &disk).await
    {
        return Err(format!("the log of shard {shard} is gone"));
    }
    if identity.ring == 0 {
        join(directory, control).await;
        if control.stop_asked.get() {
            return Ok(());
        }
    }
    let (identity, founder) = (directory.borrow().identity.clone(), directory.borrow().founder);
    let member = identity.member.clone();
    let nets: Vec<SimNet> = (0..identity.shards).map(|_| SimNet::new()).collect();
    *control.nets.borrow_mut() = nets.clone();
    for (address, kind) in [(&member.client, Kind::Client), (&member.peer, Kind::Peer)] {
        let nets = nets.clone();
        listen(address, move |preamble| route(&nets, kind, preamble));
    }
    if control.stop_asked.get() {
        control.stop();
    }
    let ended = Rc::new((Cell::new(0), Notify::new()));
    for (shard, net) in (0..).zip(&nets) {
        let settings = shard_settings(settings, &identity, founder, shard);
        let (directory, counter, control, ended) = (directory.clone(), control.clone(), control.clone(), ended.clone());
        let opened = move || {
            counter.opened.set(counter.opened.get() + 1);
            if counter.opened.get() == directory.borrow().identity.shards {
                directory.borrow_mut().identity.started = true;
            }
        };
        let running = shard::run::<Sim>(settings, disk.clone(), net.clone(), opened);
        Sim::spawn(async move {
            if let Err(why) = running.await {
                control.faults.borrow_mut().push(format!("shard {shard}: {why}"));
            }
            ended.0.set(ended.0.get() + 1);
            ended.1.notify_one();
        });
    }
    while ended.0.get() < identity.shards {
        ended.1.notified().await;
    }
    let faults = control.faults.borrow().join("; ");
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// As `src/identity.rs` looks for it: a node that has run before and has no log must not vote.
async fn lost_shard(identity: &Identity, disk: &SimDisk) -> Option<u32> {
    for shard in 0..identity.shards {
        let names = disk.list(&format!("shard-{shard}/log")).await.unwrap_or_default();
        if !names.iter().any(|name| name.starts_with("wal-")) {
            return Some(shard);
        }
    }
    None
}

fn route(nets: &[SimNet], kind: Kind, preamble: &PreambleBytes) -> Option<SimNet> {
    let preamble = Preamble::decode(preamble).ok().filter(|preamble| preamble.kind == kind)?;
    nets.get(preamble.shard as usize).cloned()
}

fn shard_settings(settings: &NodeSettings, identity: &Identity, founder: bool, shard: u32) -> Settings {
    Settings {
        node: identity.member.clone(),
        ring: identity.ring,
        shard,
        shards: identity.shards,
        founders: if founder { identity.members.clone() } else { Vec::new() },
        dir: format!("shard-{shard}"),
        version: "simulated".to_string(),
        key_bytes_max: settings.key_bytes_max,
        value_bytes_max: settings.value_bytes_max,
        queue_bytes_max: settings.queue_bytes_max,
        batch_bytes_max: settings.batch_bytes_max,
        log: settings.log,
        snapshot_after_bytes: settings.snapshot_after_bytes,
        snapshot_pause: settings.snapshot_pause,
        timers: settings.timers.clone(),
        state: settings.state,
        history: settings.history,
        pinned_bytes_max: 64 << 10,
    }
}

/// Waits at the peer port until a member tells this node of its ring, or it is asked to stop.
async fn join(directory: &Rc<RefCell<Directory>>, control: &Rc<Control>) {
    let address = directory.borrow().identity.member.peer.clone();
    let net = SimNet::new();
    let door = net.clone();
    listen(&address, move |_| Some(door.clone()));
    let told = directory.clone();
    let accepting = control.clone();
    Sim::spawn(async move {
        while let Some((_, reader, writer)) = net.accept().await {
            let (directory, control) = (told.clone(), accepting.clone());
            Sim::spawn(async move {
                let _ = answer(reader, writer, &directory).await;
                control.stop.notify_one();
            });
        }
    });
    while directory.borrow().identity.ring == 0 && !control.stop_asked.get() {
        control.stop.notified().await;
    }
    stop_listening(&address);
}

/// One connection while this directory is new. It ends when the node has heard of its ring, or the asker leaves.
async fn answer(mut reader: SimReader, mut writer: SimWriter, directory: &RefCell<Directory>) -> std::io::Result<()> {
    let mut decoder = Decoder::new(1 << 20);
    loop {
        while let Some(frame) = decoder.next().map_err(std::io::Error::other)? {
            let request = peer::parse_request(&frame).map_err(std::io::Error::other)?;
            let reply = reply_to(request.body, directory);
            let mut out = Vec::new();
            Encoder::new().reply(&mut out, request.id, &reply);
            writer.write_all(&out).await?;
            if directory.borrow().identity.ring != 0 {
                return Ok(());
            }
        }
        let read = reader.read(decoder.space()).await?;
        if read == 0 {
            return Ok(());
        }
        decoder.filled(read);
    }
}

fn reply_to(body: PeerRequestBody<'_>, directory: &RefCell<Directory>) -> PeerReplyBody {
    let me = directory.borrow().identity.clone();
    match body {
        PeerRequestBody::Identify => PeerReplyBody::Identity(Box::new(me)),
        PeerRequestBody::WhoAmI { .. } => {
            PeerReplyBody::YouAre { standing: Standing::Unknown, ring: me.ring, shards: me.shards, members: me.members }
        }
        PeerRequestBody::Found { ring, shards, members } if shards == me.shards && knows(&members, &me) => {
            let mut directory = directory.borrow_mut();
            (directory.identity.ring, directory.identity.members) = (ring, members);
            PeerReplyBody::Identity(Box::new(directory.identity.clone()))
        }
        _ => {
            let message = format!("node {} has no ring yet", me.node);
            PeerReplyBody::Refused { code: Code::NotServing as u16, message }
        }
    }
}

fn knows(members: &[Member], me: &Identity) -> bool {
    members.iter().any(|m| m.node == me.node && m.incarnation == me.incarnation)
}
