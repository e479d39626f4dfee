//! openraft's storage conformance suite over our log and state machine, on a real disk; and one voter alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, Membership, ServerState, StorageError};
use ringbeam_wire::peer::{Member, Role};

use super::link::PeerContext;
use super::log::LogStore;
use super::machine::{Machine, MachineSettings};
use super::replica::{Replica, Timers};
use super::{Site, TEntry, Types, log_id_in, vote_in};
#[cfg(feature = "sim")]
use crate::io::sim::{Sim, SimNet, World};
use crate::io::uring::{DurableWrites, Uring, UringDisk, UringNet};
use crate::wal::{LogId, Owner, Vote, Wal, WalConfig};

struct Builder;

const WAL: WalConfig =
    WalConfig { segment_bytes: 1 << 20, cache_bytes: 4096, spare_segments: 1, stock_ahead: false, entry_bytes_max: 64 << 10 };

fn machine_in(dir: &str) -> MachineSettings {
    let (limits, history) = Default::default();
    MachineSettings {
        dir: dir.to_string(),
        keeps_state: true,
        limits,
        snapshot_pause: Duration::ZERO,
        snapshot_after_bytes: 1 << 20,
        history,
    }
}

/// A directory that goes away with its test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl StoreBuilder<Types<Uring>, LogStore<Uring>, Machine<Uring>, Scratch> for Builder {
    async fn build(&self) -> Result<(Scratch, LogStore<Uring>, Machine<Uring>), StorageError<Types<Uring>>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // One root for all stores: the suite hands a snapshot of one store to another as it is, a path below the root.
        let root = PathBuf::from(format!("/var/tmp/ringbeam-suite-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a directory can be made in /var/tmp");
        let disk = UringDisk::new(root.clone(), DurableWrites::Dsync);
        let dir = format!("shard-{number}");
        let wal = Wal::open(disk.clone(), &format!("{dir}/log"), Owner::default(), WAL).await.expect("an empty log opens");
        let machine = Machine::open(disk, machine_in(&dir)).await.expect("an empty machine opens");
        Ok((Scratch(root.join(dir)), LogStore::new(wal), machine))
    }
}

#[test]
fn log_and_state_machine_pass_openrafts_storage_suite() {
    let tested: Result<(), StorageError<Types<Uring>>> =
        crate::io::uring::block_on(Suite::test_store(&Builder)).expect("an executor can be made");
    tested.expect("the suite passes");
}

/// Followers flush an entry beside the leader and may commit it before the leader's own flush. When all were killed in that
/// moment, the leader came back with a log shorter than theirs, led on in its old term without an election, and wrote other
/// entries under the same terms and indexes: acknowledged writes were lost. Elected again, it cannot win with the shorter log.
#[test]
fn a_leader_that_restarts_leads_only_after_an_election() {
    let root = PathBuf::from(format!("/var/tmp/ringbeam-restart-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory can be made in /var/tmp");
    let scratch = Scratch(root.clone());
    let test = async move {
        let disk = UringDisk::new(root, DurableWrites::Dsync);
        let wal = Wal::<Uring>::open(disk.clone(), "shard-0/log", Owner::default(), WAL).await.expect("an empty log opens");
        // What the leader of term 1 leaves: the membership, and its own vote as one that a quorum has granted. Nobody listens at
        // the others' addresses, so no election can be won.
        let member =
            |node| Member { node, incarnation: node, peer: "127.0.0.1:1".into(), role: Role::Voter, ..Member::default() };
        let sites = (1..=3).map(|node| (node, Site::of(member(node)))).collect::<std::collections::BTreeMap<_, _>>();
        let membership = Membership::new(vec![(1..=3).collect()], sites).expect("all voters have sites");
        let first = log_id_in::<Uring>(LogId { term: 0, leader: 0, index: 0 });
        let mut log = LogStore::new(wal.clone());
        let entry = <TEntry<Uring> as RaftEntry>::new(first, EntryPayload::Membership(membership));
        log.blocking_append([entry]).await.expect("the log takes an entry");
        log.save_vote(&vote_in::<Uring>(Vote { term: 1, node: 1, committed: true })).await.expect("the log takes a vote");

        let context = PeerContext {
            net: UringNet::new(),
            ring: 1,
            shard: 0,
            shards: 1,
            me: member(1),
            frame_bytes_max: 1 << 20,
            outvoted: Default::default(),
        };
        let ms = Duration::from_millis;
        let timers =
            Timers { heartbeat: ms(20), election_timeout_min: ms(60), election_timeout_max: ms(120), read_lease: ms(0) };
        let replica =
            Replica::open(std::rc::Rc::new(context), disk, wal.clone(), machine_in("shard-0"), timers, Vec::new()).await;
        let replica = replica.expect("the group opens");
        let wait = replica.raft.wait(Some(ms(600)));
        wait.voter_ids([1, 2, 3], "it knows its ring").await.expect("the log says so");
        let claims = replica.leadership().leader.map(|leader| leader.node);
        assert_eq!(claims, None, "to clients it does not say that it leads, though the last vote was for itself");
        let led = wait.state(ServerState::Leader, "it must not lead").await;
        replica.shutdown().await;
        wal.close().await;
        led.is_ok()
    };
    let led = crate::io::uring::block_on(test).expect("an executor can be made");
    drop(scratch);
    assert!(!led, "it led without an election: Config::enable_leader_restore is on");
}

/// What `test` makes of a group whose only voter leads, in a simulated world.
#[cfg(feature = "sim")]
pub(super) fn with_lone_leader<T>(test: impl AsyncFnOnce(std::rc::Rc<Replica<Sim>>) -> T) -> T {
    let world = World::new(1, Default::default());
    let host = world.add_host("alone");
    let disk = world.disk(host);
    world.block_on(host, async move {
        let wal = Wal::<Sim>::open(disk.clone(), "shard-0/log", Owner::default(), WAL).await.expect("an empty log opens");
        let me = Member { node: 1, incarnation: 1, peer: "alone:1".into(), role: Role::Voter, ..Member::default() };
        let context = PeerContext {
            net: SimNet::new(),
            ring: 1,
            shard: 0,
            shards: 1,
            me: me.clone(),
            frame_bytes_max: 1 << 20,
            outvoted: Default::default(),
        };
        let ms = Duration::from_millis;
        let timers =
            Timers { heartbeat: ms(20), election_timeout_min: ms(60), election_timeout_max: ms(120), read_lease: ms(0) };
        let replica = Replica::open(std::rc::Rc::new(context), disk, wal, machine_in("shard-0"), timers, vec![me]).await;
        let replica = replica.expect("the group opens");
        replica.found().await.expect("an empty group is founded");
        let wait = replica.raft.wait(Some(ms(10_000)));
        wait.state(ServerState::Leader, "one vote is a quorum").await.expect("it leads");
        replica.confirm_leadership().await.expect("its first entry is applied");
        test(replica).await
    })
}
