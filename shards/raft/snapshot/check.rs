//! A snapshot's file is read through, from its first byte to its end, before anything depends on it.
//!
//! ```text
//!   meta ─▶ slice ─▶ slice ─▶ ... ─▶ end          each frame's checksum, the checksum of all of them
//!     │        └────────┴──▶ Loader ─▶ State      each slice's checksum, order, limits; the digest of all of it
//!     └── last log id ─────────────────▶ is the state's
//! ```
//! **Invariant**: what comes out is what the maker of the file has put in, or the error says near which byte it is not. The core is
//! held no longer than `limits::HOLD_MAX` between two frames.
//!
//! **Not here**: whose fault it is, and what becomes of the file (`send.rs`, `receive.rs`).

use std::io;

use super::{Meta, Reader};
use crate::io::Env;
use crate::limits::HOLD_MAX;
use crate::state::{Limits, Loader, State};

/// A file that was read through and is good.
#[derive(Debug)]
pub(crate) struct Checked {
    pub meta: Meta,
    /// Up to the end of the last frame, in whole blocks.
    pub bytes: u64,
    /// What it holds, if that was asked for.
    pub state: Option<State>,
}

/// Reads a file through. With `limits` it must hold a state under them, and that is loaded; without, frames are not looked into.
pub(crate) async fn read_through<E: Env>(disk: &E::Disk, path: &str, limits: Option<Limits>) -> io::Result<Checked> {
    let (mut reader, meta) = Reader::<E>::open(disk, path).await?;
    if limits.is_some() && !meta.has_state {
        return Err(reader.bad("comes from a tie-breaker and holds no state"));
    }
    let mut loader = limits.map(Loader::new);
    let mut held_since = E::now();
    while let Some(slice) = reader.frame().await? {
        if let Some(loader) = &mut loader {
            loader.push(&slice).map_err(|why| reader.bad(&why.to_string()))?;
        }
        if E::now().since(held_since) > HOLD_MAX {
            E::yield_now().await;
            held_since = E::now();
        }
    }
    let state = loader.map(Loader::finish).transpose().map_err(|why| reader.bad(&why.to_string()))?;
    let due = meta.last.map_or(0, |id| id.index);
    match &state {
        Some(state) if state.applied() != due => {
            Err(reader.bad(&format!("says that it is as of log index {due}, and holds a state as of {}", state.applied())))
        }
        _ => Ok(Checked { meta, bytes: reader.position(), state }),
    }
}
