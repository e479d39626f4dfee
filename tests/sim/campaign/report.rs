//! The figures of a campaign, in words.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Outcome;

/// Violations of one seed that are printed; the replay prints all.
const VIOLATIONS_SHOWN: usize = 3;

/// Lines of its story.
const STORY_LINES_SHOWN: usize = 20;

/// Failing seeds that the end names.
const FAILURES_SHOWN: usize = 20;

pub struct Report {
    from: u64,
    pub seeds: u64,
    pub operations: u64,
    pub simulated: Duration,
    pub faults: BTreeMap<&'static str, u64>,
    /// Seeds, virtual time and CPU time by the number of voters.
    sizes: BTreeMap<usize, (u64, Duration, Duration)>,
    /// The first violation of each failing seed.
    pub failures: BTreeMap<u64, String>,
}

impl Report {
    pub fn new(from: u64) -> Report {
        let (faults, sizes, failures) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Report { from, seeds: 0, operations: 0, simulated: Duration::ZERO, faults, sizes, failures }
    }

    pub fn add(&mut self, seed: u64, outcome: Outcome, cpu: Duration) {
        self.seeds += 1;
        self.operations += outcome.operations;
        self.simulated += outcome.simulated;
        let (seeds, simulated, spent) = self.sizes.entry(outcome.voters).or_default();
        (*seeds, *simulated, *spent) = (*seeds + 1, *simulated + outcome.simulated, *spent + cpu);
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if let Some(first) = outcome.violations.into_iter().next() {
            self.failures.insert(seed, first);
        }
    }

    /// Where it stands.
    pub fn line(&self, wall: Duration) -> String {
        let faults: u64 = self.faults.values().sum();
        format!(
            "{}: {}, {} operations, {faults} faults, {} failed",
            rounded(wall),
            self.speed(wall),
            self.operations,
            self.failures.len()
        )
    }

    fn speed(&self, wall: Duration) -> String {
        let wall = wall.as_secs_f64().max(1e-9);
        format!(
            "{} seeds ({:.0} a minute), {:.1} simulated hours ({:.0} times wall time)",
            self.seeds,
            self.seeds as f64 / wall * 60.0,
            self.simulated.as_secs_f64() / 3_600.0,
            self.simulated.as_secs_f64() / wall
        )
    }

    /// All figures, at the end.
    pub fn summary(&self, wall: Duration) -> String {
        let mut text = format!("{} from seed {} in {}\n", self.speed(wall), self.from, rounded(wall));
        text += &format!("{} operations\n", self.operations);
        for (voters, (seeds, simulated, cpu)) in &self.sizes {
            let factor = simulated.as_secs_f64() / cpu.as_secs_f64().max(1e-9);
            text += &format!("  {voters} voters: {seeds} seeds, {factor:.0} simulated seconds in one of CPU\n");
        }
        let width = self.faults.keys().map(|kind| kind.len()).max().unwrap_or(0);
        for (kind, count) in &self.faults {
            text += &format!("  {kind:width$} {count:>10}\n");
        }
        let never: Vec<&str> = self.faults.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| *kind).collect();
        let struck = self.faults.len() - never.len();
        text += &format!("{struck} of {} kinds struck", self.faults.len());
        text += &if never.is_empty() { "\n".to_string() } else { format!("; never: {}\n", never.join(", ")) };
        if self.failures.is_empty() {
            return text + "no seed failed";
        }
        text += &format!("{} seeds FAILED\n", self.failures.len());
        for (seed, violation) in self.failures.iter().take(FAILURES_SHOWN) {
            text += &format!("  {}    {}\n", command(*seed), violation.lines().next().unwrap_or_default());
        }
        text
    }
}

/// What replays a seed.
pub fn command(seed: u64) -> String {
    format!("cargo test --test sim -- {seed}")
}

/// A seed that failed: what it broke, its last events, and how to see it again.
pub fn failure(seed: u64, outcome: &Outcome) -> String {
    let mut text = format!("FAILED: seed {seed}: {} violations. {}\n", outcome.violations.len(), command(seed));
    let lines: Vec<&str> = outcome.story.lines().collect();
    for line in &lines[lines.len().saturating_sub(STORY_LINES_SHOWN)..] {
        text += &format!("  | {line}\n");
    }
    for violation in outcome.violations.iter().take(VIOLATIONS_SHOWN) {
        text += &format!("  {violation}\n");
    }
    text
}

/// For people.
pub fn rounded(time: Duration) -> String {
    match time.as_secs() {
        0..=9 => format!("{:.2} s", time.as_secs_f64()),
        10..=599 => format!("{} s", time.as_secs()),
        600..=35_999 => format!("{:.1} min", time.as_secs_f64() / 60.0),
        _ => format!("{:.1} h", time.as_secs_f64() / 3_600.0),
    }
}
