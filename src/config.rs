//! The configuration of a node: one TOML file, read once at the start, checked whole before anything else happens.
//!
//! Unknown keys are refused by name and line; every key has its unit in its name and a default, but for `node.id` and
//! `node.data_dir`, which nobody else can choose. `deploy/node.toml` shows them all.
//!
//! **Invariants**
//! - A [`Config`] from [`Config::load`] or [`Config::parse`] is valid: every range and every relation between keys holds.
//! - What must be equal on all nodes of a ring says so in its documentation: `ring.shards` and `[limits]`.
//!
//! **Not here**: whether this machine can do it (disk, io_uring, cores): `ringbeam_shards::io::uring` and `node.rs`.

mod check;
mod names;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ringbeam_shards::io::uring::DurableWrites;
use ringbeam_shards::wal::WalConfig;
use ringbeam_shards::watch::Bounds;
use ringbeam_wire::client::Role;
use ringbeam_wire::limits::{KEY_BYTES_MAX, VALUE_BYTES_DEFAULT_MAX};
use serde::{Deserialize, Serialize};

pub use names::Level;

use crate::founding::Founder;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this node is and where it keeps what.
    pub node: Node,
    /// Where it listens, and how others reach it.
    pub listen: Listen,
    /// The ring it belongs to.
    pub ring: Ring,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// The log on disk.
    pub log: Log,
    /// Heartbeats and elections.
    pub timers: Timers,
    /// What is kept for watches.
    pub watch: Watch,
    /// What is kept for scans.
    pub scan: Scan,
    /// Log lines for people.
    pub logging: Logging,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Node id, from 1, never used twice in a ring. No default.
    pub id: u64,
    /// Directory of logs and snapshots, on a local disk. No default.
    pub data_dir: PathBuf,
    /// Region label: clients read from their own region first.
    pub region: String,
    /// voter, tie-breaker or observer.
    #[serde(with = "names::role")]
    pub role: Role,
    /// Cores that the shards may use, by number; empty: all that the process may use.
    pub cores: Vec<usize>,
    /// Pin each executor to its core.
    pub pin_cores: bool,
    /// For tests only: accept a data directory in memory, where fsync means nothing.
    pub allow_volatile_disk: bool,
}

/// `[listen]`; addresses are `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// For SDKs and commands.
    pub client: String,
    /// For the other nodes.
    pub peer: String,
    /// HTTP for health, status and metrics; empty: off.
    pub admin: String,
    /// How clients reach `client`; empty: as it listens.
    pub advertise_client: String,
    /// How the other nodes reach `peer`; empty: as it listens.
    pub advertise_peer: String,
    /// How people and monitors reach `admin`; empty: as it listens.
    pub advertise_admin: String,
}

/// `[ring]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ring {
    /// Shards of the ring, fixed at its founding; equal on all nodes.
    pub shards: u32,
    /// The nodes that found the ring. A node that is not among them waits to be added, and asks them meanwhile.
    pub founders: Vec<FounderEntry>,
}

/// One of `ring.founders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FounderEntry {
    /// Its `node.id`.
    pub id: u64,
    /// Its peer address.
    pub peer: String,
}

/// `[limits]`; equal on all nodes of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes_max: u32,
    /// Longest value, bytes.
    pub value_bytes_max: u32,
    /// Client connections of the node at once; peers have a bound of their own.
    pub connections_max: u32,
    /// Bytes of writes that may wait in one shard for their batch; more are refused as `Overloaded`.
    pub queue_bytes_max: u64,
    /// Bytes of writes in one batch, which is one log entry.
    pub batch_bytes_max: u32,
    /// Client sessions per shard that may be open at once.
    pub sessions_max: u32,
    /// Writes of one session that may be unanswered at once.
    pub session_window_count: u32,
    /// Ring time after which an unused session is forgotten, milliseconds.
    pub session_lifetime_ms: u64,
}

/// `[log]`; each shard has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Length of a segment file, bytes.
    pub segment_bytes: u64,
    /// A snapshot is taken when the log has more bytes than this, and the log is cut after it; the first one after this node's part of it.
    pub snapshot_after_bytes: u64,
    /// Newest entries kept in memory, bytes.
    pub cache_bytes: u64,
    /// Used segments kept for recycling.
    pub spare_segments_count: u32,
    /// adaptive, dsync or fdatasync: how a write becomes durable. Both are equally safe.
    #[serde(with = "names::durable_writes")]
    pub durable_writes: DurableWrites,
    /// Least pause after each 32 KiB of a snapshot, microseconds. It is longer while the log leaves time; 0: never any.
    pub snapshot_pause_us: u64,
}

/// `[timers]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// Between two heartbeats of a leader, milliseconds.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing campaigns after at least this, milliseconds.
    pub election_timeout_min_ms: u64,
    /// And at most this.
    pub election_timeout_max_ms: u64,
    /// A follower promises a leader for so long to elect nobody else, so that linearizable reads ask nobody, milliseconds; 0: it does not.
    pub read_lease_ms: u64,
}

