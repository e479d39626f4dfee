//! A switch that all servers follow as it is thrown: `cargo run -p ringbeam-sdk --example feature_flag -- 127.0.0.1:7701`

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringbeam_sdk::{Client, EventKind, Range, WatchError, WatchOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoints) = std::env::args().nth(1) else {
        eprintln!("usage: feature_flag HOST:PORT[,HOST:PORT ...]");
        return ExitCode::from(2);
    };
    match feature_flag(&endpoints).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const FLAG: &str = "{flags}.new_checkout";

/// What the example shows; a test of the ring runs it too.
pub async fn feature_flag(endpoints: &str) -> Result<(), WatchError> {
    let client = Client::connect(endpoints).await?.namespace("flags");
    client.put(FLAG, "off").await?;
    // What requests look at: no call, no wait.
    let on = Arc::new(AtomicBool::new(true));
    // First what there is, then each change; when changes are lost, what there is once more.
    let options = WatchOptions::default().snapshot().restart();
    let mut watch = client.watch(&Range::prefix("{flags}."), &options).await?;
    let mut thrown = false;
    while let Some(batch) = watch.next().await? {
        for event in batch.events.iter().filter(|event| event.key == FLAG) {
            let gone = matches!(event.kind, EventKind::Delete | EventKind::Expire);
            on.store(!gone && event.value == "on", Ordering::Relaxed);
            println!("the new checkout is {}", if on.load(Ordering::Relaxed) { "on" } else { "off" });
        }
        if !thrown && !on.load(Ordering::Relaxed) {
            // Somebody else, somewhere else, throws it.
            client.put(FLAG, "on").await?;
            thrown = true;
        } else if thrown && on.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}
