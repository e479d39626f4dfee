//! A member of the ring, as both protocols and the log describe it.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

use crate::limits::MEMBERS_MAX;
use crate::{Malformed, schema};

/// What a node does in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes, leads, serves.
    #[default]
    Voter,
    /// Votes and logs; keeps no state, serves no client, never leads.
    TieBreaker,
    /// Follows and serves reads; never votes.
    Observer,
}

/// A node as the ring knows it. Addresses are `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Node id, from 1.
    pub node: u64,
    /// Random, made with the node's data directory: an empty disk is another member.
    pub incarnation: u64,
    /// Address of the peer protocol.
    pub peer: String,
    /// Address of the client protocol.
    pub client: String,
    /// Address of HTTP health and metrics.
    pub admin: String,
    /// Region label.
    pub region: String,
    /// What the node does.
    pub role: Role,
}

impl Role {
    /// The role's name in configuration and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::TieBreaker => "tie-breaker",
            Role::Observer => "observer",
        }
    }

    pub(crate) fn parse(role: schema::Role, id: u64, place: &str) -> Result<Role, Malformed> {
        match role {
            schema::Role::Voter => Ok(Role::Voter),
            schema::Role::TieBreaker => Ok(Role::TieBreaker),
            schema::Role::Observer => Ok(Role::Observer),
            schema::Role(other) => {
                let known = "known are 0 (voter), 1 (tie-breaker), 2 (observer)";
                Err(Malformed::new(id, format!("{place} is {other}, {known}")))
            }
        }
    }

    pub(crate) fn build(self) -> schema::Role {
        match self {
            Role::Voter => schema::Role::Voter,
            Role::TieBreaker => schema::Role::TieBreaker,
            Role::Observer => schema::Role::Observer,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Member {
    pub(crate) fn parse(member: schema::Member<'_>, id: u64, place: &str) -> Result<Member, Malformed> {
        let text = |text: Option<&str>| text.unwrap_or_default().to_string();
        Ok(Member {
            node: member.node(),
            incarnation: member.incarnation(),
            peer: text(member.peer()),
            client: text(member.client()),
            admin: text(member.admin()),
            region: text(member.region()),
            role: Role::parse(member.role(), id, &format!("{place}.role"))?,
        })
    }

    pub(crate) fn build(&self, b: &mut FlatBufferBuilder<'static>) -> WIPOffset<schema::Member<'static>> {
        let args = schema::MemberArgs {
            node: self.node,
            incarnation: self.incarnation,
            peer: Some(b.create_string(&self.peer)),
            client: Some(b.create_string(&self.client)),
            admin: Some(b.create_string(&self.admin)),
            region: Some(b.create_string(&self.region)),
            role: self.role.build(),
        };
        schema::Member::create(b, &args)
    }
}

/// A vector of members as the schema has it.
pub(crate) type Members<'a> = Vector<'a, ForwardsUOffset<schema::Member<'a>>>;

/// Parses at most [`MEMBERS_MAX`] members.
pub(crate) fn parse_members(members: Option<Members<'_>>, id: u64, place: &str) -> Result<Vec<Member>, Malformed> {
    let Some(members) = members else {
        return Ok(Vec::new());
    };
    check_count(members.len(), id, place)?;
    members.iter().enumerate().map(|(at, member)| Member::parse(member, id, &format!("{place}[{at}]"))).collect()
}

/// Refuses more than [`MEMBERS_MAX`] of something that there is one of per member.
pub(crate) fn check_count(count: usize, id: u64, place: &str) -> Result<(), Malformed> {
    if count <= MEMBERS_MAX as usize {
        return Ok(());
    }
    Err(Malformed::new(id, format!("{place} has {count} elements, the limit is {MEMBERS_MAX}")))
}

pub(crate) fn build_members(b: &mut FlatBufferBuilder<'static>, members: &[Member]) -> WIPOffset<Members<'static>> {
    let built: Vec<_> = members.iter().map(|member| member.build(b)).collect();
    b.create_vector(&built)
}
