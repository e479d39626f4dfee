//! Leases and lives: what goes when, what a lease grants, and the model's half of it.

use std::collections::BTreeMap;

use ringbeam_wire::client::{Life, Step, Transact};

use super::model::{Model, Work};
use super::{Owned, OwnedOp, apply, batch, small_limits};
use crate::state::command::parse;
use crate::state::limits::{EXPIRE_HARD_MAX, LEASES_MAX};
use crate::state::{Answer, Denied, Leased, Limits, Loader, Revision, State};

type Name = (String, Vec<u8>);

/// What the model knows of lives: for keys that have one, lease and time (0: none); and for each lease, its time and its end.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    pub keys: BTreeMap<Name, (u64, u64)>,
    pub leases: BTreeMap<u64, (u64, u64)>,
}

impl Lives {
    /// Whether a key may be put with this life.
    pub fn grants(&self, life: Life, now: u64) -> bool {
        life.lease == 0 || self.is_alive(life.lease, now)
    }

    fn is_alive(&self, lease: u64, now: u64) -> bool {
        self.leases.get(&lease).is_some_and(|(_, ends)| *ends > now)
    }

    pub fn put(&mut self, name: &Name, life: Life, now: u64) {
        self.keys.remove(name);
        if life != Life::default() {
            let time = if life.ttl_ms == 0 { 0 } else { now + life.ttl_ms };
            self.keys.insert(name.clone(), (life.lease, time));
        }
    }

    /// Bytes of a key's life in its record.
    pub fn bytes(&self) -> usize {
        let words = self.keys.values().map(|(lease, time)| usize::from(*lease != 0) + usize::from(*time != 0));
        words.map(|words| 1 + 8 * words).sum()
    }

    /// What an expiry of at most so many takes out, keys; the leases are gone already.
    fn due(&mut self, most: u32, now: u64) -> (Vec<Name>, bool) {
        let by_name = |(namespace, key): &Name| (namespace.len(), namespace.clone(), key.clone());
        let mut timed: Vec<(u64, Name)> = Vec::new();
        for (name, (_, time)) in self.keys.iter().filter(|(_, (_, time))| *time != 0 && *time <= now) {
            timed.push((*time, name.clone()));
        }
        timed.sort_by_key(|(time, name)| (*time, by_name(name)));
        let mut gone: Vec<Name> = timed.into_iter().map(|(_, name)| name).take(most as usize).collect();
        let mut left = most as usize - gone.len();
        let mut ended: Vec<(u64, u64)> = self.leases.iter().filter(|(_, l)| l.1 <= now).map(|(id, l)| (l.1, *id)).collect();
        ended.sort();
        let mut leases = 0;
        for (_, id) in ended {
            let of_lease = self.keys.iter().filter(|(name, (lease, _))| *lease == id && !gone.contains(name));
            let mut names: Vec<Name> = of_lease.map(|(name, _)| name.clone()).collect();
            names.sort_by_key(by_name);
            let all = names.len();
            names.truncate(left);
            left -= names.len();
            let cut = names.len() < all;
            gone.extend(names);
            if cut || left == 0 {
                break;
            }
            self.leases.remove(&id);
            left -= 1;
            leases += 1;
        }
        let any = !gone.is_empty() || leases > 0;
        (gone, any)
    }
}

impl Model {
    /// Runs a write of leases. `None`: it is none.
    pub fn run_of_leases(&mut self, write: &Owned, revision: Revision) -> Option<Result<bool, Denied>> {
        let now = self.ring_time_ms;
        let result = match write.op {
            OwnedOp::Grant(ttl_ms) => {
                self.lives.leases.insert(revision.session_id(), (ttl_ms, now + ttl_ms));
                Ok(false)
            }
            OwnedOp::Keep(id) if self.lives.is_alive(id, now) => {
                let ttl_ms = self.lives.leases[&id].0;
                self.lives.leases.insert(id, (ttl_ms, now + ttl_ms));
                Ok(false)
            }
            OwnedOp::Keep(_) => Err(Denied::LeaseNotFound),
            OwnedOp::Revoke(id) if self.lives.is_alive(id, now) => {
                let ttl_ms = self.lives.leases[&id].0;
                self.lives.leases.insert(id, (ttl_ms, now));
                Ok(true)
            }
            OwnedOp::Revoke(_) => Ok(false),
            OwnedOp::Expire(most) => {
                let (gone, any) = self.lives.due(most, now);
                for name in gone {
                    self.keys.remove(&name).expect("what has a life is a key");
                    self.lives.keys.remove(&name);
                }
                Ok(any)
            }
            _ => return None,
        };
        Some(result)
    }

