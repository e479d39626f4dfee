//! The ways between hosts, as whoever drives the world sees them.

use std::rc::Rc;
use std::time::Duration;

use super::super::trace::Fault;
use super::super::world::{HostId, Inner};
use super::socket::{Item, Socket};

/// How a network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// One way between two hosts, nanoseconds, from and to.
    pub latency_ns: (u64, u64),
    /// From a host to itself.
    pub loopback_ns: (u64, u64),
    /// Items that take 2 to 20 times longer, of a million.
    pub straggler_ppm: u64,
    /// Reads and writes that the kernel does in part, of a million.
    pub partial_ppm: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { latency_ns: (50_000, 300_000), loopback_ns: (5_000, 30_000), straggler_ppm: 2_000, partial_ppm: 20_000 }
    }
}

/// One direction between two hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub latency_ns: (u64, u64),
    pub cut: bool,
    /// A connection that is asked for is refused, as by a packet filter that says so.
    pub refused: bool,
    pub clogged_until: u64,
}

impl Link {
    pub fn new(latency_ns: (u64, u64)) -> Link {
        Link { latency_ns, cut: false, refused: false, clogged_until: 0 }
    }
}

/// What can be done to the links of a world.
pub struct Links<'a>(pub(in super::super) &'a Rc<Inner>);

/// A connection over a cut link is given up after a time in this range, nanoseconds, or not at all.
const GIVE_UP_NS: (u64, u64) = (1_000_000_000, 60_000_000_000);

impl Links<'_> {
    /// `address` (host:port) leads to a host, whether or not anybody listens there.
    pub fn name(&self, address: &str, host: HostId) {
        self.0.network.names.borrow_mut().insert(address.to_string(), host);
    }

    fn change(&self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        change(&mut self.0.network.links.borrow_mut()[from.0][to.0]);
    }

    fn name_of(&self, host: HostId) -> String {
        self.0.host(host).name.clone()
    }

    /// How long one way takes, from and to, until the link is healed.
    pub fn slow(&self, from: HostId, to: HostId, range: (Duration, Duration)) {
        self.0.trace.count(Fault::SlowLink);
        self.0.tell(|| format!("from {} to {} takes up to {:?}", self.name_of(from), self.name_of(to), range.1));
        let ns = |d: Duration| d.as_nanos() as u64;
        self.change(from, to, |link| link.latency_ns = (ns(range.0), ns(range.1)));
    }

    /// Whether nothing passes from `from` to `to`.
    pub fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.0.network.link(from, to).cut
    }

    /// Nothing passes from `from` to `to` any more; the other direction goes on.
    pub fn cut_one_way(&self, from: HostId, to: HostId) {
        self.0.trace.count(Fault::OneWayCut);
        self.0.tell(|| format!("cut from {} to {}", self.name_of(from), self.name_of(to)));
        self.cut(from, to);
    }

    /// Nothing passes between the two any more.
    pub fn cut_both_ways(&self, a: HostId, b: HostId) {
        self.0.trace.count(Fault::Partition);
        self.0.tell(|| format!("cut between {} and {}", self.name_of(a), self.name_of(b)));
        self.cut(a, b);
        self.cut(b, a);
    }

    /// What connects the two ends, and nothing connects them any more: each is told so at once.
    pub fn refuse_both_ways(&self, a: HostId, b: HostId) {
        self.change(a, b, |link| link.refused = true);
        self.change(b, a, |link| link.refused = true);
        self.reset(a, b);
    }

    fn cut(&self, from: HostId, to: HostId) {
        let network = &self.0.network;
        self.change(from, to, |link| link.cut = true);
        for socket in self.between(from, to) {
            let given_up = network.random.borrow_mut().chance(500_000);
            if given_up {
                let ns = network.random.borrow_mut().between(GIVE_UP_NS);
                network.give_up_later(self.0, &socket, ns);
            }
        }
    }

    /// Sockets on `to` that talk to `from`.
    fn between(&self, from: HostId, to: HostId) -> Vec<Rc<Socket>> {
        let talks = |socket: &Socket| socket.process.host == to && socket.peer().is_some_and(|peer| peer.process.host == from);
        self.0.network.sockets_of(talks)
    }

    /// Lets bytes pass again; what was held back arrives after a while.
    pub fn heal(&self, from: HostId, to: HostId) {
        let usual = self.0.network.usual(from, to).latency_ns;
        self.change(from, to, |link| (link.refused, link.latency_ns) = (false, usual));
        let was_cut = std::mem::replace(&mut self.0.network.links.borrow_mut()[from.0][to.0].cut, false);
        if was_cut {
            self.0.tell(|| format!("healed from {} to {}", self.name_of(from), self.name_of(to)));
            for socket in self.between(from, to) {
                self.0.network.wake_up(self.0, &socket);
            }
        }
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        let hosts = self.0.hosts().len();
        for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))) {
            self.heal(HostId(from), HostId(to));
        }
    }

    /// Everything from `from` to `to` waits until `duration` has passed.
    pub fn clog(&self, from: HostId, to: HostId, duration: Duration) {
        self.0.trace.count(Fault::Clog);
        self.0.tell(|| format!("clogged from {} to {} for {duration:?}", self.name_of(from), self.name_of(to)));
        let until = self.0.now.get() + duration.as_nanos() as u64;
        self.change(from, to, |link| link.clogged_until = link.clogged_until.max(until));
    }

    /// Ends every connection between the two; a part of what is in flight is lost.
    pub fn reset(&self, a: HostId, b: HostId) {
        self.0.tell(|| format!("connections between {} and {} are reset", self.name_of(a), self.name_of(b)));
        let network = &self.0.network;
        for socket in self.between(a, b).into_iter().chain(self.between(b, a)) {
            self.0.trace.count(Fault::Reset);
            let in_flight = socket.flight.borrow().len() as u64;
            let arrives = network.random.borrow_mut().below(in_flight + 1);
            socket.lose_after(arrives as usize);
            socket.put_in_flight(socket.due_last.get().max(self.0.now.get()), Item::Reset);
            network.schedule(self.0, &socket, self.0.now.get());
        }
    }
}
