//! A ring whose nodes are far from each other: what a write costs there.

mod ring;

use std::time::{Duration, Instant};

use ring::{Plan, Ring, SMALL_LOG};

/// One direction of each link between nodes: a round trip of 200 ms, beside which this machine's own times are small.
const ONE_WAY: Duration = Duration::from_millis(100);

/// Batches that wait for each other add a round trip to a write; here each write finds some on their way already.
#[tokio::test]
async fn write_between_regions_takes_one_round_trip_also_beside_others() {
    // Elections wait longer than a handshake, a connection's greeting and a vote take.
    let timers = "[timers]\nheartbeat_ms = 400\nelection_timeout_min_ms = 2000\nelection_timeout_max_ms = 4000\n";
    let plan = Plan { peer_delay: Some(ONE_WAY), extra: format!("{SMALL_LOG}{timers}"), ..Plan::default() };
    let ring = Ring::start("wan", plan).await;
    let client = ring.client().await.with_timeout(Duration::from_secs(20));
    for n in 0..5 {
        client.put(format!("warm/{n}"), "x").await.expect("the ring can be written");
    }
    // A large value goes first, and small ones follow while it and those before them are on their way.
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        let value = if n % 20 == 0 { vec![b'x'; 20_000] } else { vec![b'x'; 10] };
        writes.spawn(async move {
            let began = Instant::now();
            client.put(format!("key/{n}"), value).await.expect("the ring can be written");
            began.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut took = writes.join_all().await;
    took.sort_unstable();
    let (least, median) = (took[0], took[took.len() / 2]);
    assert!(least >= 2 * ONE_WAY, "{least:?} is less than a round trip: the links delay nothing");
    // Two batches in flight, as it once was, made it 280 ms.
    let limit = 2 * ONE_WAY + Duration::from_millis(45);
    assert!(median < limit, "half of the writes took {median:?} or more; a round trip is {:?}", 2 * ONE_WAY);
    println!("round trip {:?}, writes: least {least:?}, median {median:?}, most {:?}", 2 * ONE_WAY, took[took.len() - 1]);
}
