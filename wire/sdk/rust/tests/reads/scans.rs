//! Scans of one moment: whom pages are asked of, and what becomes of a scan whose moment is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::fake::{Act, Asked, At, Ring};
use ringbeam_sdk::{Client, Code, Error, Range, Refusal};
use ringbeam_wire::client::Moment;

async fn client_of(ring: &Arc<Ring>) -> Client {
    Client::builder().endpoints(ring.endpoints()).timeout(Duration::from_secs(5)).connect().await.expect("the fake answers")
}

/// The scans that were asked for: of which node, from where, and of which moment.
fn scans(ring: &Ring) -> Vec<(u64, String, Moment)> {
    let asked = ring.asked.lock().unwrap();
    let scans = asked.iter().filter_map(|(at, asked)| match asked {
        Asked::Scan { from, moment, .. } => Some((at.node, String::from_utf8_lossy(from).into_owned(), *moment)),
        _ => None,
    });
    scans.collect()
}

/// Pages of two keys of `a` to `f` as of index 40, pinned as 9.
fn pages(asked: &Asked) -> Option<Act> {
    let Asked::Scan { from, moment, .. } = asked else { return None };
    let all = ["a", "b", "c", "d", "e", "f"];
    let page: Vec<&str> = all.into_iter().filter(|key| key.as_bytes() >= &from[..]).take(2).collect();
    let more = !page.contains(&"f");
    Some(Act::Items(page, 40, more, if more && *moment != Moment::Now { 9 } else { 0 }))
}

async fn unpinned(ring: &Ring, pin: u64) {
    for _ in 0..200 {
        if ring.count(|_, asked| *asked == Asked::Unpin(pin)) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node is not told that pin {pin} is not needed any more: {:?}", ring.asked.lock().unwrap());
}

#[tokio::test]
async fn pages_are_asked_of_the_node_that_keeps_the_moment_whoever_leads() {
    let ring = Ring::start(3, 1, |_, at, asked| if at.node == 1 { pages(asked) } else { None }).await;
    let client = client_of(&ring).await;
    let mut scan = client.scan(Range::all());
    let mut keys = Vec::new();
    while let Some(entry) = scan.next().await.expect("a page") {
        keys.push(String::from_utf8_lossy(&entry.key).into_owned());
        // It leads no more from the first page on.
        ring.lead(2);
        ring.tell();
    }
    assert_eq!(keys, ["a", "b", "c", "d", "e", "f"]);
    let of_pin = Moment::Pinned { pin: 9, index: 40 };
    let first = Moment::Pin { keys: u32::MAX };
    assert_eq!(
        scans(&ring),
        [(1, String::new(), first), (1, "b\0".into(), of_pin), (1, "d\0".into(), of_pin)],
        "the pages of the pin go where it is"
    );
    drop(scan);
    unpinned(&ring, 9).await;
}

#[tokio::test]
async fn a_lost_connection_is_opened_anew_for_the_next_page() {
    let lost = AtomicU32::new(0);
    let script = move |_: &Ring, _: At, asked: &Asked| match asked {
        Asked::Scan { moment: Moment::Pinned { .. }, .. } if lost.fetch_add(1, Ordering::SeqCst) == 0 => Some(Act::Close),
        _ => pages(asked),
    };
    let ring = Ring::start(1, 1, script).await;
    let found = client_of(&ring).await.scan(Range::all()).all().await.expect("the node is there all the time");
    assert_eq!(found.len(), 6);
}

#[tokio::test]
async fn who_leaves_a_scan_early_tells_the_node() {
    let ring = Ring::start(1, 1, |_, _, asked| pages(asked)).await;
    let client = client_of(&ring).await;
    let mut scan = client.scan(Range::all());
    scan.next().await.expect("a page").expect("a key");
    assert_eq!(ring.count(|_, asked| matches!(asked, Asked::Unpin(_))), 0);
    drop(scan);
    unpinned(&ring, 9).await;
}

#[tokio::test]
async fn what_is_wanted_and_how_is_said() {
    let ring = Ring::start(1, 1, |_, _, asked| pages(asked)).await;
    let client = client_of(&ring).await;
    let limits = |ring: &Ring| -> Vec<(u32, Moment)> {
        let mut asked = ring.asked.lock().unwrap();
        let limits = asked.iter().filter_map(|(_, asked)| match asked {
            Asked::Scan { limit, moment, .. } => Some((*limit, *moment)),
            _ => None,
        });
        let limits = limits.collect();
        asked.clear();
        limits
    };
    assert_eq!(client.scan(Range::all().limit(2)).all().await.unwrap().len(), 2);
    assert_eq!(limits(&ring), [(2, Moment::Pin { keys: 2 })], "one page is enough");
    assert_eq!(client.scan(Range::all().limit(5_000).page(7)).all().await.unwrap().len(), 6);
    assert_eq!(limits(&ring)[0], (7, Moment::Pin { keys: 5_000 }));
    assert_eq!(client.scan(Range::all().unpinned()).all().await.unwrap().len(), 6);
    assert_eq!(limits(&ring), [(1_000, Moment::Now); 3]);
}

fn gone() -> Act {
    Act::Refuse(Refusal::new(Code::Compacted, "it is gone"))
}

#[tokio::test]
async fn a_scan_whose_moment_is_gone_ends_and_all_begins_it_anew() {
    let refused = Arc::new(AtomicU32::new(0));
    let refuse = refused.clone();
    let script = move |_: &Ring, _: At, asked: &Asked| match asked {
        Asked::Scan { moment: Moment::Pinned { .. }, .. } if refuse.load(Ordering::SeqCst) > 0 => {
            refuse.fetch_sub(1, Ordering::SeqCst);
            Some(gone())
        }
        _ => pages(asked),
    };
    let ring = Ring::start(1, 1, script).await;
    let client = client_of(&ring).await;
    let is_gone = |error: &Error| matches!(error, Error::Refused(refusal) if refusal.code == Code::Compacted);

    refused.store(1, Ordering::SeqCst);
    let mut scan = client.scan(Range::all());
    for _ in 0..2 {
        scan.next().await.expect("of the first page");
    }
    assert!(is_gone(&scan.next().await.expect_err("its moment is gone")));

    refused.store(3, Ordering::SeqCst);
    assert_eq!(client.scan(Range::all()).all().await.expect("the fourth time").len(), 6);
    refused.store(100, Ordering::SeqCst);
    assert!(is_gone(&client.scan(Range::all()).all().await.expect_err("never")));

    // What was given out already is not given out again.
    refused.store(1, Ordering::SeqCst);
    let mut scan = client.scan(Range::all());
    scan.next().await.expect("of the first page");
    assert!(is_gone(&scan.all().await.expect_err("its moment is gone")));
}

#[tokio::test]
async fn a_node_that_answers_as_of_another_index_or_does_not_pin_is_not_believed() {
    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Scan { moment: Moment::Pinned { .. }, .. } => Some(Act::Items(vec!["c"], 41, false, 0)),
        _ => pages(asked),
    });
    let ring = ring.await;
    let error = client_of(&ring).await.scan(Range::all()).all().await.expect_err("another index");
    assert!(error.to_string().contains("as of log index 41, its pin is of 40"), "{error}");

    let ring = Ring::start(1, 1, |_, _, asked| match asked {
        Asked::Scan { .. } => Some(Act::Items(vec!["a"], 40, true, 0)),
        _ => None,
    });
    let ring = ring.await;
    let error = client_of(&ring).await.scan(Range::all()).all().await.expect_err("no pin");
    assert!(error.to_string().contains("does not pin"), "{error}");
}
