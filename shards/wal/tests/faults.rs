//! Failing disks: a failed flush, a full disk, a crash at every single step.

use super::faulty::{Faults, Faulty, FaultyDisk};
use super::*;
use std::time::Duration;

pub(super) async fn open_faulty(
    scratch: &Scratch,
    faults: &Rc<Faults>,
    config: WalConfig,
) -> std::result::Result<Wal<Faulty>, OpenError> {
    Wal::open(FaultyDisk { disk: scratch.disk(), faults: faults.clone() }, "log", OWNER, config).await
}

/// Waits for a condition that another task brings about.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        Uring::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn after_a_failed_flush_the_log_is_dead_and_nothing_is_written_any_more() {
    let scratch = Scratch::new("dead");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        append(&wal, vec![entry(1, 0, 10)]).await.expect("flushed");
        until(|| scratch.names().len() == 2).await; // the next segment is there: the chores are done
        Uring::sleep(Duration::from_millis(20)).await;

        faults.once.set(true);
        faults.stop_at.set(Some(faults.steps.get()));
        let failing = durable(|f| wal.append(vec![entry(1, 1, 10)], f));
        let gathered = durable(|f| wal.save_vote(Vote { term: 5, node: 1, committed: false }, f));
        let (first, second) = futures_lite::future::zip(failing, gathered).await;
        assert!(first.is_err() && second.is_err());
        let fault = wal.fault().expect("dead");
        assert!(fault.contains("wal-0000000000000001.seg at block 2 failed: injected"), "{fault}");
        // The disk works again, and that does not matter.
        let steps = faults.steps.get();
        for _ in 0..3 {
            assert!(append(&wal, vec![entry(1, 2, 10)]).await.is_err());
            assert!(durable(|f| wal.purge(id(1, 0), f)).await.is_err());
            assert!(durable(|f| wal.truncate_after(None, f)).await.is_err());
        }
        assert_eq!(faults.steps.get(), steps);
        wal.close().await;
        assert_eq!(faults.steps.get(), steps, "a dead log is not sealed");

        let wal = scratch.open(SMALL).await.expect("nothing is damaged");
        assert_eq!((all(&wal).await, wal.vote()), (vec![entry(1, 0, 10)], None));
        wal.close().await;
    });
}

#[test]
fn a_full_disk_is_told_before_the_reserve_is_used_and_clears_itself() {
    let scratch = Scratch::new("full");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        faults.full.set(true);
        let mut next = 0;
        while wal.has_room().is_ok() {
            append(&wal, vec![entry(1, next, 3000)]).await.expect("the current segment goes on");
            next += 1;
        }
        assert!(next > 10, "only {next} entries before it was full");
        let full = wal.has_room().expect_err("full");
        assert_eq!(full.missing_bytes, SMALL.segment_bytes);
        assert!(full.to_string().contains("needs 262144 bytes for its next segment: injected: no space left"), "{full}");

        // What raft has accepted meanwhile: the largest entry still fits.
        append(&wal, vec![entry(1, next, SMALL.entry_bytes_max)]).await.expect("the reserve");
        // More than the reserve waits, is readable, and is not lost.
        let last = next + 60;
        let waiting = durable(|f| wal.append((next + 1..=last).map(|i| entry(1, i, 3000)).collect(), f));
        let space_returns = async {
            Uring::sleep(Duration::from_millis(30)).await;
            assert_eq!(wal.flushed_at(last), None);
            assert_eq!(wal.last(), Some(id(1, last)));
            assert!(wal.fault().is_none());
            faults.full.set(false);
        };
        let (outcome, ()) = futures_lite::future::zip(waiting, space_returns).await;
        outcome.expect("flushed once space has returned");
        until(|| wal.has_room().is_ok()).await;
        let entries = all(&wal).await;
        wal.close().await;
        let wal = scratch.open(SMALL).await.expect("nothing is damaged");
        assert_eq!(all(&wal).await, entries);
        assert_eq!(entries.len() as u64, last + 1);
        wal.close().await;
    });
}

#[test]
fn a_purge_makes_room_on_a_full_disk() {
    let scratch = Scratch::new("purge-full");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        let mut next = 0;
        while !scratch.names().iter().any(|name| name.contains("wal-0000000000000003")) {
            append(&wal, vec![entry(1, next, 9000)]).await.expect("flushed");
            next += 1;
        }
        faults.full.set(true);
        while wal.has_room().is_ok() {
            append(&wal, vec![entry(1, next, 9000)]).await.expect("flushed");
            next += 1;
        }
        durable(|f| wal.purge(id(1, next - 2), f)).await.expect("flushed");
        until(|| wal.has_room().is_ok()).await;
        wal.close().await;
    });
}

#[test]
fn closing_on_a_full_disk_does_not_hang() {
    let scratch = Scratch::new("close-full");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        faults.full.set(true);
        let waiting = durable(|f| wal.append((0..80).map(|i| entry(1, i, 5000)).collect(), f));
        let (outcome, ()) = futures_lite::future::zip(waiting, wal.clone().close()).await;
        assert_eq!(outcome.expect_err("not durable").kind(), std::io::ErrorKind::StorageFull);
    });
}

