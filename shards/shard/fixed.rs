//! The limits that decide what an apply answers stay those with which a shard's directory was made: under others its log means something else.
//!
//! They are the name of an empty file, so they are there or they are not, and nothing of them can be torn:
//!
//! ```text
//!   limits-<sessions_max>-<session_window_count>-<answers>-<session_lifetime_ms>
//! ```
//! A snapshot says the same of itself, but a young shard has none: its log alone was replayed under whatever the configuration said.
//!
//! **Invariants**
//! - They are durable before the log has its first entry. A directory from before there was such a file takes the limits of its next start,
//!   once its newest snapshot has agreed.
//!
//! **Not here**: that all nodes have the same (a snapshot under other limits is refused where it arrives).

use std::io;

use crate::io::{BLOCK_BYTES, Disk, may_pass};
use crate::state::Limits;

const PREFIX: &str = "limits-";
/// The numbers as an operator knows them, in the order of the name.
const KEYS: [&str; 4] =
    ["limits.sessions_max", "limits.session_window_count", "the program's answers_max", "limits.session_lifetime_ms"];

fn numbers(limits: Limits) -> [u64; 4] {
    let Limits { sessions_max, session_window, answers_max, session_lifetime_ms } = limits;
    [sessions_max.into(), session_window.into(), answers_max.into(), session_lifetime_ms]
}

fn parse(name: &str) -> Option<[u64; 4]> {
    let numbers: Vec<u64> = name.strip_prefix(PREFIX)?.split('-').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// Refuses other limits than those that are noted (`InvalidData`). False: none are.
pub(super) async fn check<D: Disk>(disk: &D, dir: &str, limits: Limits) -> io::Result<bool> {
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("{dir}: limits: {e}"));
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    disk.create_dir(dir).await.map_err(failed)?;
    let mut names = disk.list(dir).await.map_err(failed)?;
    names.retain(|name| name.starts_with(PREFIX));
    for name in &names {
        let Some(made_with) = parse(name) else {
            return refused(format!(
                "{dir}/{name}: the name does not say four numbers, as in {PREFIX}65536-4096-16777216-900000"
            ));
        };
        for ((key, was), is) in KEYS.into_iter().zip(made_with).zip(numbers(limits)) {
            if was != is {
                return refused(format!(
                    "{dir}/{name}: this shard was made with {key} = {was}, now it is {is}; it is fixed with the ring: set it back to {was}"
                ));
            }
        }
    }
    // Who made it may have been killed before it was durable.
    disk.sync_dir(dir).await.map_err(failed)?;
    Ok(!names.is_empty())
}

/// Notes the limits. Where there is no room for it a later start does: what is there must be served all the same.
pub(super) async fn note<D: Disk>(disk: &D, dir: &str, limits: Limits) -> io::Result<()> {
    let name = format!("{dir}/{PREFIX}{}", numbers(limits).map(|n| n.to_string()).join("-"));
    let noted = match disk.reserve(&name, BLOCK_BYTES as u64).await {
        Ok(_) => disk.sync_dir(dir).await,
        Err(e) => Err(e),
    };
    match noted {
        Err(e) if may_pass(&e) => {
            tracing::warn!("{dir}: the limits are not noted yet: {e}");
            Ok(())
        }
        noted => noted.map_err(|e| io::Error::new(e.kind(), format!("{dir}: limits: {e}"))),
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::io::sim::{Crash, Settings, World};

    #[test]
    fn limits_of_the_first_start_are_those_of_every_other() {
        let world = World::new(1, Settings::default());
        let host = world.add_host("n");
        let disk = world.disk(host);
        let keep = |limits: Limits| {
            let disk = disk.clone();
            world.block_on(host, async move {
                match check(&disk, "shard-0", limits).await? {
                    true => Ok(true),
                    false => note(&disk, "shard-0", limits).await.map(|()| false),
                }
            })
        };
        let first = Limits { sessions_max: 9, ..Limits::default() };
        let name = "shard-0/limits-9-4096-16777216-900000";
        assert_eq!(keep(first).ok(), Some(false));
        for crash in [Crash::PowerLoss, Crash::Kill] {
            world.crash(host, crash);
            assert_eq!(keep(first).ok(), Some(true));
            let refused = |limits, says: &str| {
                let why = keep(limits).expect_err("other limits").to_string();
                assert!(why.starts_with(name) && why.ends_with(says), "{why}");
            };
            refused(
                Limits { sessions_max: 10, ..first },
                "made with limits.sessions_max = 9, now it is 10; it is fixed with the ring: set it back to 9",
            );
            refused(
                Limits { session_window: 1, ..first },
                "limits.session_window_count = 4096, now it is 1; it is fixed with the ring: set it back to 4096",
            );
            refused(Limits { session_lifetime_ms: 1, ..first }, "set it back to 900000");
            refused(Limits { answers_max: 1, ..first }, "set it back to 16777216");
        }
        // Nobody else's files are looked at, and a name that nobody made is not passed by.
        let made = disk.clone();
        world.block_on(host, async move {
            made.reserve("shard-0/limits-1-2", BLOCK_BYTES as u64).await.expect("there is room");
        });
        let why = keep(first).expect_err("odd").to_string();
        assert!(why.starts_with("shard-0/limits-1-2: the name does not say four numbers"), "{why}");
    }
}
