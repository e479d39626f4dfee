//! The examples of the Rust SDK, as they are, against a real ring.

mod ring;

use ring::{Plan, Ring, SMALL_LOG};

#[path = "../wire/sdk/rust/examples/cache_contract.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod cache_contract;
#[path = "../wire/sdk/rust/examples/feature_flag.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod feature_flag;
#[path = "../wire/sdk/rust/examples/rate_limiter.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod rate_limiter;
#[path = "../wire/sdk/rust/examples/session_store.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod session_store;

async fn start(name: &str) -> Ring {
    Ring::start(name, Plan { nodes: 3, shards: 2, extra: SMALL_LOG.into(), ..Plan::default() }).await
}

#[tokio::test]
async fn cache_contract() {
    let ring = start("example-cache").await;
    let stats = cache_contract::cache_contract(&ring.endpoints()).await.expect("the example runs");
    assert!(stats.misses + stats.coalesced + stats.hits >= 1_000, "{stats:?}");
    assert!(stats.misses < 50, "a thousand looks, a few fetches: {stats:?}");
}

#[tokio::test]
async fn rate_limiter() {
    let ring = start("example-limiter").await;
    assert_eq!(rate_limiter::rate_limiter(&ring.endpoints()).await.expect("the example runs"), 30);
}

#[tokio::test]
async fn session_store() {
    let ring = start("example-sessions").await;
    session_store::session_store(&ring.endpoints()).await.expect("the example runs");
}

#[tokio::test]
async fn feature_flag() {
    let ring = start("example-flag").await;
    let endpoints = ring.endpoints();
    let followed = tokio::time::timeout(std::time::Duration::from_secs(20), feature_flag::feature_flag(&endpoints));
    followed.await.expect("the switch is followed in time").expect("the example runs");
}
