//! Watches of shards that begin at different times.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::time::Duration;

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Range, WatchOptions};

/// Events of one shard were taken while others had still to begin, and a watch that had to take more than its queue holds gave up, with a
/// timeout of 0 ms.
#[tokio::test]
async fn a_shard_that_begins_late_is_waited_for_however_much_others_have_to_tell() {
    const EVENTS: u64 = 300;
    let ring = Ring::start(1, 2, |_, at, asked| match (asked, at.shard) {
        (Asked::Watch, 0) => {
            let events = (2..2 + EVENTS).map(|index| Act::Event(format!("k/{index}"), index));
            Some(Act::Each([Act::Watching].into_iter().chain(events).collect()))
        }
        (Asked::Watch, _) => Some(Act::Later(Duration::from_millis(700), Box::new(Act::Watching))),
        _ => None,
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap().with_timeout(Duration::from_secs(60));
    let mut watch = client.watch(&Range::all(), &WatchOptions::default()).await.unwrap();
    for index in 2..2 + EVENTS {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!((batch.shard, batch.index, &batch.events[0].key[..]), (0, index, format!("k/{index}").as_bytes()));
    }
}
