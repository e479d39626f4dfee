//! The network: links between hosts with latencies and faults, who listens where, and the connections of one shard.
//!
//! ```text
//!   connect ─ link ─▶ listener ─ route(preamble) ─▶ SimNet of a shard ─▶ accept
//!   links are directed: cut, clogged or slow from a to b says nothing of the way from b to a
//! ```
//! Within a connection order is kept; between connections it is not.
//!
//! **Invariants**
//! - Nothing passes a cut link, and nothing that was sent is forgotten because of it: it arrives when the link is healed, unless
//!   the connection has been given up meanwhile.
//! - A dead process sends nothing but what its kernel sends for it: the end of its connections, or their reset.
//!
//! **Not simulated**: bandwidth, acknowledgements (a one-way cut does not stall the writer of the other direction).

mod link;
pub(super) mod socket;

pub use link::{Links, Settings};
pub use socket::{SimReader, SimWriter};

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::rc::Rc;

use super::executor::{Process, current};
use super::random::Random;
use super::sleep::SimSleep;
use super::trace::Fault;
use super::world::{HostId, Inner, What};
use crate::io::channel::Notify;
use crate::io::{Net, PreambleBytes};
use link::Link;
use socket::{Item, Socket};

type Route = Rc<dyn Fn(&PreambleBytes) -> Option<SimNet>>;

/// All links, names and connections of a world.
pub(super) struct Network {
    settings: Settings,
    random: RefCell<Random>,
    /// From, then to.
    links: RefCell<Vec<Vec<Link>>>,
    names: RefCell<BTreeMap<String, HostId>>,
    listeners: RefCell<BTreeMap<String, (Rc<Process>, Route)>>,
    sockets: RefCell<BTreeMap<u64, Rc<Socket>>>,
    /// Listeners of connections whose preamble is on its way.
    doors: RefCell<BTreeMap<u64, Route>>,
    connections: Cell<u64>,
}

/// Waits of an attempt to connect whose first packet was lost, nanoseconds: 200 ms, then twice as long each time.
const RESEND_NS: u64 = 200_000_000;
/// Longest attempt to connect.
const CONNECT_NS: u64 = 5_000_000_000;
/// A peer without power is given up by the kernel's keep-alive after this long.
const KEEP_ALIVE_NS: u64 = 120_000_000_000;

impl Network {
    pub fn new(settings: Settings, random: Random) -> Network {
        Network {
            settings,
            random: RefCell::new(random),
            links: RefCell::default(),
            names: RefCell::default(),
            listeners: RefCell::default(),
            sockets: RefCell::default(),
            doors: RefCell::default(),
            connections: Cell::new(0),
        }
    }

    pub fn add_host(&self) {
        let mut links = self.links.borrow_mut();
        let new = HostId(links.len());
        for (from, ways) in links.iter_mut().enumerate() {
            ways.push(self.usual(HostId(from), new));
        }
        links.push((0..=new.0).map(|to| self.usual(new, HostId(to))).collect());
    }

    /// A link without any fault.
    fn usual(&self, from: HostId, to: HostId) -> Link {
        Link::new(if from == to { self.settings.loopback_ns } else { self.settings.latency_ns })
    }

    fn link(&self, from: HostId, to: HostId) -> Link {
        self.links.borrow()[from.0][to.0]
    }

    fn latency(&self, from: HostId, to: HostId) -> u64 {
        let link = self.link(from, to);
        let mut random = self.random.borrow_mut();
        let ns = random.between(link.latency_ns);
        if random.chance(self.settings.straggler_ppm) { ns * random.between((2, 20)) } else { ns }
    }

    /// All of `bytes`, or sometimes fewer: for reads and writes that are not whole.
    pub fn some_of(&self, bytes: usize) -> usize {
        let mut random = self.random.borrow_mut();
        if bytes > 1 && random.chance(self.settings.partial_ppm) { 1 + random.below(bytes as u64) as usize } else { bytes }
    }

    pub fn send(&self, world: &Rc<Inner>, from: &Socket, item: Item) {
        let Some(to) = from.peer() else { return };
        let sent = from.process.world_now();
        let due = to.due_last.get().max(sent + self.latency(from.process.host, to.process.host));
        to.due_last.set(due);
        to.put_in_flight(due, item);
        self.schedule(world, &to, due);
    }

    fn schedule(&self, world: &Inner, to: &Rc<Socket>, at: u64) {
        if !to.scheduled.replace(true) {
            world.push(at, What::Deliver(to.clone()));
        }
    }

