//! Where a request goes: which shard has the key, whom to ask who leads it, whom a read may go to.
//!
//! ```text
//!   key -> slot (crc32 of {tag} or key) -> shard -> leader's address
//!                                   topology        claims, redirects
//! ```
//!
//! A shard's leader is a belief, learnt from that shard only: from a `Topology` it answers or from a `NotLeader` redirect.
//! Where claims differ, the later term wins, because a deposed leader that hears nobody still believes in itself.
//!
//! **Invariants**
//! - The number of shards never changes: it is set when the ring is founded.
//! - A topology of a lower epoch, of another ring or with another number of shards changes nothing.
//! - Every member that serves clients is asked, and the endpoints too: they may be the only addresses that can be reached.
//!
//! **Not here**: connections, time, waiting.

use std::sync::Arc;

use ringbeam_wire::client::{Member, Role, SlotRange, Topology};
use ringbeam_wire::limits::SHARDS_MAX;
use ringbeam_wire::slots::SLOTS;

use crate::readers::Candidate;

/// A node's client address, host:port.
pub type Address = Arc<str>;

/// What a client knows of its ring.
#[derive(Clone, Debug)]
pub struct Routes {
    region: String,
    endpoints: Vec<Address>,
    ring: u64,
    epoch: u64,
    shards: u32,
    slots: Vec<SlotRange>,
    members: Vec<Member>,
}

/// What one node said about who leads a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who said it.
    pub from: u64,
    /// The leader's node id; 0: none known.
    pub leader: u64,
    /// In which term.
    pub term: u64,
}

impl Routes {
    /// Starts from the first topology. Refuses one that covers not every slot.
    pub fn new(region: &str, endpoints: &[Address], topology: &Topology) -> Result<Routes, String> {
        let shards = shards_of(&topology.slots)?;
        Ok(Routes {
            region: region.to_string(),
            endpoints: endpoints.to_vec(),
            ring: topology.ring,
            epoch: topology.epoch,
            shards,
            slots: topology.slots.clone(),
            members: topology.members.clone(),
        })
    }

    /// Takes over a topology unless it is older. Says whether anything changed.
    pub fn learn(&mut self, topology: &Topology) -> Result<bool, String> {
        if topology.ring != self.ring {
            return Err(format!("a node of ring {:x} answered, this client belongs to {:x}", topology.ring, self.ring));
        }
        let shards = shards_of(&topology.slots)?;
        if shards != self.shards {
            return Err(format!("a topology of {shards} shards, the ring was founded with {}", self.shards));
        }
        if topology.epoch < self.epoch || (topology.members == self.members && topology.slots == self.slots) {
            return Ok(false);
        }
        self.epoch = topology.epoch;
        self.members.clone_from(&topology.members);
        self.slots.clone_from(&topology.slots);
        Ok(true)
    }

