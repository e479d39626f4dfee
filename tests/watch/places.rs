//! From where a watch goes on: tokens that are taken early, and revisions.

use std::collections::BTreeSet;

use ringbeam_sdk::{Bytes, Range, WatchOptions};

use super::ring::ringbeam_at;
use super::{next, start};

/// A token that was taken before a shard's copy had come said that everything up to where the watch began was known: whoever went on with
/// it never heard of the keys from before.
#[tokio::test]
async fn a_token_from_before_the_copy_brings_the_copy() {
    let (_ring, client) = start("watch-early-token", 2, "").await;
    let keys: BTreeSet<Bytes> = (0..40).map(|n| Bytes::from(format!("w/{n}"))).collect();
    for key in &keys {
        client.put(key, "from before").await.expect("a write");
    }
    let watch = client.watch(&Range::prefix("w/"), &WatchOptions::default().snapshot()).await.expect("a watch");
    let mut token = watch.token();
    drop(watch);
    // Of one that goes on from such a token the same is true; and of the other shard when one's copy has come.
    let mut seen = BTreeSet::new();
    for taken in [0, 1, 0] {
        let options = WatchOptions::from_token(&token).expect("a token");
        let mut watch = client.watch(&Range::prefix("w/"), &options).await.expect("a watch");
        for _ in 0..taken {
            seen.extend(next(&mut watch).await.events.into_iter().map(|event| event.key));
        }
        token = watch.token();
    }
    assert!(seen.len() < keys.len(), "one batch is of one shard");
    let mut watch =
        client.watch(&Range::prefix("w/"), &WatchOptions::from_token(&token).expect("a token")).await.expect("a watch");
    while seen.len() < keys.len() {
        seen.extend(next(&mut watch).await.events.into_iter().map(|event| event.key));
    }
    assert_eq!(seen, keys);
}

#[tokio::test]
async fn the_command_takes_a_revision_for_keys_of_one_shard_only() {
    let (ring, client) = start("watch-after", 2, "").await;
    let first = client.put("{cart}/1", "one").await.expect("a write").revision;
    client.put("{cart}/2", "two").await.expect("a write");
    let (endpoints, after) = (ring.endpoints(), format!("{}.{}", first.index, first.position));
    let (code, out, err) = ringbeam_at(&endpoints, &["watch", "cart", "--after", &after, "--count", "1"]).await;
    assert_eq!((code, &out[..]), (2, ""), "{err}");
    assert!(err.contains(&format!("--after {after}")) && err.contains("{tag}"), "{err}");
    let (code, out, err) = ringbeam_at(&endpoints, &["watch", "{cart}/", "--after", &after, "--count", "1"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("\tput\t{cart}/2\ttwo\n"), "{out}");
}
