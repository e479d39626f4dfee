//! Puts files before the real recovery, and holds it to what it promises.
//!
//! Whatever the files are:
//! - it ends, with a log or with a refusal that names a file of the log and leaves the disk as it was;
//! - the same files give the same verdict, also when a first attempt was cut off by a crash;
//! - a log is contiguous, its commit position is not beyond its end, and every entry can be read from disk;
//! - what was found is durable: after a power loss it is there again, the same;
//! - and it goes on: an entry that is appended is there at the next opening, behind all that was there before.

use super::format::{BLOCK, is_whole};
use super::{CONFIG, DIR, OWNER};
use crate::choices::Choices;
use crate::disk::{Files, files_of, world_with};
use bytes::Bytes;
use ringbeam_shards::io::Env;
use ringbeam_shards::io::channel::oneshot;
use ringbeam_shards::io::sim::{Crash, HostId, Sim, SimDisk, World};
use ringbeam_shards::wal::{Entry, LogId, OpenError, Vote, Wal, WalConfig};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// All that a log says.
#[derive(Clone, PartialEq, Eq)]
pub struct Said {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub entries: Vec<Entry>,
}

impl std::fmt::Debug for Said {
    /// Entries without their payloads, which would fill the screen.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Said { vote, committed, purged, last, entries } = self;
        write!(f, "vote {vote:?}, committed {committed:?}, purged {purged:?}, last {last:?}, entries")?;
        entries.iter().try_for_each(|e| write!(f, " {}:{} ({} B)", e.id.term, e.id.index, e.payload.len()))
    }
}

/// What recovery said, in words when it refused.
pub type Verdict = Result<Said, String>;

/// Longest recovery, of simulated time: some ten segments at a millisecond each.
const PATIENCE: Duration = Duration::from_secs(10);
const FOREVER: Duration = Duration::from_secs(3_600);

/// Recovers `files`, with what `choices` add: a crash in the middle of it, another afterwards, a smaller cache.
pub fn recover(files: &Files, choices: &mut Choices<'_>) -> Verdict {
    let (crash_at_us, uptime_us, how) = (choices.word(), choices.word(), choices.byte());
    let config = WalConfig { cache_bytes: if how & 4 == 0 { CONFIG.cache_bytes } else { 0 }, ..CONFIG };
    let (world, host) = world_with(2, files);
    let mut cut_off = false;
    if how & 8 == 8 {
        start(&world, host, config);
        world.run_for(Duration::from_micros(u64::from(crash_at_us) % 20_000));
        world.crash(host, crash(how));
        cut_off = true;
    }
    let before = files_of(&world.disk(host));
    let opened = start(&world, host, config);
    assert!(world.run_until(PATIENCE, Duration::from_millis(1), || opened.borrow().is_some()), "recovery does not end");
    let verdict = opened.borrow_mut().take().expect("it has just ended");
    if cut_off {
        assert_eq!(of_fresh(files, config), verdict, "a crash during recovery has changed what is recovered");
    }
    let said = match &verdict {
        Err(_) => {
            world.reap(host);
            assert_eq!(files_of(&world.disk(host)), before, "a refusal has changed the disk");
            return verdict;
        }
        Ok(said) => said,
    };
    // Its chores go on meanwhile: the next segment, spares, segments to free.
    world.run_for(Duration::from_micros(u64::from(uptime_us) % 20_000));
    world.crash(host, crash(how));
    let disk = world.disk(host);
    assert_eq!(world.block_on(host, open(disk.clone(), config)), verdict, "it is not the same after a crash");

    let Some(next) = said.last.map_or(Some(0), |last| last.index.checked_add(1)).filter(|next| *next < u64::MAX) else {
        return verdict;
    };
    let term = said.vote.map_or(1, |vote| vote.term);
    let payload = Bytes::from(vec![how; 4_100]);
    let entry = Entry { id: LogId { term, leader: OWNER.node, index: next }, kind: 1, payload };
    let appended = Rc::new(Cell::new(false));
    let (adding, done) = (append(disk.clone(), config, entry.clone(), how & 16 == 0), appended.clone());
    world.start(host, move || async move {
        let wal = adding.await;
        done.set(true);
        Sim::sleep(FOREVER).await;
        drop(wal);
    });
    assert!(world.run_until(PATIENCE, Duration::from_millis(1), || appended.get()), "an append does not end");
    world.crash(host, crash(how / 2));
    let mut with_it = said.clone();
    with_it.last = Some(entry.id);
    with_it.entries.push(entry);
    let again = world.block_on(host, open(disk, config));
    // Rot ahead of the end is harmless until the end is there: then it may be an acknowledged flush, and is refused.
    let suspect = again.as_ref().is_err_and(|why| why.contains("may have been acknowledged")) && is_rotten(files);
    assert!(suspect || again == Ok(with_it), "an appended entry is not behind what was there, but {again:?} after {said:?}");
    verdict
}

