//! Watches of shards that begin at different times, and what cannot be watched.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::time::Duration;

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Error, Range, Revision, WatchError, WatchOptions};

/// Events of one shard were taken while others had still to begin, and a watch that had to take more than its queue holds gave up, with a
/// timeout of 0 ms.
#[tokio::test]
async fn a_shard_that_begins_late_is_waited_for_however_much_others_have_to_tell() {
    const EVENTS: u64 = 300;
    let ring = Ring::start(1, 2, |_, at, asked| match (asked, at.shard) {
        (Asked::Watch { .. }, 0) => {
            let events = (2..2 + EVENTS).map(|index| Act::Event(format!("k/{index}"), index));
            Some(Act::Each([Act::Watching].into_iter().chain(events).collect()))
        }
        (Asked::Watch { .. }, _) => Some(Act::Later(Duration::from_millis(700), Box::new(Act::Watching))),
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

/// The token said that everything up to where the watch began was known, and who went on with it never heard of the keys from before.
#[tokio::test]
async fn whoever_goes_on_before_the_copy_has_come_asks_for_it() {
    let ring = Ring::start(1, 2, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let mut options = WatchOptions::default().snapshot();
    for watches in 1..=3 {
        let watch = client.watch(&Range::all(), &options).await.unwrap();
        options = WatchOptions::from_token(&watch.token()).unwrap();
        assert_eq!(ring.count(|_, asked| *asked == Asked::Watch { snapshot: true }), 2 * watches);
    }
}

/// A revision of one shard was sent to all of them, and what the others had before it, by number, was left out in silence.
#[tokio::test]
async fn a_revision_is_no_place_in_several_shards() {
    let ring = Ring::start(1, 2, |_, _, _| None).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let after = WatchOptions::default().after(Revision { index: 7, position: 3 });
    for range in [Range::all(), Range::prefix("k/"), Range::between("a", "b")] {
        match client.watch(&range, &after).await {
            Err(WatchError::Failed(Error::Misuse(why))) => {
                assert!(["7.3", "2 shards", "{tag}", "token"].iter().all(|part| why.contains(part)), "{why}");
            }
            other => panic!("{range:?}: {other:?}"),
        }
    }
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Watch { .. })), 0, "nothing was asked");
    for range in [Range::prefix("{cart:7}/"), Range::between("k", "k\0")] {
        client.watch(&range, &after).await.unwrap();
    }
    let alone = Ring::start(1, 1, |_, _, _| None).await;
    Client::connect(&alone.address(1)).await.unwrap().watch(&Range::all(), &after).await.unwrap();
}
