//! A lease's handle when shards are slow, or refuse: what it waits for, and when it is lost.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod fake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fake::{Act, Asked, At, Ring};
use ringbeam_sdk::{Client, Code, Error, PutOptions, Refusal};
use ringbeam_wire::slots;

const TTL: Duration = Duration::from_secs(6);

/// What would be for ever.
const EVER: Duration = Duration::from_secs(60);

fn is(asked: &Asked, kind: &str) -> bool {
    matches!(asked, Asked::Ring(what) if what.starts_with(kind))
}

fn kept(ring: &Ring) -> usize {
    ring.count(|_, asked| is(asked, "KeepLease"))
}

/// A ring that grants, and refuses the first keep-alive so.
async fn refuses_once(code: Code) -> Arc<Ring> {
    Ring::start(1, 1, move |ring: &Ring, _: At, asked: &Asked| match asked {
        _ if is(asked, "KeepLease") && kept(ring) == 1 => Some(Act::Refuse(Refusal::new(code, "as the test wants it"))),
        _ if is(asked, "KeepLease") || is(asked, "GrantLease") => Some(Act::Lease(1)),
        _ => None,
    })
    .await
}

/// The first keep-alive that failed lost the lease, with two thirds of its time left.
#[tokio::test]
async fn a_lease_is_kept_while_there_is_time_to_try_again() {
    // One that is not tried again within a call.
    let ring = refuses_once(Code::BadRequest).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let lease = client.lease(TTL);
    lease.id_on(0).await.unwrap();
    let three = async {
        while kept(&ring) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = lease.lost() => panic!("lost after {} keep-alives", kept(&ring)),
        () = three => assert!(lease.is_alive()),
    }
}

#[tokio::test]
async fn a_lease_that_the_ring_does_not_know_is_lost_at_once() {
    let ring = refuses_once(Code::LeaseNotFound).await;
    let client = Client::connect(&ring.address(1)).await.unwrap();
    let lease = client.lease(TTL);
    lease.id_on(0).await.unwrap();
    lease.lost().await;
    assert_eq!(kept(&ring), 1);
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
