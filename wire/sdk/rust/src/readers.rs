//! Whom a read goes to that any node may answer.
//!
//! ```text
//!   of own region? ─▶ those that are well ─▶ the nearest, and who is about as near ─▶ two by chance ─▶ the one less busy, and nearer
//!        none is well: the others, in the same way          none at all: whoever is set aside for the shortest time
//! ```
//! Pure: time and chance are arguments.
//!
//! **Invariants**
//! - Well is who answers right. One that fails is set aside for a time that doubles with each failure in a row, however fast it fails;
//!   only a right answer ends the row.
//! - A node that was never measured counts as near: so it is measured.
//!
//! **Not here**: connections, measuring (`survey.rs`).

use std::time::Duration;

use crate::limits::{ABOUT_EQUAL_US, ASIDE_MAX, ASIDE_MIN, CHOICE_KEPT, ROUND_TRIP_WEIGHT, SURVEY_INTERVAL, SURVEYED_MAX};
use crate::routing::Address;

/// What a client knows of a node as one to read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// In the client's own region.
    pub near: bool,
    /// It leads the shard: the others are preferred where they are as near, as it has writes to do.
    pub leads: bool,
    /// Smoothed round trip, microseconds; 0: never measured.
    pub round_trip_us: u32,
    /// Calls on their way.
    pub busy: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Not before this, on the client's clock, unless there is nobody else.
    pub aside_until: Duration,
}

impl Standing {
    /// A round trip was measured.
    pub fn measured(&mut self, round_trip: Duration) {
        let sample = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX).max(1);
        self.round_trip_us = match self.round_trip_us {
            0 => sample,
            old => {
                let kept = u64::from(old) * u64::from(ROUND_TRIP_WEIGHT - 1);
                ((kept + u64::from(sample)) / u64::from(ROUND_TRIP_WEIGHT)).max(1) as u32
            }
        };
    }

    /// It did not answer, or not what was asked.
    pub fn failed(&mut self, now: Duration) {
        let aside = ASIDE_MIN.saturating_mul(1 << self.failures.min(16)).min(ASIDE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.aside_until = now + aside;
    }

    /// It answered what was asked.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.aside_until = Duration::ZERO;
    }

    fn is_well(&self, now: Duration) -> bool {
        self.aside_until <= now
    }
}

/// The place of the one to ask. `dice`: 64 random bits. `None` only for nobody.
pub fn choose(standings: &[Standing], now: Duration, dice: u64) -> Option<usize> {
    let well = |near: bool| move |one: &&Standing| one.is_well(now) && (one.near || !near);
    let nearby = standings.iter().any(|one| well(true)(&one));
    if !nearby && !standings.iter().any(|one| well(false)(&one)) {
        return (0..standings.len()).min_by_key(|at| standings[*at].aside_until);
    }
    let candidates = || standings.iter().enumerate().filter(|(_, one)| well(nearby)(one));
    let best = candidates().map(|(_, one)| one.round_trip_us).min().unwrap_or(0);
    // A quarter more, and what a measurement on one machine is off.
    let about = best.saturating_add(best / 4).saturating_add(ABOUT_EQUAL_US);
    let equals = || candidates().filter(|(_, one)| one.round_trip_us <= about);
    let follower = equals().any(|(_, one)| !one.leads);
    let equals = || equals().filter(|(_, one)| !(follower && one.leads));
    let count = equals().count();
    let (first, second) = (dice % count as u64, dice / count as u64 % count as u64);
    let pick = |place: u64| equals().nth(place as usize).map(|(at, one)| (one.busy, one.round_trip_us, at));
    [pick(first), pick(second)].into_iter().flatten().min().map(|(.., at)| at)
}

/// The nodes of a shard to read from, and the one chosen for now. `C`: a connection.
#[derive(Debug)]
pub struct Readers<C> {
    nodes: Vec<Node<C>>,
    standings: Vec<Standing>,
    chosen: Option<usize>,
    /// When the choice is made anew.
    until: Duration,
    /// When the round trips are measured anew.
    survey_at: Duration,
}

#[derive(Debug)]
struct Node<C> {
    address: Address,
    connection: Option<C>,
}

impl<C> Default for Readers<C> {
    fn default() -> Readers<C> {
        let (until, survey_at) = (Duration::ZERO, Duration::ZERO);
        Readers { nodes: Vec::new(), standings: Vec::new(), chosen: None, until, survey_at }
    }
}

impl<C: Clone> Readers<C> {
    /// Those that there are now; what is known of one that stays is kept.
    pub fn set(&mut self, all: Vec<Candidate>) {
        let same = all.len() == self.nodes.len() && all.iter().zip(&self.nodes).all(|(a, b)| a.address == b.address);
        if !same {
            self.chosen = None;
            let (mut nodes, mut standings) = (Vec::new(), Vec::new());
            for Candidate { address, near, last_resort } in all {
                let known = self.nodes.iter().position(|node| node.address == address);
                let round_trip_us = if last_resort { u32::MAX } else { 0 };
                let fresh = Standing { near, round_trip_us, ..Standing::default() };
                standings.push(known.map_or(fresh, |at| Standing { near, ..self.standings[at] }));
                let connection = known.and_then(|at| self.nodes[at].connection.take());
                nodes.push(Node { address, connection });
            }
            (self.nodes, self.standings) = (nodes, standings);
        }
    }

