//! What the command line asks for. `cargo test` passes words of its own to every target: they are known here, and do nothing.

use std::time::Duration;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Short,
    /// Bugs that must be found.
    Planted,
    /// A list of tests was asked for: there are none that a harness could name.
    List,
    Replay {
        seed: u64,
        bug: Option<String>,
    },
    /// Prints the hash of a run, and nothing else.
    Hash {
        seed: u64,
    },
    Campaign(Search),
}

/// Which seeds, how long, on how many threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    pub from: u64,
    pub seeds: Option<u64>,
    /// So many are run however long they take.
    pub least: u64,
    pub time: Option<Duration>,
    pub threads: Option<usize>,
    pub bug: Option<String>,
    pub repeat: u64,
}

impl Default for Search {
    fn default() -> Search {
        Search { from: 1, seeds: None, least: 0, time: None, threads: None, bug: None, repeat: 1 }
    }
}

impl Order {
    /// The order, unless it names a bug that is none of these.
    pub fn known(self, bugs: &[&str]) -> Result<Order, String> {
        let named = match &self {
            Order::Replay { bug, .. } => bug.as_deref(),
            Order::Campaign(search) => search.bug.as_deref(),
            Order::List | Order::Short | Order::Planted | Order::Hash { .. } => None,
        };
        match named.filter(|name| !bugs.contains(name)) {
            Some(name) => Err(format!("no bug is called {name:?}; there are {}", bugs.join(", "))),
            None => Ok(self),
        }
    }
}

impl Search {
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// Flags of libtest that make no difference here.
const IGNORED: [&str; 8] =
    ["--nocapture", "--no-capture", "--show-output", "--quiet", "-q", "--exact", "--include-ignored", "--report-time"];

/// Options of libtest that make no difference here, with a word behind them.
const IGNORED_WITH_A_WORD: [&str; 6] = ["--test-threads", "--color", "--format", "--skip", "--logfile", "-Z"];

pub fn parse(arguments: &[String]) -> Result<Order, String> {
    let mut words = Words { left: arguments, search: Search::default(), hash: false, own: None };
    let mut plain = Vec::new();
    let (mut list, mut ignored_tests) = (false, false);
    while let Some(word) = words.next() {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        match word {
            "--list" => list = true,
            // Only tests that are marked as ignored: there are none.
            "--ignored" => ignored_tests = true,
            _ if IGNORED.contains(&word) => {}
            _ if IGNORED_WITH_A_WORD.contains(&name) => {
                if name == word {
                    words.next();
                }
            }
            _ if word.starts_with('-') => words.option(word)?,
            _ => plain.push(word),
        }
    }
    if list || ignored_tests {
        return Ok(Order::List);
    }
    let Words { search, hash, own, .. } = words;
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word:?} is neither a seed nor a command; {USAGE}"));
    match plain[..] {
        ["campaign"] if !hash => Ok(Order::Campaign(search)),
        ["planted"] if own.is_none() => Ok(Order::Planted),
        ["campaign", more, ..] => Err(format!("{more:?} after campaign: {USAGE}")),
        [seed] | ["replay", seed] => {
            let seed = number(seed)?;
            match own {
                Some(option) if option != "--bug" && option != "--hash" => Err(format!("{option} is for a campaign: {USAGE}")),
                _ if hash => Ok(Order::Hash { seed }),
                _ => Ok(Order::Replay { seed, bug: search.bug }),
            }
        }
        [] => match own {
            Some(option) => Err(format!("{option} without a campaign or a seed: {USAGE}")),
            None => Ok(Order::Short),
        },
        [_, other, ..] => Err(format!("{other:?} is not understood: {USAGE}")),
    }
}

const USAGE: &str = "nothing, planted, SEED [--bug NAME], or campaign [--seeds N] [--minutes M] [--threads T] [--from S] [--bug NAME [--repeat R]]";

