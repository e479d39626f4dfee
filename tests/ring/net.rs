//! A network of a ring's own: each node in a network namespace, joined by a router in the namespace of the test. What passes
//! there can be cut between any two nodes or between a node and the clients, in both directions or in one.
//!
//! ```text
//!   clients ── router, packet filter ──┬── 10.77.1.2  node 1      of a cut way every packet is dropped, acknowledgements too:
//!   (this process)                     ├── 10.77.2.2  node 2      nobody gets a reset, connections are just silent
//!                                      └── 10.77.3.2  node 3
//! ```
//!
//! **Invariants**
//! - The process lives in namespaces of its own, for networks and for mounts, before it has a second thread. No rule and no mount
//!   of it is in the host's, and the kernel takes all of it back when the process ends, however it ends.
//! - A way that is cut counts what it drops: a fault that cuts nothing can be told from one that does.
//!
//! Needs root, veth and nf_tables in the kernel, the commands `ip` and `nft`; a machine without them says which.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The network of this process.
pub struct Net {
    /// The namespaces of the nodes that have one.
    homes: Mutex<BTreeMap<u64, File>>,
}

/// A direction in which nothing passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a node to another.
    Peers(u64, u64),
    /// From a node to all clients.
    ToClients(u64),
    FromClients(u64),
}

impl Way {
    /// Whether it begins (`begins`) or ends at `node`.
    pub fn begins_or_ends(self, node: u64, begins: bool) -> bool {
        match self {
            Way::Peers(from, to) => node == if begins { from } else { to },
            Way::ToClients(from) => begins && node == from,
            Way::FromClients(to) => !begins && node == to,
        }
    }
}

/// Both directions between `of` and each of `others`.
pub fn between(of: u64, others: &[u64]) -> Vec<Way> {
    others.iter().flat_map(|other| [Way::Peers(of, *other), Way::Peers(*other, of)]).collect()
}

/// Where `ip` and `nft` are, also for a user whose path has no administrators' commands.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Net {
    /// Moves this process, which must have one thread only, into namespaces of its own, and tries there what it needs. An error says
    /// what this machine lacks; the process is then where it was.
    pub fn enter() -> Result<Net, String> {
        let threads = fs::read_dir("/proc/self/task").map_err(|e| format!("/proc: {e}"))?.count();
        assert_eq!(threads, 1, "a thread stays in the namespace in which it was started");
        for (command, version) in [("ip", "-V"), ("nft", "--version")] {
            run(Command::new(command).arg(version), b"")?;
        }
        let before = File::open("/proc/self/ns/net").map_err(|e| format!("/proc/self/ns/net: {e}"))?;
        // SAFETY: no pointers; this thread is the only one.
        if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
            return Err(format!("namespaces (root is needed): {}", io::Error::last_os_error()));
        }
        Net::build().inspect_err(|_| move_to(&before).expect("this process came from there"))
    }

    fn build() -> Result<Net, String> {
        // Mounts of this process stay with it.
        run(Command::new("mount").args(["--make-rprivate", "/"]), b"")?;
        ip(&["link", "set", "lo", "up"])?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|e| format!("ip_forward: {e}"))?;
        let net = Net { homes: Mutex::default() };
        net.settle(1)?;
        run(&mut nft(), script(&[Way::Peers(1, 2), Way::ToClients(1), Way::FromClients(1)]).as_bytes())?;
        run(&mut nft(), script(&[]).as_bytes())?;
        Ok(net)
    }

    /// Gives a node a namespace and a link to the router, unless it has them.
    pub fn settle(&self, node: u64) -> Result<(), String> {
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        if homes.contains_key(&node) {
            return Ok(());
        }
        // A thread of its own goes ahead and ends there: the file keeps what it has made.
        let made = std::thread::spawn(|| {
            // SAFETY: no pointers; it concerns this thread only.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(io::Error::last_os_error()),
            }
        });
        let home = made.join().expect("the thread ends well").map_err(|e| format!("a namespace for a node: {e}"))?;
        let (near, place) = (format!("n{node}"), format!("/proc/{}/fd/{}", std::process::id(), home.as_raw_fd()));
        ip(&["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &place])?;
        ip(&["addr", "add", &format!("{}/24", router(node)), "dev", &near])?;
        ip(&["link", "set", &near, "up"])?;
        for arguments in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", &format!("{}/24", address(node)), "dev", "eth0"],
            vec!["link", "set", "eth0", "up"],
            vec!["route", "add", "default", "via", &router(node)],
        ] {
            let mut command = Command::new("ip");
            command.args(arguments);
            within(&mut command, &home);
            run(&mut command, b"")?;
        }
        homes.insert(node, home);
        Ok(())
    }

    /// The command will run where the node lives.
    pub fn at_home(&self, node: u64, command: &mut Command) {
        let homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        within(command, homes.get(&node).expect("the node is settled"));
    }

    /// From now on exactly these ways are cut.
    pub fn cut(&self, ways: &[Way]) {
        run(&mut nft(), script(ways).as_bytes()).expect("it was tried at the beginning");
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.cut(&[]);
    }

    /// Packets dropped on each way since it was cut, in the order of [`cut`](Self::cut).
    pub fn dropped(&self) -> Vec<u64> {
        let table =
            run(Command::new("nft").args(["list", "table", "ip", "faults"]), b"").expect("it was tried at the beginning");
        // Each rule is `.. counter packets 12 bytes 720 drop comment "3"`.
        let number = |rule: &str, before: &str| -> Option<u64> {
            let rest = rule.split_once(before)?.1.trim_start().trim_start_matches('"');
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let counted = table.lines().filter_map(|rule| Some((number(rule, "comment")?, number(rule, "packets")?)));
        counted.collect::<BTreeMap<u64, u64>>().into_values().collect()
    }
}

