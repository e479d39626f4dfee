//! What a lone append costs: one block, one write. Times are printed, not asserted: this is a test, not a benchmark.

use super::faulty::{Faults, Faulty, FaultyDisk};
use super::*;
use crate::io::{Disk, File};

fn p50_p99_us(mut nanos: Vec<u64>) -> (u64, u64) {
    nanos.sort_unstable();
    (nanos[nanos.len() / 2] / 1000, nanos[nanos.len() * 99 / 100] / 1000)
}

#[test]
fn a_lone_append_is_one_write_of_one_block_and_appends_meanwhile_share_the_next() {
    let scratch = Scratch::new("cost");
    run(async {
        let faults = Rc::new(Faults::default());
        let disk = FaultyDisk { disk: scratch.disk(), faults: faults.clone() };
        let wal = Wal::<Faulty>::open(disk, "log", OWNER, SMALL).await.expect("a new log");
        append(&wal, vec![entry(1, 0, 256)]).await.expect("flushed");
        until_idle(&wal).await;
        let (steps, bytes) = (faults.steps.get(), wal.bytes());
        append(&wal, vec![entry(1, 1, 256)]).await.expect("flushed");
        assert_eq!((faults.steps.get(), wal.bytes()), (steps + 1, bytes + 4096));
        // The first of a hundred goes at once, or with all; whatever arrives meanwhile is one flush.
        for i in 2..101 {
            wal.append(vec![entry(1, i, 20)], |_| ());
        }
        wal.save_committed(Some(id(1, 100)));
        append(&wal, vec![entry(1, 101, 20)]).await.expect("flushed");
        assert!(faults.steps.get() <= steps + 3, "{} writes", faults.steps.get() - steps);
        // A commit position alone writes nothing.
        let steps = faults.steps.get();
        wal.save_committed(Some(id(1, 101)));
        Uring::sleep(std::time::Duration::from_millis(5)).await;
        assert_eq!(faults.steps.get(), steps);
        wal.close().await;
    });
}

#[test]
fn what_a_lone_append_costs_beside_a_bare_durable_write_is_printed() {
    let scratch = Scratch::new("cost");
    run(async {
        let config = WalConfig { segment_bytes: 16 << 20, ..SMALL };
        let wal = scratch.open(config).await.expect("a new log");
        let disk = scratch.disk();
        let file = disk.create("bare", 16 << 20).await.expect("a file");
        append(&wal, vec![entry(1, 0, 256)]).await.expect("flushed");
        until_idle(&wal).await;
        let (mut bare, mut lone) = (Vec::new(), Vec::new());
        for i in 1..=1000u64 {
            let start = Uring::now();
            let mut buffer = file.buffer(4096);
            buffer.fill(i as u8);
            file.write_durable_at(i * 4096, buffer).await.expect("written");
            bare.push(Uring::now().since(start).as_nanos() as u64);
            let start = Uring::now();
            append(&wal, vec![entry(1, i, 256)]).await.expect("flushed");
            lone.push(Uring::now().since(start).as_nanos() as u64);
        }
        let (bare, lone) = (p50_p99_us(bare), p50_p99_us(lone));
        eprintln!("bare write_durable_at p50 {} us p99 {} us; lone append p50 {} us p99 {} us", bare.0, bare.1, lone.0, lone.1);
        wal.close().await;
    });
}