#[test]
fn a_new_log_on_a_full_disk_is_refused_by_name() {
    let scratch = Scratch::new("open-full");
    run(async {
        let faults = Rc::new(Faults::default());
        faults.full.set(true);
        let error = open_faulty(&scratch, &faults, SMALL).await.expect_err("no room").to_string();
        assert_eq!(error, "log log: injected: no space left");
        faults.full.set(false);
        open_faulty(&scratch, &faults, SMALL).await.expect("there is room now").close().await;
    });
}

/// A script that fills segments, purges and recycles them. Returns what it was told is durable and what it asked for.
async fn script(wal: &Wal<Faulty>, durable_entries: &mut Vec<Entry>, asked: &mut Vec<Entry>) -> Result<()> {
    let mut term = 1;
    for round in 0..14u64 {
        let from = wal.last().map_or(0, |last| last.index + 1);
        let few: Vec<Entry> = (from..from + 4).map(|i| entry(term, i, [9000, 200, 14_000, 20][i as usize % 4])).collect();
        asked.extend(few.iter().cloned());
        append(wal, few.clone()).await?;
        durable_entries.extend(few);
        if round % 5 == 3 {
            term += 1;
            let after = id_of(asked, from + 1);
            asked.retain(|entry| entry.id.index <= from + 1);
            // Until the truncation is durable, the longer log is right as well.
            durable(|f| wal.truncate_after(Some(after), f)).await?;
            durable_entries.retain(|entry| entry.id.index <= from + 1);
            durable(|f| wal.save_vote(Vote { term, node: 2, committed: true }, f)).await?;
        }
        if round % 3 == 2 {
            let upto = id_of(asked, from);
            durable_entries.retain(|entry| entry.id.index > from);
            durable(|f| wal.purge(upto, f)).await?;
        }
        // The chores take their turn, so that the script's steps come in the same order each time.
        until_idle(wal).await;
    }
    Ok(())
}

fn id_of(entries: &[Entry], index: u64) -> LogId {
    entries.iter().find(|entry| entry.id.index == index).map_or(id(0, index), |entry| entry.id)
}

/// Stops at every step of the script in turn, with the write there torn in several ways, and opens what is left.
#[test]
fn a_crash_at_any_step_loses_nothing_and_replays_nothing_old() {
    run(async {
        let mut crashes = 0;
        for torn_mask in [0, 0b1, !0b1, 0b10, u64::MAX] {
            for stop in (torn_mask % 3).. {
                if torn_mask != 0 && stop % 3 != torn_mask % 3 {
                    continue; // every step with the first mask, every third with the others
                }
                let scratch = Scratch::new("crash");
                let faults = Rc::new(Faults::default());
                faults.torn_mask.set(torn_mask);
                faults.stop_at.set(Some(stop));
                let (mut safe, mut asked) = (Vec::new(), Vec::new());
                let finished = match open_faulty(&scratch, &faults, SMALL).await {
                    Ok(wal) => {
                        // A crash of the chores leaves the script waiting for a segment that nobody makes.
                        let stuck = async {
                            until(|| faults.stopped()).await;
                            Uring::sleep(Duration::from_millis(20)).await;
                            false
                        };
                        let script = async { script(&wal, &mut safe, &mut asked).await.is_ok() };
                        let finished = futures_lite::future::or(script, stuck).await;
                        wal.close().await;
                        finished
                    }
                    Err(_) => false,
                };
                // Two openings: the first cuts and wipes, the second finds it in order.
                for opening in 0..2 {
                    let wal = scratch
                        .open(SMALL)
                        .await
                        .unwrap_or_else(|error| panic!("stop {stop}, mask {torn_mask:b}, opening {opening}: {error}"));
                    let found = all(&wal).await;
                    let place = format!("stop {stop}, mask {torn_mask:b}, opening {opening}");
                    check(&found, &safe, &asked, &place);
                    append(&wal, vec![entry(99, wal.last().map_or(0, |last| last.index + 1), 5000)]).await.expect("flushed");
                    durable(|f| wal.truncate_after(found.last().map(|e| e.id).or(wal.purged()), f)).await.expect("flushed");
                    wal.close().await;
                }
                crashes += 1;
                if finished && !faults.stopped() {
                    break;
                }
            }
        }
        assert!(crashes > 80, "only {crashes} crashes");
    });
}

/// Everything durable is there, and everything there was asked for.
fn check(found: &[Entry], safe: &[Entry], asked: &[Entry], place: &str) {
    for entry in safe {
        let same = found.iter().find(|found| found.id.index == entry.id.index);
        let purged = found.first().is_some_and(|first| first.id.index > entry.id.index);
        let truncated_unasked = same.is_none() && asked.iter().all(|asked| asked.id != entry.id);
        assert!(same == Some(entry) || purged || truncated_unasked, "{place}: {:?} is gone", entry.id);
    }
    for entry in found {
        let expected = super::entry(entry.id.term, entry.id.index, entry.payload.len());
        assert_eq!(*entry, expected, "{place}: an entry's bytes are of another one");
    }
    assert!(found.windows(2).all(|pair| pair[1].id.index == pair[0].id.index + 1), "{place}: a gap");
}