    /// Panics unless `state` has the same leases, and expects the same to go next.
    pub fn check_lives(&self, state: &State, seed: u64) {
        let now = self.ring_time_ms;
        assert_eq!(state.leases(), self.lives.leases.len() as u64, "seed {seed}");
        for (&id, &(ttl_ms, ends)) in &self.lives.leases {
            let keys = self.lives.keys.values().filter(|(lease, _)| *lease == id).count() as u64;
            let is = (ends > now).then(|| Leased { ttl_ms, left_ms: ends - now, keys });
            assert_eq!(state.lease(id, 0), is, "lease {id}, seed {seed}");
        }
        let times = self.lives.keys.values().map(|(_, time)| *time).filter(|time| *time != 0);
        let ends = self.lives.leases.values().map(|(_, ends)| *ends);
        assert_eq!(state.next_expiry_ms(), times.clone().chain(ends).min(), "seed {seed}");
        assert_eq!(state.stats().timed_keys, times.count() as u64, "seed {seed}");
    }
}

/// A write that has to do with lives, on a key or a lease of those known.
pub fn random(work: &mut Work, key: Vec<u8>) -> Owned {
    let lease = if work.leases.is_empty() { 7 } else { *work.random.pick(&work.leases) };
    let ttl_ms = *work.random.pick(&[1, 20, 300, 3_000]);
    match work.random.below(12) {
        0 => Owned::of(OwnedOp::Grant(ttl_ms)),
        1 | 2 => Owned::of(OwnedOp::Keep(lease)),
        3 if work.random.one_in(3) => Owned::of(OwnedOp::Revoke(lease)),
        4 | 5 => {
            let most = *work.random.pick(&[1, 2, 3, 1_000]);
            Owned::of(OwnedOp::Expire(most))
        }
        kind => {
            let life = match kind {
                6 | 7 => Life { ttl_ms, lease: 0 },
                8 => Life { ttl_ms, lease },
                _ => Life { ttl_ms: 0, lease },
            };
            let value = vec![1; *work.random.pick(&[0, 3, 3, 40])];
            Owned::of(OwnedOp::PutFor(key, life, value))
        }
    }
}

fn put_for(key: &str, ttl_ms: u64, lease: u64) -> Owned {
    Owned::of(OwnedOp::PutFor(key.into(), Life { ttl_ms, lease }, b"v".to_vec()))
}

fn expire(state: &mut State, at_ms: u64) -> bool {
    apply(state, at_ms, &[Owned::of(OwnedOp::Expire(1_000))])[0].existed
}

fn grant(state: &mut State, at_ms: u64, ttl_ms: u64) -> u64 {
    apply(state, at_ms, &[Owned::of(OwnedOp::Grant(ttl_ms))])[0].revision.session_id()
}

fn one(state: &mut State, at_ms: u64, write: Owned) -> Answer {
    apply(state, at_ms, &[write]).remove(0)
}

#[test]
fn a_key_goes_at_its_time_and_not_a_millisecond_before() {
    let mut state = State::new(Limits::default());
    apply(&mut state, 100, &[put_for("k", 50, 0)]);
    assert_eq!(state.next_expiry_ms(), Some(150));
    assert!(!expire(&mut state, 149));
    assert!(state.get("", b"k").is_some());
    assert!(expire(&mut state, 150));
    assert_eq!((state.get("", b"k"), state.bytes(), state.next_expiry_ms()), (None, 0, None));
}

#[test]
fn a_put_or_a_delete_replaces_the_life_of_a_key() {
    let mut state = State::new(Limits::default());
    let lease = grant(&mut state, 0, 1_000);
    apply(&mut state, 0, &[put_for("a", 50, 0), put_for("b", 50, 0), put_for("c", 0, lease), put_for("d", 0, lease)]);
    apply(&mut state, 10, &[put_for("a", 500, 0), Owned::put("b", "stays"), Owned::put("c", "stays"), Owned::delete("d")]);
    assert_eq!(state.lease(lease, 0).map(|lease| lease.keys), Some(0));
    assert!(!expire(&mut state, 400), "of all these only a has a time, and it is later");
    expire(&mut state, 5_000);
    assert_eq!(state.get("", b"a"), None);
    assert!(state.get("", b"b").is_some() && state.get("", b"c").is_some());
}