/// Some block behind a header is neither of a flush nor unwritten.
fn is_rotten(files: &Files) -> bool {
    files.values().flat_map(|file| file.chunks_exact(BLOCK).skip(1)).any(|block| !is_whole(block))
}

fn crash(how: u8) -> Crash {
    [Crash::Kill, Crash::PowerLoss][usize::from(how % 2)]
}

/// Starts a process that opens the log, and stays until it is ended.
fn start(world: &World, host: HostId, config: WalConfig) -> Rc<RefCell<Option<Verdict>>> {
    let opened = Rc::new(RefCell::new(None));
    let (disk, result) = (world.disk(host), opened.clone());
    world.start(host, move || async move {
        match Wal::<Sim>::open(disk, DIR, OWNER, config).await {
            Ok(wal) => {
                let said = said(&wal).await;
                *result.borrow_mut() = Some(Ok(said));
                // The log lives as long as its process.
                Sim::sleep(FOREVER).await;
                drop(wal);
            }
            Err(error) => *result.borrow_mut() = Some(Err(named(error))),
        }
    });
    opened
}

fn of_fresh(files: &Files, config: WalConfig) -> Verdict {
    let (world, host) = world_with(2, files);
    let disk = world.disk(host);
    world.block_on(host, open(disk, config))
}

async fn open(disk: SimDisk, config: WalConfig) -> Verdict {
    match Wal::<Sim>::open(disk, DIR, OWNER, config).await {
        Ok(wal) => Ok(said(&wal).await),
        Err(error) => Err(named(error)),
    }
}

/// Appends and waits until that is durable. The log, unless it was closed.
async fn append(disk: SimDisk, config: WalConfig, entry: Entry, close: bool) -> Option<Wal<Sim>> {
    let wal = Wal::<Sim>::open(disk, DIR, OWNER, config).await.expect("it was opened before");
    let (done, flushed) = oneshot::channel();
    wal.append(vec![entry], move |outcome| drop(done.send(outcome.map_err(|error| error.to_string()))));
    assert_eq!(flushed.await.ok(), Some(Ok(())), "the disk works");
    if !close {
        return Some(wal);
    }
    wal.close().await;
    None
}

/// A refusal in words, after a look at it.
fn named(error: OpenError) -> String {
    let words = error.to_string();
    match &error {
        OpenError::Io { .. } => panic!("the disk works: {words}"),
        OpenError::Corrupt { file, why, .. } => assert!(file.starts_with("log/wal-") && !why.is_empty(), "{words}"),
        OpenError::WrongOwner { file, .. } | OpenError::Version { file, .. } => {
            assert!(file.starts_with("log/wal-"), "{words}")
        }
        OpenError::Config(why) => assert!(why.contains("segment"), "{words}"),
    }
    words
}

async fn said(wal: &Wal<Sim>) -> Said {
    let entries = wal.read(0..u64::MAX, usize::MAX).await.expect("what was recovered can be read");
    let said = Said { vote: wal.vote(), committed: wal.committed(), purged: wal.purged(), last: wal.last(), entries };
    let index = |id: Option<LogId>| id.map(|id| id.index);
    let follows = |pair: &[Entry]| pair[0].id.index.checked_add(1) == Some(pair[1].id.index);
    assert!(said.entries.windows(2).all(follows), "entries with a gap: {said:?}");
    assert!(index(said.committed) <= index(said.last), "committed beyond the end: {said:?}");
    let end = said.entries.last().map(|entry| entry.id).or(said.purged);
    assert_eq!(said.last, end, "the end is not the last entry: {said:?}");
    if let (Some(purged), Some(first)) = (said.purged, said.entries.first()) {
        assert!(first.id.index > purged.index, "purged entries are there: {said:?}");
    }
    for entry in &said.entries {
        assert_eq!(wal.id_at(entry.id.index), Some(entry.id));
    }
    assert!(wal.fault().is_none() && !wal.is_flushing());
    said
}