    /// What is due at a socket arrives, unless its link is cut or clogged.
    pub fn deliver(&self, world: &Rc<Inner>, to: &Rc<Socket>) {
        to.scheduled.set(false);
        let Some(from) = to.peer() else { return };
        let now = world.now.get();
        let link = self.link(from.process.host, to.process.host);
        if link.cut || world.host(to.process.host).dark.get() {
            world.trace.count(Fault::LateDelivery);
            return; // healing the link, or power, delivers it
        }
        if link.clogged_until > now {
            world.trace.count(Fault::LateDelivery);
            return self.schedule(world, to, link.clogged_until);
        }
        while let Some(item) = to.take_due(now) {
            if let Item::Preamble(preamble) = item {
                self.announce(to, preamble);
                continue;
            }
            // Its preamble was lost: nobody will ever be given it.
            let unannounced = matches!(item, Item::End | Item::Reset) && self.doors.borrow_mut().remove(&to.number()).is_some();
            if to.arrive(item) {
                self.send(world, to, Item::Reset);
            }
            if unannounced {
                to.abandon();
            }
        }
        let next = to.flight.borrow().front().map(|(due, _)| *due);
        match next {
            Some(due) => self.schedule(world, to, due),
            None => self.forget_if_over(to),
        }
    }

    /// A preamble arrives: the connection goes to the shard that it is for.
    fn announce(&self, socket: &Rc<Socket>, preamble: PreambleBytes) {
        let route = self.doors.borrow_mut().remove(&socket.number());
        if socket.process.is_dead() {
            return;
        }
        match route.and_then(|route| route(&preamble)) {
            Some(net) => net.arrive(preamble, socket.clone()),
            None => socket.abandon(),
        }
    }

    pub fn forget_if_over(&self, socket: &Socket) {
        let peer = socket.number() ^ 1;
        let mut sockets = self.sockets.borrow_mut();
        if socket.is_over() && sockets.get(&peer).is_none_or(|peer| peer.is_over()) {
            let gone = (sockets.remove(&socket.number()), sockets.remove(&peer));
            drop(sockets);
            drop(gone);
        }
    }

    /// Sockets of a process, or of all on a host.
    fn sockets_of(&self, wanted: impl Fn(&Socket) -> bool) -> Vec<Rc<Socket>> {
        self.sockets.borrow().values().filter(|socket| wanted(socket)).cloned().collect()
    }

    /// A process has ended; `loud`: its kernel tells the peers.
    pub fn process_died(&self, world: &Rc<Inner>, process: &Rc<Process>, loud: bool) {
        self.listeners.borrow_mut().retain(|_, (owner, _)| !Rc::ptr_eq(owner, process));
        for socket in self.sockets_of(|socket| Rc::ptr_eq(&socket.process, process)) {
            socket.die();
            let Some(peer) = socket.peer() else { continue };
            let in_flight = peer.flight.borrow().len() as u64;
            if !loud {
                let arrives = self.random.borrow_mut().below(in_flight + 1);
                peer.lose_after(arrives as usize);
                self.give_up_later(world, &peer, KEEP_ALIVE_NS);
            } else if self.random.borrow_mut().chance(500_000) {
                self.send(world, &socket, Item::End);
            } else {
                let arrives = self.random.borrow_mut().below(in_flight + 1);
                peer.lose_after(arrives as usize);
                self.send(world, &socket, Item::Reset);
            }
            self.forget_if_over(&socket);
        }
    }

    /// After `ns` the socket's kernel gives the connection up, if nothing has ended it before.
    fn give_up_later(&self, world: &Rc<Inner>, socket: &Rc<Socket>, ns: u64) {
        let weak = Rc::downgrade(socket);
        let give_up = move |world: &Rc<Inner>| {
            let Some(socket) = weak.upgrade() else { return };
            let Some(peer) = socket.peer() else { return };
            let (here, there) = (socket.process.host, peer.process.host);
            let unreachable = world.network.link(here, there).cut || world.network.link(there, here).cut;
            if (unreachable || peer.process.is_dead()) && !socket.is_broken() && !socket.process.is_dead() {
                world.trace.count(Fault::ConnectionTimeout);
                socket.break_off();
                world.network.send(world, &socket, Item::Reset);
            }
        };
        world.push(world.now.get() + ns, What::Call(Box::new(give_up)));
    }

    /// Power is back: what waits for the host reaches it, and finds that nobody knows the connection.
    pub fn host_is_back(&self, world: &Rc<Inner>, host: HostId) {
        for socket in self.sockets_of(|socket| socket.process.host == host) {
            self.wake_up(world, &socket);
        }
    }

    /// Delivers again what was held back; TCP sends again some time after it could.
    fn wake_up(&self, world: &Rc<Inner>, socket: &Rc<Socket>) {
        if !socket.flight.borrow().is_empty() {
            let late = self.random.borrow_mut().between((1_000_000, 400_000_000));
            self.schedule(world, socket, world.now.get() + late);
        }
    }

    /// Nothing leads back to the world any more.
    pub fn clear(&self) {
        let listeners = std::mem::take(&mut *self.listeners.borrow_mut());
        let doors = std::mem::take(&mut *self.doors.borrow_mut());
        let sockets = std::mem::take(&mut *self.sockets.borrow_mut());
        for socket in sockets.values() {
            socket.die();
        }
        drop((listeners, doors, sockets));
    }

