//! Reads by lease: while a quorum has promised to elect nobody else, the leader answers linearizable reads without asking it.
//!
//! ```text
//!   leader: append, at t0 ──▶ follower: accepted under this vote; "I elect nobody else for `length` from now" ──▶ with its answer
//!   leader: this follower's promise holds until t0 + length, shortened for two clocks; a quorum of them, itself among them: a lease
//! ```
//! raft has a lease of its own, of which followers keep what they please: one that sees the leader's connection close and its door shut
//! gives it up at once, which brings failover down to 35 ms (`elections.rs`). A promise is what a follower does keep: it waits until the
//! promise is over before it gives up that lease. So failover takes up to `length` longer; that is the price, and why promises are made
//! only where the operator asks for them (`timers.read_lease_ms`). They are each node's: a leader counts those that it got.
//!
//! **What holds a promise**, from the moment at which the append was accepted:
//! - raft grants no vote, and asks for none by itself, within its own lease, which is longer (`Timers` are checked) and which the same append
//!   renewed. It gives that up for a hand-over by this leader, who holds no lease under this vote from before it asks for one
//!   ([`Leases::revoke`]); and when `elections.rs` says so, which promises nothing under this vote from then on ([`Leases::give_up`]).
//! - A process that starts does not know what the one before it promised: it takes part in nothing for as long as that may hold. How long
//!   that is, is in the name of an empty file, which is durable before the first promise.
//!
//! **Invariants**
//! - What a lease's holder has applied is all that was acknowledged anywhere when it looked: nobody else could be elected, and it has applied
//!   an entry of its own term ([`Machine::has_led_since`](crate::raft::machine::Machine)). It is also all that any follower can have shown:
//!   those hear of a commit when the holder's log has it.
//! - Only a voter holds one: raft hands over by itself for a leader that was removed, and asks nobody here ([`Leases::revoke`]).
//! - No two clocks are compared: a promise is measured by the follower's, the lease by the leader's, each off by no more than
//!   [`CLOCK_DRIFT_PER_MILLE_MAX`].
//!
//! **Caveat**: as for ages (`fresh.rs`), a clock that stands still while its machine is suspended or moved makes a lease too long.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::Replica;
use crate::io::{BLOCK_BYTES, Disk, Env, Instant};
use crate::limits::CLOCK_DRIFT_PER_MILLE_MAX;
use crate::raft::vote_out;
use crate::wal::Vote;

/// See the module.
pub(crate) struct Leases {
    /// Of the promises that are made here; zero: none are.
    length: Duration,
    /// The last promise holds until then.
    promised: Cell<Instant>,
    /// Under this vote nothing is promised any more.
    given_up: Cell<Option<Vote>>,
    /// Promises to this node as the leader: under which vote, and until when by its own clock.
    held: RefCell<BTreeMap<u64, (Vote, Instant)>>,
    /// Under this vote this node holds no lease any more.
    revoked: Cell<Option<Vote>>,
}

const NAME: &str = "lease-";

impl Leases {
    /// Notes how long promises will be, and waits for the end of those of a process before this one. `dir` is there.
    pub async fn open<E: Env>(disk: &E::Disk, dir: &str, length: Duration) -> io::Result<Rc<Leases>> {
        let started = E::now();
        let names: Vec<String> = disk.list(dir).await?.into_iter().filter(|name| name.starts_with(NAME)).collect();
        let noted = |name: &String| name.strip_prefix(NAME).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let before = names.iter().filter_map(noted).max().unwrap_or_default();
        // The longest stays noted, and each start waits so long.
        let mut promises = length;
        if length > before
            && let Err(why) = disk.reserve(&format!("{dir}/{NAME}{}", length.as_millis()), BLOCK_BYTES as u64).await
        {
            tracing::warn!("{dir}: nothing is promised for reads by lease, as that cannot be noted: {why}");
            promises = Duration::ZERO;
        }
        if length > before || !names.is_empty() {
            disk.sync_dir(dir).await?;
        }
        E::sleep((started + before).since(E::now())).await;
        Ok(Rc::new(Leases::of(promises)))
    }

    fn of(length: Duration) -> Leases {
        let (promised, given_up, revoked) = Default::default();
        Leases { length, promised, given_up, held: RefCell::default(), revoked }
    }

    // ---- who promises ----

    /// Promises, with the answer to an append under this vote; for how long, milliseconds.
    pub fn promise(&self, vote: Vote, now: Instant) -> u32 {
        if self.length.is_zero() || self.given_up.get() == Some(vote) {
            return 0;
        }
        self.promised.set(self.promised.get().max(now + self.length));
        u32::try_from(self.length.as_millis()).unwrap_or(0)
    }