#[test]
fn a_lease_lives_while_it_is_kept_and_takes_its_keys_along() {
    let mut state = State::new(Limits::default());
    let lease = grant(&mut state, 0, 1_000);
    apply(&mut state, 0, &[put_for("k", 0, lease), put_for("n", 0, lease).within("other")]);
    for at_ms in [900, 1_800, 2_700] {
        assert_eq!(one(&mut state, at_ms, Owned::of(OwnedOp::Keep(lease))).outcome, Ok(()));
        assert!(!expire(&mut state, at_ms + 50));
    }
    assert_eq!(state.lease(lease, 0), Some(Leased { ttl_ms: 1_000, left_ms: 950, keys: 2 }));
    assert!(expire(&mut state, 3_700));
    assert_eq!((state.keys(), state.leases()), (0, 0));
}

/// Whoever believes to hold a lease must not be able to act on it between its end and the moment its keys are taken out.
#[test]
fn a_lease_that_has_ended_grants_nothing_more_even_before_its_keys_are_gone() {
    let mut state = State::new(Limits::default());
    let lease = grant(&mut state, 0, 1_000);
    apply(&mut state, 0, &[put_for("k", 0, lease)]);
    let step = Step::Put { key: b"k", value: b"w", life: Life { ttl_ms: 0, lease } };
    let transact = Owned::transact(&Transact { then: vec![Step::put(b"other", b"w"), step], ..Transact::default() });
    for write in [Owned::of(OwnedOp::Keep(lease)), put_for("new", 0, lease), transact] {
        assert_eq!(one(&mut state, 1_000, write).outcome, Err(Denied::LeaseNotFound));
    }
    assert_eq!((state.keys(), state.lease(lease, 0)), (1, None), "nothing has changed, the key is still there");
    assert!(!one(&mut state, 1_000, Owned::of(OwnedOp::Revoke(lease))).existed);
    assert_eq!(one(&mut state, 1_000, put_for("new", 0, 12_345)).outcome, Err(Denied::LeaseNotFound));
}

#[test]
fn a_revoked_lease_ends_at_once_and_its_keys_go_in_slices() {
    let mut state = State::new(Limits::default());
    let lease = grant(&mut state, 0, 1_000_000);
    let writes: Vec<Owned> = (0..25).map(|n| put_for(&format!("{n:02}"), 0, lease)).collect();
    apply(&mut state, 0, &writes);
    assert!(one(&mut state, 5, Owned::of(OwnedOp::Revoke(lease))).existed);
    assert_eq!((state.keys(), state.lease(lease, 0), state.next_expiry_ms()), (25, None, Some(5)));
    for left in [15, 5, 0] {
        one(&mut state, 5, Owned::of(OwnedOp::Expire(10)));
        assert_eq!(state.keys(), left);
    }
    assert_eq!(state.leases(), 0, "the last slice had room for the lease itself");
}

#[test]
fn a_slice_takes_out_no_more_than_it_may() {
    let mut state = State::new(Limits::default());
    let writes: Vec<Owned> = (0..100).map(|n| put_for(&format!("{n:02}"), 1 + n % 3, 0)).collect();
    apply(&mut state, 0, &writes);
    one(&mut state, 10, Owned::of(OwnedOp::Expire(7)));
    assert_eq!(state.keys(), 93);
    assert!(state.get("", b"00").is_none() && state.get("", b"01").is_some(), "those that were due first go first");
}

#[test]
fn leases_are_bounded_and_what_ended_makes_room() {
    let mut state = State::new(Limits::default());
    let grants: Vec<Owned> = (0..LEASES_MAX).map(|_| Owned::of(OwnedOp::Grant(1_000))).collect();
    assert!(apply(&mut state, 0, &grants).iter().all(|answer| answer.outcome == Ok(())));
    assert_eq!(one(&mut state, 0, Owned::of(OwnedOp::Grant(1_000))).outcome, Err(Denied::TooManyLeases));
    assert!(expire(&mut state, 1_000));
    assert_eq!(one(&mut state, 1_000, Owned::of(OwnedOp::Grant(1_000))).outcome, Ok(()));
    assert_eq!(state.leases(), u64::from(LEASES_MAX) - 1_000 + 1);
}

