//! Connects, writes a key, reads it back: `cargo run -p ringbeam-sdk --example hello -- 127.0.0.1:7701,127.0.0.1:7702`

use std::process::ExitCode;

use ringbeam_sdk::{Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoints) = std::env::args().nth(1) else {
        eprintln!("usage: hello HOST:PORT[,HOST:PORT ...]");
        return ExitCode::from(2);
    };
    match hello(&endpoints).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the example shows; a test of the ring runs it too.
pub async fn hello(endpoints: &str) -> Result<(), Error> {
    // Any one node is enough; the rest of the ring is learnt from it.
    let client = Client::connect(endpoints).await?;

    // Returns once the write is durable on a quorum of disks and applied.
    let written = client.put("greeting", "hello").await?;
    println!("written at {:?}", written.revision);

    // Sees every write that was acknowledged before, whoever made it.
    if let Some(found) = client.get("greeting").await? {
        println!("{}", String::from_utf8_lossy(&found.value));
    }
    Ok(())
}
