//! openraft's runtime on the seam: tasks, clock and channels of [`Env`], under the names that openraft expects.
//!
//! Nothing here decides anything. What it must keep: no tokio, no thread, no wall clock and no randomness but `Env::random`, so
//! that a shard under the simulator is a function of its seed.

use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{self as rt, AsyncRuntime, OptionalSend, OptionalSync};

use crate::io::channel::{self, oneshot};
use crate::io::{self, Env};

/// openraft's name for [`Env`].
#[derive(Debug)]
pub struct Runtime<E>(PhantomData<E>);

/// A task's result, once it has ended. It ends with [`TaskGone`] only when the executor stops.
pub struct JoinHandle<T>(oneshot::Receiver<T>);

/// The task was dropped before it ended: the executor stops.
#[derive(Debug)]
pub struct TaskGone;

impl std::fmt::Display for TaskGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the task was dropped before it ended")
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, TaskGone>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| r.map_err(|_| TaskGone))
    }
}

/// The deadline passed first.
#[derive(Debug)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline has passed")
    }
}

/// A future with a deadline.
pub struct Timeout<E: Env, F> {
    sleep: E::Sleep,
    future: Pin<Box<F>>,
}

impl<E: Env, F: Future> Future for Timeout<E, F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Waits for `future` at most `duration`.
pub fn timeout<E: Env, F: Future>(duration: Duration, future: F) -> Timeout<E, F> {
    Timeout { sleep: E::sleep(duration), future: Box::pin(future) }
}

/// The monotonic clock of `E`, with the arithmetic that openraft asks for.
pub struct Instant<E>(pub io::Instant, PhantomData<E>);

impl<E: Env> rt::Instant for Instant<E> {
    fn now() -> Self {
        Instant(E::now(), PhantomData)
    }
}

// Written out, because derives would ask the same of E.
impl<E> Clone for Instant<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Instant<E> {}
impl<E> std::fmt::Debug for Instant<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}ns", self.0.0)
    }
}
impl<E> PartialEq for Instant<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<E> Eq for Instant<E> {}
impl<E> PartialOrd for Instant<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Instant<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<E> Add<Duration> for Instant<E> {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Instant(self.0 + d, PhantomData)
    }
}
impl<E> AddAssign<Duration> for Instant<E> {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}
impl<E> Sub<Duration> for Instant<E> {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Instant(self.0 - d, PhantomData)
    }
}
impl<E> SubAssign<Duration> for Instant<E> {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}
impl<E> Sub<Self> for Instant<E> {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0.since(other.0)
    }
}
// An Instant<E> holds no E: only a number.
impl<E> std::panic::UnwindSafe for Instant<E> {}
impl<E> std::panic::RefUnwindSafe for Instant<E> {}
impl<E> Unpin for Instant<E> {}

/// Random numbers from [`Env::random`].
pub struct EnvRng<E>(PhantomData<E>);

impl<E: Env> rand::TryRng for EnvRng<E> {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(E::random() as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(E::random())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&E::random().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl<E: Env> AsyncRuntime for Runtime<E> {
    type JoinError = TaskGone;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = E::Sleep;
    type Instant = Instant<E>;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<E, T>;
    type ThreadLocalRng = EnvRng<E>;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: OptionalSend + 'static> = Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (tx, rx) = oneshot::channel();
        E::spawn(async move {
            // Nobody may be waiting for the result: that is not an error.
            let _ = tx.send(future.await);
        });
        JoinHandle(rx)
    }
    fn sleep(duration: Duration) -> Self::Sleep {
        E::sleep(duration)
    }
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        E::sleep(deadline.0.since(E::now()))
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        timeout::<E, F>(duration, future)
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        timeout::<E, F>(deadline.0.since(E::now()), future)
    }
    fn is_panic(_: &Self::JoinError) -> bool {
        // A panic ends the process or its executor; no task outlives one.
        false
    }
    fn thread_rng() -> Self::ThreadLocalRng {
        EnvRng(PhantomData)
    }
    fn new(_threads: usize) -> Self {
        Runtime(PhantomData)
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        E::block_on(future)
    }
}

// ---- channels: `io::channel` under openraft's names ----

