//! Ports for a new dev ring: a ring keeps them for life, so nothing else may come to have them while its nodes are down.
//!
//! They lie below the range from which Linux gives ports to outgoing connections (`ip_local_port_range`, from 32,768 on): a port
//! from inside it is free when it is probed, and the next client that connects to anything may hold it when the node listens.
//! Several `dev` at once share the range by blocks: a block belongs to the process that holds the abstract socket of its name, and
//! the kernel takes the name back when that process ends, however it ends.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use serde::{Deserialize, Serialize};

/// The first port of the first block. `tests/ring` has those below.
const FIRST: u16 = 16_000;
/// Ports of a block: a ring of seven nodes.
const BLOCK: u16 = 21;
const BLOCKS: u16 = 795;

/// A node's ports on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// For SDKs.
    pub client: u16,
    /// For the other nodes.
    pub peer: u16,
    /// For people and monitors.
    pub admin: u16,
}

/// Held until the nodes of the ring listen: no other `dev` is given the same ports meanwhile.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "the name is held until the socket is closed")] UnixListener);

/// Free ports for `nodes` nodes, all different.
pub fn pick(nodes: u32) -> io::Result<(Vec<Ports>, Claim)> {
    // From anywhere: rings that do not run at the same time rarely have the same ports.
    let from = rand::random::<u16>() % BLOCKS;
    for number in (from..BLOCKS).chain(0..from) {
        let name = SocketAddr::from_abstract_name(format!("ringbeam-dev-ports-{number}"))?;
        let Ok(held) = UnixListener::bind_addr(&name) else { continue };
        let first = FIRST + number * BLOCK;
        let ports: Vec<u16> = (first..first + BLOCK).take(3 * nodes as usize).collect();
        // A program that knows nothing of blocks may listen there.
        if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            let three = |three: &[u16]| Ports { client: three[0], peer: three[1], admin: three[2] };
            return Ok((ports.chunks_exact(3).map(three).collect(), Claim(held)));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("every block of {BLOCK} ports from {FIRST} on has one in use")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn picked_ports_are_different_and_out_of_reach_of_outgoing_connections() {
        let picked: Vec<_> = (0..20).map(|_| pick(7).expect("21 ports are free")).collect();
        let all: BTreeSet<u16> = picked.iter().flat_map(|(ports, _)| ports).flat_map(|p| [p.client, p.peer, p.admin]).collect();
        assert_eq!(all.len(), 20 * 21, "claims that are held at once share a port");
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux says its range");
        let low: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("two numbers");
        // A machine that was set up to give lower ports than Linux does by itself has nothing better to offer.
        assert!(low < 32_768 || *all.last().expect("not empty") < low, "{all:?}");
    }
}
