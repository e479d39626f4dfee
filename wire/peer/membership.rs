//! The payload of a membership entry, in the log and in snapshots.

use flatbuffers::FlatBufferBuilder;

use super::Member;
use crate::malformed::{Malformed, root};
use crate::member::{build_members, check_count, parse_members};
use crate::schema;

/// Who votes, and who everybody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// One list of voters (node ids), or two while a change is under way (joint consensus).
    pub configs: Vec<Vec<u64>>,
    /// All members, voting or not.
    pub members: Vec<Member>,
}

/// Most lists of voters: a change goes through one joint configuration.
const CONFIGS_MAX: usize = 2;

impl Membership {
    /// One flatbuffer, without a frame: what contains it has a checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = FlatBufferBuilder::new();
        let mut sets = Vec::with_capacity(self.configs.len());
        for voters in &self.configs {
            let nodes = Some(b.create_vector(voters));
            sets.push(schema::VoterSet::create(&mut b, &schema::VoterSetArgs { nodes }));
        }
        let args = schema::MembershipArgs {
            configs: Some(b.create_vector(&sets)),
            members: Some(build_members(&mut b, &self.members)),
        };
        let root = schema::Membership::create(&mut b, &args);
        b.finish_minimal(root);
        b.finished_data().to_vec()
    }

    /// Verifies and checks what [`Membership::encode`] made. The error carries no id, there is none.
    pub fn decode(bytes: &[u8]) -> Result<Membership, Malformed> {
        Membership::parse(bytes).map_err(|malformed| Malformed { id: None, ..malformed })
    }

    fn parse(bytes: &[u8]) -> Result<Membership, Malformed> {
        let membership = root::<schema::Membership<'_>>(bytes, "membership")?;
        let sets = membership.configs().map_or(0, |sets| sets.len());
        if sets > CONFIGS_MAX {
            let message = format!("membership.configs has {sets} lists of voters, the limit is {CONFIGS_MAX}");
            return Err(Malformed::new(0, message));
        }
        let mut configs = Vec::with_capacity(sets);
        for set in membership.configs().iter().flatten() {
            let nodes = set.nodes().map_or(0, |nodes| nodes.len());
            check_count(nodes, 0, "membership.configs.nodes")?;
            configs.push(set.nodes().iter().flatten().collect());
        }
        let members = parse_members(membership.members(), 0, "membership.members")?;
        Ok(Membership { configs, members })
    }
}