    /// Number of shards.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// Ring id.
    pub fn ring(&self) -> u64 {
        self.ring
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The shard of every slot.
    pub fn slot_table(&self) -> Vec<u16> {
        let mut table = vec![0; usize::from(SLOTS)];
        for range in &self.slots {
            let shard = u16::try_from(range.shard).unwrap_or(0);
            for slot in range.first..range.end {
                if let Some(entry) = table.get_mut(usize::from(slot)) {
                    *entry = shard;
                }
            }
        }
        table
    }

    /// The client address of a node; none for a stranger or a member without one.
    pub fn address_of(&self, node: u64) -> Option<Address> {
        let member = self.members.iter().find(|member| member.node == node)?;
        (!member.client.is_empty()).then(|| Address::from(member.client.as_str()))
    }

    /// Whom to ask who leads a shard: everyone who serves clients, then the endpoints.
    pub fn askable(&self) -> Vec<Address> {
        let members = self.serving().map(|member| Address::from(member.client.as_str()));
        let mut all: Vec<Address> = Vec::new();
        for address in members.chain(self.endpoints.iter().cloned()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Whom reads may go to that any node may answer: see [`crate::readers`].
    pub fn candidates(&self) -> Vec<Candidate> {
        let own = |member: &Member| !self.region.is_empty() && member.region == self.region;
        let members = self.serving().map(|member| (Address::from(member.client.as_str()), own(member), false));
        let endpoints = self.endpoints.iter().map(|endpoint| (endpoint.clone(), false, true));
        let mut all: Vec<Candidate> = Vec::new();
        for (address, near, last_resort) in members.chain(endpoints) {
            if !all.iter().any(|known| known.address == address) {
                all.push(Candidate { address, near, last_resort });
            }
        }
        all
    }

    /// Whom to follow the changes of a shard at, best first: own region, then the connected, then the rest; `dice` spreads equals.
    pub fn readers(&self, connected: impl Fn(&str) -> bool, dice: u64) -> Vec<Address> {
        let mut ranked: Vec<(bool, bool, u64, &str)> = self
            .serving()
            .map(|member| {
                let far = self.region.is_empty() || member.region != self.region;
                let mixed = (dice ^ member.node).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (far, !connected(&member.client), mixed, member.client.as_str())
            })
            .collect();
        ranked.sort_unstable();
        let mut all: Vec<Address> = ranked.into_iter().map(|(.., address)| Address::from(address)).collect();
        for endpoint in &self.endpoints {
            if !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
        all
    }

    fn serving(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role != Role::TieBreaker && !member.client.is_empty())
    }
}

/// The claim to believe: of the latest term, there of the leader with the greatest id (a term can have a second leader, which
/// outranks the first by its id), and there the leader's own. Who says itself that it does not lead is not believed to, unless in a
/// later term: those who have not heard of its restart go on naming it.
pub fn believe(claims: &[Claim]) -> Option<Claim> {
    let denied =
        |named: &Claim| claims.iter().any(|own| own.from == named.leader && own.leader != own.from && own.term >= named.term);
    let named = claims.iter().copied().filter(|claim| claim.leader != 0 && !denied(claim));
    named.max_by_key(|claim| (claim.term, claim.leader, claim.from == claim.leader))
}

fn shards_of(slots: &[SlotRange]) -> Result<u32, String> {
    let mut sorted = slots.to_vec();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut covered = 0;
    let mut shards = 0;
    for range in &sorted {
        if range.first != covered || range.end <= range.first {
            return Err(format!("slot {covered} is on no shard or on two"));
        }
        if range.shard >= SHARDS_MAX {
            return Err(format!("shard {} is beyond the last possible, {}", range.shard, SHARDS_MAX - 1));
        }
        covered = range.end;
        shards = shards.max(range.shard + 1);
    }
    if covered != SLOTS {
        return Err(format!("slots from {covered} to {SLOTS} are on no shard"));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeam_wire::slots;

    fn member(node: u64, region: &str, role: Role) -> Member {
        Member { node, client: format!("127.0.0.1:{node}"), region: region.into(), role, ..Member::default() }
    }

    fn topology(epoch: u64, shards: u32) -> Topology {
        let slots = slots::ranges(shards).into_iter().map(|(first, end, shard)| SlotRange { first, end, shard }).collect();
        let members = vec![
            member(1, "east", Role::Voter),
            member(2, "west", Role::Voter),
            member(3, "west", Role::TieBreaker),
            member(4, "far", Role::Observer),
        ];
        Topology { epoch, ring: 9, shard: 0, leader: 1, term: 1, slots, members }
    }

    fn routes(region: &str) -> Routes {
        Routes::new(region, &["127.0.0.1:2".into(), "gate:1".into()], &topology(5, 3)).expect("a whole topology")
    }

    #[test]
    fn slot_table_is_the_wires_own_division() {
        let table = routes("").slot_table();
        for slot in 0..SLOTS {
            assert_eq!(u32::from(table[usize::from(slot)]), slots::shard_of(slot, 3));
        }
    }

    #[test]
    fn an_older_or_foreign_topology_changes_nothing() {
        let mut routes = routes("");
        let mut older = topology(4, 3);
        older.members.pop();
        assert_eq!(routes.learn(&older), Ok(false));
        assert!(routes.learn(&topology(6, 2)).is_err_and(|why| why.contains("2 shards")));
        assert!(routes.learn(&Topology { ring: 8, ..topology(6, 3) }).is_err_and(|why| why.contains("ring 8")));
        let mut newer = topology(6, 3);
        newer.members.pop();
        assert_eq!(routes.learn(&newer), Ok(true));
        assert_eq!(routes.address_of(4), None);
    }

    #[test]
    fn a_topology_with_holes_is_refused() {
        let mut holed = topology(1, 3);
        holed.slots.remove(1);
        assert!(Routes::new("", &[], &holed).is_err_and(|why| why.contains("on no shard")));
        assert!(Routes::new("", &[], &Topology::default()).is_err());
    }

    #[test]
    fn everyone_who_serves_is_asked_and_the_endpoints_too() {
        let asked: Vec<String> = routes("").askable().iter().map(|a| a.to_string()).collect();
        assert_eq!(asked, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4", "gate:1"]);
    }

    #[test]
    fn reads_may_go_to_everyone_who_serves_and_at_last_to_the_endpoints() {
        let candidates = routes("west").candidates();
        let all: Vec<(&str, bool, bool)> = candidates.iter().map(|one| (&*one.address, one.near, one.last_resort)).collect();
        let [one, two, four] = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:4"];
        assert_eq!(all, [(one, false, false), (two, true, false), (four, false, false), ("gate:1", false, true)]);
        assert!(routes("").candidates().iter().all(|one| !one.near), "a client of no region is near to none");
    }

    #[test]
    fn the_own_region_comes_first_and_then_the_connected() {
        for dice in 0..50 {
            assert_eq!(&*routes("west").readers(|_| false, dice)[0], "127.0.0.1:2");
            let readers = routes("").readers(|address| address.ends_with(":4"), dice);
            assert_eq!(&*readers[0], "127.0.0.1:4");
            assert!(!readers.iter().any(|address| address.ends_with(":3")), "a tie-breaker serves no client");
        }
    }

    #[test]
    fn the_latest_term_is_believed_and_there_the_leader_itself() {
        let deposed = Claim { from: 1, leader: 1, term: 4 };
        let news = Claim { from: 3, leader: 2, term: 5 };
        let own = Claim { from: 2, leader: 2, term: 5 };
        let voting = Claim { from: 4, leader: 0, term: 6 };
        assert_eq!(believe(&[deposed, news, voting]), Some(news));
        assert_eq!(believe(&[news, own, deposed]), Some(own));
        assert_eq!(believe(&[voting]), None);
    }

    #[test]
    fn who_denies_to_lead_is_not_believed_to_whoever_names_it() {
        let stale = Claim { from: 3, leader: 2, term: 5 };
        let restarted = Claim { from: 2, leader: 0, term: 5 };
        let follows = Claim { from: 2, leader: 1, term: 5 };
        assert_eq!(believe(&[stale, restarted]), None);
        assert_eq!(believe(&[stale, follows]), Some(follows));
        let elected_since = Claim { from: 1, leader: 2, term: 6 };
        assert_eq!(believe(&[stale, restarted, elected_since]), Some(elected_since));
        let deposed_in_an_earlier_term = Claim { from: 2, leader: 0, term: 4 };
        assert_eq!(believe(&[stale, deposed_in_an_earlier_term]), Some(stale));
    }
}
