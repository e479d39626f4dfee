//! Counters: decimal numbers that are added to, exactly once and within bounds.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::{AddOptions, Code, Error};
//!
//! let visits = client.add("visits", 1).await?.value;
//!
//! // Takes from a stock that is never less than nothing.
//! let stock = AddOptions { min: 0, ..AddOptions::default() };
//! match client.add_with("stock:7", -2, &stock).await {
//!     Ok(counted) => println!("{} are left", counted.value),
//!     Err(Error::Refused(refusal)) if refusal.code == Code::OutOfBounds => println!("sold out"),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A counter's value is its number in ASCII, so `get` shows it and `put` sets it. A key without a value counts as 0.

use std::time::Duration;

use ringbeam_wire::client::{Add, Counted};

use crate::answer::Answer;
use crate::client::Client;
use crate::error::Error;
use crate::request::{What, odd};

/// How an addition differs from the client's settings, and what its sum may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddOptions {
    /// A sum below this is refused with `OutOfBounds`, and nothing changes.
    pub min: i64,
    /// A sum above this likewise.
    pub max: i64,
    /// Deadline of this call; `None`: the client's.
    pub timeout: Option<Duration>,
    /// Namespace of this call; `None`: the client's.
    pub namespace: Option<String>,
}

impl Default for AddOptions {
    /// Whatever 64 bits hold.
    fn default() -> AddOptions {
        AddOptions { min: i64::MIN, max: i64::MAX, timeout: None, namespace: None }
    }
}

impl Client {
    /// Adds to a number; the answer has the sum. Refused with `NotANumber` if the key's value is none, and with `OutOfBounds` where
    /// 64 bits end.
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<Counted, Error> {
        self.add_with(key, delta, &AddOptions::default()).await
    }

    /// Adds to a number, with options.
    pub async fn add_with(&self, key: impl AsRef<[u8]>, delta: i64, options: &AddOptions) -> Result<Counted, Error> {
        let (key, namespace) = (key.as_ref(), self.name(&options.namespace));
        let add = Add { namespace, key, delta, min: options.min, max: options.max, ..Add::default() };
        match self.write(key, What::Add(add), options.timeout).await? {
            Answer::Counted(counted) => Ok(counted),
            other => Err(odd(&other)),
        }
    }
}
