//! Finding the leader: a task per shard looks for it while the callers wait.
//!
//! ```text
//!   redirect names an address?  -> go there
//!   else ask everyone at once: "who leads this shard, in which term?"
//!        the latest term with a leader wins (routing.rs) -> go there
//!   nobody answers, though some can be reached -> take one of them for the leader: it refuses and redirects, or it is
//!   nobody knows -> wait 5 to 100 ms with full jitter (up to a second when there has been none for long), ask again
//!   found -> those who waited go by and by (pace.rs)
//! ```
//!
//! Asking brings the topology with it: after every change of leader the members are fresh.
//!
//! The search has its own time, and goes on for as long as anybody waits for it. One that ran on its callers' time, one after the other,
//! failed for ever once it had failed for as long as a call may take: whoever had waited longest came next, with next to no time left.

use std::sync::Arc;
use std::time::Instant;

use ringbeam_wire::client::{RequestBody, Topology};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::answer::{Answer, Outcome};
use crate::client::Inner;
use crate::connection::Connection;
use crate::error::Error;
use crate::handshake::OpenError;
use crate::limits::{CONNECT_TIMEOUT, PROBE_GRACE, PROBE_TIMEOUT};
use crate::pace;
use crate::request::deadline_ms;
use crate::retry;
use crate::routing::{Address, Claim, believe};
use crate::shard::Shard;

/// No node to talk to before the deadline.
pub(crate) struct NotFound {
    /// What was seen last.
    pub(crate) why: String,
    /// Set when waiting longer would not have helped.
    pub(crate) error: Option<Error>,
}

/// What asking everyone brought.
#[derive(Default)]
struct Poll {
    claims: Vec<Claim>,
    failures: Vec<OpenError>,
    asked: usize,
    /// By their breakers.
    left_alone: usize,
}

impl Inner {
    /// The leader's connection.
    pub(crate) async fn find_leader(
        self: &Arc<Self>,
        number: u32,
        shard: &Shard,
        deadline: Instant,
    ) -> Result<Arc<Connection>, NotFound> {
        let seeking = shard.search.seek();
        let mut waited = false;
        loop {
            let mut over = std::pin::pin!(shard.search.over.notified());
            // From here on the end of a search is kept for us; only now is it safe to look before waiting.
            over.as_mut().enable();
            if let Some(connection) = open_leader(shard) {
                drop(seeking);
                if waited && self.jitter {
                    let now = Instant::now();
                    // One whose deadline comes before its share goes a little before the deadline.
                    let most = deadline.saturating_duration_since(now) / 4 * 3;
                    let wait = shard.share(now, fastrand::u64(..)).min(most);
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                }
                return Ok(connection);
            }
            waited = true;
            if shard.search.begin() {
                tokio::spawn(UnderWay { client: self.clone(), number }.search());
            }
            if timeout_at(deadline.into(), over).await.is_err() {
                let why = shard.search.why();
                let why = why.unwrap_or_else(|| format!("no leader of shard {number} was found in time"));
                return Err(NotFound { why, error: None });
            }
            if let Some((why, error)) = shard.search.failed() {
                return Err(NotFound { why, error: Some(error) });
            }
        }
    }

    /// Nobody who was asked has answered, so their control may be cut, and nothing else: any one is taken for the leader. If it is not, it
    /// refuses, and says who is.
    async fn guess_leader(&self, number: u32, deadline: Instant) -> Option<Arc<Connection>> {
        let askable = self.routes().askable();
        let address = askable.get(fastrand::usize(..askable.len().max(1)))?;
        self.pool.open(address, number, deadline).await.ok()
    }

    async fn go_to_leader(&self, number: u32, poll: &mut Poll, deadline: Instant) -> Result<Arc<Connection>, String> {
        let Some(claim) = believe(&poll.claims) else {
            let mut why = format!("no leader of shard {number} is known to {} nodes asked", poll.asked);
            if let Some(failure) = poll.failures.first() {
                why = format!("{why}, {} of them could not be asked: {failure}", poll.failures.len());
            }
            if poll.left_alone > 0 {
                why = format!("{why}; {} more are left alone for a moment, as they failed again and again", poll.left_alone);
            }
            return Err(why);
        };
        let leader = claim.leader;
        let Some(address) = self.routes().address_of(leader) else {
            return Err(format!("node {leader} leads shard {number}, but the topology has no client address of it"));
        };
        self.pool.open(&address, number, deadline).await.map_err(|error| {
            let why = format!("node {leader} leads shard {number}, but {error}");
            poll.failures.push(error);
            why
        })
    }

    /// `connection` completes nothing. If it is the leader's, and another node leads in a later term, its calls move there:
    /// a leader that is cut off from its quorum, but not from us, would keep them until their deadlines.
    pub(crate) async fn reconsider(self: Arc<Self>, connection: Arc<Connection>) {
        let number = connection.welcome.shard;
        let Some(shard) = self.shards.get(number as usize) else {
            return;
        };
        let leads = |shard: &Shard| shard.leader().is_some_and(|leader| Arc::ptr_eq(&leader, &connection));
        if !leads(shard) {
            return;
        }
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut poll = self.ask_everyone(number, Some(connection.welcome.node), deadline).await;
        let believed = believe(&poll.claims);
        if believed.is_none_or(|claim| claim.leader == connection.welcome.node) {
            return;
        }
        if let Ok(next) = self.go_to_leader(number, &mut poll, deadline).await {
            shard.replace_leader(&connection, next);
            connection.close("another node leads in a later term");
        }
    }

