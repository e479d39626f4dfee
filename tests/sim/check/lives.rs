//! Lives: a key that was put for a time, or with a lease, is there until that time has passed or the lease has ended. In ring time, as the
//! log has it, so that no clock matters.
//!
//! ```text
//!   puts of a key, in the order of the log:   put for 2 s at 10.0 ─── put at 11.5: "it existed"     right
//!                                             put for 2 s at 10.0 ─── put at 11.5: "it was absent"  gone early
//!                                             put for 2 s at 10.0 ─── put at 12.5: either: it goes when it is taken out, not before
//! ```
//! A lease ends when it was not kept alive for its time, or was revoked. While it has not, it can be kept and keys can be attached.
//!
//! **Invariant** of the observer: every write of the namespace is noted, as any state machine ran it.
//!
//! **Not here**: that everything goes at last: a ring at rest has nothing that is due (its nodes are equal, and one of them leads).

use std::collections::BTreeMap;

use super::told;
use crate::history::Revision;

/// What a state machine was asked, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// 0: no time, no lease.
    Put {
        key: Vec<u8>,
        ttl_ms: u64,
        lease: u64,
        existed: bool,
        denied: bool,
    },
    Granted {
        lease: u64,
        ttl_ms: u64,
    },
    Kept {
        lease: u64,
        denied: bool,
    },
    Revoked {
        lease: u64,
    },
}

/// What the state machines of all nodes ran, by shard and revision, with the ring time. Nodes that disagree are noted when they do.
#[derive(Clone, Debug, Default)]
pub struct LivesLog {
    ran: BTreeMap<(u32, Revision), (u64, u64, Did)>,
    disagreements: Vec<String>,
}

impl LivesLog {
    /// `node` ran this at `revision` of the log of `shard`.
    pub fn note(&mut self, node: u64, shard: u32, revision: Revision, ring_time_ms: u64, did: Did) {
        let (first, ms, known) = self.ran.entry((shard, revision)).or_insert_with(|| (node, ring_time_ms, did.clone()));
        if (*ms, &*known) != (ring_time_ms, &did) {
            let why = format!(
                "lives: shard {shard}, {revision}: node {first} ran {known:?} at {ms} ms, node {node} {did:?} at {ring_time_ms} ms"
            );
            self.disagreements.push(why);
        }
    }

    /// Puts with a life, and puts that found a key gone whose time was up.
    pub fn counts(&self) -> (usize, usize) {
        let (mut puts, mut gone) = (0, 0);
        self.walk(|_, _, did, due| {
            if let Did::Put { ttl_ms, lease, existed, denied: false, .. } = did {
                puts += usize::from((*ttl_ms, *lease) != (0, 0));
                gone += usize::from(due && !existed);
            }
        });
        (puts, gone)
    }

    /// Shows each write in the order of its shard's log: where, when, what, and whether what it is about might have gone by then.
    fn walk(&self, mut show: impl FnMut(&(u32, Revision), u64, &Did, bool)) {
        let mut keys = BTreeMap::<(u32, &[u8]), (u64, u64)>::new();
        let mut leases = BTreeMap::<(u32, u64), (u64, u64)>::new();
        for (place, (_, now, did)) in &self.ran {
            let shard = place.0;
            let ended = |leases: &BTreeMap<(u32, u64), (u64, u64)>, lease: u64| {
                lease != 0 && leases.get(&(shard, lease)).is_none_or(|(_, ends)| ends <= now)
            };
            match did {
                Did::Put { key, ttl_ms, lease, denied, .. } => {
                    let before = keys.get(&(shard, &key[..])).copied();
                    let gone = |(until, lease): (u64, u64)| until <= *now || ended(&leases, lease);
                    let due = if *denied { ended(&leases, *lease) } else { before.is_none_or(gone) };
                    show(place, *now, did, due);
                    if !denied {
                        let until = if *ttl_ms == 0 { u64::MAX } else { now + ttl_ms };
                        keys.insert((shard, key), (until, *lease));
                    }
                }
                Did::Granted { lease, ttl_ms } => {
                    show(place, *now, did, true);
                    leases.insert((shard, *lease), (*ttl_ms, now + ttl_ms));
                }
                Did::Kept { lease, denied } => {
                    show(place, *now, did, ended(&leases, *lease));
                    if let Some((ttl_ms, ends)) = leases.get_mut(&(shard, *lease)).filter(|_| !denied) {
                        *ends = now + *ttl_ms;
                    }
                }
                Did::Revoked { lease } => {
                    show(place, *now, did, true);
                    leases.get_mut(&(shard, *lease)).into_iter().for_each(|(_, ends)| *ends = (*ends).min(*now));
                }
            }
        }
    }
}

