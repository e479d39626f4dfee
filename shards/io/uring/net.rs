//! The connections of one shard: TCP through glommio.
//!
//! **Invariants**
//! - A connection is one descriptor; it closes when both halves are dropped.
//! - A read that is dropped has consumed nothing. A write that is dropped may have sent a part: the connection is then
//!   only good for closing.
//!
//! **Not here**: ports, preambles, the hand-over between cores (`listeners.rs`), frames (`wire`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use socket2::{SockRef, TcpKeepalive};

use super::blocking;
use crate::io::channel::Notify;
use crate::io::{Net, PreambleBytes, Reader, Writer};

/// Longest wait for a connection to be made. Callers with less patience drop the call.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this much silence the kernel asks whether the other side still lives, again each [`SILENCE_ASK`], and ends the
/// connection after [`SILENCE_ASKS`] questions without an answer: a half-open one is gone after two minutes.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_ASK: Duration = Duration::from_secs(15);
const SILENCE_ASKS: u32 = 4;

/// Connections handed to a shard that it has not accepted yet; more are closed.
const UNACCEPTED_MAX: usize = 1024;

/// The connections of one shard. Clones share them.
#[derive(Clone, Debug)]
pub struct UringNet {
    arrivals: Rc<Arrivals>,
}

#[derive(Debug, Default)]
struct Arrivals {
    waiting: RefCell<VecDeque<(PreambleBytes, Rc<Connection>)>>,
    stopping: Cell<bool>,
    closed: Cell<bool>,
    notify: Notify,
    stopped: Notify,
}

impl UringNet {
    pub(crate) fn new() -> Self {
        UringNet { arrivals: Rc::new(Arrivals::default()) }
    }

    /// A connection for this shard; closed at once when the shard does not keep up or has shut down.
    pub(crate) fn deliver(&self, preamble: PreambleBytes, connection: Connection) {
        let mut waiting = self.arrivals.waiting.borrow_mut();
        if self.arrivals.closed.get() || waiting.len() >= UNACCEPTED_MAX {
            return;
        }
        waiting.push_back((preamble, Rc::new(connection)));
        drop(waiting);
        self.arrivals.notify.notify_one();
    }

    /// Asks the shard to stop.
    pub(crate) fn stop(&self) {
        self.arrivals.stopping.set(true);
        self.arrivals.stopped.notify_waiters();
    }
}

impl Net for UringNet {
    type Reader = UringReader;
    type Writer = UringWriter;

    async fn accept(&self) -> Option<(PreambleBytes, UringReader, UringWriter)> {
        loop {
            if self.arrivals.closed.get() {
                return None;
            }
            let arrived = self.arrivals.waiting.borrow_mut().pop_front();
            match arrived {
                Some((preamble, connection)) => {
                    let (reader, writer) = halves(connection);
                    return Some((preamble, reader, writer));
                }
                None => self.arrivals.notify.notified().await,
            }
        }
    }

    async fn stopping(&self) {
        while !self.arrivals.stopping.get() {
            self.arrivals.stopped.notified().await;
        }
    }

    fn close(&self) {
        self.arrivals.closed.set(true);
        self.arrivals.waiting.borrow_mut().clear();
        self.arrivals.notify.notify_waiters();
    }

    async fn connect(&self, address: &str, preamble: PreambleBytes) -> io::Result<(UringReader, UringWriter)> {
        let connecting = async {
            let stream = connect_any(address).await?;
            let (reader, mut writer) = halves(Rc::new(Connection::new(stream, None)?));
            writer.write_all(&preamble).await?;
            Ok((reader, writer))
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Some(connected) => connected.map_err(|e: io::Error| io::Error::new(e.kind(), format!("connect to {address}: {e}"))),
            None => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("connect to {address}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            )),
        }
    }
}

/// Runs `work` for at most `limit`; `None` when it was not done by then, and dropped.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), Timer::new(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Pin::new(&mut limit).poll(cx).map(|_| None),
    })
    .await
}

/// Tries the addresses of a name in turn; the last error is the one told.
async fn connect_any(address: &str) -> io::Result<TcpStream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(address).await? {
        match TcpStream::connect(address).await.map_err(io::Error::from) {
            // The kernel may connect a socket to itself when nobody listens on a port of the ephemeral range.
            Ok(stream) if stream.local_addr().ok() == stream.peer_addr().ok() => {
                error = io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there");
            }
            Ok(stream) => return Ok(stream),
            Err(e) => error = e,
        }
    }
    Err(error)
}

async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(literal) = address.parse::<SocketAddr>() {
        return Ok(vec![literal]);
    }
    let name = address.to_owned();
    blocking(move || name.to_socket_addrs().map(Iterator::collect)).await
}

/// One of the connections that the node allows; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, if fewer than `limit` are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Place> {
        // Relaxed: the count guards nothing but itself.
        if taken.fetch_add(1, Ordering::Relaxed) >= limit {
            taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket bound to this executor.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: RefCell<TcpStream>,
    /// The last read did not have to wait.
    eager: Cell<bool>,
    place: Option<Place>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, place: Option<Place>) -> io::Result<Self> {
        // SAFETY: `stream` owns the descriptor and outlives the borrow, which ends with this function.
        let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        let socket = SockRef::from(&descriptor);
        socket.set_tcp_nodelay(true)?;
        socket.set_cloexec(true)?;
        let asks = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE_ASK).with_retries(SILENCE_ASKS);
        socket.set_tcp_keepalive(&asks)?;
        Ok(Connection { stream: RefCell::new(stream), eager: Cell::new(false), place })
    }

    /// Reads some bytes; 0 is the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a read into nothing could not be told from the end");
        if self.eager.get() {
            // The other side sends faster than we read. Before the bytes are taken: a read dropped here took none.
            glommio::yield_if_needed().await;
        }
        self.eager.set(true);
        poll_fn(|cx| {
            let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buffer);
            if read.is_pending() {
                self.eager.set(false);
            }
            read
        })
        .await
    }

    /// Takes it apart to hand it to another executor: a descriptor of its own, and the place.
    pub(crate) fn detach(self) -> io::Result<(OwnedFd, Option<Place>)> {
        let stream = self.stream.into_inner();
        // SAFETY: `stream` owns the descriptor and outlives the borrow, which ends with this statement.
        let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }.try_clone_to_owned()?;
        Ok((descriptor, self.place))
    }
}

fn halves(connection: Rc<Connection>) -> (UringReader, UringWriter) {
    (UringReader { connection: connection.clone() }, UringWriter { connection })
}

/// Receiving half.
#[derive(Debug)]
pub struct UringReader {
    connection: Rc<Connection>,
}

impl Reader for UringReader {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.connection.read(buffer).await
    }
}

/// Sending half.
#[derive(Debug)]
pub struct UringWriter {
    connection: Rc<Connection>,
}

impl Writer for UringWriter {
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| Pin::new(&mut *self.connection.stream.borrow_mut()).poll_write(cx, bytes)).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        let descriptor = self.connection.stream.borrow().as_raw_fd();
        // SAFETY: shutdown takes no pointers; the connection owns the descriptor and outlives the call.
        if unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::NotConnected => Ok(()), // the other side was faster
            e => Err(e),
        }
    }
}
