//! What only the real world has: ports, hand-over, limits, stopping, the host and its lock.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{
    ConnectionLimits, Executors, ListenError, RunError, Sockets, StopFlag, Uring, UringDisk, UringNet, block_on, check_host,
    lock_dir, run,
};
use crate::io::tests::{Directory, loopback, preamble, route, two_executors};
use crate::io::{BLOCK_BYTES, Disk, Env, File, Net, Reader, Writer};

/// A node whose shards echo, behind the real listeners.
struct Echo {
    client: SocketAddr,
    peer: SocketAddr,
    stop: Arc<StopFlag>,
    node: Option<thread::JoinHandle<Result<(), RunError>>>,
}

impl Echo {
    fn start(shards: u32, limits: ConnectionLimits) -> Echo {
        let executors = two_executors();
        let sockets = Sockets::bind(&loopback(), executors.cores.len()).expect("loopback ports");
        let addresses = sockets.addresses();
        let stop = StopFlag::new();
        let flag = stop.clone();
        let node = thread::spawn(move || run(&executors, sockets, limits, route, shards, &flag, echo));
        Echo { client: addresses.client, peer: addresses.peer, stop, node: Some(node) }
    }

    fn connect(&self, shard: u8, tag: u8) -> TcpStream {
        let mut stream = self.connect_silently();
        stream.write_all(&preamble(shard, tag)).expect("preamble");
        stream
    }

    fn connect_silently(&self) -> TcpStream {
        let stream = TcpStream::connect(self.client).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream
    }

    fn stop(mut self) {
        self.stop.stop();
        let node = self.node.take().expect("stopped once");
        node.join().expect("no panic").expect("an orderly end");
    }
}

/// Answers each connection with its shard and its preamble, then echoes.
async fn echo(shard: u32, net: UringNet) -> Result<(), String> {
    let closing = net.clone();
    Uring::spawn(async move {
        closing.stopping().await;
        closing.close();
    });
    while let Some((preamble, mut reader, mut writer)) = net.accept().await {
        Uring::spawn(async move {
            let mut buffer = [0; 256];
            let shard = u8::try_from(shard).expect("few shards");
            let mut sent = writer.write_all(&[&[shard], &preamble[..]].concat()).await;
            while let (Ok(()), Ok(bytes)) = (&sent, reader.read(&mut buffer).await) {
                if bytes == 0 {
                    break;
                }
                sent = writer.write_all(&buffer[..bytes]).await;
            }
        });
    }
    Ok(())
}

fn greeting(stream: &mut TcpStream) -> Option<[u8; 17]> {
    let mut bytes = [0; 17];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

/// True when the server has closed the connection without a byte.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(bytes) => bytes == 0,
        Err(e) => e.kind() != ErrorKind::WouldBlock, // which is the timeout
    }
}

#[test]
fn every_connection_reaches_the_shard_it_names() {
    let node = Echo::start(5, ConnectionLimits::default());
    let mut streams: Vec<_> = (0..100).map(|i| (i % 5, i, node.connect(i % 5, i))).collect();
    for (shard, tag, stream) in &mut streams {
        let got = greeting(stream).expect("the shard answers");
        assert_eq!((got[0], &got[1..]), (*shard, &preamble(*shard, *tag)[..]));
        stream.write_all(b"hello").expect("write");
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).expect("the echo");
        assert_eq!(&echoed, b"hello");
    }
    node.stop();
}

#[test]
fn strangers_are_closed_without_a_byte() {
    let node = Echo::start(2, ConnectionLimits::default());
    for bytes in [*b"GET / HTTP/1.1\r\n", preamble(7, 0)] {
        let mut stream = node.connect_silently();
        stream.write_all(&bytes).expect("write");
        assert!(is_closed(&mut stream), "an unknown magic or shard");
    }
    let mut wrong_port = TcpStream::connect(node.peer).expect("connect");
    wrong_port.write_all(&preamble(0, 0)).expect("write");
    assert!(is_closed(&mut wrong_port), "a client on the peer port");
    let mut cut = node.connect_silently();
    cut.write_all(&preamble(0, 0)[..9]).expect("write");
    cut.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert!(is_closed(&mut cut), "half a preamble");
    assert_eq!(greeting(&mut node.connect(1, 9)).expect("others are served")[0], 1);
    node.stop();
}

