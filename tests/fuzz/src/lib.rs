//! Fuzzers of everything in ringbeam that reads foreign bytes: from the network, from disk, from an operator.
//!
//! ```text
//!   input ─▶ choices.rs ─▶ real structures, by the real writers ─▶ damage ─▶ the real reader ─▶ what must hold
//!        └──────────── or as it is ──────────────────────────────────────▲
//! ```
//! | target | what reads | what must hold besides "no panic, no hang, bounded memory" |
//! |---|---|---|
//! | `frame` | `wire/frame.rs`, `wire/preamble.rs` | frames are the same however the bytes were cut; a second decoder agrees |
//! | `client_request` | `wire/client`, the state's batches | what parses encodes to what parses to the same; a valid write is in its batch as it was |
//! | `peer_request` | `wire/peer`, raft's own types | likewise; every entry of an append arrives |
//! | `batch` | `state/command.rs`, `State::apply` | one encoding only; one answer a write; equal batches, equal states |
//! | `snapshot` | `state/snapshot/loader.rs` | the same verdict however it was cut; what loads is what was frozen |
//! | `snapshot_file` | `raft/snapshot.rs`, `raft/machine.rs` | damage is refused with the file's name; what is accepted is what was frozen |
//! | `wal_damage` | `wal/recovery.rs`, `wal/replay.rs` | a log by the real writer, damaged: refused by name, or a beginning of what was written |
//! | `wal_forge` | the same | any records with right checksums: refused by name, or a log that is contiguous and stays what it is |
//! | `config` | `src/config.rs` | a refusal names the place; what is accepted comes back from its own text |
//!
//! **Not here**: the engine (libFuzzer), how it is run (`run`), corpora (`corpus/`, first made by `seeds.rs`). docs/fuzzing.md has
//! the figures.

/// Plants the mistake that the environment variable `FUZZ_BUG` names (`shards/planted.rs`): a fuzzer is trusted when it has found
/// some.
pub fn plant() {
    if let Ok(name) = std::env::var("FUZZ_BUG") {
        let bug = ringbeam_shards::planted::Bug::named(&name);
        assert!(bug.is_some(), "FUZZ_BUG={name}: no such bug");
        ringbeam_shards::planted::plant(bug);
    }
}

pub mod batch;
pub mod choices;
pub mod client_request;
pub mod config;
pub mod disk;
pub mod frame;
pub mod golden;
pub mod peer_request;
pub mod snapshot;
pub mod snapshot_file;
pub mod wal;
pub use wal::{damage as wal_damage, forge as wal_forge};

// src/config.rs is part of a binary, which nobody can link: it is compiled in here as it is.
#[allow(dead_code)]
#[path = "../../../src"]
mod src {
    pub mod config;
}

/// What src/config.rs wants of src/founding.rs.
#[allow(dead_code)]
mod founding {
    /// A founder as the configuration names it.
    pub struct Founder {
        /// Node id.
        pub node: u64,
        /// Its peer address, host:port.
        pub peer: String,
    }
}
