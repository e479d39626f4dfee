//! How far has the leader committed? Asked by a node that wants to show how fresh its state is, answered by the leader.
//!
//! ```text
//!   this node: t0 := now ── ReadIndex ──▶ leader ── a round that begins now confirms that it leads ──▶ index
//!   this node: has applied that index ──▶ its state is at least as fresh as t0
//! ```
//!
//! **Invariant**: everything that was acknowledged before a question arrived is at or before the index that answers it. The round is
//! what makes it so: a leader that was deposed on the other side of a cut knows nothing of what its successor has acknowledged, and
//! answers all who are on its own side.
//!
//! **Not here**: what follows from the answer (`fresh.rs`); the round itself, which all reads that wait share (`read.rs`).

use std::cell::RefCell;
use std::io;

use futures_lite::future;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use ringbeam_wire::peer::{PeerReplyBody, PeerRequestBody, Purpose};
use ringbeam_wire::refusal::Code;

use super::Types;
use super::link::{Link, within};
use super::replica::Replica;
use crate::io::Env;
use crate::io::channel::{Notify, oneshot};
use crate::limits::{PEER_TIMEOUT, READ_INDEX_QUESTIONS_MAX};

/// Questions that wait for the next round of reads, and whoever else wants one.
#[derive(Default)]
pub(crate) struct Rounds {
    /// Somebody waits for a round.
    pub wanted: Notify,
    questions: RefCell<Vec<Question>>,
}

/// Gets the index once a round has confirmed that this node leads; dropped, when it does not.
pub(crate) type Question = oneshot::Sender<u64>;

impl Rounds {
    /// What waits now, for the round that begins now.
    pub fn take(&self) -> Vec<Question> {
        std::mem::take(&mut *self.questions.borrow_mut())
    }
}

/// A connection to the node that was asked last.
pub(crate) type Asked<E> = Option<(u64, Link<E>)>;

impl<E: Env> Replica<E> {
    /// The commit index, once a round that begins after this call has confirmed that this node leads.
    async fn confirmed_index(&self) -> Result<u64, (Code, &'static str)> {
        if !self.leads() {
            return Err((Code::NotLeader, "it does not lead"));
        }
        if planted!(AttestedWithoutQuorum) {
            return Ok(self.machine().applied_index());
        }
        if self.holds_lease(E::now()) {
            return Ok(self.machine().applied_index());
        }
        let (question, answer) = oneshot::channel();
        if self.rounds.questions.borrow().len() >= READ_INDEX_QUESTIONS_MAX {
            return Err((Code::Overloaded, "too many ask how far it has committed"));
        }
        self.rounds.questions.borrow_mut().push(question);
        self.rounds.wanted.notify_one();
        answer.await.map_err(|_| (Code::NotLeader, "no quorum confirms that it leads"))
    }

    /// A peer's question.
    pub(crate) async fn answer_read_index(&self) -> PeerReplyBody {
        match self.confirmed_index().await {
            Ok(index) => PeerReplyBody::ReadIndex { index },
            Err((code, why)) => PeerReplyBody::Refused { code: code as u16, message: why.to_string() },
        }
    }

    /// Asks whoever leads, which may be this node. Gives up when another one is heard to lead. `asked` keeps the connection between
    /// two questions.
    pub(crate) async fn ask_read_index(&self, asked: &mut Asked<E>) -> Result<u64, String> {
        let Some(leader) = self.leadership().leader else {
            return Err("no leader is known".to_string());
        };
        if leader.node == self.context.me.node {
            return self.confirmed_index().await.map_err(|(_, why)| format!("this node, taken for the leader: {why}"));
        }
        let question = async {
            let mut link = match asked.take() {
                Some((node, link)) if node == leader.node => link,
                _ => Link::open(&self.context, &leader, Purpose::Read).await?,
            };
            let reply = within::<E, _>(PEER_TIMEOUT, link.call(&PeerRequestBody::ReadIndex)).await?;
            *asked = Some((leader.node, link));
            match reply {
                PeerReplyBody::ReadIndex { index } => Ok(index),
                PeerReplyBody::Refused { message, .. } => Err(io::Error::other(message)),
                _ => Err(io::Error::other("the answer to a question for the commit index is none")),
            }
        };
        let moved_on = async {
            self.leader_is_not(leader.node).await;
            Err(io::Error::other("it was heard no more to lead"))
        };
        let answer = future::or(question, moved_on).await;
        answer.map_err(|why| format!("node {}, taken for the leader: {why}", leader.node))
    }

    /// Completes when this node does not take `node` for the leader.
    async fn leader_is_not(&self, node: u64) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_and_update().current_leader == Some(node) {
            if metrics.changed().await.is_err() {
                // The group has ended, and with it whoever waits.
                return;
            }
        }
    }

    /// Follows who leads, and who is a member.
    pub(crate) fn changes(&self) -> Changes<E> {
        Changes(self.raft.server_metrics())
    }
}

/// See [`Replica::changes`].
pub(crate) struct Changes<E: Env>(WatchReceiverOf<Types<E>, RaftServerMetrics<Types<E>>>);

impl<E: Env> Changes<E> {
    /// Completes when vote, leader or members have changed since the last time; never, when the group has ended.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
