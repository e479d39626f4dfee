//! A ring whose nodes are far from each other, over links that carry little: leaders die and stop there as well.

use std::time::{Duration, Instant};

use crate::book::Load;
use crate::ring::random::Random;
use crate::ring::{Plan, Ring, SMALL_LOG, signal};
use crate::stage::SOON;

/// One direction of a link between nodes.
const ONE_WAY: Duration = Duration::from_millis(25);

/// And what it carries. The load writes more than that: it waits for the links, as the figures show.
const BYTES_PER_S: u64 = 300_000;

pub async fn history_over_slow_and_narrow_links(random: &mut Random) {
    let began = Instant::now();
    let timers = "[timers]\nheartbeat_ms = 200\nelection_timeout_min_ms = 1000\nelection_timeout_max_ms = 2000\n";
    let plan = Plan {
        peer_delay: Some(ONE_WAY),
        peer_bytes_per_s: Some(BYTES_PER_S),
        extra: format!("{SMALL_LOG}{timers}"),
        ..Plan::default()
    };
    let mut ring = Ring::start("far", plan).await;
    let client = ring.client().await;
    // A value that takes a link a fifth of a second, and a round trip.
    let bytes = BYTES_PER_S as usize / 5;
    let asked = Instant::now();
    client.with_timeout(SOON).put("large", vec![1; bytes]).await.expect("the ring can be written");
    let least = Duration::from_millis(200) + 2 * ONE_WAY;
    assert!(asked.elapsed() >= least, "{:?} is less than {least:?}: the links delay nothing, or carry more", asked.elapsed());
    let mut load = Load::start(&client, &ring.endpoints(), random.next()).await;
    for round in 0..2 {
        load.book.goes_on(60, SOON).await;
        let leader = ring.leader(0).await;
        if round == 0 {
            ring.kill(leader);
            load.book.goes_on(30, SOON).await;
            ring.spawn(leader);
        } else {
            let pid = ring.pid(leader).expect("it runs");
            signal(pid, "STOP");
            tokio::time::sleep(Duration::from_millis(2_500) + random.millis(1_000)).await;
            signal(pid, "CONT");
        }
        load.book.goes_on(30, SOON).await;
    }
    load.stop();
    ring.wait_converged().await;
    let judged = load.judge(&ring.root);
    println!(
        "far: a round trip of {:?}, {} kB/s: {judged}; {:.1} s",
        2 * ONE_WAY,
        BYTES_PER_S / 1000,
        began.elapsed().as_secs_f64()
    );
}
