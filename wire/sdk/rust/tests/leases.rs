//! A lease's handle when shards are slow, or refuse: what it waits for, and when it is lost.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::time::{Duration, Instant};

use fake::{Act, Asked, Ring};
use ringbeam_sdk::{Client, Error, PutOptions};
use ringbeam_wire::slots;

/// What would be for ever.
const EVER: Duration = Duration::from_secs(60);

fn is(asked: &Asked, kind: &str) -> bool {
    matches!(asked, Asked::Ring(what) if what.starts_with(kind))
}

/// One lock was held while a lease was granted on any shard, and a put's deadline began behind it.
#[tokio::test]
async fn a_put_ends_by_its_deadline_while_its_lease_is_being_granted_and_others_do_not_wait() {
    let ring = Ring::start(1, 2, |_, at, asked| match at.shard {
        _ if !is(asked, "GrantLease") => None,
        1 => Some(Act::Silence),
        _ => Some(Act::Lease(7)),
    })
    .await;
    let client = Client::connect(&ring.address(1)).await.unwrap().with_timeout(EVER);
    let key = |shard| (0..).map(|n| format!("{n}")).find(|key| slots::shard_of(slots::slot_of(key.as_bytes()), 2) == shard);
    let (here, mute) = (key(0).unwrap(), key(1).unwrap());
    let lease = client.lease(EVER);
    let options = |timeout| PutOptions { lease: Some((&lease).into()), timeout, ..PutOptions::default() };
    let started = Instant::now();
    let (short, unbounded) = (options(Some(Duration::from_millis(500))), options(None));
    // Two, as one waits for the grant and the other for the one who waits.
    let both = async { tokio::join!(client.put_with(&mute, "v", &short), client.put_with(&mute, "v", &short)) };
    let granted = async {
        while ring.count(|_, asked| is(asked, "GrantLease")) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.put_with(&here, "v", &unbounded).await
    };
    let ((one, other), granted) = tokio::join!(both, granted);
    assert!(started.elapsed() < EVER / 2, "{:?}", started.elapsed());
    for late in [one, other] {
        assert!(matches!(late, Err(Error::Timeout { timeout_ms: 500, .. })), "{late:?}");
    }
    granted.unwrap();
    assert_eq!(ring.puts().len(), 1, "nothing is put without its lease");
}
