//! Prices kept in this process, never older than a bound: `cargo run -p ringbeam-sdk --example cache_contract -- 127.0.0.1:7701`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringbeam_sdk::{Cache, CacheOptions, CacheStats, Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoints) = std::env::args().nth(1) else {
        eprintln!("usage: cache_contract HOST:PORT[,HOST:PORT ...]");
        return ExitCode::from(2);
    };
    match cache_contract(&endpoints).await {
        Ok(stats) => {
            println!("{stats:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What the example shows; a test of the ring runs it too.
pub async fn cache_contract(endpoints: &str) -> Result<CacheStats, Error> {
    // The shop may show a price for a quarter of a second after it was changed, and not longer.
    const BOUND: Duration = Duration::from_millis(250);
    let client = Client::connect(endpoints).await?.namespace("prices");
    let prices = client.cached(CacheOptions { age_max: BOUND, ..CacheOptions::default() });
    prices.put("apple", "3").await?;

    // A thousand customers look at once: one read of the ring, for all of them.
    let looks: Vec<_> = (0..1_000).map(|_| tokio::spawn(look(prices.clone()))).collect();
    for look in looks {
        // A task that is gone: the runtime ends.
        let price = look.await.map_err(|_| Error::Connect("the runtime has ended".into()))??;
        assert_eq!(price.as_deref(), Some("3"));
    }

    // Another process changes the price. This one sees it within the bound.
    client.put("apple", "4").await?;
    let changed = Instant::now();
    while look(prices.clone()).await?.as_deref() != Some("4") {
        assert!(changed.elapsed() < BOUND + Duration::from_secs(1), "the contract is broken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the new price was seen after {} ms", changed.elapsed().as_millis());

    // One that this process changes is seen by its next reader.
    prices.put("apple", "5").await?;
    assert_eq!(look(prices.clone()).await?.as_deref(), Some("5"));
    Ok(prices.stats())
}

async fn look(prices: Cache) -> Result<Option<String>, Error> {
    let found = prices.get("apple").await?;
    Ok(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
}