    /// Asks all nodes who leads the shard. Waits for all of them, but not long once one has named a leader, unless it is the one in doubt:
    /// the nearest node may be the last to hear of another.
    async fn ask_everyone(self: &Arc<Self>, number: u32, doubted: Option<u64>, deadline: Instant) -> Poll {
        let everyone = self.routes().askable();
        let all = everyone.len();
        let askable = self.pool.admit(everyone);
        let mut until = deadline.min(Instant::now() + PROBE_TIMEOUT);
        let mut poll = Poll { asked: askable.len(), left_alone: all - askable.len(), ..Poll::default() };
        let mut asking = JoinSet::new();
        for address in askable {
            let inner = self.clone();
            asking.spawn(async move { inner.topology_from(&address, number, until).await });
        }
        while let Ok(Some(joined)) = timeout_at(until.into(), asking.join_next()).await {
            match joined {
                Ok(Ok((from, topology))) => {
                    self.learn(&topology);
                    poll.claims.push(Claim { from, leader: topology.leader, term: topology.term });
                    if topology.leader != 0 && Some(topology.leader) != doubted {
                        until = until.min(Instant::now() + PROBE_GRACE);
                    }
                }
                Ok(Err(failure)) => poll.failures.push(failure),
                // The task was dropped: the runtime ends.
                Err(_) => {}
            }
        }
        poll
    }

    /// One node's topology of one shard, and which node that is.
    pub(crate) async fn topology_from(
        &self,
        address: &Address,
        number: u32,
        deadline: Instant,
    ) -> Result<(u64, Box<Topology>), OpenError> {
        let connection = self.pool.open(address, number, deadline).await?;
        let told = deadline_ms(deadline.saturating_duration_since(Instant::now()));
        match connection.call(RequestBody::GetTopology, deadline, told).await {
            Outcome::Answer(Answer::Topology(topology)) => {
                connection.health.answered();
                Ok((connection.welcome.node, topology))
            }
            Outcome::Answer(Answer::Refused(refusal)) => Err(OpenError::Refused(address.to_string(), *refusal)),
            Outcome::Answer(other) => {
                Err(OpenError::Protocol(format!("{address}: {} is no answer to GetTopology", other.kind())))
            }
            Outcome::Lost { .. } => Err(OpenError::Connect(connection.why_closed())),
            Outcome::DeadlinePassed | Outcome::Busy => {
                Err(OpenError::Connect(format!("{address}: no answer to GetTopology in time")))
            }
        }
    }
}

/// A search. Its end is told when it is dropped: also when the runtime ends before it has begun.
struct UnderWay {
    client: Arc<Inner>,
    number: u32,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(shard) = self.client.shards.get(self.number as usize) {
            shard.search.end();
        }
    }
}

impl UnderWay {
    /// Until the leader is found, or cannot be, or nobody waits for it any more.
    async fn search(self) {
        let (client, number) = (&self.client, self.number);
        let Some(shard) = client.shards.get(number as usize) else { return };
        let since = shard.leaderless(Instant::now());
        let mut rounds = 0;
        // Who has said that it does not lead, or was named and could not be reached.
        let mut doubted = shard.denied();
        while open_leader(shard).is_none() && shard.search.is_wanted() {
            let deadline = Instant::now() + PROBE_TIMEOUT + CONNECT_TIMEOUT;
            if let Some(named) = shard.take_named()
                && let Ok(connection) = client.pool.open(&named, number, deadline).await
            {
                return shard.lead_by(connection, rounds == 0, Instant::now());
            }
            let mut poll = client.ask_everyone(number, doubted, deadline).await;
            let why = match client.go_to_leader(number, &mut poll, deadline).await {
                Ok(connection) => return shard.lead_by(connection, rounds == 0, Instant::now()),
                Err(why) => why,
            };
            if let Some(error) = poll.hopeless() {
                return shard.search.fail(why, error);
            }
            if poll.claims.is_empty()
                && let Some(connection) = client.guess_leader(number, deadline).await
            {
                return shard.lead_by(connection, rounds == 0, Instant::now());
            }
            doubted = believe(&poll.claims).map(|claim| claim.leader);
            shard.search.say(why);
            rounds += 1;
            // News of another leader ends the wait.
            let wait = pace::search_again(rounds, since.elapsed(), client.dice());
            let _ = tokio::time::timeout(wait, shard.news.notified()).await;
        }
    }
}

impl Poll {
    /// Everyone was asked, and everyone said something that time does not change.
    fn hopeless(&self) -> Option<Error> {
        let lasting = |failure: &&OpenError| match failure {
            OpenError::Connect(_) => false,
            OpenError::Protocol(_) => true,
            OpenError::Refused(_, refusal) => retry::lasts(refusal.code),
        };
        let all = !self.failures.is_empty() && self.failures.len() >= self.asked && self.left_alone == 0;
        let first = self.failures.first().filter(|_| all && self.failures.iter().all(|failure| lasting(&failure)))?;
        Some(first.clone().into())
    }
}

fn open_leader(shard: &Shard) -> Option<Arc<Connection>> {
    shard.leader().filter(|leader| leader.is_open())
}
