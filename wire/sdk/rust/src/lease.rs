//! Leases: keys that go when the one who put them is gone.
//!
//! ```no_run
//! # async fn example(client: ringbeam_sdk::Client) -> Result<(), ringbeam_sdk::Error> {
//! use std::time::Duration;
//! use ringbeam_sdk::PutOptions;
//!
//! // Kept alive from here on, until it is revoked or dropped.
//! let lease = client.lease(Duration::from_secs(10));
//! let here = PutOptions { lease: Some((&lease).into()), ..PutOptions::default() };
//! client.put_with("workers/7", "127.0.0.1:9000", &here).await?;
//!
//! tokio::select! {
//!     () = lease.lost() => println!("perhaps the key is gone: stop working"),
//!     () = work() => lease.revoke().await?,
//! }
//! # Ok(())
//! # }
//! # async fn work() {}
//! ```
//!
//! A lease of the ring is of one shard. A [`Lease`] here is of as many shards as it is used on: it is granted on each when it is first
//! needed there, and kept alive on all of them, each by a task of its own, every third of its time; sooner again when that fails.
//!
//! **How long is it alive?** A shard ends a lease by ring time, of which no more passes than time does: it cannot end before its time has
//! passed since the last keep-alive that was answered *was sent*. So until then [`Lease::is_alive`] is certain, whatever became of the
//! ring, as long as this machine's clock runs. From then on it says no, and the handle is lost: all of it, on every shard.
//!
//! **Not here**: that a key is still held when a *write* arrives. Put what depends on it into one transaction with a compare of the key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ringbeam_wire::client::{Lease as LeaseState, Life, Place, RequestBody};
use ringbeam_wire::refusal::{Code, Refusal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use crate::answer::Answer;
use crate::client::{Client, PutOptions};
use crate::error::Error;
use crate::request::{Time, odd};
use crate::retry::Kind;

/// A lease that is kept alive while one of its clones is there. See the head of this module.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Shared>);

/// The lease with which a key goes.
#[derive(Clone, Debug)]
pub enum Holder {
    /// One that this process keeps alive.
    Lease(Lease),
    /// One of the key's shard, that somebody else keeps alive: from [`Client::grant_lease`].
    Id(u64),
}

#[derive(Debug)]
struct Shared {
    client: Client,
    ttl: Duration,
    granted: Mutex<BTreeMap<u32, Granted>>,
    /// By shard: held by the one task that grants it there.
    granting: Vec<tokio::sync::Mutex<()>>,
    lost: watch::Sender<bool>,
}

/// The lease on one shard.
#[derive(Debug)]
struct Granted {
    id: u64,
    alive_until: Instant,
    keeper: AbortHandle,
}

impl From<&Lease> for Holder {
    fn from(lease: &Lease) -> Holder {
        Holder::Lease(lease.clone())
    }
}

impl From<u64> for Holder {
    fn from(id: u64) -> Holder {
        Holder::Id(id)
    }
}

impl Client {
    /// A lease of this time, at least a second. Nothing is granted before it is used, and nothing waits.
    pub fn lease(&self, ttl: Duration) -> Lease {
        let (granted, granting) = (Mutex::default(), self.inner.shards.iter().map(|_| tokio::sync::Mutex::default()).collect());
        Lease(Arc::new(Shared { client: self.clone(), ttl, granted, granting, lost: watch::Sender::new(false) }))
    }

    /// Grants a lease on one shard, which nobody keeps alive but who calls [`Client::keep_lease`].
    pub async fn grant_lease(&self, shard: u32, ttl: Duration) -> Result<LeaseState, Error> {
        // Without a session: one that is granted twice because its answer was lost ends by itself.
        self.of_lease(shard, RequestBody::GrantLease { ttl_ms: millis(ttl), place: Place::default() }).await
    }

    /// Keeps a lease of one shard alive for its time from now.
    pub async fn keep_lease(&self, shard: u32, lease: u64) -> Result<LeaseState, Error> {
        self.of_lease(shard, RequestBody::KeepLease { lease }).await
    }

    /// A lease of one shard as it is.
    pub async fn lease_state(&self, shard: u32, lease: u64) -> Result<LeaseState, Error> {
        self.of_lease(shard, RequestBody::GetLease { lease }).await
    }

    /// Ends a lease of one shard: its keys go shortly. False: it had ended, or never was.
    pub async fn revoke_lease(&self, shard: u32, lease: u64) -> Result<bool, Error> {
        let body = RequestBody::RevokeLease { lease, place: Place::default() };
        match self.inner.command(shard, Kind::Read, body, self.timeout).await? {
            Answer::Written(written) => Ok(written.existed),
            other => Err(odd(&other)),
        }
    }

    /// All of these may be repeated at will: the worst is a lease that nobody knows of, which ends.
    async fn of_lease(&self, shard: u32, body: RequestBody<'_>) -> Result<LeaseState, Error> {
        match self.inner.command(shard, Kind::Read, body, self.timeout).await? {
            Answer::Lease(lease) => Ok(*lease),
            other => Err(odd(&other)),
        }
    }

    /// The life that these options give a key, within the call's time.
    pub(crate) async fn life(&self, key: &[u8], options: &PutOptions, time: Time) -> Result<Life, Error> {
        let lease = match &options.lease {
            None => 0,
            Some(Holder::Id(id)) => *id,
            Some(Holder::Lease(lease)) => lease.id_within(self.inner.shard_of(key).0, time).await?,
        };
        Ok(Life { ttl_ms: options.ttl.map_or(0, |ttl| millis(ttl).max(1)), lease })
    }
}

impl Lease {
    /// What gives a key, in a step of a transaction, a life with this lease; granted on the key's shard if it was not yet.
    pub async fn life(&self, key: impl AsRef<[u8]>) -> Result<Life, Error> {
        let (shard, _) = self.0.client.inner.shard_of(key.as_ref());
        Ok(Life { ttl_ms: 0, lease: self.id_on(shard).await? })
    }

    /// Its id on a shard; granted there if it was not yet.
    pub async fn id_on(&self, shard: u32) -> Result<u64, Error> {
        self.id_within(shard, Time::start(self.0.client.timeout)).await
    }

    async fn id_within(&self, shard: u32, time: Time) -> Result<u64, Error> {
        let known = |shared: &Shared| shared.granted().get(&shard).map(|granted| granted.id);
        if let Some(id) = known(&self.0).filter(|_| !self.is_lost()) {
            return Ok(id);
        }
        let gone = || Error::Refused(Refusal::new(Code::LeaseNotFound, "this lease was lost or revoked; make a new one"));
        self.0.client.inner.shard(shard)?;
        let Ok(_one) = timeout_at(time.deadline.into(), self.0.granting[shard as usize].lock()).await else {
            let why = format!("the lease is still being granted on shard {shard}");
            return Err(time.of_the_call(Error::Timeout { timeout_ms: 0, why }));
        };
        if self.is_lost() {
            return Err(gone());
        }
        if let Some(id) = known(&self.0) {
            return Ok(id);
        }
        let sent = Instant::now();
        let client = self.0.client.with_timeout(time.remaining());
        let id = client.grant_lease(shard, self.0.ttl).await.map_err(|error| time.of_the_call(error))?.lease;
        let mut granted = self.0.granted();
        // Lost meanwhile: nobody would end its keeper. What was granted ends by itself.
        if self.is_lost() {
            return Err(gone());
        }
        let keeper = tokio::spawn(keep(Arc::downgrade(&self.0), shard, id)).abort_handle();
        granted.insert(shard, Granted { id, alive_until: sent + self.0.ttl, keeper });
        Ok(id)
    }

    /// Whether it is certain that it has not ended on any shard it is used on.
    pub fn is_alive(&self) -> bool {
        let now = Instant::now();
        !self.is_lost() && self.0.granted().values().all(|granted| granted.alive_until > now)
    }

    /// Returns when it is not certain any more that it has not ended; at once, if it was revoked.
    pub async fn lost(&self) {
        let mut lost = self.0.lost.subscribe();
        // It fails only when nobody can say so any more, and we hold who can.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Ends it on all shards: its keys go shortly. The handle and its clones are lost.
    pub async fn revoke(&self) -> Result<(), Error> {
        self.0.lose();
        let granted: Vec<(u32, u64)> = self.0.granted().iter().map(|(shard, granted)| (*shard, granted.id)).collect();
        for (shard, id) in granted {
            self.0.client.revoke_lease(shard, id).await?;
        }
        Ok(())
    }

    fn is_lost(&self) -> bool {
        *self.0.lost.borrow()
    }
}

impl Shared {
    fn granted(&self) -> MutexGuard<'_, BTreeMap<u32, Granted>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self) {
        self.lost.send_replace(true);
        self.granted().values().for_each(|granted| granted.keeper.abort());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.granted().values().for_each(|granted| granted.keeper.abort());
    }
}

/// Keeps the lease alive on one shard until it is lost or dropped.
async fn keep(lease: Weak<Shared>, shard: u32, id: u64) {
    let Some(ttl) = lease.upgrade().map(|lease| lease.ttl) else { return };
    let mut wait = ttl / 3;
    loop {
        tokio::time::sleep(wait).await;
        let Some((client, alive_until)) = lease.upgrade().and_then(|shared| {
            let alive_until = shared.granted().get(&shard)?.alive_until;
            Some((shared.client.clone(), alive_until))
        }) else {
            return;
        };
        let sent = Instant::now();
        let kept = client.with_timeout(alive_until.saturating_duration_since(sent)).keep_lease(shard, id).await;
        // It may have been dropped meanwhile.
        let Some(shared) = lease.upgrade() else { return };
        match kept {
            Ok(_) => {
                shared.granted().get_mut(&shard).into_iter().for_each(|granted| granted.alive_until = sent + ttl);
                wait = ttl / 3;
            }
            Err(Error::Refused(refusal)) if refusal.code == Code::LeaseNotFound => return shared.lose(),
            Err(_) => {
                let left = alive_until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return shared.lose();
                }
                wait = left.min(ttl / 10);
            }
        }
    }
}

/// Whole milliseconds, a begun one too.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
