//! The client for programs that are not async: the same names, every call waits.
//!
//! ```no_run
//! # fn example() -> Result<(), ringbeam_sdk::Error> {
//! use ringbeam_sdk::blocking::Client;
//!
//! let client = Client::connect("127.0.0.1:7701,127.0.0.1:7702")?;
//! client.put("greeting", "hello")?;
//! for entry in client.scan(ringbeam_sdk::Range::prefix("cart:")) {
//!     println!("{}", String::from_utf8_lossy(&entry?.key));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A thread of its own moves the bytes of all connections; calls of many threads share them. The thread ends with the last clone.
//! What has no method here is still to be had: [`Client::wait`] waits for any call of the client within, [`Client::within`].
//!
//! **Not inside a tokio runtime**: a call that waits would stop the tasks of its thread. There, `spawn_blocking` included, every call is
//! [`Error::Misuse`]: use [`crate::Client`].

use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ringbeam_wire::client::{Counted, Status, Topology, Written};
use tokio::runtime::{Builder as RuntimeBuilder, Handle};
use tokio::sync::oneshot;

use crate::answer::Value;
use crate::builder::Builder;
use crate::client::{GetOptions, PutOptions};
use crate::counter::AddOptions;
use crate::error::Error;
use crate::lease::Holder;
use crate::outcome::{Outcome, Ticket};
use crate::scan::{Entry, Range};
use crate::txn::{Expect, Transacted, Txn};
use crate::watch::{Batch, WatchError, WatchOptions};

/// A ring's client whose calls wait. See the head of this module.
#[derive(Clone, Debug)]
pub struct Client {
    within: crate::Client,
    driver: Arc<Driver>,
}

/// The thread that moves the bytes, while this lives.
#[derive(Debug)]
struct Driver {
    handle: Handle,
    /// Dropped with the last client: the thread ends.
    _stop: oneshot::Sender<()>,
}

impl Driver {
    fn start() -> Result<Driver, Error> {
        let failed = |e: std::io::Error| Error::Connect(format!("no thread for network calls: {e}"));
        let runtime = RuntimeBuilder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let drive = move || {
            // An error is the end of the last client.
            let _ = runtime.block_on(stopped);
        };
        thread::Builder::new().name("ringbeam-client".into()).spawn(drive).map_err(failed)?;
        Ok(Driver { handle, _stop: stop })
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> Result<T, Error> {
        outside_of_runtimes()?;
        Ok(self.handle.block_on(call))
    }
}

fn outside_of_runtimes() -> Result<(), Error> {
    if Handle::try_current().is_ok() {
        let why =
            "a blocking client was used inside a tokio runtime, whose tasks it would stop: use ringbeam_sdk::Client there";
        return Err(Error::Misuse(why.into()));
    }
    Ok(())
}

impl Client {
    /// See [`crate::Client::connect`].
    pub fn connect(endpoints: &str) -> Result<Client, Error> {
        Client::connect_with(crate::Client::builder().endpoints([endpoints]))
    }

    /// Connects with these settings.
    pub fn connect_with(settings: Builder) -> Result<Client, Error> {
        outside_of_runtimes()?;
        let driver = Driver::start()?;
        let within = driver.wait(settings.connect())??;
        Ok(Client { within, driver: Arc::new(driver) })
    }

    /// The client whose calls these are.
    pub fn within(&self) -> &crate::Client {
        &self.within
    }

    /// Waits for any call of [`Client::within`].
    pub fn wait<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.driver.wait(call)?
    }

    /// See [`crate::Client::namespace`].
    pub fn namespace(&self, name: &str) -> Client {
        Client { within: self.within.namespace(name), driver: self.driver.clone() }
    }