#[test]
fn slow_preamble_is_cut_off_even_if_it_trickles() {
    let limits = ConnectionLimits { preamble_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let node = Echo::start(2, limits);
    let began = Instant::now();
    let mut stream = node.connect_silently();
    let mut trickle = stream.try_clone().expect("clone");
    let trickling = thread::spawn(move || {
        for byte in preamble(0, 0) {
            if trickle.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(is_closed(&mut stream));
    assert!(began.elapsed() >= Duration::from_millis(200));
    trickling.join().expect("no panic");
    node.stop();
}

#[test]
fn connections_beyond_the_limit_are_closed_until_others_end() {
    let limits = ConnectionLimits { clients_max: 8, ..ConnectionLimits::default() };
    let node = Echo::start(2, limits);
    let mut held: Vec<_> = (0..8).map(|i| node.connect(i % 2, i)).collect();
    for stream in &mut held {
        greeting(stream).expect("within the limit");
    }
    assert!(greeting(&mut node.connect(0, 0)).is_none(), "the ninth");
    held.pop();
    let freed = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        greeting(&mut node.connect(0, 0)).is_some()
    });
    assert!(freed, "a place that got free is given away");
    node.stop();
}

#[test]
fn silent_connections_hold_up_others_only_until_they_are_cut_off() {
    let limits =
        ConnectionLimits { unannounced_max: 4, preamble_timeout: Duration::from_millis(300), ..ConnectionLimits::default() };
    let node = Echo::start(1, limits);
    let mut silent: Vec<_> = (0..40).map(|_| node.connect_silently()).collect();
    assert_eq!(greeting(&mut node.connect(0, 1)).expect("served in its turn")[0], 0);
    for stream in &mut silent {
        assert!(is_closed(stream), "cut off");
    }
    node.stop();
}

/// One counter served both ports: a node took nothing from its peers while silent clients filled it.
#[test]
fn silent_clients_do_not_keep_peers_out() {
    let limits =
        ConnectionLimits { unannounced_max: 4, preamble_timeout: Duration::from_secs(600), ..ConnectionLimits::default() };
    let node = Echo::start(1, limits);
    let silent: Vec<_> = (0..60).map(|_| node.connect_silently()).collect();
    for _ in 0..40 {
        let mut peer = TcpStream::connect(node.peer).expect("connect");
        peer.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        peer.write_all(&preamble(0, 0)).expect("write");
        assert!(is_closed(&mut peer), "no shard of this test takes peers, and who is not accepted is not closed");
    }
    drop(silent);
    node.stop();
}

#[test]
fn two_thousand_idle_connections_are_served() {
    check_host(std::path::Path::new("/var/tmp"), false).expect("raises the limit of open descriptors");
    let node = Echo::start(2, ConnectionLimits::default());
    let mut idle: Vec<_> = (0..2_000u16).map(|i| node.connect(u8::from(i % 2 == 1), 0)).collect();
    for stream in &mut idle {
        greeting(stream).expect("accepted");
    }
    for stream in idle.iter_mut().step_by(97) {
        stream.write_all(b"x").expect("write");
        stream.read_exact(&mut [0; 1]).expect("it is still served");
    }
    node.stop();
}

#[test]
fn stop_closes_the_ports() {
    let node = Echo::start(2, ConnectionLimits::default());
    let mut stream = node.connect(0, 0);
    greeting(&mut stream).expect("served");
    let client = node.client;
    let began = Instant::now();
    node.stop();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(client).is_err(), "nobody listens any more");
}

#[test]
fn taken_port_is_refused_by_name() {
    let node = Echo::start(1, ConnectionLimits::default());
    let mut listeners = loopback();
    listeners.client = node.client;
    let refused: ListenError = Sockets::bind(&listeners, 2).expect_err("another process listens there");
    let message = refused.to_string();
    assert!(message.contains(&node.client.to_string()) && message.contains("another process"), "{message}");
    let address = node.client;
    node.stop();
    listeners.client = address;
    Sockets::bind(&listeners, 2).expect("free again, whatever lingers of its connections");
}

#[test]
fn failing_shard_stops_the_node_and_is_named() {
    let executors = two_executors();
    let sockets = Sockets::bind(&loopback(), 2).expect("loopback ports");
    let stop = StopFlag::new();
    let outcome = run(&executors, sockets, ConnectionLimits::default(), route, 4, &stop, |shard, net| async move {
        if shard == 3 {
            return Err("its log is dead");
        }
        net.stopping().await;
        Ok(())
    });
    let message = outcome.expect_err("one shard failed").to_string();
    assert_eq!(message, "shard 3: its log is dead");
}

#[test]
fn executor_without_shards_ends_with_the_others() {
    let executors = two_executors();
    let sockets = Sockets::bind(&loopback(), 2).expect("loopback ports");
    let stop = StopFlag::new();
    let flag = stop.clone();
    let outcome = run(&executors, sockets, ConnectionLimits::default(), route, 1, &stop, move |_, _| {
        let flag = flag.clone();
        async move {
            flag.stop();
            Ok::<(), String>(())
        }
    });
    outcome.expect("an orderly end");
}

#[test]
fn executor_on_a_missing_core_is_refused_by_name() {
    let executors = Executors { cores: vec![100_000], pin: true, io_memory_bytes: 64 << 10 };
    let sockets = Sockets::bind(&loopback(), 1).expect("loopback ports");
    let outcome = run(&executors, sockets, ConnectionLimits::default(), route, 1, &StopFlag::new(), echo);
    assert!(outcome.expect_err("no such core").to_string().contains("core 100000"));
}

#[test]
fn first_sleep_is_on_time() {
    let slept = block_on(async {
        let began = Instant::now();
        Uring::sleep(Duration::from_millis(1)).await;
        began.elapsed()
    });
    let slept = slept.expect("executor");
    assert!(slept >= Duration::from_millis(1));
    println!("the first sleep of 1 ms took {slept:?}");
}

#[test]
fn buffers_are_aligned_for_the_disk() {
    let directory = Directory::new("aligned");
    let disk = UringDisk::new(directory.path().to_owned(), super::DurableWrites::Dsync);
    block_on(async move {
        let file = disk.create("file", BLOCK_BYTES as u64).await.expect("create");
        for blocks in [1, 2, 3, 16, 300] {
            let buffer = file.buffer(blocks * BLOCK_BYTES);
            assert_eq!(buffer.as_ptr().align_offset(BLOCK_BYTES), 0);
        }
    })
    .expect("executor");
}

#[test]
fn durable_writes_go_past_the_page_cache() {
    let directory = Directory::new("flags");
    let disk = UringDisk::new(directory.path().to_owned(), super::DurableWrites::Dsync);
    let flags = block_on(async move {
        let _file = disk.create("file", BLOCK_BYTES as u64).await.expect("create");
        let mut flags = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd").expect("proc").flatten() {
            let is_ours = std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(directory.path()));
            if is_ours {
                let name = entry.file_name().into_string().expect("a number");
                let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).expect("proc");
                let line = text.lines().find(|line| line.starts_with("flags:")).expect("flags");
                flags.push(i32::from_str_radix(line.trim_start_matches("flags:").trim(), 8).expect("octal"));
            }
        }
        flags
    })
    .expect("executor");
    assert_eq!(flags.len(), 2, "a descriptor for plain and one for durable writes");
    assert!(flags.iter().all(|f| f & libc::O_DIRECT != 0), "both bypass the page cache");
    assert_eq!(flags.iter().filter(|f| **f & libc::O_DSYNC != 0).count(), 1);
}

