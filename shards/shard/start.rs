//! From a shard's directory to a shard that serves, or to one that says why it does not.
//!
//! ```text
//!   open ─▶ a shard: its limits are those it was made with (fixed.rs), its log, its newest snapshot
//!     ├──── no room for its log ─▶ tells whoever asks, for START_AGAIN, and looks again
//!     └──── anything else ───────▶ tells whoever asks, until it is asked to stop
//! ```
//! **Invariant**: a shard that cannot recover serves nobody, and says why to everybody who asks: the other shards of the node go on.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use futures_lite::future;
use ringbeam_wire::limits::PEER_FRAME_BYTES_MAX;
use ringbeam_wire::peer::Role;
use ringbeam_wire::preamble::{Kind, Preamble};

use super::{Settings, Shard, fixed};
use crate::attest::Attest;
use crate::batcher::Batcher;
use crate::connection;
use crate::io::channel::Notify;
use crate::io::{Env, Net, Writer, may_pass};
use crate::limits::START_AGAIN;
use crate::raft::link::PeerContext;
use crate::raft::machine::MachineSettings;
use crate::raft::replica::Replica;
use crate::raft::runtime::timeout;
use crate::scan::Scans;
use crate::topology::Followers;
use crate::wal::{OpenError, Owner, Wal};
use crate::watch::Hub;

/// Why a shard is not open.
enum NotOpen {
    /// There was no room on the disk, or no descriptor left, which may pass. Nothing was lost.
    Full(String),
    Failed(String),
}

impl NotOpen {
    fn of(error: &io::Error, why: String) -> NotOpen {
        if may_pass(error) && !planted!(FullForEver) { NotOpen::Full(why) } else { NotOpen::Failed(why) }
    }
}

impl From<io::Error> for NotOpen {
    fn from(error: io::Error) -> NotOpen {
        NotOpen::of(&error, error.to_string())
    }
}

impl From<OpenError> for NotOpen {
    fn from(why: OpenError) -> NotOpen {
        match &why {
            OpenError::Io { error, .. } => NotOpen::of(error, why.to_string()),
            _ => NotOpen::Failed(why.to_string()),
        }
    }
}

impl From<String> for NotOpen {
    fn from(why: String) -> NotOpen {
        NotOpen::Failed(why)
    }
}

/// Opens the shard. The error says why it could not; by then the node stops, and everybody who asked was told so.
pub(super) async fn start<E: Env>(settings: &Settings, disk: &E::Disk, net: &E::Net) -> Result<Rc<Shard<E>>, String> {
    let mut waits = false;
    loop {
        let stopped = async || {
            net.stopping().await;
            net.close();
        };
        let refuse = async |why: &str| future::or(refuse_all::<E>(net, settings, why), stopped()).await;
        match open::<E>(settings.clone(), disk.clone(), net.clone()).await {
            Ok(shard) => return Ok(shard),
            Err(NotOpen::Full(why)) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::error!(shard = settings.shard, "the shard starts once there is room: {why}");
                }
                if timeout::<E, _>(START_AGAIN, refuse(&why)).await.is_ok() {
                    return Err(why);
                }
            }
            Err(NotOpen::Failed(why)) => {
                tracing::error!(shard = settings.shard, "the shard does not start: {why}");
                #[cfg(feature = "sim")]
                crate::probe::refuses(settings.shard, &why);
                refuse(&why).await;
                return Err(why);
            }
        }
    }
}

/// A shard that did not start: every client is told why.
async fn refuse_all<E: Env>(net: &E::Net, settings: &Settings, why: &str) {
    while let Some((preamble, reader, mut writer)) = net.accept().await {
        if Preamble::decode(&preamble).map(|p| p.kind) == Ok(Kind::Client) {
            E::spawn(connection::refuse::<E>(settings.clone(), why.to_string(), reader, writer));
        } else {
            let _ = writer.shutdown().await;
        }
    }
}

async fn open<E: Env>(settings: Settings, disk: E::Disk, net: E::Net) -> Result<Rc<Shard<E>>, NotOpen> {
    // A tie-breaker applies nothing.
    let keeps_state = settings.node.role != Role::TieBreaker;
    let noted = !keeps_state || fixed::check(&disk, &settings.dir, settings.state).await?;
    let owner =
        Owner { ring: settings.ring, node: settings.node.node, incarnation: settings.node.incarnation, shard: settings.shard };
    let wal = Wal::open(disk.clone(), &format!("{}/log", settings.dir), owner, settings.log).await?;
    let context = PeerContext {
        net,
        ring: settings.ring,
        shard: settings.shard,
        shards: settings.shards,
        me: settings.node.clone(),
        // Not by this node's limits: while they are changed from node to node, a leader's may be larger.
        frame_bytes_max: PEER_FRAME_BYTES_MAX as usize,
        outvoted: RefCell::new(None),
    };
    let machine = MachineSettings {
        dir: settings.dir.clone(),
        keeps_state,
        limits: settings.state,
        snapshot_pause: settings.snapshot_pause,
        snapshot_after_bytes: settings.snapshot_after_bytes,
        history: settings.history,
    };
    let founders = settings.founders.clone();
    let replica = Replica::open(Rc::new(context), disk.clone(), wal, machine, settings.timers.clone(), founders).await?;
    // Behind the newest snapshot, which is loaded, and before the first entry.
    if !noted {
        fixed::note(&disk, &settings.dir, settings.state).await?;
    }
    replica.found().await?;
    Ok(Rc::new(Shard {
        batcher: RefCell::new(Batcher::new(settings.batch_bytes_max)),
        settings,
        replica,
        work: Notify::new(),
        readings: RefCell::default(),
        in_round: RefCell::default(),
        attest: Attest::default(),
        topology: Followers::default(),
        confirming: Cell::new(false),
        connections: Cell::new(0),
        watches: Hub::default(),
        scans: Scans::default(),
        started: E::now(),
        in_flight: RefCell::new(Vec::new()),
        stopping: Cell::new(false),
        fault: RefCell::new(None),
    }))
}
