//! The conformance suite over the simulated world, and what only a simulated world can show.

use super::*;
use crate::io::conformance::{self, SMALL_DISK_BYTES_MAX};
use crate::io::{Disk, Env, File, Net, PreambleBytes, Reader, Writer};
use std::cell::{Cell, RefCell};

const BLOCK: usize = crate::io::BLOCK_BYTES;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

struct Simulated {
    disk: SimDisk,
    small: SimDisk,
    net: SimNet,
}

impl conformance::World<Sim> for Simulated {
    fn disk(&self) -> SimDisk {
        self.disk.clone()
    }
    fn small_disk(&self) -> Option<SimDisk> {
        Some(self.small.clone())
    }
    fn net(&self) -> SimNet {
        self.net.clone()
    }
    fn address(&self) -> String {
        "one:1".into()
    }
    fn silent_address(&self) -> String {
        "one:2".into()
    }
    fn preamble(&self, tag: u8) -> PreambleBytes {
        [tag; 16]
    }
}

/// Runs the suite; gives the hash.
fn suite(seed: u64) -> u64 {
    let world = World::new(seed, Settings::default());
    let host = world.add_host("one");
    world.links().name("one:2", host);
    let small = SimDisk::new(std::rc::Weak::new(), host, Random::new(seed, 99));
    small.set(|settings| settings.capacity = SMALL_DISK_BYTES_MAX / 2);
    let simulated = Simulated { disk: world.disk(host), small, net: SimNet::new() };
    world.block_on(host, async {
        let net = simulated.net.clone();
        listen("one:1", move |_| Some(net.clone()));
        let names = conformance::all::<Sim>(&simulated).await;
        assert!(names.len() > 30);
    });
    world.trace_hash()
}

#[test]
fn simulated_world_keeps_every_promise() {
    for seed in 0..20 {
        suite(seed);
    }
}

#[test]
fn same_seed_is_the_same_run_and_another_is_not() {
    assert_eq!(suite(3), suite(3));
    assert_ne!(suite(3), suite(4));
}

// ---- disk ----

fn block_of(file: &SimFile, byte: u8) -> SimBuffer {
    let mut buffer = file.buffer(BLOCK);
    buffer.fill(byte);
    buffer
}

/// A process that makes a file, syncs one block of it, writes another one and then sleeps for ever.
async fn write_synced_and_unsynced(disk: SimDisk) {
    let file = disk.create("file", 8 * BLOCK as u64).await.expect("create");
    disk.sync_dir("").await.expect("sync_dir");
    file.write_durable_at(0, block_of(&file, 1)).await.expect("write");
    file.write_at(BLOCK as u64, block_of(&file, 2)).await.expect("write");
    file.write_at(2 * BLOCK as u64, block_of(&file, 2)).await.expect("write");
    file.write_at(0, block_of(&file, 3)).await.expect("write");
    Sim::sleep(Duration::from_secs(1_000)).await;
}

/// First bytes of the first three blocks after a crash.
fn after_crash(seed: u64, how: Crash) -> [u8; 3] {
    let world = World::new(seed, Settings::default());
    let host = world.add_host("one");
    let disk = world.disk(host);
    world.start(host, || write_synced_and_unsynced(disk));
    world.run_for(ms(100));
    world.crash(host, how);
    assert!(!world.is_up(host));
    let bytes = world.disk(host).contents("file").expect("its name was synced");
    assert!(bytes.chunks(BLOCK).all(|block| block.iter().all(|byte| *byte == block[0])), "a block is torn within itself");
    [bytes[0], bytes[BLOCK], bytes[2 * BLOCK]]
}

#[test]
fn power_loss_keeps_the_synced_and_any_part_of_the_rest() {
    let seen: std::collections::BTreeSet<[u8; 3]> = (0..200).map(|seed| after_crash(seed, Crash::PowerLoss)).collect();
    assert!(seen.iter().all(|[synced, ..]| *synced == 1 || *synced == 3), "{seen:?}");
    for (first, second, third) in [(1, 0, 0), (3, 2, 2), (1, 2, 0), (1, 0, 2), (3, 0, 0)] {
        assert!(seen.contains(&[first, second, third]), "never {first}, {second}, {third}: {seen:?}");
    }
}

#[test]
fn kill_keeps_what_was_written() {
    assert!((0..50).all(|seed| after_crash(seed, Crash::Kill) == [3, 2, 2]));
}

