//! Simulated rings: real shards on a simulated outside (`shards/io/sim`), struck by faults, as functions of seeds.
//!
//! ```text
//!   campaign ─▶ run: plan of the seed ─▶ world (a ring), load (clients), operator ─▶ history, watch ─▶ check ─▶ violations
//! ```
//! `cargo test --test sim -- --help` says how to run it, `docs/simulation.md` what it means.

// What the pure rooms offer besides is for their own tests (`tests/checkers.rs`) and for tests on real processes.
#[allow(dead_code)]
mod campaign;
#[allow(dead_code)]
mod check;
#[allow(dead_code)]
mod client;
mod foreign;
#[allow(dead_code)]
mod history;
mod lives;
mod load;
mod log;
mod operator;
mod pipeline;
#[allow(dead_code)]
mod plan;
#[allow(dead_code)]
mod random;
mod readers;
mod run;
mod scanner;
mod subscriber;
mod watch;
#[allow(dead_code)]
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    log::init();
    campaign::run(std::env::args().skip(1), &run::bugs(), run::simulate)
}