#[test]
fn a_crash_during_the_wipe_of_a_cut_flush_is_cut_again() {
    run(async {
        for wiped in 0..16u64 {
            let scratch = Scratch::new("wipe");
            let faults = Rc::new(Faults::default());
            let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
            append(&wal, vec![entry(1, 0, 10)]).await.expect("flushed");
            until_idle(&wal).await;
            // A flush of four blocks, the third of which is missing.
            faults.stop_at.set(Some(faults.steps.get()));
            faults.torn_mask.set(0b1011);
            assert!(append(&wal, vec![entry(1, 1, 14_000)]).await.is_err());
            wal.close().await;

            // The wipe is the first step of the next opening; only `wiped` of its blocks are.
            let faults = Rc::new(Faults::default());
            faults.stop_at.set(Some(0));
            faults.torn_mask.set(wiped);
            assert!(open_faulty(&scratch, &faults, SMALL).await.is_err());
            assert!(faults.stopped());

            let wal = scratch.open(SMALL).await.expect("cut again");
            assert_eq!(all(&wal).await, [entry(1, 0, 10)], "wiped {wiped:b}");
            // A flush of the same length, torn so that the old blocks would make it whole.
            append(&wal, vec![entry(2, 1, 14_000)]).await.expect("flushed");
            wal.close().await;
            let wal = scratch.open(SMALL).await.expect("in order");
            assert_eq!(all(&wal).await, [entry(1, 0, 10), entry(2, 1, 14_000)]);
            wal.close().await;
        }
    });
}

/// The wipe is what stands between a cut flush and a later one that its blocks could complete.
#[test]
fn blocks_of_a_cut_flush_never_complete_a_later_one() {
    let scratch = Scratch::new("mix");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        append(&wal, vec![entry(1, 0, 10)]).await.expect("flushed");
        until_idle(&wal).await;
        faults.stop_at.set(Some(faults.steps.get()));
        faults.torn_mask.set(0b1100);
        assert!(append(&wal, vec![entry(1, 1, 14_000)]).await.is_err());
        wal.close().await;

        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("cut");
        until_idle(&wal).await;
        faults.stop_at.set(Some(faults.steps.get()));
        faults.torn_mask.set(0b0011);
        assert!(append(&wal, vec![entry(2, 1, 14_000)]).await.is_err());
        wal.close().await;

        let wal = scratch.open(SMALL).await.expect("cut again");
        assert_eq!(all(&wal).await, [entry(1, 0, 10)]);
        wal.close().await;
    });
}

/// A flush may be whole on disk and yet never have been synced: the process died before the disk's answer. What `open`
/// builds on must be made durable first, so a disk that cannot sync must not open.
#[test]
fn what_was_recovered_is_synced_before_the_log_opens() {
    let scratch = Scratch::new("sync");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        append(&wal, vec![entry(1, 0, 10)]).await.expect("flushed");
        until_idle(&wal).await;
        wal.close().await;
        // First the segment that the log ends in, then the directory's names.
        for (stop, file) in [(0, "log/wal-0000000000000001.seg"), (1, "log")] {
            let faults = Rc::new(Faults::default());
            faults.stop_at.set(Some(stop));
            match open_faulty(&scratch, &faults, SMALL).await {
                Err(OpenError::Io { file: failed, .. }) => assert_eq!(failed, file),
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("opened without the sync of {file}"),
            }
        }
    });
}

/// The purge that frees a segment must be durable first: otherwise a crash finds neither the purge nor the entries.
#[test]
fn a_purge_that_is_not_durable_yet_frees_nothing() {
    let scratch = Scratch::new("pending-purge");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        for i in 0..80 {
            append(&wal, vec![entry(1, i, 9000)]).await.expect("flushed");
        }
        until_idle(&wal).await;
        let oldest = |wal: &Wal<Uring>| wal.0.log.borrow().segments.front().map(|segment| segment.number);
        assert_eq!(oldest(&wal), Some(1));
        let (done, seen) = oneshot::channel();
        let handle = wal.clone();
        wal.purge(id(1, 5), |_| ());
        let pending = durable(|f| {
            // Called when the flush of the first purge has ended, and the second one waits for the next.
            wal.append(vec![entry(1, 80, SMALL.entry_bytes_max)], move |_| {
                let _ = done.send(oldest(&handle));
            });
            for i in 81..90 {
                wal.append(vec![entry(1, i, SMALL.entry_bytes_max)], |_| ());
            }
            wal.purge(id(1, 75), f);
        });
        let (seen, pending) = futures_lite::future::zip(seen, pending).await;
        assert_eq!(seen, Ok(Some(1)));
        pending.expect("flushed");
        assert!(oldest(&wal) > Some(3));
        wal.close().await;
    });
}