/// Bounded queues.
pub struct Mpsc;
/// See [`channel::mpsc::Sender`].
pub struct MpscSender<T>(channel::mpsc::Sender<T>);
/// See [`channel::mpsc::WeakSender`].
pub struct MpscWeakSender<T>(channel::mpsc::WeakSender<T>);
/// See [`channel::mpsc::Receiver`].
pub struct MpscReceiver<T>(channel::mpsc::Receiver<T>);

impl rt::Mpsc for Mpsc {
    type Sender<T: OptionalSend> = MpscSender<T>;
    type Receiver<T: OptionalSend> = MpscReceiver<T>;
    type WeakSender<T: OptionalSend> = MpscWeakSender<T>;
    fn channel<T: OptionalSend>(buffer: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (tx, rx) = channel::mpsc::channel(buffer);
        (MpscSender(tx), MpscReceiver(rx))
    }
}
impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        MpscSender(self.0.clone())
    }
}
impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        MpscWeakSender(self.0.clone())
    }
}
impl<T: OptionalSend> rt::MpscSender<Mpsc, T> for MpscSender<T> {
    async fn send(&self, msg: T) -> Result<(), rt::SendError<T>> {
        self.0.send(msg).await.map_err(|e| rt::SendError(e.0))
    }
    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}
impl<T: OptionalSend> rt::MpscReceiver<T> for MpscReceiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }
    fn try_recv(&mut self) -> Result<T, rt::TryRecvError> {
        self.0.try_recv().map_err(|e| match e {
            channel::mpsc::TryRecvError::Empty => rt::TryRecvError::Empty,
            channel::mpsc::TryRecvError::Disconnected => rt::TryRecvError::Disconnected,
        })
    }
}
impl<T: OptionalSend> rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

/// Latest-value channels.
pub struct Watch;
/// See [`channel::watch::Sender`].
pub struct WatchSender<T>(channel::watch::Sender<T>);
/// See [`channel::watch::Receiver`].
pub struct WatchReceiver<T>(channel::watch::Receiver<T>);

impl rt::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = std::cell::Ref<'a, T>;
    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (tx, rx) = channel::watch::channel(init);
        (WatchSender(tx), WatchReceiver(rx))
    }
}
impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        WatchSender(self.0.clone())
    }
}
impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        WatchReceiver(self.0.clone())
    }
}
impl<T: OptionalSend + OptionalSync> rt::WatchSender<Watch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), rt::watch::SendError<T>> {
        self.0.send(value).map_err(|e| rt::watch::SendError(e.0))
    }
    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }
    fn borrow_watched(&self) -> std::cell::Ref<'_, T> {
        self.0.borrow()
    }
    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver(self.0.subscribe())
    }
}
impl<T: OptionalSend + OptionalSync> rt::WatchReceiver<Watch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), rt::watch::RecvError> {
        self.0.changed().await.map_err(|_| rt::watch::RecvError(()))
    }
    fn borrow_watched(&self) -> std::cell::Ref<'_, T> {
        self.0.borrow()
    }
    fn borrow_and_update(&mut self) -> std::cell::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

/// One-value channels.
pub struct Oneshot;
/// See [`channel::oneshot::Sender`].
pub struct OneshotSender<T>(oneshot::Sender<T>);

impl rt::Oneshot for Oneshot {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::RecvError;
    fn channel<T: OptionalSend>() -> (Self::Sender<T>, Self::Receiver<T>) {
        let (tx, rx) = oneshot::channel();
        (OneshotSender(tx), rx)
    }
}
impl<T: OptionalSend> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// A lock that is held across awaits.
pub struct Mutex<T>(channel::Mutex<T>);

impl<T: OptionalSend + 'static> rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = channel::Guard<'a, T>;
    fn new(value: T) -> Self {
        Mutex(channel::Mutex::new(value))
    }
    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::Runtime;
    use crate::io::uring::Uring;

    #[test]
    fn runtime_passes_openrafts_conformance_suite() {
        openraft_rt::testing::Suite::<Runtime<Uring>>::test_all();
    }

    #[cfg(feature = "sim")]
    #[test]
    fn runtime_passes_openrafts_conformance_suite_in_the_simulated_world() {
        openraft_rt::testing::Suite::<Runtime<crate::io::sim::Sim>>::test_all();
    }
}
