//! The ports: every core accepts, reads who is wanted, and hands the connection to the core that owns the shard.
//!
//! ```text
//!   kernel spreads connections over the cores' sockets (SO_REUSEPORT)
//!        |
//!   accept -> place? -> 16 bytes within the timeout -> route -> mine:   deliver to the shard
//!              | no             | late, cut off          | none   other's: descriptor through the channel, deliver there
//!              v                v                        v
//!            closed           closed                   closed
//! ```
//!
//! **Invariants**
//! - Nothing is read behind the preamble before the owner has the connection, and the descriptor moves at most once.
//! - Open connections are bounded for each port, and those that a shard has not accepted for each shard; what is beyond is
//!   closed. Those without a preamble are bounded for each core and port; beyond, nothing is accepted on that port until one has
//!   announced itself or was cut off, and the kernel's backlog waits. Silent clients never keep peers out.
//!
//! **Not here**: what the 16 bytes mean: `route` says.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::Duration;

use glommio::channels::shared_channel::{ConnectedSender, SharedReceiver, SharedSender};
use glommio::net::{AcceptedTcpStream, TcpStream};
use glommio::timer::Timer;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::net::{Connection, Place, UringNet, timeout};
use crate::io::PreambleBytes;
use crate::io::channel::Notify;

/// Connections the kernel holds for us between two accepts; a burst of clients after a failover fits.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept (no descriptors left, mostly): trying again at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which port a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// For SDKs and commands.
    Client,
    /// For the other nodes.
    Peer,
}

/// What to listen on. Port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// For SDKs and commands.
    pub client: SocketAddr,
    /// For the other nodes.
    pub peer: SocketAddr,
}

/// How many connections a node takes and how long it waits for what they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open client connections of the node.
    pub clients_max: usize,
    /// Open peer connections of the node. Apart from the clients', so that these cannot crowd the ring out.
    pub peers_max: usize,
    /// Connections of one core and port whose preamble has not come yet; at that many, the core accepts no more on that port.
    pub unannounced_max: usize,
    /// Time a connection has for its preamble.
    pub preamble_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            clients_max: 20_000,
            peers_max: 1_024,
            unannounced_max: 1_024,
            preamble_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a port could not be opened.
#[derive(Debug)]
pub struct ListenError {
    port: Port,
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self.port {
            Port::Client => "client",
            Port::Peer => "peer",
        };
        write!(f, "cannot listen on {} for {port} connections: {}", self.address, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another process listens there: stop it or choose another port"),
            io::ErrorKind::AddrNotAvailable => f.write_str("; no interface of this host has that address"),
            io::ErrorKind::PermissionDenied => f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {}

/// The open ports: a socket a core for each of the two. Made before the executors, so that a taken port is told early.
#[derive(Debug)]
pub struct Sockets {
    client: Vec<TcpListener>,
    peer: Vec<TcpListener>,
    addresses: Listeners,
}

impl Sockets {
    /// Opens both ports for `cores` executors.
    pub fn bind(listeners: &Listeners, cores: usize) -> Result<Sockets, ListenError> {
        assert!(cores > 0, "somebody has to accept");
        let open = |port, address| bind_shared(address, cores).map_err(|error| ListenError { port, address, error });
        let (client, client_address) = open(Port::Client, listeners.client)?;
        let (peer, peer_address) = open(Port::Peer, listeners.peer)?;
        Ok(Sockets { client, peer, addresses: Listeners { client: client_address, peer: peer_address } })
    }

    /// The addresses as they are, with the ports that port 0 became.
    pub fn addresses(&self) -> Listeners {
        self.addresses
    }

    /// One pair a core.
    pub(crate) fn split(self) -> Vec<(TcpListener, TcpListener)> {
        self.client.into_iter().zip(self.peer).collect()
    }
}

/// `count` sockets on one address, each with its own queue.
///
/// SO_REUSEPORT lets a second server take half of our connections without any error. So before ours are opened, a plain
/// socket tries the address: that fails when anybody listens on it.
fn bind_shared(address: SocketAddr, count: usize) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let mut address = address;
    if address.port() != 0 {
        wait_for_predecessor(|| socket(address)?.bind(&address.into()))?;
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok((sockets, address))
}

/// Tries `bind` again for a moment while the address is in use. After `kill -9` the kernel takes an io_uring apart beside the
/// process's end: its listening sockets may live some milliseconds longer than it, and a quick restart would meet them.
pub fn wait_for_predecessor<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = std::time::Instant::now();
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && began.elapsed() < PREDECESSOR_LINGERS_MAX => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// See [`wait_for_predecessor`].
const PREDECESSOR_LINGERS_MAX: Duration = Duration::from_secs(1);

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a predecessor that linger in TIME_WAIT do not keep us from its port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A connection on its way to its owner.
#[derive(Debug)]
pub(crate) struct Arrival {
    shard: u32,
    preamble: PreambleBytes,
    descriptor: OwnedFd,
    place: Option<Place>,
}

/// Arrivals between two executors that were sent and not received; more wait.
pub(crate) const ARRIVALS_MAX: usize = 256;

/// Open connections of the node, by port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    clients: Arc<AtomicUsize>,
    peers: Arc<AtomicUsize>,
}

/// Says which shard a connection is for, if any; a pure function of the port and the 16 bytes.
pub(crate) type Route = fn(Port, &PreambleBytes) -> Option<u32>;

/// What one executor knows to place a connection.
pub(crate) struct Door {
    executor: u32,
    executors: u32,
    route: Route,
    limits: ConnectionLimits,
    counts: Counts,
    /// By port: connections that owe their preamble or wait for their way, and who waits for one fewer of them.
    unannounced: [Cell<usize>; 2],
    announced: [Notify; 2],
    /// The shards of this executor.
    shards: BTreeMap<u32, UringNet>,
    /// To the other executors; absent for this one and until the other has started.
    others: Vec<OnceCell<ConnectedSender<Arrival>>>,
    /// The ports again, to end them at once: a cancelled accept keeps its socket open for a while.
    ports: [TcpListener; 2],
    closing: Cell<bool>,
    closed: Notify,
}

impl Door {
    pub(crate) fn new(
        executor: u32,
        executors: u32,
        shards: BTreeMap<u32, UringNet>,
        route: Route,
        limits: ConnectionLimits,
        counts: Counts,
        ports: [TcpListener; 2],
    ) -> Rc<Self> {
        let others = (0..executors).map(|_| OnceCell::new()).collect();
        Rc::new(Door {
            executor,
            executors,
            route,
            limits,
            counts,
            unannounced: Default::default(),
            announced: Default::default(),
            shards,
            others,
            ports,
            closing: Cell::new(false),
            closed: Notify::new(),
        })
    }

