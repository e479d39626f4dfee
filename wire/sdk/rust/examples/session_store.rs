//! Sessions of users that end when they are not used: `cargo run -p ringbeam-sdk --example session_store -- 127.0.0.1:7701`

use std::process::ExitCode;
use std::time::Duration;

use ringbeam_sdk::{Client, Error, PutOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoints) = std::env::args().nth(1) else {
        eprintln!("usage: session_store HOST:PORT[,HOST:PORT ...]");
        return ExitCode::from(2);
    };
    match session_store(&endpoints).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the example shows; a test of the ring runs it too.
pub async fn session_store(endpoints: &str) -> Result<(), Error> {
    let sessions = Client::connect(endpoints).await?.namespace("sessions");
    // Each put begins its time anew, so a session lives for as long as it is used.
    let lives = PutOptions { ttl: Some(Duration::from_millis(700)), ..PutOptions::default() };
    sessions.put_with("ann", "cart: apple", &lives).await?;
    sessions.put_with("ann", "cart: apple, pear", &lives).await?;
    let found = sessions.get("ann").await?;
    assert_eq!(found.as_ref().map(|found| &found.value[..]), Some(&b"cart: apple, pear"[..]));

    // Logging out needs no waiting.
    sessions.put_with("bob", "cart: empty", &lives).await?;
    assert!(sessions.delete("bob").await?.existed);
    assert!(sessions.get("bob").await?.is_none());

    // One that is left alone goes by itself: after its time on the ring's clock, and never before.
    for _ in 0..100 {
        if sessions.get("ann").await?.is_none() {
            println!("the session has ended");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Error::Protocol("the session did not end within 10 s".into()))
}
