//! Words in the configuration that stand for a choice.

use serde::{Deserialize, Serialize};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step; slow.
    Trace,
    /// What a developer looks for.
    Debug,
    /// What an operator wants to know afterwards.
    #[default]
    Info,
    /// What an operator should look at.
    Warn,
    /// What an operator must look at.
    Error,
}

/// `node.role`
pub mod role {
    use ringbeam_wire::client::Role;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const ALL: [Role; 3] = [Role::Voter, Role::TieBreaker, Role::Observer];

    pub fn serialize<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(role.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        let word = String::deserialize(from)?;
        let found = ALL.into_iter().find(|role| role.as_str() == word);
        found.ok_or_else(|| D::Error::custom(format!("node.role = \"{word}\": it is voter, tie-breaker or observer")))
    }
}

/// `log.durable_writes`
pub mod durable_writes {
    use ringbeam_shards::io::uring::DurableWrites;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(writes: &DurableWrites, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match writes {
            DurableWrites::Adaptive => "adaptive",
            DurableWrites::Dsync => "dsync",
            DurableWrites::Fdatasync => "fdatasync",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DurableWrites, D::Error> {
        match String::deserialize(from)?.as_str() {
            "adaptive" => Ok(DurableWrites::Adaptive),
            "dsync" => Ok(DurableWrites::Dsync),
            "fdatasync" => Ok(DurableWrites::Fdatasync),
            word => Err(D::Error::custom(format!("log.durable_writes = \"{word}\": it is adaptive, dsync or fdatasync"))),
        }
    }
}
