//! Recycled segments: the log stays bounded, and what a file held in an earlier life never comes back.

use super::faulty::{Faults, Faulty, FaultyDisk};
use super::*;
use std::time::Duration;

#[test]
fn a_purged_log_stays_bounded_and_recycles_its_segments() {
    let scratch = Scratch::new("bounded");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        let vote = Vote { term: 1, node: 2, committed: true };
        durable(|f| wal.save_vote(vote, f)).await.expect("flushed");
        for i in 0..600 {
            append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
            if i % 10 == 9 {
                durable(|f| wal.purge(id(1, i - 5), f)).await.expect("flushed");
                assert!(scratch.names().len() <= 8, "{:?}", scratch.names());
            }
        }
        assert!(wal.bytes() < 20 * 3 * 4096, "{}", wal.bytes());
        wal.close().await;
        let names = scratch.names();
        assert!(!names.contains(&"wal-0000000000000001.seg".to_owned()), "{names:?}");
        let wal = scratch.open(SMALL).await.expect("in order");
        assert_eq!(wal.vote(), Some(vote), "the vote outlives the segment it was written to");
        assert_eq!(all(&wal).await, (595..600).map(|i| entry(1, i, 9000)).collect::<Vec<_>>());
        wal.close().await;
    });
}

/// Generations of equal shape in the same files: the same flush lengths at the same offsets. A crash after each single flush
/// must find that flush's generation and nothing of the older ones behind it.
#[test]
fn a_recycled_segment_never_replays_an_older_generation() {
    let scratch = Scratch::new("generations");
    run(async {
        let config = WalConfig { spare_segments: 4, ..SMALL };
        let wal = scratch.open(config).await.expect("a new log");
        let mut recycled = false;
        for i in 0..150u64 {
            append(&wal, vec![entry(1 + i / 10, i, 9000)]).await.expect("flushed");
            if i % 10 == 9 {
                durable(|f| wal.purge(id(1 + i / 10, i), f)).await.expect("flushed");
            }
            recycled |= scratch.names().iter().any(|name| name.starts_with("spare-"));
            if recycled && i % 4 == 0 {
                let crashed = scratch.copy("generation");
                let found = crashed.open(config).await.expect("a crash is no damage");
                assert_eq!(found.last().map(|id| id.index), Some(i));
                assert_eq!(all(&found).await, all(&wal).await);
                found.close().await;
            }
        }
        assert!(recycled);
        wal.close().await;
    });
}

/// A read waits for the disk while its entries are purged and their segments are recycled and written again. What the disk
/// then returns is of other entries: not an error, and not to be returned.
#[test]
fn a_read_overtaken_by_purge_and_recycling_returns_what_is_left() {
    let scratch = Scratch::new("overtaken");
    run(async {
        let faults = Rc::new(Faults::default());
        let disk = FaultyDisk { disk: scratch.disk(), faults: faults.clone() };
        let config = WalConfig { cache_bytes: 0, ..SMALL };
        let wal = Wal::<Faulty>::open(disk, "log", OWNER, config).await.expect("a new log");
        for i in 0..60 {
            append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
        }
        until_idle(&wal).await;
        faults.hold_reads.set(true);
        let reading = wal.read(0..60, usize::MAX);
        let recycling = async {
            durable(|f| wal.purge(id(1, 57), f)).await.expect("flushed");
            for i in 60..200 {
                append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
                until_idle(&wal).await;
            }
            faults.hold_reads.set(false);
        };
        let (read, ()) = futures_lite::future::zip(reading, recycling).await;
        let read = read.expect("no error");
        assert_eq!(read, [entry(1, 58, 9000), entry(1, 59, 9000)]);
        wal.close().await;
    });
}

/// Gives up when something that takes a second at most has not come for so long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let late = async {
        Uring::sleep(Duration::from_secs(60)).await;
        panic!("not within a minute: {what}")
    };
    futures_lite::future::or(future, late).await
}

async fn fill(wal: &Wal<Faulty>, indexes: std::ops::Range<u64>) {
    for i in indexes {
        soon("an entry is durable", append(wal, vec![entry(1, i, 9000)])).await.expect("flushed");
    }
}

/// The directory of the log could not be opened for its sync once, as there were no descriptors, when a segment had been renamed
/// already. The next attempt renamed a name that was gone, and so for ever; no segment was made any more, and writes waited for one.
#[test]
fn a_segment_whose_freeing_could_not_be_synced_once_is_freed_and_the_log_goes_on() {
    for spare_segments in [0, 1, 3] {
        let scratch = Scratch::new("unsynced");
        run(async {
            let faults = Rc::new(Faults::default());
            let disk = FaultyDisk { disk: scratch.disk(), faults: faults.clone() };
            let config = WalConfig { spare_segments, ..SMALL };
            let wal = Wal::<Faulty>::open(disk, "log", OWNER, config).await.expect("a new log");
            for round in 0..3 {
                fill(&wal, round * 90..round * 90 + 90).await;
                until_idle(&wal).await;
                faults.unsynced_dirs.set(1);
                durable(|f| wal.purge(id(1, round * 90 + 88), f)).await.expect("flushed");
            }
            fill(&wal, 270..360).await;
            durable(|f| wal.purge(id(1, 358), f)).await.expect("flushed");
            let freed = async {
                while scratch.names().iter().filter(|name| name.starts_with("wal-")).count() > 2 {
                    Uring::sleep(Duration::from_millis(5)).await;
                }
            };
            soon("what was purged is freed", freed).await;
            assert_eq!((faults.unsynced_dirs.get(), all(&wal).await), (0, vec![entry(1, 359, 9000)]));
            wal.close().await;
            assert!(scratch.names().len() <= 2 + spare_segments as usize, "{:?}", scratch.names());
            let wal = scratch.open(config).await.expect("in order");
            assert_eq!(all(&wal).await, [entry(1, 359, 9000)]);
            wal.close().await;
        });
    }
}

#[test]
fn while_segments_cannot_be_freed_the_next_one_is_made_all_the_same() {
    let scratch = Scratch::new("stays");
    run(async {
        let faults = Rc::new(Faults::default());
        let disk = FaultyDisk { disk: scratch.disk(), faults: faults.clone() };
        let wal = Wal::<Faulty>::open(disk, "log", OWNER, SMALL).await.expect("a new log");
        fill(&wal, 0..60).await;
        faults.segments_stay.set(true);
        durable(|f| wal.purge(id(1, 58), f)).await.expect("flushed");
        fill(&wal, 60..200).await;
        assert!(wal.has_room().is_ok());
        faults.segments_stay.set(false);
        let first_goes = async {
            while scratch.names().contains(&"wal-0000000000000001.seg".to_owned()) {
                Uring::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the first segment goes", first_goes).await;
        wal.close().await;
    });
}

/// A segment that exists proves that the one before it has a whole first flush; recovery refuses what contradicts that. So a
/// log that nobody has written to must not have a second segment.
#[test]
fn the_next_segment_is_not_prepared_before_the_first_flush_of_the_current_one() {
    let scratch = Scratch::new("early");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        // Plenty for the chores to have run, had they anything to do.
        Uring::sleep(Duration::from_millis(50)).await;
        assert_eq!(scratch.names(), ["wal-0000000000000001.seg"]);
        let crashed = scratch.copy("early-crash");
        let found = crashed.open(SMALL).await.expect("a crash is no damage");
        append(&found, vec![entry(1, 0, 10)]).await.expect("flushed");
        until_idle(&found).await;
        assert_eq!(crashed.names().len(), 2);
        found.close().await;
        wal.close().await;
    });
}
