//! At most so many requests of a user in a window of time, over all servers together:
//! `cargo run -p ringbeam-sdk --example rate_limiter -- 127.0.0.1:7701`

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringbeam_sdk::{AddOptions, Client, Code, Error, Range};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoints) = std::env::args().nth(1) else {
        eprintln!("usage: rate_limiter HOST:PORT[,HOST:PORT ...]");
        return ExitCode::from(2);
    };
    match rate_limiter(&endpoints).await {
        Ok(let_in) => {
            println!("{let_in} of 100 requests were let in");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A limit for each user and window.
#[derive(Clone)]
struct Limiter {
    client: Client,
    most: i64,
    window: Duration,
}

impl Limiter {
    /// Whether the user may make one more request in the window that `now` is in.
    async fn lets_in(&self, user: &str, now: Duration) -> Result<bool, Error> {
        let window = now.as_millis() / self.window.as_millis().max(1);
        // The tag keeps all windows of a user on one shard, and in one range.
        let key = format!("{{{user}}}.{window:020}");
        // One write: the ring adds and compares, so two servers together let in no more than one would. A sum beyond the bound is
        // refused and changes nothing.
        match self.client.add_with(&key, 1, &AddOptions { max: self.most, ..AddOptions::default() }).await {
            Ok(counted) => {
                // The first of a window sweeps those before it.
                if counted.value == 1 {
                    self.client.delete_range(Range::between(format!("{{{user}}}."), &key)).await?;
                }
                Ok(true)
            }
            Err(Error::Refused(refusal)) if refusal.code == Code::OutOfBounds => Ok(false),
            Err(other) => Err(other),
        }
    }
}

/// What the example shows; a test of the ring runs it too. Says how many of 100 requests were let in.
pub async fn rate_limiter(endpoints: &str) -> Result<usize, Error> {
    let client = Client::connect(endpoints).await?.namespace("limits");
    let limiter = Limiter { client: client.clone(), most: 30, window: Duration::from_secs(60) };
    // Its own clock is the server's; one that is a little off counts in the neighbouring window.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.lets_in("ann", now).await })
        })
        .collect();
    let mut let_in = 0;
    for asked in asking {
        // A task that is gone: the runtime ends.
        let_in += usize::from(asked.await.map_err(|_| Error::Connect("the runtime has ended".into()))??);
    }
    // In the next window there is room again, and the counter of this one is gone.
    assert!(limiter.lets_in("ann", now + limiter.window).await?);
    assert_eq!(client.scan(Range::prefix("{ann}.")).all().await?.len(), 1);
    Ok(let_in)
}