    /// Until then nobody else may be elected with this node's help.
    pub fn bound_until(&self) -> Instant {
        if planted!(PromiseBroken) { Instant::default() } else { self.promised.get() }
    }

    /// From now on nothing is promised under this vote.
    pub fn give_up(&self, vote: Vote) {
        self.given_up.set(Some(vote));
    }

    // ---- who leads ----

    /// A follower has promised something, in its answer to what was sent then.
    pub fn hear(&self, node: u64, vote: Vote, sent: Instant, promised_ms: u32) {
        let until = sent + shortened(Duration::from_millis(promised_ms.into()));
        let mut held = self.held.borrow_mut();
        let place = held.entry(node).or_insert((vote, until));
        *place = if place.0 == vote { (vote, until.max(place.1)) } else { (vote, until) };
    }

    /// Whether this follower elects nobody else now.
    pub fn binds(&self, node: u64, vote: Vote, now: Instant) -> bool {
        self.held.borrow().get(&node).is_some_and(|(under, until)| *under == vote && now < *until)
    }

    /// This node is about to ask others to elect somebody else.
    pub fn revoke(&self, vote: Vote) {
        self.revoked.set(Some(vote));
    }

    /// It may hold a lease under this vote.
    pub fn may_hold(&self, vote: Vote) -> bool {
        self.revoked.get() != Some(vote)
    }
}

impl<E: Env> Replica<E> {
    /// Whether nobody else can lead now, and all that was acknowledged or shown anywhere is applied here.
    pub fn holds_lease(&self, now: Instant) -> bool {
        self.committed_index() <= self.machine.applied_index() && self.leads_alone(now)
    }

    /// What a round confirms, while nobody else can lead: waits until all that is committed now is applied here, up to which index. Between
    /// regions a round takes a thousand times as long as that. `None`: ask a quorum.
    pub(super) async fn confirm_by_lease(&self) -> Option<u64> {
        let index = self.committed_index();
        if !self.leads_alone(E::now()) {
            return None;
        }
        let wait = self.raft.wait(Some(self.timers.election_timeout_max));
        wait.applied_index_at_least(Some(index), "for reads by lease").await.is_ok().then_some(index)
    }

    fn committed_index(&self) -> u64 {
        self.wal.committed().map_or(0, |id| id.index)
    }

    /// The log takes a vote for another before that one hears of it.
    fn leads_alone(&self, now: Instant) -> bool {
        let m = self.metrics.borrow_watched();
        let vote = vote_out::<E>(&m.vote);
        let configs = m.membership_config.membership().get_joint_config();
        m.state == ServerState::Leader
            && binds_quorums(configs, self.context.me.node, |id| self.leases.binds(id, vote, now))
            && self.leases.may_hold(vote)
            && self.wal.vote() == Some(vote)
            && self.machine.has_led_since((vote.term, vote.node))
    }
}

/// Whether `me` is one of each set of voters, and with those who have promised a quorum of it.
fn binds_quorums(configs: &[BTreeSet<u64>], me: u64, promised: impl Fn(u64) -> bool) -> bool {
    let bound = |voters: &BTreeSet<u64>| voters.iter().filter(|id| **id == me || promised(**id)).count();
    configs.iter().all(|voters| voters.contains(&me) && bound(voters) * 2 > voters.len())
}

