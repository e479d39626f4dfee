//! The real binary under real faults. A ring of processes under load; what its clients were told is held by the checkers of the
//! simulator to one order of all operations of each key. docs/faults.md has the commands and the figures.
//!
//! ```text
//!   deck: a ring, each node in a network namespace of its own, on a small disk of its own, with a wall clock that can be moved
//!         every kind of fault once, in random order:
//!           all nodes are well ─ fault ─ it is seen to strike ─ what must go on goes on ─ mend ─ sessions are looked at
//!         end of the load, all nodes have equal states, the history is judged
//!   clocks: jumps of wall clocks, and nothing else: no election          far: a ring over slow, narrow links
//! ```
//!
//! `RINGBEAM_FAULTS_DECKS=20` is the long form, with rings of 3 and of 5 nodes by turns; `RINGBEAM_FAULTS_SEED` repeats a run's choices
//! (not the machine's timing), `RINGBEAM_FAULTS_ONLY=Deaf,Clocks` takes these kinds of faults and parts only.
//!
//! **Invariants**: each fault shows that it strikes (packets dropped, another leader, a full disk, a clock that is off), or the test
//! fails. What this machine cannot do is said, `SKIPPED`, with the reason. Everything ends with this process.
//!
//! **Not here**: crash rounds by the thousand (`crash.rs`), power loss (`sim/`).

mod ring;

#[path = "ring/book.rs"]
mod book;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "sim/check/mod.rs"]
mod check;
#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/deck.rs"]
mod deck;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/far.rs"]
mod far;
#[allow(dead_code, reason = "the simulator uses the rest")]
#[path = "sim/history.rs"]
mod history;
#[path = "faults/links.rs"]
mod links;
#[path = "faults/lives.rs"]
mod lives;
#[path = "faults/members.rs"]
mod members;
#[path = "faults/processes.rs"]
mod processes;
#[allow(dead_code, reason = "the checkers' own tests use it")]
#[path = "sim/random.rs"]
mod random;
#[path = "faults/sessions.rs"]
mod sessions;
#[path = "faults/stage.rs"]
mod stage;

use std::time::Instant;

use ring::random::{Random, count};
use stage::Machine;

/// Without the harness: it would run the checkers' own tests here, which `checkers.rs` does, and namespaces want a process of one
/// thread.
fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if let Some(why) = nonsense_wanted() {
        eprintln!("RINGBEAM_FAULTS_ONLY: {why}");
        std::process::exit(2);
    }
    let machine = Machine::look();
    let mut random = Random::seeded("RINGBEAM_FAULTS_SEED");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = Instant::now();
    for number in 0..count("RINGBEAM_FAULTS_DECKS", 1) {
        runtime.block_on(deck::play(&machine, number, &mut random));
        if is_wanted("Clocks") {
            runtime.block_on(clocks::jumps_start_no_election(&machine));
        }
        if is_wanted("Far") {
            runtime.block_on(far::history_over_slow_and_narrow_links(&mut random));
        }
    }
    println!("test history_under_faults_is_linearizable ... ok, {:.0} s", began.elapsed().as_secs_f64());
}

/// What `RINGBEAM_FAULTS_ONLY` names beside the faults of a deck.
const PARTS: [&str; 2] = ["Clocks", "Far"];

/// What is wrong with `RINGBEAM_FAULTS_ONLY`: a name that is none would pass by running nothing.
fn nonsense_wanted() -> Option<String> {
    let only = std::env::var("RINGBEAM_FAULTS_ONLY").ok()?;
    let names: Vec<String> = deck::ALL.iter().map(ToString::to_string).chain(PARTS.map(String::from)).collect();
    let unknown = only.split(',').find(|one| !names.iter().any(|name| name == one))?;
    Some(format!("{unknown:?} is none of {}", names.join(", ")))
}

/// Whether `RINGBEAM_FAULTS_ONLY`, if it is set, names this.
fn is_wanted(name: &str) -> bool {
    std::env::var("RINGBEAM_FAULTS_ONLY").map_or(true, |only| only.split(',').any(|one| one == name))
}
