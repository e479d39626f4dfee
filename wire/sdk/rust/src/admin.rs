//! What operators ask: topology, status, and changes of the ring.
//!
//! A change of the ring goes to the leader of the shard it concerns and follows redirects. It is never repeated when its
//! answer is lost: it ends as [`Error::Unknown`], and [`Client::status`] shows what became of it.

use std::time::Instant;

use ringbeam_wire::client::{RequestBody, Role, Status, Topology};
use tokio::task::JoinSet;

use crate::answer::{Answer, Outcome};
use crate::client::Client;
use crate::error::Error;
use crate::limits::PROBE_TIMEOUT;
use crate::request::{Time, deadline_ms};
use crate::retry::Kind;
use crate::routing::Address;

impl Client {
    /// The number of shards of the ring.
    pub fn shards(&self) -> u32 {
        self.inner.routes().shards()
    }

    /// The ring's id.
    pub fn ring(&self) -> u64 {
        self.inner.routes().ring()
    }

    /// A fresh topology, as the leader of shard 0 sees it.
    pub async fn topology(&self) -> Result<Topology, Error> {
        self.topology_of(0).await
    }

    /// A fresh topology, as the leader of `shard` sees it: `leader` and `term` are that shard's.
    pub async fn topology_of(&self, shard: u32) -> Result<Topology, Error> {
        match self.inner.command(shard, Kind::Read, RequestBody::GetTopology, self.timeout).await? {
            Answer::Topology(topology) => {
                self.inner.learn(&topology);
                Ok(*topology)
            }
            other => Err(odd(&other, "GetTopology")),
        }
    }

    /// How one shard is on the node at `address` (its client address, host:port).
    pub async fn status_of(&self, address: &str, shard: u32) -> Result<Status, Error> {
        match self.ask(address, shard, RequestBody::GetStatus).await? {
            Answer::Status(status) => Ok(*status),
            other => Err(odd(&other, "GetStatus")),
        }
    }

    /// How every shard is on every member: (node, shard, status or why there is none), in that order. Members are taken
    /// from a fresh topology if one is to be had within half a second, else from the last one seen.
    pub async fn status(&self) -> Vec<(u64, u32, Result<Status, Error>)> {
        // Without a leader the status matters most, so a failure here is no failure of the whole.
        let _ = self.with_timeout(self.timeout.min(PROBE_TIMEOUT)).topology().await;
        let (members, shards) = {
            let routes = self.inner.routes();
            (routes.members().to_vec(), routes.shards())
        };
        let mut asking = JoinSet::new();
        for member in members {
            for shard in 0..shards {
                let client = self.clone();
                let (node, role, address) = (member.node, member.role, member.client.clone());
                asking.spawn(async move {
                    let status = if address.is_empty() {
                        Err(Error::Connect(format!("node {node} ({role}) has no client address")))
                    } else {
                        client.status_of(&address, shard).await
                    };
                    let status = match status {
                        Err(Error::Connect(why)) if role == Role::TieBreaker => {
                            Err(Error::Connect(format!("{why} (node {node} is a tie-breaker)")))
                        }
                        other => other,
                    };
                    (node, shard, status)
                });
            }
        }
        let mut all = Vec::new();
        while let Some(joined) = asking.join_next().await {
            all.extend(joined);
        }
        all.sort_by_key(|&(node, shard, _)| (node, shard));
        all
    }

    /// The round trip to the leader of `shard`, without its log.
    pub async fn ping(&self, shard: u32) -> Result<std::time::Duration, Error> {
        let started = Instant::now();
        match self.inner.command(shard, Kind::Read, RequestBody::Ping, self.timeout).await? {
            Answer::Done(_) => Ok(started.elapsed()),
            other => Err(odd(&other, "Ping")),
        }
    }

    /// Adds a running, empty, unjoined node, which is asked at `peer` (host:port) who it is. Returns what was done.
    pub async fn ring_add(&self, shard: u32, node: u64, peer: &str) -> Result<String, Error> {
        self.change(shard, RequestBody::RingAdd { node, peer }).await
    }

    /// Gives a caught-up learner its vote in `shard`.
    pub async fn ring_promote(&self, shard: u32, node: u64) -> Result<String, Error> {
        self.change(shard, RequestBody::RingPromote { node }).await
    }

    /// Removes a member from `shard`; `force`: also when the voters that are left and answer are no quorum.
    pub async fn ring_remove(&self, shard: u32, node: u64, force: bool) -> Result<String, Error> {
        self.change(shard, RequestBody::RingRemove { node, force }).await
    }

    /// Hands the leadership of `shard` to node `to`; 0: any eligible voter.
    pub async fn ring_transfer(&self, shard: u32, to: u64) -> Result<String, Error> {
        self.change(shard, RequestBody::RingTransfer { to }).await
    }

    async fn change(&self, shard: u32, body: RequestBody<'_>) -> Result<String, Error> {
        match self.inner.command(shard, Kind::AtMostOnce, body, self.timeout).await? {
            Answer::Done(message) => Ok(message.into()),
            other => Err(odd(&other, "a change of the ring")),
        }
    }

    /// Asks one node, once.
    async fn ask(&self, address: &str, shard: u32, body: RequestBody<'_>) -> Result<Answer, Error> {
        let time = Time::start(self.timeout);
        let connection = self.inner.pool.open(&Address::from(address), shard, time.deadline).await?;
        match connection.call(body, time.deadline, deadline_ms(self.timeout)).await {
            Outcome::Answer(Answer::Refused(refusal)) => Err(Error::Refused(*refusal)),
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Lost { .. } => Err(Error::Connect(connection.why_closed())),
            Outcome::DeadlinePassed | Outcome::Busy => {
                let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
                Err(Error::Timeout { timeout_ms, why: format!("{address} did not answer") })
            }
        }
    }
}

fn odd(answer: &Answer, to: &str) -> Error {
    Error::Protocol(format!("a node answered with {}, which is no answer to {to}", answer.kind()))
}
