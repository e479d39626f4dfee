//! Settings of a client, and its first contact with the ring.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbeam_wire::client::{RequestBody, Topology};
use tokio::task::JoinSet;

use crate::answer::{Answer, Outcome};
use crate::client::{Client, Inner};
use crate::connection::Connection;
use crate::error::Error;
use crate::handshake::OpenError;
use crate::limits::TIMEOUT_DEFAULT;
use crate::observe::{Hooks, Metrics};
use crate::pool::Pool;
use crate::request::{Time, deadline_ms};
use crate::routing::{Address, Routes};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<Address>,
    region: String,
    timeout: Duration,
    ring: u64,
    client: String,
    sessions: bool,
    jitter: bool,
    hooks: Hooks,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            endpoints: Vec::new(),
            region: String::new(),
            timeout: TIMEOUT_DEFAULT,
            ring: 0,
            client: concat!("ringbeam-sdk-rust/", env!("CARGO_PKG_VERSION")).to_string(),
            sessions: true,
            jitter: true,
            hooks: Hooks::default(),
        }
    }
}

impl Builder {
    /// Client addresses (host:port) of some of the ring's nodes; each item may hold several, comma separated. The rest is
    /// learnt from the first that answers.
    pub fn endpoints<I, S>(mut self, endpoints: I) -> Builder
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        for item in endpoints {
            for endpoint in item.as_ref().split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()) {
                self.endpoints.push(Address::from(endpoint));
            }
        }
        self
    }

    /// The region this client is in: local reads go to nodes of the same region first.
    pub fn region(mut self, region: impl Into<String>) -> Builder {
        self.region = region.into();
        self
    }

    /// Deadline of every call, and of connecting. Default 5 s. Kept to within 10 ms.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// The ring this client belongs to; nodes of another are refused. Default: the ring of the first node that answers.
    pub fn ring(mut self, ring: u64) -> Builder {
        self.ring = ring;
        self
    }

    /// Name and version of the application, for the operator's eyes.
    pub fn client_name(mut self, name: impl Into<String>) -> Builder {
        self.client = name.into();
        self
    }

    /// Whether writes are exactly-once (the default). Without sessions a write whose reply is lost is
    /// [`Error::Unknown`] at once, and the first write saves the round that opens the session.
    pub fn exactly_once(mut self, sessions: bool) -> Builder {
        self.sessions = sessions;
        self
    }

    /// Whom to tell of calls and connections, as they happen.
    pub fn metrics(mut self, metrics: impl Metrics) -> Builder {
        self.hooks = Hooks(Some(Arc::new(metrics)));
        self
    }

    /// Back-off without jitter: for tests that show what jitter is for.
    #[doc(hidden)]
    pub fn jitter(mut self, jitter: bool) -> Builder {
        self.jitter = jitter;
        self
    }

    /// Asks all endpoints at once and takes the first that answers. Tries each once: a ring that is not up is
    /// [`Error::Connect`] as soon as that is certain.
    pub async fn connect(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Connect("the list of endpoints is empty, give at least one host:port".into()));
        }
        if self.client.len() > CLIENT_NAME_BYTES_MAX {
            let bytes = self.client.len();
            return Err(Error::Protocol(format!("the client name has {bytes} bytes, the limit is {CLIENT_NAME_BYTES_MAX}")));
        }
        let time = Time::start(self.timeout);
        let pool = Arc::new(Pool::new(self.client, self.ring, self.hooks.clone()));
        let mut asking = JoinSet::new();
        for endpoint in self.endpoints.clone() {
            let pool = pool.clone();
            asking.spawn(async move { first_contact(&pool, &endpoint, time).await });
        }
        let mut failures = Vec::new();
        while let Some(joined) = asking.join_next().await {
            let (connection, topology) = match joined {
                Ok(Ok(contact)) => contact,
                Ok(Err(failure)) => {
                    failures.push(failure);
                    continue;
                }
                Err(_) => continue,
            };
            asking.shutdown().await;
            let routes = Routes::new(&self.region, &self.endpoints, &topology)
                .map_err(|why| Error::Protocol(format!("{}: {why}", connection.address)))?;
            pool.belong_to(topology.ring);
            if let Some(address) = routes.address_of(connection.welcome.node) {
                pool.also_known_as(&address, &connection);
            }
            return Ok(Client::new(Inner::new(pool, routes, self.sessions, self.jitter, self.hooks), self.timeout));
        }
        Err(first_failure(failures))
    }
}

/// Longest client name, bytes: it must fit a Hello beside everything else.
const CLIENT_NAME_BYTES_MAX: usize = 256;

async fn first_contact(
    pool: &Arc<Pool>,
    endpoint: &Address,
    time: Time,
) -> Result<(Arc<Connection>, Box<Topology>), OpenError> {
    let connection = pool.open(endpoint, 0, time.deadline).await?;
    let told = deadline_ms(time.deadline.saturating_duration_since(Instant::now()));
    match connection.call(RequestBody::GetTopology, time.deadline, told).await {
        Outcome::Answer(Answer::Topology(topology)) => Ok((connection, topology)),
        Outcome::Answer(Answer::Refused(refusal)) => Err(OpenError::Refused(endpoint.to_string(), *refusal)),
        Outcome::Answer(other) => Err(OpenError::Protocol(format!("{endpoint}: {} is no answer to GetTopology", other.kind()))),
        Outcome::Lost { .. } => Err(OpenError::Connect(connection.why_closed())),
        Outcome::DeadlinePassed | Outcome::Busy => {
            Err(OpenError::Connect(format!("{endpoint}: no answer to GetTopology in time")))
        }
    }
}

/// The most telling failure: a refusal says more than silence. All are named when none was a refusal.
fn first_failure(mut failures: Vec<OpenError>) -> Error {
    let rank = |failure: &OpenError| match failure {
        OpenError::Refused(..) => 0,
        OpenError::Protocol(_) => 1,
        OpenError::Connect(_) => 2,
    };
    failures.sort_by_key(rank);
    match failures.first() {
        Some(OpenError::Connect(_)) | None => {
            let each: Vec<String> = failures.iter().map(OpenError::to_string).collect();
            Error::Connect(format!("none of the endpoints answered: {}", each.join("; ")))
        }
        Some(telling) => telling.clone().into(),
    }
}
