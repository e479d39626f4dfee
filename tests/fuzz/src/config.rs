//! The configuration file: any text.
//!
//! The text is the input as it is, or `deploy/node.toml` with lines of it replaced by lines of the input: a fuzzer would need
//! long to write a whole valid file.

use crate::choices::Choices;
use crate::src::config::Config;
use ringbeam_shards::io::sim::Sim;
use ringbeam_shards::io::{Env, sim::Settings, sim::World};
use ringbeam_shards::wal::{OpenError, Owner, Wal};

const EXAMPLE: &str = include_str!("../../../deploy/node.toml");
/// Logs with segments up to this are tried; larger ones take long to make, even on a disk that does not exist.
const TRIED_SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let text = if choices.byte() % 2 == 0 { choices.rest().to_vec() } else { edited(&mut choices) };
    let Ok(text) = String::from_utf8(text) else { return };
    match Config::parse(&text, "node.toml") {
        Ok(config) => {
            let again = Config::parse(&config.to_toml(), "its own");
            assert_eq!(again.as_ref(), Ok(&config), "every key of it is in its own text");
            assert!(config.node.id > 0 && (1..=256).contains(&config.ring.shards) && !config.founders().is_empty());
            assert_eq!(config.is_founder(), config.founders().iter().any(|founder| founder.node == config.node.id));
            opens_a_log(&config);
        }
        Err(why) => {
            assert!(why.starts_with("configuration node.toml: "), "it does not name the file: {why}");
            let keys = ["node.", "listen.", "ring.", "limits.", "log.", "timers.", "logging."];
            let place = why.contains("at line ") || keys.iter().any(|key| why.contains(key));
            assert!(place, "it does not name the place: {why}");
        }
    }
}

/// Replaces and adds lines.
fn edited(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        EXAMPLE.lines().filter(|line| !line.starts_with('#')).map(|line| line.as_bytes().to_vec()).collect();
    for _ in 0..=choices.below(4) {
        let at = choices.below(lines.len());
        let kind = choices.byte();
        let length = choices.below(80);
        let bytes = choices.bytes(length);
        match kind % 4 {
            // The value of a key.
            0 | 1 => {
                let line = &mut lines[at];
                let value = line.iter().position(|byte| *byte == b'=').map_or(line.len(), |equals| equals + 2);
                line.truncate(value);
                line.extend_from_slice(bytes);
            }
            2 => lines.insert(at, bytes.to_vec()),
            _ => drop(lines.remove(at)),
        }
    }
    lines.join(&b'\n')
}

/// What is valid for the file is valid for the log.
fn opens_a_log(config: &Config) {
    let wal = config.wal();
    if wal.segment_bytes > TRIED_SEGMENT_BYTES_MAX {
        return;
    }
    let world = World::new(0, Settings::default());
    let host = world.add_host("alone");
    let disk = world.disk(host);
    world.block_on(host, async move {
        match Wal::<Sim>::open(disk, "log", Owner::default(), wal).await {
            Ok(_) => Sim::yield_now().await,
            Err(error @ OpenError::Config(_)) => panic!("a valid configuration: {error}"),
            Err(error) => panic!("a new log: {error}"),
        }
    });
}