#[test]
fn names_survive_a_power_loss_in_the_order_of_their_making() {
    let after = |seed| {
        let world = World::new(seed, Settings::default());
        let host = world.add_host("one");
        let disk = world.disk(host);
        world.start(host, || async move {
            disk.create("a", BLOCK as u64).await.expect("create");
            disk.sync_dir("").await.expect("sync_dir");
            disk.create("b", BLOCK as u64).await.expect("create");
            disk.rename("a", "c").await.expect("rename");
            disk.remove("b").await.expect("remove");
        });
        world.run_for(ms(100));
        world.crash(host, Crash::PowerLoss);
        world.disk(host).paths().join(" ")
    };
    let seen: std::collections::BTreeSet<String> = (0..100).map(after).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "a b", "b c", "c"]);
}

#[test]
fn failed_sync_is_told_and_leaves_either() {
    let after = |seed| {
        let world = World::new(seed, Settings::default());
        let host = world.add_host("one");
        let (disk, outside) = (world.disk(host), world.disk(host));
        world.start(host, || async move {
            let file = disk.create("file", BLOCK as u64).await.expect("create");
            disk.sync_dir("").await.expect("sync_dir");
            outside.fail_syncs(1);
            file.write_durable_at(0, block_of(&file, 7)).await.expect_err("it was told to fail");
            file.sync().await.expect("the next one says nothing of what was lost");
        });
        world.run_for(ms(100));
        world.crash(host, Crash::PowerLoss);
        assert_eq!(world.faults().count(Fault::SyncFailure), 1);
        world.disk(host).contents("file").expect("it has its name")[0]
    };
    let seen: std::collections::BTreeSet<u8> = (0..100).map(after).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 7]);
}

#[test]
fn full_disk_has_room_again_when_it_is_given_more() {
    let world = World::new(1, Settings::default());
    let host = world.add_host("one");
    let disk = world.disk(host);
    disk.set(|settings| settings.capacity = 10 * BLOCK as u64);
    world.block_on(host, async {
        disk.create("a", 8 * BLOCK as u64).await.expect("it fits");
        let full = disk.create("b", 4 * BLOCK as u64).await.err().expect("it does not");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        disk.set(|settings| settings.capacity = 12 * BLOCK as u64);
        disk.create("b", 4 * BLOCK as u64).await.expect("now it does");
        disk.remove("a").await.expect("remove");
        disk.create("c", 8 * BLOCK as u64).await.expect("room was freed");
    });
    assert_eq!(world.faults().count(Fault::FullDisk), 1);
}

#[test]
fn rot_changes_one_bit() {
    let world = World::new(1, Settings::default());
    let host = world.add_host("one");
    let disk = world.disk(host);
    world.block_on(host, async {
        let file = disk.create("file", 2 * BLOCK as u64).await.expect("create");
        file.write_durable_at(0, block_of(&file, 0)).await.expect("write");
    });
    assert_eq!(disk.settled_blocks("file"), [0]);
    assert!(disk.flip_bit("file", 0, 9) && !disk.flip_bit("file", 1, 0) && !disk.flip_bit("none", 0, 0));
    let bytes = disk.contents("file").expect("it is there");
    assert_eq!((bytes[1], bytes.iter().map(|b| b.count_ones()).sum::<u32>()), (2, 1));
}

// ---- network, processes, clocks ----

/// A world with a host that echoes and one that asks it each 10 ms; what was answered so far is counted.
struct Echo {
    world: World,
    server: HostId,
    client: HostId,
    answers: Rc<Cell<u32>>,
    errors: Rc<RefCell<Vec<String>>>,
}

impl Echo {
    fn new(seed: u64) -> Echo {
        let world = World::new(seed, Settings::default());
        let (server, client) = (world.add_host("server"), world.add_host("client"));
        let echo = Echo { world, server, client, answers: Rc::default(), errors: Rc::default() };
        echo.serve();
        let (answers, errors) = (echo.answers.clone(), echo.errors.clone());
        echo.world.start(client, || async move {
            loop {
                if let Err(e) = ask(&answers).await {
                    errors.borrow_mut().push(e.to_string());
                }
                Sim::sleep(ms(10)).await;
            }
        });
        echo
    }

