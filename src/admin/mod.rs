//! The admin port: health, status and metrics of this node over HTTP.
//!
//! ```text
//! HTTP --> one plain thread --SDK--> the node's own client port --> each shard's answer --> pages.rs
//! ```
//!
//! It learns what every client can learn, by messages, so nothing of a shard is shared with it, and a node whose client port does
//! not answer is not healthy. One request at a time: a monitor asks every few seconds.
//!
//! **Invariant**: the thread holds no lock that a shard takes, and runs on no shard's core by force: it is never pinned.
//!
//! **Not here**: changing anything. That is the client protocol's.

mod pages;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringbeam_sdk::{Client, Error, Status};
use tiny_http::{Header, Method, Request, Response, Server};
use tokio::runtime::Runtime;

use crate::config::Config;
use pages::Page;

/// Longest wait for one's own shards; a monitor's patience is longer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What each shard answered, by its number.
type Answers = Vec<Result<Status, Error>>;

/// The running admin port. Stops when dropped.
#[derive(Debug)]
pub struct AdminHandle {
    stopping: Arc<AtomicBool>,
    running: Option<(Arc<ServerHandle>, JoinHandle<()>)>,
}

/// `tiny_http` has no `Debug`.
struct ServerHandle(Server);

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.server_addr())
    }
}

/// Serves on `listen.admin`, if it is not empty. `shards`: how many shards to ask.
pub fn start(config: &Config, shards: u32) -> io::Result<AdminHandle> {
    let stopping = Arc::new(AtomicBool::new(false));
    if config.listen.admin.is_empty() {
        return Ok(AdminHandle { stopping, running: None });
    }
    let address = &config.listen.admin;
    let server = Server::http(address).map_err(|e| io::Error::other(format!("listen.admin {address}: {e}")))?;
    let server = Arc::new(ServerHandle(server));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut asker = Asker { runtime, client: None, address: own_address(&config.listen.client), shards };
    let (serving, stopped) = (server.clone(), stopping.clone());
    let thread = thread::Builder::new().name("admin".into()).spawn(move || {
        while !stopped.load(Ordering::Acquire) {
            match serving.0.recv() {
                Ok(request) => answer(request, &mut asker),
                Err(e) if stopped.load(Ordering::Acquire) => {
                    tracing::debug!("the admin port stops: {e}")
                }
                Err(e) => {
                    tracing::warn!("the admin port: {e}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })?;
    Ok(AdminHandle { stopping, running: Some((server, thread)) })
}

/// Dropping it stops it and waits until it has, at most as long as one request takes.
impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some((server, thread)) = self.running.take() {
            server.0.unblock();
            if thread.join().is_err() {
                tracing::error!("the admin thread had panicked");
            }
        }
    }
}

/// Where this node reaches itself: what listens on every address listens on loopback too.
fn own_address(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_string(),
    }
}

/// Asks this node's shards, over a connection that is kept.
struct Asker {
    runtime: Runtime,
    client: Option<Client>,
    address: String,
    shards: u32,
}

impl Asker {
    fn ask(&mut self) -> Answers {
        let Asker { runtime, client, address, shards } = self;
        runtime.block_on(async {
            if client.is_none() {
                let connecting = Client::builder()
                    .endpoints([&*address])
                    .timeout(ASK_TIMEOUT)
                    .client_name(concat!("ringbeam-admin/", env!("CARGO_PKG_VERSION")))
                    .exactly_once(false);
                match connecting.connect().await {
                    Ok(connected) => *client = Some(connected),
                    Err(error) => return (0..*shards).map(|_| Err(error.clone())).collect(),
                }
            }
            let Some(client) = client else {
                return Vec::new();
            };
            let mut asking = tokio::task::JoinSet::new();
            for shard in 0..*shards {
                let (client, address) = (client.clone(), address.clone());
                asking.spawn(async move { (shard, client.status_of(&address, shard).await) });
            }
            let mut answers: Vec<_> = asking.join_all().await;
            answers.sort_by_key(|&(shard, _)| shard);
            answers.into_iter().map(|(_, answer)| answer).collect()
        })
    }
}

fn answer(request: Request, asker: &mut Asker) {
    let page = match (request.method(), request.url().split('?').next().unwrap_or_default()) {
        (Method::Get | Method::Head, "/health") => pages::health(&asker.ask()),
        (Method::Get | Method::Head, "/status") => pages::status(&asker.ask()),
        (Method::Get | Method::Head, "/metrics") => pages::metrics(&asker.ask()),
        (Method::Get | Method::Head, _) => Page::text(404, "here are /health, /status and /metrics\n"),
        _ => Page::text(405, "only GET\n"),
    };
    let mut response = Response::from_string(page.body).with_status_code(page.code);
    if let Ok(header) = Header::from_bytes("content-type", page.content_type) {
        response.add_header(header);
    }
    // A monitor that hung up meanwhile asks again.
    if let Err(e) = request.respond(response) {
        tracing::debug!("an answer of the admin port did not arrive: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn get(address: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn free_address() -> String {
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").to_string()
    }

    #[test]
    fn a_node_whose_client_port_is_silent_is_not_healthy_and_the_port_stops_when_told() {
        let mut config = Config::default();
        config.listen.client = free_address();
        config.listen.admin = free_address();
        let handle = start(&config, 1).expect("it starts");
        let health = get(&config.listen.admin, "/health");
        assert!(health.starts_with("HTTP/1.1 503") && health.contains("shard 0 does not answer"), "{health}");
        assert!(get(&config.listen.admin, "/nothing").starts_with("HTTP/1.1 404"));
        assert!(get(&config.listen.admin, "/metrics").contains("ringbeam_shard_up{shard=\"0\"} 0"));
        drop(handle);
        // The port is free again at once or very soon; what matters is that the thread has ended.
        config.listen.admin.clear();
        drop(start(&config, 1).expect("off is fine"));
    }

    #[test]
    fn every_address_means_loopback_to_itself() {
        assert_eq!(own_address("0.0.0.0:7701"), "127.0.0.1:7701");
        assert_eq!(own_address("[::]:7701"), "[::1]:7701");
        assert_eq!(own_address("10.0.0.1:7701"), "10.0.0.1:7701");
    }
}
