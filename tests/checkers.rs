//! Runs the tests of the simulator's pure parts. Its own target has no harness (its arguments are seeds), so none would run
//! there.
//!
//! They depend on nothing of ours: a checker that shared code with what it judges would share its mistakes.

#![allow(dead_code, reason = "only the tests are run here; the simulator uses the rest")]

#[path = "sim/campaign.rs"]
mod campaign;
#[path = "sim/check/mod.rs"]
mod check;
#[path = "sim/history.rs"]
mod history;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/random.rs"]
mod random;
