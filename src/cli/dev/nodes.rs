//! The node processes: started, watched, ended. None outlives `dev`.
//!
//! **Invariants**
//! - A node dies with `dev`, even by `kill -9`: the kernel sends it SIGKILL when the *thread* that started it ends
//!   (PR_SET_PDEATHSIG), so [`Nodes`] must be used from the main thread, and that thread must live to the end.
//! - A node is in a process group of its own: Ctrl-C reaches `dev` alone, which then stops the nodes in order.
//! - Only processes that were started here, and not reaped yet, are ever signalled.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::ring::{Ring, address, data_dir};

/// A node has this long to stop after SIGTERM, then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether nodes have stopped.
const STOP_POLL: Duration = Duration::from_millis(10);

/// Of a log's end, at most this is read to show its last lines, bytes.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// All nodes of the ring.
pub struct Nodes(Vec<Node>);

/// One node.
pub struct Node {
    /// Node id.
    pub id: u64,
    /// Its process, as long as it runs.
    child: Option<Child>,
    /// Its process id, also after its end.
    pub pid: u32,
    /// Client address.
    pub client: String,
    /// Peer address.
    pub peer: String,
    /// Admin address.
    pub admin: String,
    /// Data directory.
    pub data: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// What it says.
    pub log: PathBuf,
}

/// A node that has ended by itself.
pub struct Death {
    /// Node id.
    pub id: u64,
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
}

impl Nodes {
    /// Writes the configurations and starts all. `dir` is absolute.
    pub fn start(ring: &Ring, dir: &Path, pin: bool) -> Result<Nodes, String> {
        let program = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
        let mut nodes = Nodes(Vec::new());
        for (id, ports) in ring.members() {
            let config = dir.join(format!("node-{id}.toml"));
            let text = ring.config(dir, id, ports, pin).to_toml();
            std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
            let log = dir.join(format!("node-{id}.log"));
            let child = spawn(&program, &config, &log).map_err(|error| format!("node {id} cannot be started: {error}"))?;
            nodes.0.push(Node {
                id,
                pid: child.id(),
                child: Some(child),
                client: address(ports.client),
                peer: address(ports.peer),
                admin: address(ports.admin),
                data: data_dir(dir, id),
                config,
                log,
            });
        }
        Ok(nodes)
    }

    /// All of them, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// Client addresses, comma separated.
    pub fn endpoints(&self) -> String {
        let clients: Vec<_> = self.0.iter().map(|node| node.client.as_str()).collect();
        clients.join(",")
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.0.iter().filter(|node| node.child.is_some()).count()
    }

    /// Those that have ended since the last look.
    pub fn deaths(&mut self) -> Vec<Death> {
        let mut deaths = Vec::new();
        for node in &mut self.0 {
            let Some(child) = &mut node.child else {
                continue;
            };
            if let Ok(Some(status)) = child.try_wait() {
                node.child = None;
                deaths.push(Death { id: node.id, pid: node.pid, status });
            }
        }
        deaths
    }

    /// SIGTERM to all, then SIGKILL to those that do not end in time. Returns what was not clean.
    pub fn stop(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        for node in &self.0 {
            if let Some(child) = &node.child {
                signal(child, libc::SIGTERM);
            }
        }
        let until = Instant::now() + STOP_TIMEOUT;
        while self.running() > 0 && Instant::now() < until {
            for death in self.deaths() {
                if !death.status.success() {
                    complaints.push(format!("node {} {} while stopping", death.id, how(death.status)));
                }
            }
            std::thread::sleep(STOP_POLL);
        }
        for node in &mut self.0 {
            if node.child.is_some() {
                complaints.push(format!("node {} did not stop within {} s and was killed", node.id, STOP_TIMEOUT.as_secs()));
            }
        }
        self.kill();
        complaints
    }

    fn kill(&mut self) {
        for node in &mut self.0 {
            if let Some(mut child) = node.child.take() {
                // An error means that it has ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    /// The last lines of its log.
    pub fn last_words(&self, lines: usize) -> Vec<String> {
        tail(&self.log, lines).unwrap_or_else(|error| vec![format!("({}: {error})", self.log.display())])
    }
}

/// How a process ended, in words.
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(libc::SIGKILL)) => "was killed (SIGKILL)".into(),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".into(),
    }
}

fn spawn(program: &Path, config: &Path, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // If `dev` died before the prctl, its death was missed.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    command.spawn()
}

fn signal(child: &Child, signal: libc::c_int) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no pointers. The child is not reaped, so the id is still its own.
        unsafe { libc::kill(pid, signal) };
    }
}

fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_shows_its_last_lines() {
        let path = std::env::temp_dir().join(format!("ringbeam-dev-tail-{}", std::process::id()));
        let text: String = (0..10_000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&path, text).expect("writable");
        let shown = tail(&path, 2);
        let _ = std::fs::remove_file(&path);
        assert_eq!(shown.expect("readable"), ["line 9998", "line 9999"]);
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(how(ExitStatus::from_raw(9)), "was killed (SIGKILL)");
        assert_eq!(how(ExitStatus::from_raw(1 << 8)), "ended with exit code 1");
    }
}
