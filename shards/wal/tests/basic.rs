//! What goes in comes out, before and after opening again.

use super::*;
use std::cell::RefCell;

#[test]
fn everything_comes_back_after_a_close() {
    let scratch = Scratch::new("basic");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        assert_eq!((wal.last(), wal.vote(), wal.committed(), wal.bytes()), (None, None, None, 0));
        let vote = Vote { term: 3, node: 2, committed: true };
        durable(|f| wal.save_vote(vote, f)).await.expect("flushed");
        // Crosses several segments, with entries of many blocks and of none.
        let entries: Vec<Entry> =
            (0..200).map(|i| entry(1 + i / 50, i, [0, 10, 300, 5000, 24 << 10][i as usize % 5])).collect();
        for few in entries.chunks(7) {
            append(&wal, few.to_vec()).await.expect("flushed");
        }
        wal.save_committed(Some(id(4, 190)));
        assert_eq!(all(&wal).await, entries, "from cache and disk");
        let bytes = wal.bytes();
        assert!(bytes > 1 << 20);
        wal.close().await;

        let wal = scratch.open(SMALL).await.expect("it was closed in order");
        assert_eq!((wal.vote(), wal.committed(), wal.last()), (Some(vote), Some(id(4, 190)), Some(id(4, 199))));
        assert_eq!(all(&wal).await, entries);
        assert_eq!((wal.id_at(60), wal.id_at(200)), (Some(id(2, 60)), None));
        assert_eq!(wal.bytes(), bytes + 4096, "the seal");

        durable(|f| wal.truncate_after(Some(id(3, 119)), f)).await.expect("flushed");
        append(&wal, vec![entry(9, 120, 50), entry(9, 121, 60)]).await.expect("flushed");
        durable(|f| wal.purge(id(2, 70), f)).await.expect("flushed");
        assert_eq!(
            (wal.purged(), wal.last(), wal.id_at(70), wal.id_at(69)),
            (Some(id(2, 70)), Some(id(9, 121)), Some(id(2, 70)), None)
        );
        wal.close().await;

        let wal = scratch.open(SMALL).await.expect("it was closed in order");
        let mut expected = entries[71..120].to_vec();
        expected.extend([entry(9, 120, 50), entry(9, 121, 60)]);
        assert_eq!(all(&wal).await, expected);
        assert!(wal.bytes() < bytes);
        assert_eq!(wal.purged(), Some(id(2, 70)));
        assert_eq!(wal.committed(), Some(id(3, 119)), "never beyond the entries that were left after the truncation");
        wal.close().await;
    });
}

#[test]
fn entries_are_readable_before_they_are_durable_and_callbacks_keep_their_order() {
    let scratch = Scratch::new("order");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        let called = Rc::new(RefCell::new(Vec::new()));
        let note = |n: u32| {
            let called = called.clone();
            move |outcome: Result<()>| {
                outcome.expect("flushed");
                called.borrow_mut().push(n);
            }
        };
        wal.append(vec![entry(1, 0, 100), entry(1, 1, 100)], note(1));
        wal.save_vote(Vote { term: 2, node: 1, committed: false }, note(2));
        wal.append(vec![], note(3));
        wal.truncate_after(Some(id(1, 0)), note(4));
        wal.truncate_after(Some(id(1, 0)), note(5));
        wal.append(vec![entry(2, 1, 10)], note(6));
        wal.purge(id(1, 0), note(7));
        wal.purge(id(1, 0), note(8));
        assert!(called.borrow().is_empty());
        assert_eq!(all(&wal).await, [entry(2, 1, 10)]);
        assert_eq!(wal.flushed_at(1), None);
        append(&wal, vec![]).await.expect("flushed");
        assert_eq!(*called.borrow(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(wal.flushed_at(1).is_some());
        wal.close().await;
    });
}

#[test]
fn a_purge_beyond_the_last_entry_leaves_an_empty_log_that_goes_on_behind_it() {
    let scratch = Scratch::new("beyond");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        append(&wal, vec![entry(1, 0, 10), entry(1, 1, 10)]).await.expect("flushed");
        durable(|f| wal.purge(id(4, 1000), f)).await.expect("flushed");
        assert_eq!((wal.last(), wal.bytes()), (Some(id(4, 1000)), 0));
        append(&wal, vec![entry(5, 1001, 10)]).await.expect("flushed");
        wal.close().await;
        let wal = scratch.open(SMALL).await.expect("it was closed in order");
        assert_eq!(all(&wal).await, [entry(5, 1001, 10)]);
        durable(|f| wal.truncate_after(None, f)).await.expect("flushed");
        assert_eq!(wal.last(), Some(id(4, 1000)));
        wal.close().await;
    });
}

#[test]
fn a_payload_of_17_mib_goes_through_and_the_read_limit_holds() {
    let scratch = Scratch::new("large");
    run(async {
        let config = WalConfig { cache_bytes: 0, ..WalConfig::default() };
        let wal = scratch.open(config).await.expect("a new log");
        let large = entry(1, 1, 17 << 20);
        append(&wal, vec![entry(1, 0, 100), large.clone(), entry(1, 2, 100), entry(1, 3, 100)]).await.expect("flushed");
        assert_eq!(wal.read(1..2, 0).await.expect("read"), std::slice::from_ref(&large));
        assert_eq!(wal.read(0..4, 150).await.expect("read"), [entry(1, 0, 100)], "at most 150 bytes");
        assert_eq!(wal.read(2..4, 200).await.expect("read").len(), 2);
        assert_eq!(wal.read(4..9, 200).await.expect("read"), []);
        wal.close().await;
        let wal = scratch.open(config).await.expect("it was closed in order");
        assert_eq!(wal.read(1..2, 0).await.expect("read"), [large]);
        wal.close().await;
    });
}

#[test]
fn a_configuration_whose_segment_cannot_hold_two_largest_flushes_is_refused_with_the_right_size() {
    let scratch = Scratch::new("config");
    run(async {
        let config = WalConfig { segment_bytes: 32 << 20, ..WalConfig::default() };
        let error = scratch.open(config).await.expect_err("too small").to_string();
        assert!(error.contains("segment_bytes is 33554432, it must be at least 35942400"), "{error}");
    });
}

#[test]
fn a_log_of_somebody_else_is_refused_by_name() {
    let scratch = Scratch::new("owner");
    run(async {
        scratch.open(SMALL).await.expect("a new log").close().await;
        let others = [
            (Owner { ring: 1, ..OWNER }, "belongs to ring 43981, not 1"),
            (Owner { node: 1, ..OWNER }, "belongs to node 2, not 1"),
            (Owner { shard: 1, ..OWNER }, "belongs to shard 3, not 1"),
            (Owner { incarnation: 1, ..OWNER }, "belongs to data directory (incarnation) 77, not 1"),
        ];
        for (other, sentence) in others {
            let error = Wal::<Uring>::open(scratch.disk(), "log", other, SMALL).await.expect_err("another owner");
            assert!(matches!(error, OpenError::WrongOwner { found: OWNER, .. }));
            assert!(error.to_string().contains(sentence), "{error}");
        }
    });
}

#[test]
fn handles_dropped_without_a_close_tell_whoever_waits() {
    let scratch = Scratch::new("dropped");
    run(async {
        let wal = scratch.open(SMALL).await.expect("a new log");
        let (done, waiting) = oneshot::channel();
        wal.append(vec![entry(1, 0, 10)], move |outcome| {
            let _ = done.send(outcome.is_err());
        });
        drop(wal);
        assert_eq!(waiting.await, Ok(true));
    });
}