    fn serve(&self) {
        self.world.start(self.server, || async {
            let net = SimNet::new();
            let route = net.clone();
            listen("server:1", move |_| Some(route.clone()));
            while let Some((_, mut reader, mut writer)) = net.accept().await {
                Sim::spawn(async move {
                    let mut buffer = [0; 64];
                    while let Ok(bytes @ 1..) = reader.read(&mut buffer).await {
                        if writer.write_all(&buffer[..bytes]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    /// Answers that came while `duration` passed.
    fn answers_in(&self, duration: Duration) -> u32 {
        let before = self.answers.get();
        self.world.run_for(duration);
        self.answers.get() - before
    }
}

/// One connection, many questions.
async fn ask(answers: &Cell<u32>) -> std::io::Result<()> {
    let (mut reader, mut writer) = SimNet::new().connect("server:1", [0; 16]).await?;
    loop {
        writer.write_all(b"x").await?;
        if reader.read(&mut [0; 8]).await? == 0 {
            return Err(std::io::Error::other("ended"));
        }
        answers.set(answers.get() + 1);
        Sim::sleep(ms(10)).await;
    }
}

#[test]
fn cut_link_passes_nothing_until_it_is_healed() {
    for one_way in [false, true] {
        let echo = Echo::new(5);
        assert!(echo.answers_in(ms(1_000)) > 80);
        if one_way {
            echo.world.links().cut_one_way(echo.server, echo.client);
        } else {
            echo.world.links().cut_both_ways(echo.server, echo.client);
        }
        echo.world.run_for(ms(1));
        assert_eq!(echo.answers_in(ms(900)), 0);
        echo.world.links().heal_all();
        assert!(echo.answers_in(ms(6_000)) > 50, "{:?}", echo.errors.borrow());
    }
}

#[test]
fn long_cut_ends_some_connections() {
    let ended = |seed| {
        let echo = Echo::new(seed);
        echo.world.run_for(ms(100));
        echo.world.links().cut_both_ways(echo.server, echo.client);
        echo.world.run_for(Duration::from_secs(100));
        echo.world.faults().count(Fault::ConnectionTimeout) > 0
    };
    let count = (0..20).filter(|seed| ended(*seed)).count();
    assert!((5..20).contains(&count), "{count} of 20");
}

#[test]
fn paused_process_answers_late_and_loses_nothing() {
    let echo = Echo::new(6);
    echo.world.run_for(ms(100));
    echo.world.pause(echo.server);
    echo.world.run_for(ms(1));
    assert_eq!(echo.answers_in(ms(5_000)), 0);
    echo.world.resume(echo.server);
    assert!(echo.answers_in(ms(1_000)) > 80);
    assert!(echo.errors.borrow().is_empty(), "a pause ends no connection: {:?}", echo.errors.borrow());
}

#[test]
fn killed_process_ends_its_connections_and_refuses_until_it_is_back() {
    let echo = Echo::new(7);
    echo.world.run_for(ms(100));
    echo.world.crash(echo.server, Crash::Kill);
    assert_eq!(echo.answers_in(ms(500)), 0);
    assert!(echo.errors.borrow().iter().any(|e| e.contains("nobody listens")), "{:?}", echo.errors.borrow());
    echo.serve();
    assert!(echo.answers_in(ms(1_000)) > 80);
}

#[test]
fn host_without_power_is_silent() {
    let echo = Echo::new(8);
    echo.world.run_for(ms(100));
    echo.world.crash(echo.server, Crash::PowerLoss);
    assert_eq!(echo.answers_in(ms(5_000)), 0);
    assert!(echo.errors.borrow().is_empty(), "nobody was there to say no: {:?}", echo.errors.borrow());
    echo.serve();
    assert!(echo.answers_in(ms(2_000)) > 80, "{:?}", echo.errors.borrow());
}

#[test]
fn reset_ends_every_connection_between_two() {
    let echo = Echo::new(9);
    echo.world.run_for(ms(100));
    echo.world.links().reset(echo.server, echo.client);
    assert!(echo.answers_in(ms(1_000)) > 70);
    assert_eq!(echo.errors.borrow().len(), 1);
}

#[test]
fn clock_that_drifts_sleeps_shorter_or_longer() {
    let slept = |ppm| {
        let world = World::new(1, Settings::default());
        let host = world.add_host("one");
        world.set_drift(host, ppm);
        world.block_on(host, async {
            let began = Sim::now();
            Sim::sleep(Duration::from_secs(10)).await;
            assert!(Sim::now().since(began) >= Duration::from_secs(10));
        });
        world.now().as_millis()
    };
    assert_eq!((slept(0), slept(100_000), slept(-100_000)), (10_000, 9_090, 11_111));
}

#[test]
fn dead_process_does_nothing_while_it_is_dropped() {
    struct Noisy(SimDisk);
    impl Drop for Noisy {
        fn drop(&mut self) {
            let disk = self.0.clone();
            Sim::spawn(async move {
                disk.create_dir("never").await.expect("create_dir");
            });
        }
    }
    let world = World::new(1, Settings::default());
    let host = world.add_host("one");
    let noisy = Noisy(world.disk(host));
    world.start(host, || async move {
        let _noisy = noisy;
        Sim::sleep(Duration::from_secs(1_000)).await;
    });
    world.run_for(ms(10));
    world.crash(host, Crash::Kill);
    world.run_for(ms(10));
    world.start(host, || async {});
    let disk = world.disk(host);
    world.reap(host);
    let listed = world.block_on(host, async { disk.list("never").await });
    assert!(listed.is_err());
}