#[test]
fn short_file_is_refused_by_name() {
    let directory = Directory::new("short");
    std::fs::write(directory.path().join("file"), [0; 5000]).expect("write");
    let disk = UringDisk::new(directory.path().to_owned(), super::DurableWrites::Dsync);
    let error = block_on(async move { disk.open("file").await.expect_err("not whole blocks") }).expect("executor");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().contains("5000 bytes"), "{error}");
}

#[test]
fn host_report_names_the_file_system() {
    let directory = Directory::new("host");
    let report = check_host(directory.path(), false).expect("this machine runs the tests");
    println!("{report:?}");
    assert!(report.durable && report.memlock_bytes >= 512 << 10);
    assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0, "the probe leaves nothing");
}

#[test]
fn memory_file_system_is_refused_unless_allowed() {
    let shared = std::path::Path::new("/dev/shm");
    let message = check_host(shared, false).expect_err("tmpfs").to_string();
    assert!(message.contains("tmpfs") && message.contains("real disk"), "{message}");
    assert!(!check_host(shared, true).expect("allowed explicitly").durable);
}

#[test]
fn second_holder_of_a_directory_is_refused_by_pid() {
    let directory = Directory::new("lock");
    let lock = lock_dir(directory.path()).expect("free");
    let message = lock_dir(directory.path()).expect_err("taken").to_string();
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(lock);
    lock_dir(directory.path()).expect("free again");
}

#[test]
fn signal_sets_the_flag() {
    let stop = StopFlag::new();
    stop.stop_on_signals().expect("handlers");
    StopFlag::new().stop_on_signals().expect_err("one flag a process");
    assert!(!stop.is_stopped());
    // SAFETY: raise takes a number; the handler for it was installed above.
    assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
    assert!(stop.is_stopped());
}

#[test]
fn panicking_task_is_reported_and_stops_the_node() {
    let executors = two_executors();
    let sockets = Sockets::bind(&loopback(), 2).expect("loopback ports");
    let stop = StopFlag::new();
    let seen = Arc::new(AtomicBool::new(false));
    let orderly = seen.clone();
    let outcome = run(&executors, sockets, ConnectionLimits::default(), route, 2, &stop, move |shard, net| {
        let orderly = orderly.clone();
        async move {
            assert!(shard != 1, "a planted panic");
            net.stopping().await;
            orderly.store(true, Ordering::Relaxed);
            Ok::<(), String>(())
        }
    });
    assert!(matches!(outcome, Err(RunError::Panicked { .. })), "{outcome:?}");
    assert!(seen.load(Ordering::Relaxed), "the other shard had its orderly end");
}