    /// See [`crate::Client::with_timeout`].
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { within: self.within.with_timeout(timeout), driver: self.driver.clone() }
    }

    /// See [`crate::Client::put`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.wait(self.within.put(key, value))
    }

    /// See [`crate::Client::put_with`].
    pub fn put_with(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: &PutOptions) -> Result<Written, Error> {
        self.wait(self.within.put_with(key, value, options))
    }

    /// See [`crate::Client::delete`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.wait(self.within.delete(key))
    }

    /// See [`crate::Client::delete_with`].
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: &PutOptions) -> Result<Written, Error> {
        self.wait(self.within.delete_with(key, options))
    }

    /// See [`crate::Client::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        self.wait(self.within.get(key))
    }

    /// See [`crate::Client::get_with`].
    pub fn get_with(&self, key: impl AsRef<[u8]>, options: &GetOptions) -> Result<Option<Value>, Error> {
        self.wait(self.within.get_with(key, options))
    }

    /// See [`crate::Client::get_many`].
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Value>>, Error> {
        self.wait(self.within.get_many(keys))
    }

    /// See [`crate::Client::scan`]: the keys of a range in order, one after the other.
    pub fn scan(&self, range: Range) -> Scan {
        self.scan_with(range, &GetOptions::default())
    }

    /// See [`crate::Client::scan_with`].
    pub fn scan_with(&self, range: Range, options: &GetOptions) -> Scan {
        Scan { scan: self.within.scan_with(range, options), driver: self.driver.clone() }
    }

    /// See [`crate::Client::cas`].
    pub fn cas(&self, key: impl AsRef<[u8]>, expect: Expect<'_>, value: impl AsRef<[u8]>) -> Result<Transacted, Error> {
        self.wait(self.within.cas(key, expect, value))
    }

    /// See [`crate::Client::create`].
    pub fn create(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Transacted, Error> {
        self.wait(self.within.create(key, value))
    }

    /// See [`crate::Client::txn`].
    pub fn txn(&self, txn: &Txn<'_>) -> Result<Transacted, Error> {
        self.wait(self.within.txn(txn))
    }

    /// See [`crate::Client::txn_with`].
    pub fn txn_with(&self, txn: &Txn<'_>, options: &PutOptions) -> Result<Transacted, Error> {
        self.wait(self.within.txn_with(txn, options))
    }

    /// See [`crate::Client::add`].
    pub fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<Counted, Error> {
        self.wait(self.within.add(key, delta))
    }

    /// See [`crate::Client::add_with`].
    pub fn add_with(&self, key: impl AsRef<[u8]>, delta: i64, options: &AddOptions) -> Result<Counted, Error> {
        self.wait(self.within.add_with(key, delta, options))
    }

    /// See [`crate::Client::append`].
    pub fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.wait(self.within.append(key, bytes))
    }

    /// See [`crate::Client::merge_patch`].
    pub fn merge_patch(&self, key: impl AsRef<[u8]>, patch: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.wait(self.within.merge_patch(key, patch))
    }

    /// See [`crate::Client::lease`]. The client's thread keeps it alive.
    pub fn lease(&self, ttl: Duration) -> Lease {
        Lease { lease: self.within.lease(ttl), driver: self.driver.clone() }
    }

    /// See [`crate::Client::watch`].
    pub fn watch(&self, range: &Range, options: &WatchOptions) -> Result<Watch, WatchError> {
        let watch = self.driver.wait(self.within.watch(range, options))??;
        Ok(Watch { watch, driver: self.driver.clone() })
    }

    /// See [`crate::Client::delete_range`].
    pub fn delete_range(&self, range: Range) -> Result<u64, Error> {
        self.wait(self.within.delete_range(range))
    }

    /// See [`crate::Client::delete_prefix`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64, Error> {
        self.wait(self.within.delete_prefix(prefix))
    }

    /// See [`crate::Client::outcome`].
    pub fn outcome(&self, ticket: &Ticket) -> Result<Outcome, Error> {
        self.wait(self.within.outcome(ticket))
    }

    /// See [`crate::Client::topology`].
    pub fn topology(&self) -> Result<Topology, Error> {
        self.wait(self.within.topology())
    }

    /// See [`crate::Client::status`].
    #[allow(clippy::type_complexity)] // the async client's, and that it may be used wrongly
    pub fn status(&self) -> Result<Vec<(u64, u32, Result<Status, Error>)>, Error> {
        self.driver.wait(self.within.status())
    }
}

/// A lease that the client's thread keeps alive. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    lease: crate::Lease,
    driver: Arc<Driver>,
}

impl Lease {
    /// For [`PutOptions::lease`].
    pub fn holder(&self) -> Holder {
        Holder::from(&self.lease)
    }

    /// See [`crate::Lease::is_alive`].
    pub fn is_alive(&self) -> bool {
        self.lease.is_alive()
    }

    /// Waits until it is not certain any more that it has not ended, at most so long: whether that is so.
    pub fn lost_within(&self, patience: Duration) -> Result<bool, Error> {
        self.driver.wait(async { tokio::time::timeout(patience, self.lease.lost()).await.is_ok() })
    }

    /// See [`crate::Lease::revoke`].
    pub fn revoke(&self) -> Result<(), Error> {
        self.driver.wait(self.lease.revoke())?
    }
}

/// The changes of a range, as they come; each waits for the next. After an error, always that error.
#[derive(Debug)]
pub struct Watch {
    watch: crate::Watch,
    driver: Arc<Driver>,
}

impl Watch {
    /// The next events, if some come in so long.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Batch>, WatchError> {
        let next = async { tokio::time::timeout(patience, self.watch.next()).await };
        self.driver.wait(next)?.unwrap_or(Ok(None))
    }

    /// See [`crate::Watch::token`].
    pub fn token(&self) -> Vec<u8> {
        self.watch.token()
    }
}

impl Iterator for Watch {
    type Item = Result<Batch, WatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.driver.wait(self.watch.next()) {
            Ok(next) => next.transpose(),
            Err(misuse) => Some(Err(misuse.into())),
        }
    }
}

/// The keys of a range in order. After an error it can go on where it was.
#[derive(Debug)]
pub struct Scan {
    scan: crate::Scan,
    driver: Arc<Driver>,
}

impl Iterator for Scan {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.driver.wait(self.scan.next()) {
            Ok(next) => next.transpose(),
            Err(misuse) => Some(Err(misuse)),
        }
    }
}
