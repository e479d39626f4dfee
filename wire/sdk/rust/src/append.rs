//! Deltas: a value is changed by a small piece, which is all that goes through the log.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! // Behind what is there; a key without a value begins with nothing.
//! client.append("log:7", "dug at 3,4\n").await?;
//!
//! // A JSON merge patch (RFC 7396): members are set, those that are null go, everything else stays.
//! client.put("state:7", r#"{"gold": 5, "dig": null, "tiles": {"3,4": "hidden"}}"#).await?;
//! client.merge_patch("state:7", r#"{"gold": 9, "tiles": {"3,4": "loot"}}"#).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A get gives the folded value. Of JSON that was patched it is written anew: without blanks, members in the order of their names,
//! numbers as 64-bit integers or doubles. Patches apply to JSON of at most 64 KiB.

use ringbeam_wire::client::{Extend, Fold, Written};

use crate::answer::Answer;
use crate::client::{Client, PutOptions};
use crate::error::Error;
use crate::request::{What, odd};

impl Client {
    /// Puts bytes behind a key's value. Refused with `ValueTooLarge` if it would become too long.
    pub async fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.append_with(key, bytes, &PutOptions::default()).await
    }

    /// Puts bytes behind a key's value, with options.
    pub async fn append_with(
        &self,
        key: impl AsRef<[u8]>,
        bytes: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Written, Error> {
        self.extend(key.as_ref(), Fold::Concatenate, bytes.as_ref(), options).await
    }

    /// Changes a JSON value by a merge patch. A key without a value is `null`. Refused with `NotJson` if patch or value is no JSON.
    pub async fn merge_patch(&self, key: impl AsRef<[u8]>, patch: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.merge_patch_with(key, patch, &PutOptions::default()).await
    }

    /// Changes a JSON value by a merge patch, with options.
    pub async fn merge_patch_with(
        &self,
        key: impl AsRef<[u8]>,
        patch: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Written, Error> {
        self.extend(key.as_ref(), Fold::MergePatch, patch.as_ref(), options).await
    }

    async fn extend(&self, key: &[u8], fold: Fold, delta: &[u8], options: &PutOptions) -> Result<Written, Error> {
        let extend = Extend { namespace: self.name(&options.namespace), key, fold, delta, ..Extend::default() };
        match self.write(key, What::Extend(extend), options.timeout).await? {
            Answer::Written(written) => Ok(written),
            other => Err(odd(&other)),
        }
    }
}
