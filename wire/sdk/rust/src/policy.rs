//! What the ring says of a namespace: how fresh its reads are to be where a program does not say so itself.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use std::time::Duration;
//! use ringbeam_sdk::{Consistency, Policy};
//!
//! // Once, by whoever runs the ring; or `ringbeam namespace set profiles --consistency bounded --max-age 500ms`.
//! client.set_policy("profiles", &Policy::reads(Consistency::bounded(Duration::from_millis(500)))).await?;
//! // By every program: reads are as was said there.
//! let profiles = client.namespace_by_policy("profiles").await?;
//! profiles.get("user:7").await?;
//! # Ok(())
//! # }
//! ```
//!
//! A policy is a value like others, in the namespace [`POLICIES`], under `/` and the name of the namespace it is for (which may be empty).
//! Words, apart by one space, the same in every SDK:
//!
//! ```text
//!   linearizable | session | local | bounded MILLISECONDS | bounded MILLISECONDS stale-ok
//! ```
//!
//! It is advice for clients: a node answers what it is asked for. A program reads it once, when it asks for the namespace.

use std::time::Duration;

use ringbeam_wire::limits::check_namespace;

use crate::client::{Client, GetOptions};
use crate::consistency::Consistency;
use crate::error::Error;
use crate::scan::Range;

/// The namespace in which policies are. Names that begin with `ringbeam.` are the ring's own.
pub const POLICIES: &str = "ringbeam.policies";

/// What is said of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// How fresh reads are that do not say so themselves.
    pub consistency: Consistency,
}

impl Policy {
    /// Reads are to be so fresh.
    pub fn reads(consistency: Consistency) -> Policy {
        Policy { consistency }
    }

    /// The words that are stored.
    pub fn words(&self) -> String {
        match self.consistency {
            Consistency::Linearizable => "linearizable".into(),
            Consistency::Session => "session".into(),
            Consistency::Local => "local".into(),
            Consistency::Bounded { age_max, stale_ok } => {
                // As a read would ask for it: whole milliseconds that the wire has room for.
                let ms = age_max.as_millis().clamp(1, u128::from(u32::MAX - 1));
                format!("bounded {ms}{}", if stale_ok { " stale-ok" } else { "" })
            }
        }
    }

    /// What these words say.
    pub fn of_words(words: &[u8]) -> Result<Policy, String> {
        let text = String::from_utf8_lossy(words);
        let wrong = || {
            format!(
                "{text:?} is no policy: right is linearizable, session, local, bounded MILLISECONDS or bounded MILLISECONDS stale-ok; or \
                 it is of a newer version"
            )
        };
        let consistency = match &text.split(' ').collect::<Vec<_>>()[..] {
            ["linearizable"] => Consistency::Linearizable,
            ["session"] => Consistency::Session,
            ["local"] => Consistency::Local,
            ["bounded", ms, rest @ ..] if rest.is_empty() || rest == ["stale-ok"] => {
                let ms = ms.parse::<u32>().ok().filter(|ms| *ms > 0).ok_or_else(wrong)?;
                Consistency::Bounded { age_max: Duration::from_millis(ms.into()), stale_ok: !rest.is_empty() }
            }
            _ => return Err(wrong()),
        };
        Ok(Policy { consistency })
    }
}

impl Client {
    /// The policy of a namespace, if there is one. Linearizable: what was set before is seen.
    pub async fn policy(&self, namespace: &str) -> Result<Option<Policy>, Error> {
        self.policy_with(namespace, Consistency::Linearizable).await
    }

    /// The policy of a namespace, as fresh as that. Read locally it is there without a quorum, too, and is what it was a moment ago.
    pub async fn policy_with(&self, namespace: &str, consistency: Consistency) -> Result<Option<Policy>, Error> {
        check_namespace(namespace).map_err(Error::Refused)?;
        let options = GetOptions { consistency: Some(consistency), ..GetOptions::default() };
        let found = self.namespace(POLICIES).get_with(key_of(namespace), &options).await?;
        found.map(|found| read(namespace, &found.value)).transpose()
    }

    /// Sets the policy of a namespace. Programs that have asked for the namespace before go on as they are.
    pub async fn set_policy(&self, namespace: &str, policy: &Policy) -> Result<(), Error> {
        check_namespace(namespace).map_err(Error::Refused)?;
        self.namespace(POLICIES).put(key_of(namespace), policy.words()).await.map(drop)
    }

    /// Removes the policy of a namespace. False: it had none.
    pub async fn remove_policy(&self, namespace: &str) -> Result<bool, Error> {
        check_namespace(namespace).map_err(Error::Refused)?;
        Ok(self.namespace(POLICIES).delete(key_of(namespace)).await?.existed)
    }

    /// All policies, by the names of their namespaces.
    pub async fn policies(&self) -> Result<Vec<(String, Policy)>, Error> {
        let policies = self.namespace(POLICIES).consistency(Consistency::Linearizable);
        let (mut scan, mut all) = (policies.scan(Range::prefix("/")), Vec::new());
        while let Some(entry) = scan.next().await? {
            let name = String::from_utf8_lossy(entry.key.get(1..).unwrap_or_default()).into_owned();
            let policy = read(&name, &entry.value)?;
            all.push((name, policy));
        }
        Ok(all)
    }

    /// The same client in a namespace, whose reads are as its policy says, if it has one: as any node knows it.
    pub async fn namespace_by_policy(&self, name: &str) -> Result<Client, Error> {
        let policy = self.policy_with(name, Consistency::Local).await?;
        let client = self.namespace(name);
        Ok(policy.map_or_else(|| client.clone(), |policy| client.consistency(policy.consistency)))
    }
}

fn key_of(namespace: &str) -> String {
    format!("/{namespace}")
}

fn read(namespace: &str, words: &[u8]) -> Result<Policy, Error> {
    Policy::of_words(words).map_err(|why| Error::Protocol(format!("the policy of namespace {namespace:?}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_was_said() {
        let age_max = Duration::from_millis(250);
        for (consistency, words) in [
            (Consistency::Linearizable, "linearizable"),
            (Consistency::Session, "session"),
            (Consistency::Local, "local"),
            (Consistency::Bounded { age_max, stale_ok: false }, "bounded 250"),
            (Consistency::Bounded { age_max, stale_ok: true }, "bounded 250 stale-ok"),
        ] {
            let policy = Policy::reads(consistency);
            assert_eq!(policy.words(), words);
            assert_eq!(Policy::of_words(words.as_bytes()), Ok(policy));
        }
        for age_max in [Duration::ZERO, Duration::from_micros(10), Duration::MAX] {
            let words = Policy::reads(Consistency::bounded(age_max)).words();
            assert!(Policy::of_words(words.as_bytes()).is_ok(), "what is stored can be read: {words}");
        }
        for wrong in [
            "",
            "strong",
            "bounded",
            "bounded 0",
            "bounded -1",
            "bounded 9 stale",
            "local 5",
            "session ",
            "bounded 5 stale-ok x",
        ] {
            assert!(Policy::of_words(wrong.as_bytes()).is_err_and(|why| why.contains("bounded MILLISECONDS")), "{wrong:?}");
        }
    }
}