    /// The connection to use, while the choice holds.
    pub fn current(&self, now: Duration) -> Option<C> {
        let chosen = self.chosen.filter(|_| now < self.until)?;
        self.nodes[chosen].connection.clone()
    }

    /// Chooses, for [`CHOICE_KEPT`]. `busy`: how many calls are on their way on a connection, none on one that has ended; `leader`: the
    /// address of the one that leads.
    pub fn choose(
        &mut self,
        now: Duration,
        dice: u64,
        leader: Option<&str>,
        busy: impl Fn(&C) -> Option<u32>,
    ) -> Option<(Address, Option<C>)> {
        for (node, standing) in self.nodes.iter_mut().zip(&mut self.standings) {
            let calls = node.connection.as_ref().and_then(&busy);
            if calls.is_none() {
                node.connection = None;
            }
            standing.busy = calls.unwrap_or(0);
            standing.leads = leader == Some(&*node.address);
        }
        let at = choose(&self.standings, now, dice)?;
        (self.chosen, self.until) = (Some(at), now + CHOICE_KEPT);
        Some((self.nodes[at].address.clone(), self.nodes[at].connection.clone()))
    }

    /// The best of those that are not chosen. `None`: there is no other that is well.
    pub fn another(&self, now: Duration, dice: u64) -> Option<Address> {
        let others = || self.nodes.iter().zip(&self.standings).enumerate().filter(|(at, _)| Some(*at) != self.chosen);
        let well = || others().filter(|(_, (_, one))| one.is_well(now));
        let standings: Vec<Standing> = well().map(|(_, (_, one))| *one).collect();
        let at = choose(&standings, now, dice)?;
        well().nth(at).map(|(_, (node, _))| node.address.clone())
    }

    /// Whether the round trips should be measured now; whoever is told so does it.
    pub fn survey_is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.survey_at && self.nodes.len() > 1;
        if due {
            self.survey_at = now + SURVEY_INTERVAL;
        }
        due
    }

    /// Whose round trip is worth measuring: those that may be chosen; all of them, when none is of the own region.
    pub fn to_survey(&self, now: Duration) -> Vec<Address> {
        let near = self.standings.iter().any(|one| one.near && one.is_well(now));
        let worth = |one: &Standing| one.is_well(now) && (one.near || !near) && one.round_trip_us != u32::MAX;
        let both = self.nodes.iter().zip(&self.standings);
        both.filter(|(_, one)| worth(one)).map(|(node, _)| node.address.clone()).take(SURVEYED_MAX).collect()
    }

    /// A connection to this one is open.
    pub fn connected(&mut self, address: &str, connection: C) {
        if let Some(at) = self.place(address) {
            self.nodes[at].connection = Some(connection);
        }
    }

    /// See [`Standing::measured`].
    pub fn measured(&mut self, address: &str, round_trip: Duration) {
        if let Some(at) = self.place(address) {
            self.standings[at].measured(round_trip);
        }
    }

    /// See [`Standing::answered`].
    pub fn answered(&mut self, address: &str) {
        if let Some(at) = self.place(address) {
            self.standings[at].answered();
        }
    }

    /// See [`Standing::failed`]; another is chosen next.
    pub fn failed(&mut self, address: &str, now: Duration) {
        if let Some(at) = self.place(address) {
            self.standings[at].failed(now);
            self.chosen = self.chosen.filter(|chosen| *chosen != at);
        }
    }

    /// Whether any failed, and has not answered since.
    pub fn any_failed(&self) -> bool {
        self.standings.iter().any(|one| one.failures > 0)
    }

    fn place(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|node| &*node.address == address)
    }
}

