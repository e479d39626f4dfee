//! Links with a round trip of their own: a proxy in front of a node's peer port, since the kernel here cannot delay packets.
//!
//! ```text
//! other nodes ─▶ link (its own port) ─▶ delay line ─▶ the node's peer port
//!                                    ◀─ delay line ◀─
//! ```
//! Bytes get a due time when they arrive, so a delay adds latency and does not limit throughput; a bound of bytes a second does. A
//! connection is made one round trip late, as a handshake is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

/// A link; it and its connections end when this is dropped.
pub struct Link {
    /// Dropped, it ends the thread.
    _open: oneshot::Sender<()>,
}

impl Link {
    /// From `listen` to `target`, `one_way` in each direction; with `bytes_per_s`, each direction of each connection carries no
    /// more than that.
    pub fn start(listen: &str, target: &str, one_way: Duration, bytes_per_s: Option<u64>) -> Link {
        let (open, closed) = oneshot::channel();
        let listener = std::net::TcpListener::bind(listen).expect("the link's port is free");
        listener.set_nonblocking(true).expect("a listener can be set so");
        let target = target.to_string();
        // A thread of its own: tests block theirs.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it does not block");
                let accepting = async {
                    while let Ok((near, _)) = listener.accept().await {
                        tokio::spawn(carry(near, target.clone(), one_way, bytes_per_s));
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = closed => {}
                }
            });
        });
        Link { _open: open }
    }
}

async fn carry(near: TcpStream, target: String, one_way: Duration, bytes_per_s: Option<u64>) -> io::Result<()> {
    sleep(2 * one_way).await;
    let far = TcpStream::connect(&target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(line(near_in, far_out, one_way, bytes_per_s), line(far_in, near_out, one_way, bytes_per_s));
    Ok(())
}

/// One direction. Dropping the sending half passes the end on.
async fn line(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: Duration, bytes_per_s: Option<u64>) {
    let (enter, mut leave) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        // When what was taken in will have left: the line takes one after the other.
        let mut free = Instant::now();
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            let takes = bytes_per_s.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate as f64));
            free = free.max(Instant::now()) + takes;
            if enter.send((free + one_way, buffer[..bytes].to_vec())).await.is_err() {
                break;
            }
            // No more is under way than the line holds: the sender's own window fills, as it does on a narrow link.
            sleep_until(free).await;
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = leave.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