/// Where a node listens.
pub fn address(node: u64) -> String {
    format!("10.77.{node}.2")
}

/// The router's end of a node's link, from which clients reach it.
fn router(node: u64) -> String {
    format!("10.77.{node}.1")
}

/// The packet filter with exactly these ways cut, as one change.
fn script(ways: &[Way]) -> String {
    let rules = |hook: &str| -> String {
        let of_hook = ways.iter().enumerate().filter_map(|(number, way)| {
            let (wanted, what) = match way {
                Way::Peers(from, to) => ("forward", format!("ip saddr {} ip daddr {}", address(*from), address(*to))),
                Way::ToClients(from) => ("input", format!("ip saddr {}", address(*from))),
                Way::FromClients(to) => ("output", format!("ip daddr {}", address(*to))),
            };
            (wanted == hook).then(|| format!("    {what} counter drop comment \"{number}\"\n"))
        });
        of_hook.collect()
    };
    let chain =
        |hook| format!("  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n{}  }}\n", rules(hook));
    let chains: String = ["forward", "input", "output"].into_iter().map(chain).collect();
    // The first line is for a table that is not there: a deletion of nothing would be refused.
    format!("table ip faults\ndelete table ip faults\ntable ip faults {{\n{chains}}}\n")
}

fn nft() -> Command {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    command
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    run(Command::new("ip").args(arguments), b"")
}

/// Runs a command with `input`; its output, or why not.
fn run(command: &mut Command, input: &[u8]) -> Result<String, String> {
    let said = format!("{command:?}");
    let command = command.env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{said}: {e}"))?;
    // One that takes no input and ends at once is as good.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let out = child.wait_with_output().map_err(|e| format!("{said}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(format!("{said}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

/// The command will run in that namespace.
fn within(command: &mut Command, home: &File) {
    let home = home.try_clone().expect("a descriptor can be copied");
    // SAFETY: between fork and exec it makes one system call, and allocates only when that fails.
    unsafe { command.pre_exec(move || move_to(&home)) };
}

fn move_to(home: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open.
    match unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
