//! `lease`: grant, keep, revoke, look at a lease of one shard; and how a time is written.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::{Args, Subcommand};
use ringbeam_sdk::{Client, LeaseState};
use ringbeam_wire::slots::{shard_of, slot_of};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::{Reach, print, print_json};

/// Arguments of `lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Grant a lease; prints its id. It ends unless `lease keep` comes in time.
    Grant {
        /// It ends this long after it was kept alive last, 1 s or more: 1500ms, 30s, 5m, 2h, 7d.
        #[arg(long, value_name = "TIME", value_parser = time)]
        ttl: Duration,
        #[command(flatten)]
        at: At,
    },
    /// Keep a lease alive for its time from now; prints the milliseconds that are left.
    Keep {
        /// Its id.
        lease: u64,
        #[command(flatten)]
        at: At,
    },
    /// End a lease: its keys go. Exits with 1 if it had ended, or never was.
    Revoke {
        /// Its id.
        lease: u64,
        #[command(flatten)]
        at: At,
    },
    /// Print a lease's time, what is left of it, and how many keys go with it.
    Get {
        /// Its id.
        lease: u64,
        #[command(flatten)]
        at: At,
    },
}

/// Where the lease is: it is of one shard, and so are its keys.
#[derive(Debug, Args)]
struct At {
    /// The shard.
    #[arg(long, default_value_t = 0)]
    shard: u32,
    /// The shard of this key.
    #[arg(long, conflicts_with = "shard")]
    key: Option<OsString>,
    #[command(flatten)]
    reach: Reach,
}

impl At {
    async fn connect(&self) -> Result<(Client, u32), Failure> {
        let client = self.reach.connect().await?;
        let of_key = self.key.as_ref().map(|key| shard_of(slot_of(key.as_bytes()), client.shards()));
        Ok((client, of_key.unwrap_or(self.shard)))
    }

    fn say(&self, lease: &LeaseState, shard: u32, line: String) -> Result<Exit, Failure> {
        if self.reach.json {
            print_json(&json!({
                "lease": lease.lease,
                "shard": shard,
                "ttl_ms": lease.ttl_ms,
                "left_ms": lease.left_ms,
                "keys": lease.keys,
                "ring_time_ms": lease.ring_time_ms,
            }))?;
        } else {
            print(line.as_bytes())?;
        }
        Ok(Exit::Done)
    }
}

pub async fn run(args: LeaseArgs) -> Result<Exit, Failure> {
    match args.what {
        What::Grant { ttl, at } => {
            let (client, shard) = at.connect().await?;
            let lease = client.grant_lease(shard, ttl).await?;
            at.say(&lease, shard, format!("{}\n", lease.lease))
        }
        What::Keep { lease, at } => {
            let (client, shard) = at.connect().await?;
            let lease = client.keep_lease(shard, lease).await?;
            at.say(&lease, shard, format!("{}\n", lease.left_ms))
        }
        What::Get { lease, at } => {
            let (client, shard) = at.connect().await?;
            let lease = client.lease_state(shard, lease).await?;
            let LeaseState { ttl_ms, left_ms, keys, .. } = lease;
            at.say(&lease, shard, format!("{ttl_ms} ms, {left_ms} ms left, {keys} keys\n"))
        }
        What::Revoke { lease, at } => {
            let (client, shard) = at.connect().await?;
            let existed = client.revoke_lease(shard, lease).await?;
            if at.reach.json {
                print_json(&json!({ "lease": lease, "shard": shard, "existed": existed }))?;
            } else if !existed {
                eprintln!("ringbeam: shard {shard} has no lease {lease}");
            }
            Ok(if existed { Exit::Done } else { Exit::No })
        }
    }
}

/// A number and its unit: ms, s, m, h or d.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a time is a number and a unit: 500ms, 30s, 5m, 2h, 7d".into()),
    };
    let number: u64 = number.parse().map_err(|_| format!("\"{text}\" begins with no number"))?;
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms > 0);
    ms.map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is no time, or longer than there is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_not_zero() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in ["", "30", "s", "-3s", "1.5s", "0s", "3 s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