struct Words<'a> {
    left: &'a [String],
    search: Search,
    hash: bool,
    /// The last option of ours that was given.
    own: Option<&'a str>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(first)
    }

    fn option(&mut self, word: &'a str) -> Result<(), String> {
        // The most particular option is remembered: one that only a campaign has.
        if self.own.is_none_or(|own| own == "--bug" || own == "--hash") {
            self.own = Some(word);
        }
        if word == "--hash" {
            self.hash = true;
            return Ok(());
        }
        let known = ["--seeds", "--minutes", "--threads", "--from", "--bug", "--repeat"];
        if !known.contains(&word) {
            return Err(format!("{word:?} is not understood: {USAGE}"));
        }
        let value = self.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
        let positive = || number().and_then(|n| if n > 0 { Ok(n) } else { Err(format!("{word} {value}: must be at least 1")) });
        match word {
            "--seeds" => self.search.seeds = Some(positive()?),
            "--minutes" => {
                let minutes = value.parse::<f64>().ok().filter(|minutes| *minutes > 0.0 && *minutes < 1e6);
                let minutes = minutes.ok_or_else(|| format!("{word} {value}: not a number of minutes"))?;
                self.search.time = Some(Duration::from_secs_f64(minutes * 60.0));
            }
            "--threads" => self.search.threads = Some(positive()?.min(1_024) as usize),
            "--from" => self.search.from = number()?,
            "--repeat" => self.search.repeat = positive()?,
            _ => self.search.bug = Some(value.to_string()),
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the simulator's target has no harness: tests/checkers.rs runs these")]
mod tests {
    use super::*;

    fn order(line: &str) -> Result<Order, String> {
        parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn what_cargo_passes_is_understood() {
        for line in ["", "--nocapture", "--test-threads 1", "--test-threads=1 -q", "--skip something", "--color always"] {
            assert_eq!(order(line), Ok(Order::Short), "{line}");
        }
        for line in ["--list", "--list --format terse", "--list --format terse --ignored", "--list walls"] {
            assert_eq!(order(line), Ok(Order::List), "{line}");
        }
    }

    #[test]
    fn seeds_and_campaigns() {
        assert_eq!(order("17"), Ok(Order::Replay { seed: 17, bug: None }));
        assert_eq!(order("replay 17 --nocapture"), Ok(Order::Replay { seed: 17, bug: None }));
        assert_eq!(order("17 --bug eager"), Ok(Order::Replay { seed: 17, bug: Some("eager".to_string()) }));
        assert_eq!(order("replay 17 --hash"), Ok(Order::Hash { seed: 17 }));
        assert_eq!(order("campaign"), Ok(Order::Campaign(Search::default())));
        assert_eq!(order("planted"), Ok(Order::Planted));
        let all = Search {
            from: 9,
            seeds: Some(5),
            least: 0,
            time: Some(Duration::from_secs(90)),
            threads: Some(2),
            bug: Some("eager".to_string()),
            repeat: 3,
        };
        let line = "campaign --seeds 5 --minutes 1.5 --threads 2 --from 9 --bug eager --repeat 3";
        assert_eq!(order(line), Ok(Order::Campaign(all)));
    }

    #[test]
    fn unknown_bugs_are_refused_with_the_names_of_the_known() {
        let known = |line: &str| order(line).and_then(|order| order.known(&["eager", "lazy"]));
        assert!(known("campaign --bug eager").is_ok() && known("7 --bug lazy").is_ok() && known("campaign").is_ok());
        for line in ["campaign --bug eagre", "7 --bug eagre"] {
            let why = known(line).expect_err(line);
            assert!(why.contains("eagre") && why.contains("eager, lazy"), "{why}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("walls", "walls"),
            ("17 18", "18"),
            ("--frobnicate", "--frobnicate"),
            ("campaign --seeds", "--seeds"),
            ("campaign --seeds many", "many"),
            ("campaign --threads 0", "at least 1"),
            ("campaign 17", "17"),
            ("--seeds 5", "--seeds"),
            ("17 --minutes 5", "--minutes"),
            ("17 --bug eager --minutes 5", "--minutes"),
            ("campaign --hash", "campaign"),
        ] {
            let why = order(line).expect_err(line);
            assert!(why.contains(named), "{line}: {why}");
        }
    }
}
