//! What deciding where a call goes costs: from a key to its shard, from a shard to a node that may be read from.
//!
//! `cargo bench -p ringbeam-sdk --bench routing`. The decision is to cost a microsecond or less; this ends with an error if it does not.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ringbeam_sdk::readers::{Candidate, Readers};
use ringbeam_wire::slots::slot_of;

const ROUNDS: u32 = 200_000;
const LIMIT: Duration = Duration::from_micros(1);

/// The least of some runs: what it costs when nobody disturbs.
fn least(what: &str, mut decide: impl FnMut(u64)) -> Duration {
    let run = |decide: &mut dyn FnMut(u64)| {
        let began = Instant::now();
        (0..ROUNDS).for_each(|n| decide(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        began.elapsed() / ROUNDS
    };
    let least = (0..7).map(|_| run(&mut decide)).min().unwrap_or_default();
    println!("{what:<60} {:>6} ns", least.as_nanos());
    least
}

fn main() {
    let table: Vec<u16> = (0..4096).map(|slot| slot % 16).collect();
    let keys: Vec<String> = (0..1024).map(|n| format!("user:{{{n}}}:cart")).collect();
    let shard = least("key to shard, a tag in 16 bytes", |n| {
        let key = &keys[(n % 1024) as usize];
        black_box(table[usize::from(slot_of(key.as_bytes()))]);
    });

    let mut readers: Readers<u64> = Readers::default();
    let candidate = |n: u64| Candidate { address: format!("10.0.0.{n}:7701").into(), near: n < 4, last_resort: n > 6 };
    readers.set((1..=8).map(candidate).collect());
    for n in 1..=8 {
        let address = format!("10.0.0.{n}:7701");
        readers.connected(&address, n);
        readers.measured(&address, Duration::from_micros(900 + n));
    }
    let now = Duration::from_secs(60);
    let choice = least("a node among eight, chosen anew", |dice| {
        black_box(readers.choose(now, dice, Some("10.0.0.1:7701"), |connection| Some((connection % 3) as u32)));
    });
    let kept = least("a node, while the choice holds", |_| {
        black_box(readers.current(now));
    });

    let most = shard + choice.max(kept);
    println!("{:<60} {:>6} ns, at most {} ns", "together", most.as_nanos(), LIMIT.as_nanos());
    assert!(most <= LIMIT, "a decision takes {most:?}");
}
