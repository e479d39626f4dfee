//! Full disks: what was claimed is flushed, and the reserve is there for votes.

use super::faults::{open_faulty, until};
use super::faulty::{Faults, Faulty};
use super::model::Random;
use super::*;
use std::cell::Cell;

/// A claim for one entry, once the log knows whether it has room; `None`: the disk is full.
async fn claim(wal: &Wal<Faulty>, bytes: usize) -> Option<Claim> {
    loop {
        match wal.claim(1, bytes) {
            Ok(claim) => return Some(claim),
            Err(NoRoom::Full(_)) => return None,
            Err(NoRoom::Soon) => Uring::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
}

/// What an election writes to the log of one node, each record in a flush of its own; the number of records.
async fn election(wal: &Wal<Faulty>, term: u64) -> Result<()> {
    let vote = Vote { term, node: 3, committed: false };
    durable(|f| wal.save_vote(vote, f)).await?;
    durable(|f| wal.save_vote(Vote { committed: true, ..vote }, f)).await?;
    let last = wal.last().expect("the log is not empty").index;
    durable(|f| wal.truncate_after(wal.id_at(last - 1), f)).await?;
    append(wal, vec![Entry { id: id(term, last), kind: 0, payload: Bytes::new() }]).await
}

#[test]
fn votes_find_room_on_a_full_disk_for_the_elections_that_are_promised() {
    let scratch = Scratch::new("reserve");
    run(async {
        let faults = Rc::new(Faults::default());
        let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
        faults.full.set(true);
        let mut next = 0;
        while let Some(claim) = claim(&wal, 2000).await {
            append(&wal, vec![entry(1, next, 2000)]).await.expect("there is room");
            drop(claim);
            next += 1;
        }
        // An eighth of 64 blocks is the reserve: two elections.
        for term in 2..4 {
            election(&wal, term).await.expect("the reserve");
            assert_eq!(
                wal.claim(1, 1).map(drop),
                Err(NoRoom::Full(wal.has_room().expect_err("full"))),
                "no entry gets the reserve"
            );
        }
        // What is beyond waits, in order, and is not lost.
        let beyond = async {
            for term in 4..40 {
                election(&wal, term).await.expect("flushed once space has returned");
            }
        };
        let space_returns = async {
            Uring::sleep(std::time::Duration::from_millis(50)).await;
            assert!(wal.vote().expect("voted").term < 39 && wal.fault().is_none());
            faults.full.set(false);
        };
        futures_lite::future::zip(beyond, space_returns).await;
        until(|| wal.has_room().is_ok()).await;
        let entries = all(&wal).await;
        wal.close().await;
        let wal = scratch.open(SMALL).await.expect("nothing is damaged");
        assert_eq!((all(&wal).await, wal.vote()), (entries, Some(Vote { term: 39, node: 3, committed: true })));
        wal.close().await;
    });
}

/// Appends of all sizes, several on their way at once, and a disk that becomes full at any moment: whatever had a claim is
/// flushed, and so are the votes of the reserve behind it.
#[test]
fn what_was_claimed_is_flushed_whenever_the_disk_becomes_full() {
    run(async {
        for seed in 0..60 {
            let scratch = Scratch::new("claims");
            let faults = Rc::new(Faults::default());
            let wal = open_faulty(&scratch, &faults, SMALL).await.expect("a new log");
            let mut random = Random::new(seed);
            let full_at = random.below(120);
            let waiting = Rc::new(Cell::new(0));
            let mut next = 0;
            for step in 0.. {
                if step == full_at {
                    faults.full.set(true);
                }
                let (entries, bytes) = (1 + random.below(4), random.below(6000));
                let claim = match wal.claim(entries as usize, (entries * bytes) as usize) {
                    Ok(claim) => claim,
                    Err(NoRoom::Full(_)) => break,
                    Err(NoRoom::Soon) => {
                        Uring::sleep(std::time::Duration::from_micros(300)).await;
                        continue;
                    }
                };
                // Raft takes its time.
                if random.below(3) == 0 {
                    Uring::sleep(std::time::Duration::from_micros(200)).await;
                }
                let (done, batch) = (waiting.clone(), (next..next + entries).map(|i| entry(1, i, bytes as usize)).collect());
                waiting.set(waiting.get() + 1);
                wal.append(batch, move |outcome| {
                    outcome.expect("what was claimed is flushed");
                    done.set(done.get() - 1);
                    drop(claim);
                });
                next += entries;
            }
            for vote in 0..8 {
                durable(|f| wal.save_vote(Vote { term: 2 + vote, node: 1, committed: false }, f)).await.expect("the reserve");
            }
            assert_eq!((waiting.get(), wal.last()), (0, next.checked_sub(1).map(|last| id(1, last))), "seed {seed}");
            assert!(faults.full.get(), "seed {seed}: it was refused before");
            wal.close().await;
            let wal = scratch.open(SMALL).await.expect("nothing is damaged");
            assert_eq!((wal.last().map(|id| id.index + 1).unwrap_or(0), wal.vote().map(|v| v.term)), (next, Some(9)));
            wal.close().await;
        }
    });
}
