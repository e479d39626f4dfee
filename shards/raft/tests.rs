//! openraft's storage conformance suite over our log and state machine, on a real disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::Types;
use super::log::LogStore;
use super::machine::{Machine, MachineSettings};
use crate::io::uring::{DurableWrites, Uring, UringDisk};
use crate::state::Limits;
use crate::wal::{Owner, Wal, WalConfig};

struct Builder;

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
        let config = WalConfig {
            segment_bytes: 1 << 20,
            cache_bytes: 4096,
            spare_segments: 1,
            stock_ahead: false,
            entry_bytes_max: 64 << 10,
        };
        let wal = Wal::open(disk.clone(), &format!("{dir}/log"), Owner::default(), config).await.expect("an empty log opens");
        let settings =
            MachineSettings { dir: dir.clone(), keeps_state: true, limits: Limits::default(), snapshot_pause: Duration::ZERO };
        let machine = Machine::open(disk, settings).await.expect("an empty machine opens");
        Ok((Scratch(root.join(dir)), LogStore::new(wal), machine))
    }
}

#[test]
fn log_and_state_machine_pass_openrafts_storage_suite() {
    let tested: Result<(), StorageError<Types<Uring>>> =
        crate::io::uring::block_on(Suite::test_store(&Builder)).expect("an executor can be made");
    tested.expect("the suite passes");
}