/// `[watch]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Bytes of changes that each shard keeps for watches.
    pub history_bytes_max: u64,
    /// Changes older than this are dropped, milliseconds of ring time.
    pub history_ms_max: u64,
}

/// `[scan]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scan {
    /// Bytes of what changes that each shard keeps for scans under way, so that they go on as of the moment when they began.
    pub pinned_bytes_max: u64,
}

/// `[logging]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// trace, debug, info, warn or error.
    pub level: Level,
}

impl Default for Node {
    fn default() -> Node {
        Node {
            id: 0,
            data_dir: PathBuf::new(),
            region: String::new(),
            role: Role::Voter,
            cores: Vec::new(),
            pin_cores: true,
            allow_volatile_disk: false,
        }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            client: "127.0.0.1:7701".into(),
            peer: "127.0.0.1:7702".into(),
            admin: "127.0.0.1:7703".into(),
            advertise_client: String::new(),
            advertise_peer: String::new(),
            advertise_admin: String::new(),
        }
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring { shards: 1, founders: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let state = ringbeam_shards::state::Limits::default();
        Limits {
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_DEFAULT_MAX,
            connections_max: 20_000,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 1 << 20,
            sessions_max: state.sessions_max,
            session_window_count: state.session_window,
            session_lifetime_ms: state.session_lifetime_ms,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            segment_bytes: 64 << 20,
            snapshot_after_bytes: 256 << 20,
            cache_bytes: 32 << 20,
            spare_segments_count: 6,
            durable_writes: DurableWrites::Adaptive,
            snapshot_pause_us: 250,
        }
    }
}

impl Default for Watch {
    fn default() -> Watch {
        let Bounds { bytes_max, age_ms_max } = Bounds::default();
        Watch { history_bytes_max: bytes_max, history_ms_max: age_ms_max }
    }
}

impl Default for Scan {
    fn default() -> Scan {
        Scan { pinned_bytes_max: 64 << 20 }
    }
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { heartbeat_ms: 100, election_timeout_min_ms: 300, election_timeout_max_ms: 600, read_lease_ms: 0 }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("configuration {}: {e}", path.display()))?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Parses and checks; `name` is the file's, for messages.
    pub fn parse(text: &str, name: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|e| format!("configuration {name}: {}", e.to_string().trim_end()))?;
        config.check().map_err(|why| format!("configuration {name}: {why}"))?;
        Ok(config)
    }

    /// The whole configuration as a file, every key in it.
    pub fn to_toml(&self) -> String {
        // Every field is a table, a string, a number or a list of them; the only way to fail is a path that is no UTF-8.
        toml::to_string(self).unwrap_or_else(|e| format!("# {e}\n"))
    }

    /// The founders as founding wants them.
    pub fn founders(&self) -> Vec<Founder> {
        self.ring.founders.iter().map(|f| Founder { node: f.id, peer: f.peer.clone() }).collect()
    }

    /// True: this node founds the ring together with the others named; false: it waits to be added.
    pub fn is_founder(&self) -> bool {
        self.ring.founders.iter().any(|f| f.id == self.node.id)
    }

    /// The log's sizes. Entries may be as large as any valid limits of another node make them, if the segments have room: a
    /// follower whose own limits are still the old ones must not stumble over the leader's entry.
    pub fn wal(&self) -> WalConfig {
        WalConfig {
            segment_bytes: self.log.segment_bytes,
            cache_bytes: self.log.cache_bytes as usize,
            spare_segments: self.log.spare_segments_count,
            stock_ahead: true,
            entry_bytes_max: check::entry_bytes_max(self.log.segment_bytes) as usize,
        }
    }

    /// How much of what happened lately is kept for watches.
    pub fn history(&self) -> Bounds {
        Bounds { bytes_max: self.watch.history_bytes_max, age_ms_max: self.watch.history_ms_max }
    }

    /// The bounds of the replicated state.
    pub fn state_limits(&self) -> ringbeam_shards::state::Limits {
        ringbeam_shards::state::Limits {
            sessions_max: self.limits.sessions_max,
            session_window: self.limits.session_window_count,
            session_lifetime_ms: self.limits.session_lifetime_ms,
            ..Default::default()
        }
    }
}

impl Listen {
    /// How clients reach this node.
    pub fn client_address(&self) -> &str {
        advertised(&self.advertise_client, &self.client)
    }

    /// How the other nodes reach this node.
    pub fn peer_address(&self) -> &str {
        advertised(&self.advertise_peer, &self.peer)
    }

    /// How people and monitors reach this node; "" when the admin port is off.
    pub fn admin_address(&self) -> &str {
        advertised(&self.advertise_admin, &self.admin)
    }
}

fn advertised<'a>(advertise: &'a str, listen: &'a str) -> &'a str {
    if advertise.is_empty() { listen } else { advertise }
}

/// The address to bind for `key`, its name resolved.
pub fn resolve(key: &str, address: &str) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|e| format!("{key} = \"{address}\": {e}"))?;
    found.next().ok_or_else(|| format!("{key} = \"{address}\": the name has no address"))
}