    /// Takes connections in until [`Door::close`].
    pub(crate) async fn listen(self: Rc<Self>, port: Port, listener: TcpListener) {
        // SAFETY: the descriptor was just given up by `listener` and is a listening socket.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        while !self.closing.get() {
            if self.unannounced[port as usize].get() >= self.limits.unannounced_max {
                self.unless_closed(self.announced[port as usize].notified()).await;
                continue;
            }
            match self.unless_closed(listener.shared_accept()).await {
                None => return,
                Some(Ok(accepted)) => self.clone().admit(port, accepted),
                Some(Err(_)) if self.closing.get() => return,
                Some(Err(error)) => {
                    tracing::warn!(?port, %error, "accept failed");
                    Timer::new(ACCEPT_PAUSE).await;
                }
            }
            glommio::yield_if_needed().await;
        }
    }

    /// `work`'s result, or `None` when the door closes first.
    async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut closed) = (pin!(work), pin!(self.closed.notified()));
        poll_fn(|cx| match closed.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(cx).map(Some),
        })
        .await
    }

    /// Gives the connection a place and a task that reads its preamble and passes it on; or closes it, by dropping it.
    fn admit(self: Rc<Self>, port: Port, accepted: AcceptedTcpStream) {
        let stream = accepted.bind_to_executor();
        let (taken, limit) = match port {
            Port::Client => (&self.counts.clients, self.limits.clients_max),
            Port::Peer => (&self.counts.peers, self.limits.peers_max),
        };
        let Some(place) = Place::take(taken, limit) else {
            return;
        };
        self.unannounced[port as usize].update(|count| count + 1);
        glommio::spawn_local(async move {
            let announced = match Connection::new(stream, Some(place)) {
                Ok(connection) => timeout(self.limits.preamble_timeout, announce(connection)).await,
                Err(_) => None, // it ended before it began
            };
            if let Some(Some((preamble, connection))) = announced {
                self.pass(port, preamble, connection).await;
            }
            self.unannounced[port as usize].update(|count| count - 1);
            self.announced[port as usize].notify_one();
        })
        .detach();
    }

    /// Brings a connection to its shard, here or on another executor; waits while the way there is full.
    async fn pass(&self, port: Port, preamble: PreambleBytes, connection: Connection) {
        let Some(shard) = (self.route)(port, &preamble) else {
            return;
        };
        let owner = shard % self.executors;
        if owner == self.executor {
            if let Some(net) = self.shards.get(&shard) {
                net.deliver(preamble, connection);
            }
            return;
        }
        let other = self.others.get(owner as usize).and_then(OnceCell::get);
        if let (Some(other), Ok((descriptor, place))) = (other, connection.detach()) {
            // An error means that the other executor has ended: dropping the arrival closes the connection.
            let _ = other.send(Arrival { shard, preamble, descriptor, place }).await;
        }
    }

    /// Connects the way to executor `other`.
    pub(crate) async fn send_to(self: Rc<Self>, other: usize, sender: SharedSender<Arrival>) {
        let sender = sender.connect().await;
        let _ = self.others[other].set(sender);
    }

    /// Takes over what another executor accepted for our shards.
    pub(crate) async fn receive_from(self: Rc<Self>, receiver: SharedReceiver<Arrival>) {
        let receiver = receiver.connect().await;
        while let Some(arrival) = receiver.recv().await {
            // SAFETY: the descriptor was just given up by its owner and is a connected socket.
            let stream = unsafe { TcpStream::from_raw_fd(arrival.descriptor.into_raw_fd()) };
            if let (Some(net), Ok(connection)) = (self.shards.get(&arrival.shard), Connection::new(stream, arrival.place)) {
                net.deliver(arrival.preamble, connection);
            }
        }
    }

    /// Asks every shard to stop. The ports stay open: a leader hands over through them.
    pub(crate) fn stop_shards(&self) {
        for net in self.shards.values() {
            net.stop();
        }
    }

    /// Ends the listeners, and with them the ports.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.closed.notify_waiters();
        for port in &self.ports {
            let _ = SockRef::from(port).shutdown(Shutdown::Both);
        }
    }
}

/// Reads exactly the preamble.
async fn announce(connection: Connection) -> Option<(PreambleBytes, Connection)> {
    let mut preamble = PreambleBytes::default();
    let mut filled = 0;
    while filled < preamble.len() {
        match connection.read(&mut preamble[filled..]).await {
            Ok(bytes) if bytes > 0 => filled += bytes,
            _ => return None,
        }
    }
    Some((preamble, connection))
}