#[test]
fn a_retried_grant_is_the_same_lease() {
    let mut state = State::new(Limits::default());
    let session = super::open(&mut state, 0);
    let grant = Owned::of(OwnedOp::Grant(1_000)).by(session, 1, 1);
    let (first, again) = (one(&mut state, 0, grant.clone()), one(&mut state, 5, grant));
    assert_eq!((again.revision, again.duplicate, state.leases()), (first.revision, true, 1));
}

/// A snapshot may be taken between a revoke and the slices that follow it; the state that is loaded goes on with them.
#[test]
fn half_an_expiry_goes_on_in_a_loaded_state() {
    let mut state = State::new(small_limits());
    let lease = grant(&mut state, 0, 1_000);
    let writes: Vec<Owned> = (0..9).map(|n| put_for(&n.to_string(), 10 * n, lease)).collect();
    apply(&mut state, 0, &writes);
    one(&mut state, 40, Owned::of(OwnedOp::Expire(3)));
    one(&mut state, 40, Owned::of(OwnedOp::Revoke(lease)));
    state.freeze().expect("not frozen");
    let mut loader = Loader::new(small_limits());
    while let Some(slice) = state.slice(0) {
        loader.push(&slice).expect("whole so far");
    }
    state.thaw();
    let mut loaded = loader.finish().expect("whole");
    for _ in 0..4 {
        assert_eq!(loaded.hash(), state.hash());
        let slice = Owned::of(OwnedOp::Expire(3));
        assert_eq!(one(&mut loaded, 41, slice.clone()), one(&mut state, 41, slice));
    }
    assert_eq!((loaded.keys(), loaded.leases()), (0, 0));
}

/// The bytes of the new ops, which outlive the process.
#[test]
fn ops_of_leases_have_the_bytes_that_the_format_says() {
    let body = |write: Owned| batch(0, &[write])[16..].to_vec();
    let word = |word: u64| word.to_le_bytes();
    assert_eq!(body(Owned::of(OwnedOp::Grant(9))), [&[9, 0, 0, 0, 8, 0, 0, 0][..], &word(9)].concat());
    assert_eq!(body(Owned::of(OwnedOp::Keep(9))), [&[10, 0, 0, 0, 8, 0, 0, 0][..], &word(9)].concat());
    assert_eq!(body(Owned::of(OwnedOp::Revoke(9))), [&[11, 0, 0, 0, 8, 0, 0, 0][..], &word(9)].concat());
    assert_eq!(body(Owned::of(OwnedOp::Expire(9))), [12, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0]);
    let put = [&[14, 0, 1, 0, 17, 0, 0, 0, b'k'][..], &word(5), &word(6), b"v"].concat();
    assert_eq!(body(put_for("k", 5, 6)), put);
}

#[test]
fn ops_of_leases_refused_that_no_leader_writes() {
    let batch = |body: &[u8]| [&[1, 0, 0, 0, 1, 0, 0, 0][..], &[0; 8], body].concat();
    let refused = |body: &[u8], why: &str| {
        let bytes = batch(body);
        let malformed = parse(&bytes).expect_err("refused");
        assert!(malformed.why.contains(why), "{malformed}");
    };
    refused(&[9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "a lease without time");
    refused(&[9, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "does not take");
    refused(&[10, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0], "8 bytes are due");
    refused(&[11, 0, 1, 0, 8, 0, 0, 0, b'k', 1, 0, 0, 0, 0, 0, 0, 0], "does not take");
    refused(&[11, 1, 0, 0, 8, 0, 0, 0, b'n', 1, 0, 0, 0, 0, 0, 0, 0], "a namespace on op 11");
    let most = (EXPIRE_HARD_MAX + 1).to_le_bytes();
    refused(&[&[12, 0, 0, 0, 4, 0, 0, 0][..], &most].concat(), "keys to expire");
    refused(&[12, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0], "keys to expire");
    refused(&[&[14, 0, 1, 0, 16, 0, 0, 0, b'k'][..], &[0; 16]].concat(), "a life, which it has not");
    let in_session = [&[0x80 | 12, 0, 0, 0, 4, 0, 0, 0][..], &7u64.to_le_bytes(), &[0; 16], &[9, 0, 0, 0]].concat();
    refused(&in_session, "a session on op 12");
}