    /// One way through: true when the packet gets there.
    async fn travel(&self, world: &Inner, from: HostId, to: HostId) -> bool {
        SimSleep::world(self.latency(from, to)).await;
        let link = self.link(from, to);
        let now = world.now.get();
        if link.clogged_until > now {
            SimSleep::world(link.clogged_until - now).await;
        }
        !link.cut && !world.host(to).dark.get()
    }

    async fn open(&self, ours: &Rc<Process>, address: &str, preamble: PreambleBytes) -> io::Result<Rc<Socket>> {
        let world = &ours.world;
        let Some(host) = self.names.borrow().get(address).copied() else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no host has this address"));
        };
        let began = ours.world_now();
        let mut resend = RESEND_NS;
        loop {
            if self.travel(world, ours.host, host).await {
                if self.link(ours.host, host).refused {
                    return Err(io::Error::new(ErrorKind::ConnectionRefused, "a packet filter refuses it"));
                }
                let listener = self.listeners.borrow().get(address).cloned();
                if self.travel(world, host, ours.host).await {
                    let Some((theirs, route)) = listener.filter(|(theirs, _)| !theirs.is_dead()) else {
                        return Err(io::Error::new(ErrorKind::ConnectionRefused, "nobody listens there"));
                    };
                    return Ok(self.connected(ours, theirs, route, preamble));
                }
            }
            let left = (began + CONNECT_NS).saturating_sub(ours.world_now());
            if left == 0 {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer within 5 s"));
            }
            SimSleep::world(resend.min(left)).await;
            resend *= 2;
        }
    }

    fn connected(&self, ours: &Rc<Process>, theirs: Rc<Process>, route: Route, preamble: PreambleBytes) -> Rc<Socket> {
        let number = self.connections.get() + 2;
        self.connections.set(number);
        let (near, far) = Socket::pair(number, ours.clone(), theirs);
        self.doors.borrow_mut().insert(far.number(), route);
        self.sockets.borrow_mut().extend([(near.number(), near.clone()), (far.number(), far)]);
        self.send(&ours.world, &near, Item::Preamble(preamble));
        near
    }
}

/// The current process listens at `address`; `route` says which shard a connection is for.
pub fn listen(address: &str, route: impl Fn(&PreambleBytes) -> Option<SimNet> + 'static) {
    let process = current();
    let network = &process.world.network;
    network.names.borrow_mut().insert(address.to_string(), process.host);
    network.listeners.borrow_mut().insert(address.to_string(), (process.clone(), Rc::new(route)));
}

/// The current process listens there no more.
pub fn stop_listening(address: &str) {
    let gone = current().world.network.listeners.borrow_mut().remove(address);
    drop(gone);
}

/// The connections of one shard. Clones share them.
#[derive(Clone, Default)]
pub struct SimNet(Rc<Arrivals>);

#[derive(Default)]
struct Arrivals {
    waiting: RefCell<VecDeque<(PreambleBytes, Rc<Socket>)>>,
    stopping: Cell<bool>,
    closed: Cell<bool>,
    notify: Notify,
    stopped: Notify,
}

impl SimNet {
    /// No connections yet.
    pub fn new() -> SimNet {
        SimNet::default()
    }

    /// Asks the shard to stop.
    pub fn stop(&self) {
        self.0.stopping.set(true);
        self.0.stopped.notify_waiters();
    }

    fn arrive(&self, preamble: PreambleBytes, socket: Rc<Socket>) {
        if self.0.closed.get() {
            return socket.abandon();
        }
        self.0.waiting.borrow_mut().push_back((preamble, socket));
        self.0.notify.notify_one();
    }
}

impl Net for SimNet {
    type Reader = SimReader;
    type Writer = SimWriter;

    async fn accept(&self) -> Option<(PreambleBytes, SimReader, SimWriter)> {
        loop {
            if self.0.closed.get() {
                return None;
            }
            let arrived = self.0.waiting.borrow_mut().pop_front();
            match arrived {
                Some((preamble, socket)) => {
                    let (reader, writer) = socket.halves();
                    return Some((preamble, reader, writer));
                }
                None => self.0.notify.notified().await,
            }
        }
    }

    async fn stopping(&self) {
        while !self.0.stopping.get() {
            self.0.stopped.notified().await;
        }
    }

    fn close(&self) {
        self.0.closed.set(true);
        let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
        waiting.iter().for_each(|(_, socket)| socket.abandon());
        self.0.notify.notify_waiters();
    }

    async fn connect(&self, address: &str, preamble: PreambleBytes) -> io::Result<(SimReader, SimWriter)> {
        let ours = current();
        let opened = ours.world.network.open(&ours, address, preamble).await;
        let socket = opened.map_err(|e| io::Error::new(e.kind(), format!("connect to {address}: {e}")))?;
        Ok(socket.halves())
    }
}