/// A node that may be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its client address.
    pub address: Address,
    /// In the client's own region.
    pub near: bool,
    /// An address that the client was given, of no member that is known: tried when nobody else answers.
    pub last_resort: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn far(round_trip_us: u32) -> Standing {
        Standing { round_trip_us, ..Standing::default() }
    }

    fn near(round_trip_us: u32) -> Standing {
        Standing { near: true, ..far(round_trip_us) }
    }

    /// Who is chosen, over many dice.
    fn chosen(standings: &[Standing], now: Duration) -> Vec<usize> {
        let dice = (0..500u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut all: Vec<usize> = dice.filter_map(|dice| choose(standings, now, dice)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn the_own_region_comes_first_and_then_the_lowest_round_trip() {
        assert_eq!(chosen(&[far(300), near(9_000), far(100)], NOW), [1]);
        assert_eq!(chosen(&[far(30_000), far(90_000), far(10_000)], NOW), [2]);
        assert_eq!(choose(&[], NOW, 7), None);
    }

    #[test]
    fn equals_share_and_the_busier_of_two_is_spared() {
        assert_eq!(chosen(&[far(10_000), far(10_900), far(30_000)], NOW), [0, 1]);
        let busy = Standing { busy: 9, ..far(10_000) };
        let counts =
            (0..1000u64).filter(|n| choose(&[busy, far(10_100)], NOW, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) == Some(0));
        let share = counts.count();
        assert!(share < 350, "the busier one is asked only when chance names it twice: {share} of 1000");
    }

    #[test]
    fn a_follower_is_spared_no_work_for_the_leader() {
        let leader = Standing { leads: true, ..near(200) };
        assert_eq!(chosen(&[leader, near(250)], NOW), [1]);
        assert_eq!(chosen(&[leader, far(250)], NOW), [0], "the leader of the own region before a follower of another");
    }

    #[test]
    fn one_that_fails_fast_attracts_nothing() {
        let mut fast = far(10);
        let honest = far(5_000);
        for failures in 1..=20 {
            fast.failed(NOW);
            assert_eq!(chosen(&[fast, honest], NOW), [1], "after {failures} failures");
        }
        assert_eq!(fast.aside_until, NOW + ASIDE_MAX, "it grows to a bound");
        assert_eq!(chosen(&[fast, honest], NOW + ASIDE_MAX), [0], "then it is tried again");
        fast.failed(NOW + ASIDE_MAX);
        assert_eq!(
            chosen(&[fast, honest], NOW + ASIDE_MAX + ASIDE_MAX / 2),
            [1],
            "and set aside as long, as nothing ended the row"
        );
        fast.answered();
        assert_eq!(chosen(&[fast, honest], NOW), [0]);
    }

    #[test]
    fn when_all_fail_the_one_set_aside_for_the_shortest_time_is_tried() {
        let (mut once, mut often) = (far(900), near(100));
        once.failed(NOW);
        (0..5).for_each(|_| often.failed(NOW));
        assert_eq!(chosen(&[often, once], NOW), [1]);
    }

    #[test]
    fn an_unmeasured_node_is_tried_and_a_measurement_is_smoothed() {
        assert!(chosen(&[far(20_000), far(0)], NOW).contains(&1));
        let mut one = far(0);
        one.measured(Duration::from_micros(800));
        assert_eq!(one.round_trip_us, 800);
        one.measured(Duration::from_micros(8_000));
        assert!((801..3_000).contains(&one.round_trip_us), "one slow answer is not the rule: {}", one.round_trip_us);
        (0..60).for_each(|_| one.measured(Duration::from_micros(8_000)));
        assert!(one.round_trip_us > 7_000, "many are: {}", one.round_trip_us);
    }

    fn candidate(address: &str, near: bool) -> Candidate {
        Candidate { address: address.into(), near, last_resort: false }
    }

    #[test]
    fn a_choice_is_kept_for_a_while_and_left_at_once_on_failure() {
        let mut readers: Readers<&str> = Readers::default();
        let endpoint = Candidate { last_resort: true, ..candidate("gate:1", false) };
        readers.set(vec![candidate("a:1", true), candidate("b:1", false), endpoint.clone()]);
        let choose =
            |readers: &mut Readers<&'static str>, now| readers.choose(now, 5, None, |_| Some(0)).expect("there are some").0;
        assert_eq!((&*choose(&mut readers, NOW), readers.current(NOW)), ("a:1", None));
        readers.connected("a:1", "to a");
        assert_eq!(readers.current(NOW), Some("to a"));
        assert_eq!(readers.current(NOW + CHOICE_KEPT), None, "it is made anew");
        assert_eq!(readers.another(NOW, 5).as_deref(), Some("b:1"), "a second opinion is another's");
        readers.failed("a:1", NOW);
        assert!(readers.current(NOW).is_none() && readers.any_failed());
        assert_eq!(&*choose(&mut readers, NOW), "b:1");
        readers.failed("b:1", NOW);
        assert_eq!(&*choose(&mut readers, NOW), "gate:1", "the last resort");
        assert_eq!(&*choose(&mut readers, NOW + ASIDE_MIN), "a:1");
        readers.answered("a:1");
        readers.answered("b:1");
        assert!(!readers.any_failed());
        // One who leaves and one who stays: what is known of him, and his connection.
        readers.set(vec![candidate("a:1", true), endpoint]);
        assert_eq!(readers.choose(NOW, 5, None, |_| Some(0)).expect("some").1, Some("to a"));
        assert_eq!(readers.choose(NOW, 5, None, |_| None).expect("some").1, None, "its connection has ended");
    }

    #[test]
    fn only_those_that_may_be_chosen_are_measured() {
        let mut readers: Readers<()> = Readers::default();
        readers.set(vec![candidate("a:1", true), candidate("b:1", false), candidate("c:1", false)]);
        assert!(readers.survey_is_due(NOW) && !readers.survey_is_due(NOW) && readers.survey_is_due(NOW + SURVEY_INTERVAL));
        assert_eq!(readers.to_survey(NOW), ["a:1".into()] as [Address; 1]);
        readers.failed("a:1", NOW);
        assert_eq!(readers.to_survey(NOW), ["b:1".into(), "c:1".into()] as [Address; 2]);
    }
}
