//! Leader election by a lease: one of all who run this leads, and another one when it is gone.
//! `cargo run -p ringbeam-sdk --example election -- 127.0.0.1:7701,127.0.0.1:7702 NAME`

use std::process::ExitCode;
use std::time::Duration;

use ringbeam_sdk::{Client, Compare, Error, Lease, Step, Txn};

/// So long the office stays empty when a leader dies without a word.
const TTL: Duration = Duration::from_secs(3);

/// What a leader does holds on by this; its tag keeps whatever belongs together on one shard.
const OFFICE: &str = "{election}.leader";
const WORK: &str = "{election}.work";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, name] = &arguments[..] else {
        eprintln!("usage: election HOST:PORT[,HOST:PORT ...] NAME");
        return ExitCode::from(2);
    };
    match run(endpoints, name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Stands for election, leads for as long as it can, and says what happens.
async fn run(endpoints: &str, name: &str) -> Result<(), Error> {
    let client = Client::connect(endpoints).await?;
    let lease = client.lease(TTL);
    while !stand(&client, &lease, name).await? {
        // Whoever leads may die any moment.
        tokio::time::sleep(TTL / 10).await;
    }
    println!("{name} leads");
    let mut done = 0;
    while lease.is_alive() && work(&client, name, done).await? {
        done += 1;
        tokio::time::sleep(TTL / 30).await;
    }
    println!("{name} leads no more, after {done} steps");
    Ok(())
}

/// Takes the office if nobody has it. The key goes with the lease: with whoever put it.
pub async fn stand(client: &Client, lease: &Lease, name: &str) -> Result<bool, Error> {
    let life = lease.life(OFFICE).await?;
    let txn = Txn::new().when(Compare::absent(OFFICE)).then(Step::put_for(OFFICE, name, life));
    Ok(client.txn(&txn).await?.succeeded)
}

/// One step of what only a leader may do. The compare is what makes it safe: however long this process slept, and whatever it believes,
/// the write happens only if it still leads.
pub async fn work(client: &Client, name: &str, step: u64) -> Result<bool, Error> {
    let step = step.to_string();
    let txn = Txn::new().when(Compare::value(OFFICE, name)).then(Step::put(WORK, &step));
    Ok(client.txn(&txn).await?.succeeded)
}