/// What is surely left of a promise that a fast clock measures, by a slow one.
fn shortened(promise: Duration) -> Duration {
    let drift = CLOCK_DRIFT_PER_MILLE_MAX as u32;
    promise * (1000 - drift) / (1000 + drift)
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::io::sim::{Crash, Settings, Sim, World};
    use crate::raft::tests::with_lone_leader;
    use crate::state::command::{Builder, Op, Write};

    const VOTE: Vote = Vote { term: 3, node: 1, committed: true };
    const NEXT: Vote = Vote { term: 4, node: 2, committed: true };

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn of(length_ms: u64) -> Leases {
        Leases::of(Duration::from_millis(length_ms))
    }

    #[test]
    fn a_promise_binds_who_made_it_longer_than_who_got_it_counts_on_it() {
        let (follower, leader) = (of(200), of(200));
        assert_eq!(follower.promise(VOTE, at(1_010)), 200);
        assert_eq!(follower.bound_until(), at(1_210));
        leader.hear(2, VOTE, at(1_000), 200);
        let until = (0..400).find(|ms| !leader.binds(2, VOTE, at(1_000 + ms))).expect("it ends");
        assert!((177..=178).contains(&until), "200 ms of a clock that is 6 % fast, by one that is 6 % slow: {until}");
        assert!(!leader.binds(2, NEXT, at(1_000)) && !leader.binds(3, VOTE, at(1_000)));
        // An answer that comes late, to what was sent before, takes nothing back.
        leader.hear(2, VOTE, at(900), 200);
        assert!(leader.binds(2, VOTE, at(1_176)));
    }

    #[test]
    fn nothing_is_promised_under_a_vote_that_was_given_up_and_nothing_held_under_one_that_was_revoked() {
        let leases = of(200);
        leases.give_up(VOTE);
        assert_eq!((leases.promise(VOTE, at(5)), leases.bound_until()), (0, at(0)));
        assert_eq!(leases.promise(NEXT, at(5)), 200);
        leases.revoke(VOTE);
        assert!(!leases.may_hold(VOTE) && leases.may_hold(NEXT));
        assert_eq!(of(0).promise(VOTE, at(5)), 0, "only where it is asked for");
    }

    /// raft hands over by itself for a leader that was removed: who is asked need not keep a promise, and nothing was revoked.
    #[test]
    fn a_leader_holds_no_lease_in_a_membership_without_it() {
        let of = |sets: &[&[u64]]| -> Vec<BTreeSet<u64>> { sets.iter().map(|set| set.iter().copied().collect()).collect() };
        let all = |_| true;
        assert!(binds_quorums(&of(&[&[1, 2, 3]]), 1, |id| id == 2));
        assert!(!binds_quorums(&of(&[&[1, 2, 3]]), 1, |_| false));
        assert!(binds_quorums(&of(&[&[1]]), 1, |_| false));
        assert!(!binds_quorums(&of(&[&[1, 2, 3], &[1, 4, 5]]), 1, |id| id < 4), "a quorum of each set");
        assert!(!binds_quorums(&of(&[&[1, 2, 3], &[2, 3]]), 1, all) && !binds_quorums(&of(&[&[2, 3]]), 1, all));
    }

    /// A follower hears of a commit and shows it while the leader still applies what was before: a read by lease must not miss it then, and
    /// waits for that alone.
    #[test]
    fn a_leader_holds_no_lease_while_it_has_not_applied_what_is_committed() {
        let (looks, held) = with_lone_leader(async |replica| {
            assert!(replica.holds_lease(Sim::now()), "it has applied all there is");
            let counts: Rc<Cell<(u32, u32)>> = Rc::default();
            let (watched, counted) = (replica.clone(), counts.clone());
            Sim::spawn(async move {
                loop {
                    let committed = watched.committed_index();
                    if committed > watched.machine().applied_index() {
                        let (looks, held) = counted.get();
                        counted.set((looks + 1, held + u32::from(watched.holds_lease(Sim::now()))));
                        assert_eq!(watched.confirm_by_lease().await, Some(committed));
                        assert!(watched.machine().applied_index() >= committed);
                    }
                    Sim::yield_now().await;
                }
            });
            for at in 0..8 {
                let mut builder = Builder::new();
                builder.start(at);
                let op = Op::Put { key: b"key", value: b"value" };
                let write = Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op };
                builder.push(&write).expect("one small write");
                let payload = builder.finish();
                let room = replica.wal().claim(1, payload.len()).expect("the log is empty");
                replica.propose(payload, room).await.expect("the only voter commits");
            }
            counts.get()
        });
        assert!(looks > 0, "never between commit and application: the test does not see what it is for");
        assert_eq!(held, 0, "of {looks} looks");
    }

    #[test]
    fn a_start_waits_for_the_end_of_what_was_promised_before_it() {
        let world = World::new(1, Settings::default());
        let host = world.add_host("n");
        let disk = world.disk(host);
        let opened = |length_ms: u64| {
            let disk = disk.clone();
            world.block_on(host, async move {
                disk.create_dir("s").await.expect("there is room");
                let began = Sim::now();
                Leases::open::<Sim>(&disk, "s", Duration::from_millis(length_ms)).await.expect("the disk works");
                Sim::now().since(began).as_millis()
            })
        };
        assert!(opened(200) < 100, "nothing was promised before");
        world.crash(host, Crash::PowerLoss);
        for length in [200, 0, 300] {
            assert!((200..250).contains(&opened(length)), "what was promised is not what will be");
        }
        assert!((300..350).contains(&opened(0)));
    }
}