/// Everything that went before its time, and everything that was granted after it.
pub fn check(log: &LivesLog) -> Vec<String> {
    let mut early = Vec::new();
    log.walk(|(shard, revision), now, did, due| {
        let wrong = match did {
            Did::Put { denied: true, .. } | Did::Kept { denied: true, .. } if !due => "but the lease has not ended",
            Did::Kept { denied: false, .. } if due => "but the lease has ended",
            Did::Put { existed: false, denied: false, .. } if !due => "but its time has not come: it went early",
            _ => return,
        };
        early.push(format!("lives: shard {shard}, {revision}, at {now} ms: {did:?}, {wrong}"));
    });
    told(log.disagreements.clone()).into_iter().chain(told(early)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(did: &[(u64, Did)]) -> LivesLog {
        let mut log = LivesLog::default();
        for (index, (ms, did)) in (1..).zip(did) {
            log.note(1, 0, Revision { index, position: 0 }, *ms, did.clone());
        }
        log
    }

    fn put(ttl_ms: u64, lease: u64, existed: bool) -> Did {
        Did::Put { key: b"k".to_vec(), ttl_ms, lease, existed, denied: false }
    }

    #[test]
    fn a_key_that_is_gone_before_its_time_is_found() {
        assert!(check(&log(&[(10, put(2_000, 0, false)), (1_500, put(0, 0, true))])).is_empty());
        assert!(check(&log(&[(10, put(2_000, 0, false)), (2_010, put(0, 0, false))])).is_empty());
        assert!(check(&log(&[(10, put(2_000, 0, false)), (2_500, put(0, 0, true))])).is_empty(), "it may go late");
        let early = check(&log(&[(10, put(2_000, 0, false)), (2_009, put(0, 0, false))]));
        assert!(early.len() == 1 && early[0].contains("it went early"), "{early:?}");
        assert_eq!(check(&log(&[(10, put(0, 0, false)), (99_999, put(0, 0, false))])).len(), 1, "it had no time");
    }

    #[test]
    fn a_lease_counts_until_it_ends_and_not_longer() {
        let granted = (0, Did::Granted { lease: 7, ttl_ms: 1_000 });
        let kept = |denied| Did::Kept { lease: 7, denied };
        let attached = (10, put(0, 7, false));
        assert!(check(&log(&[granted.clone(), attached.clone(), (900, kept(false)), (1_800, put(0, 0, true))])).is_empty());
        assert_eq!(check(&log(&[granted.clone(), attached.clone(), (900, kept(false)), (1_800, put(0, 0, false))])).len(), 1);
        assert!(check(&log(&[granted.clone(), attached.clone(), (1_000, put(0, 0, false))])).is_empty());
        assert_eq!(check(&log(&[granted.clone(), (999, kept(true))])).len(), 1);
        assert_eq!(check(&log(&[granted.clone(), (1_000, kept(false))])).len(), 1);
        assert!(check(&log(&[granted.clone(), (5, Did::Revoked { lease: 7 }), (6, kept(true))])).is_empty());
        let denied = Did::Put { key: b"k".to_vec(), ttl_ms: 0, lease: 7, existed: false, denied: true };
        assert_eq!(check(&log(&[granted, (6, denied)])).len(), 1);
    }

    #[test]
    fn nodes_that_disagree_are_found() {
        let mut log = log(&[(10, put(2_000, 0, false))]);
        log.note(2, 0, Revision { index: 1, position: 0 }, 10, put(2_000, 0, true));
        assert_eq!(check(&log).len(), 1);
    }
}
