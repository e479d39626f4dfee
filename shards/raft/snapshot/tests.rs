//! Files of snapshots that are damaged, doubted, or written beside one that is installed; on a simulated disk.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream;
use openraft::entry::RaftEntry;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use ringbeam_wire::peer::{self, Member, PeerReplyBody};

use super::check::read_through;
use super::receive::{answer_chunk, answer_offer};
use super::{BUILDING, INCOMING, Meta, SnapshotFile, Writer, newest};
use crate::io::BLOCK_BYTES;
use crate::io::sim::{Crash, Settings, Sim, SimDisk, SimNet, World};
use crate::io::{Disk, Env, Instant};
use crate::limits::INCOMING_IDLE_MAX;
use crate::planted::{Bug, plant};
use crate::raft::link::PeerContext;
use crate::raft::machine::{Machine, MachineSettings, meta_in};
use crate::raft::replica::{Replica, Timers};
use crate::raft::{Batch, TEntry, log_id_in};
use crate::state::command::{Builder, Op, Write, parse};
use crate::state::{Limits, State};
use crate::wal::{LogId, Owner, Wal, WalConfig};

const DIR: &str = "shard-0";
const LIMITS: Limits = Limits { sessions_max: 8, session_window: 8, answers_max: 64, session_lifetime_ms: 1_000 };

fn at(index: u64) -> LogId {
    LogId { term: 1, leader: 1, index }
}

fn put(index: u64) -> bytes::Bytes {
    let mut builder = Builder::new();
    builder.start(index);
    let (key, value) = (format!("key-{}", index % 16), vec![index as u8; 700]);
    let op = Op::Put { key: key.as_bytes(), value: &value };
    let write = Write { namespace: "", session: 0, sequence: 0, answered_below: 0, op };
    builder.push(&write).expect("one small write");
    builder.finish()
}

fn state_as_of(index: u64) -> State {
    let mut state = State::new(LIMITS);
    for index in 1..=index {
        state.apply(index, &parse(&put(index)).expect("just built"), &mut Vec::new());
    }
    state
}

fn slices_of(state: &mut State) -> Vec<Vec<u8>> {
    state.freeze().expect("nothing else is frozen");
    std::iter::from_fn(|| state.slice(4 << 10)).filter(|slice| !slice.is_empty()).collect()
}

/// A file as of an index, as a machine would have written it; its length.
async fn written(disk: &SimDisk, name: &str, says: u64, frames: &[Vec<u8>], has_state: bool) -> (String, u64) {
    disk.create_dir(DIR).await.expect("there is room");
    let path = format!("{DIR}/{name}");
    let membership = ringbeam_wire::peer::Membership::default().encode();
    let meta = Meta { last: Some(at(says)), membership_at: None, membership, has_state };
    let mut writer = Writer::<Sim>::create(disk, &path, &meta).await.expect("there is room");
    for frame in frames {
        writer.frame(frame).await.expect("there is room");
    }
    let bytes = writer.finish().await.expect("the disk is well");
    (path, bytes)
}

/// A machine that has applied so much.
async fn machine_at(disk: &SimDisk, index: u64, keeps_state: bool) -> Machine<Sim> {
    let history = Default::default();
    let settings = MachineSettings {
        dir: DIR.into(),
        keeps_state,
        limits: LIMITS,
        snapshot_pause: Duration::ZERO,
        snapshot_after_bytes: 1 << 20,
        history,
    };
    let mut machine = Machine::<Sim>::open(disk.clone(), settings).await.expect("an empty directory opens");
    let entry = |index: u64| {
        let payload = EntryPayload::Normal(Batch { payload: put(index), room: None });
        Ok((<TEntry<Sim> as RaftEntry>::new(log_id_in::<Sim>(at(index)), payload), None))
    };
    machine.apply(stream::iter((1..=index).map(entry))).await.expect("a batch is applied");
    machine
}

async fn build(machine: &Machine<Sim>) {
    machine.clone().get_snapshot_builder().await.build_snapshot().await.expect("the disk is well");
}

fn on_a_disk<T, F: Future<Output = T>>(test: impl FnOnce(SimDisk) -> F) -> T {
    let world = World::new(1, Settings::default());
    let host = world.add_host("one");
    let disk = world.disk(host);
    world.block_on(host, test(disk))
}

/// Bit by bit over heads, ends and samples of all that is between: whatever rots is found, with a state loaded and without.
#[test]
fn every_flipped_bit_is_found_and_the_file_named() {
    on_a_disk(|disk| async move {
        let mut state = state_as_of(40);
        let (path, bytes) = written(&disk, "a.snap", 40, &slices_of(&mut state), true).await;
        let good = read_through::<Sim>(&disk, &path, Some(LIMITS)).await.expect("nothing is wrong with it yet");
        assert_eq!((good.bytes, good.meta.last), (bytes, Some(at(40))));
        assert_eq!(good.state.map(|loaded| loaded.hash()), Some(state.hash()));

        let whole = disk.contents(&path).expect("it is there");
        let used = whole.iter().rposition(|byte| *byte != 0).expect("it is not empty") + 1;
        assert!(used > 2 * BLOCK_BYTES, "{used} bytes are too few to be cut anywhere");
        let mut flipped = 0;
        for byte in (0..used).filter(|byte| *byte < 200 || *byte + 64 > used || byte % 13 == 0) {
            let (block, bit) = (byte / BLOCK_BYTES, (byte % BLOCK_BYTES * 8 + byte % 8) as u64);
            assert!(disk.flip_bit(&path, block as u64, bit));
            for limits in [Some(LIMITS), None] {
                let why = read_through::<Sim>(&disk, &path, limits).await.expect_err(&format!("byte {byte} of {used} rotted"));
                assert_eq!(why.kind(), io::ErrorKind::InvalidData, "{why}");
                assert!(why.to_string().contains(&path), "{why}");
            }
            assert!(disk.flip_bit(&path, block as u64, bit));
            flipped += 1;
        }
        assert!(flipped > 1_000, "{flipped}");
        read_through::<Sim>(&disk, &path, Some(LIMITS)).await.expect("every bit was flipped back");
    });
}

/// Every checksum is right, and yet it is not a snapshot that may be installed here.
#[test]
fn a_file_of_good_frames_that_is_no_whole_snapshot_is_refused() {
    on_a_disk(|disk| async move {
        let slices = slices_of(&mut state_as_of(40));
        assert!(slices.len() > 4, "{} slices", slices.len());
        let mut swapped = slices.clone();
        swapped.swap(1, 2);
        let mixed: Vec<Vec<u8>> = slices[..2].iter().chain(&slices_of(&mut state_as_of(41))[2..]).cloned().collect();
        // Name, the index that the meta says, frames, whether it says that there is a state, what is said of it.
        type Case<'a> = (&'a str, u64, &'a [Vec<u8>], bool, &'a str);
        let cases: [Case<'_>; 6] = [
            ("cut.snap", 40, &slices[..slices.len() - 1], true, "its last slice is missing"),
            ("hole.snap", 40, &slices[1..], true, "number 1, 0 is due"),
            ("swapped.snap", 40, &swapped, true, "number 2, 1 is due"),
            ("mixed.snap", 40, &mixed, true, "slice 2"),
            ("other.snap", 41, &slices, true, "says that it is as of log index 41, and holds a state as of 40"),
            ("stateless.snap", 40, &[], false, "holds no state"),
        ];
        for (name, says, frames, has_state, due) in cases {
            let (path, _) = written(&disk, name, says, frames, has_state).await;
            let why = read_through::<Sim>(&disk, &path, Some(LIMITS)).await.expect_err(name).to_string();
            assert!(why.contains(due), "{name}: {why}");
        }
        let (path, _) = written(&disk, "stateless.snap", 40, &[], false).await;
        read_through::<Sim>(&disk, &path, None).await.expect("a tie-breaker needs no more");
    });
}

/// A length that rotted is refused by its bound, before anything of that length is read.
#[test]
fn a_frame_that_is_too_long_is_refused() {
    on_a_disk(|disk| async move {
        let (path, _) = written(&disk, "a.snap", 40, &slices_of(&mut state_as_of(40)), true).await;
        // The highest bit but one of the first frame's length.
        assert!(disk.flip_bit(&path, 0, 3 * 8 + 6));
        let why = read_through::<Sim>(&disk, &path, None).await.expect_err("a gigabyte of meta").to_string();
        assert!(why.contains("bytes, at most"), "{why}");
    });
}

/// The core is given away while a long file is read.
#[test]
fn others_run_while_a_file_is_read_through() {
    on_a_disk(|disk| async move {
        let (path, _) = written(&disk, "a.snap", 400, &slices_of(&mut state_as_of(400)), true).await;
        let turns = Rc::new(RefCell::new(Vec::<Instant>::new()));
        let counted = turns.clone();
        Sim::spawn(async move {
            loop {
                counted.borrow_mut().push(Sim::now());
                Sim::yield_now().await;
            }
        });
        let before = turns.borrow().len();
        read_through::<Sim>(&disk, &path, Some(LIMITS)).await.expect("it is good");
        assert!(turns.borrow().len() > before, "nobody else ran");
    });
}

#[test]
fn a_snapshot_is_distrusted_when_it_is_damaged_or_refused_twice_and_trusted_when_it_is_made_again() {
    on_a_disk(|disk| async move {
        let machine = machine_at(&disk, 20, true).await;
        build(&machine).await;
        let path = machine.newest_path().expect("it was built");

        machine.doubt_snapshot("shard-0/another.snap", "of an older file").await;
        machine.doubt_snapshot(&path, "a peer's disk").await;
        assert!(!machine.distrusts_snapshot(), "it reads back well, and was refused once");
        machine.doubt_snapshot(&path, "a peer's disk").await;
        assert!(machine.distrusts_snapshot(), "nobody gets it a third time");
        build(&machine).await;
        assert!(!machine.distrusts_snapshot(), "it is another one");
        machine.doubt_snapshot(&path, "a peer's disk").await;
        assert!(!machine.distrusts_snapshot(), "what was held against the first is forgotten");

        assert!(disk.flip_bit(&path, 1, 77));
        plant(Some(Bug::RottenSnapshotKept));
        machine.doubt_snapshot(&path, "a wrong checksum").await;
        assert!(!machine.distrusts_snapshot(), "it would be sent for ever");
        plant(None);
        machine.doubt_snapshot(&path, "a wrong checksum").await;
        assert!(machine.distrusts_snapshot(), "its own file is damaged");
        build(&machine).await;
        assert_eq!(machine.newest_path().as_ref(), Some(&path), "nothing was applied meanwhile");
        assert!(!machine.distrusts_snapshot());
        let read = read_through::<Sim>(&disk, &path, Some(LIMITS)).await.expect("the state in memory was good");
        assert_eq!(read.state.map(|state| state.hash()), Some(machine.with_state(State::hash)));
    });
}

/// A leader's snapshot was installed while an own, older one was being written. The older one, finished later, took its name and removed
/// the newer one: the log had been purged up to that, and the node could not start any more.
#[test]
fn a_build_that_ends_after_an_install_does_not_take_its_place() {
    let newest_after = |delay_us: u64, keeps_state: bool| {
        on_a_disk(|disk| async move {
            let machine = machine_at(&disk, 10, keeps_state).await;
            let (path, _) = written(&disk, INCOMING, 20, &slices_of(&mut state_as_of(20)), true).await;
            let checked = read_through::<Sim>(&disk, &path, machine.limits()).await.expect("it is good");
            let meta = meta_in::<Sim>(&checked.meta).expect("it is good");
            let (mut installing, building) = (machine.clone(), machine.clone());
            let install = async {
                Sim::sleep(Duration::from_micros(delay_us)).await;
                installing.install_snapshot(&meta, SnapshotFile::read(path, checked)).await.expect("it is good");
            };
            futures_util::join!(install, build(&building));
            let found = newest::<Sim>(&disk, DIR).await.expect("the disk is well").expect("there is one");
            assert_eq!(machine.newest_path().as_ref(), Some(&found), "memory and disk agree");
            assert!(!disk.paths().contains(&format!("{DIR}/{BUILDING}")));
            read_through::<Sim>(&disk, &found, machine.limits()).await.expect("it is good").meta.last
        })
    };
    for keeps_state in [true, false] {
        for delay_us in (0..2_000).step_by(25) {
            assert_eq!(newest_after(delay_us, keeps_state), Some(at(20)), "installed after {delay_us} us");
        }
    }
    plant(Some(Bug::OldSnapshotPublished));
    let lost = (0..2_000).step_by(25).filter(|delay_us| newest_after(*delay_us, true) != Some(at(20))).count();
    plant(None);
    assert!(lost > 0, "the test does not come at the moment that it is about");
}

/// A process was killed when its snapshot had its name, and the directory was not synced. The next one relied on it and removed the older
/// one, and its log was purged. Then power was lost, and with it that name.
#[test]
fn a_snapshot_that_was_found_is_there_after_a_power_loss() {
    let newest_after = |seed: u64| {
        let world = World::new(seed, Settings::default());
        let host = world.add_host("one");
        let disk = world.disk(host);
        world.block_on(host, async {
            build(&machine_at(&disk, 10, true).await).await;
            let (path, _) = written(&disk, BUILDING, 20, &slices_of(&mut state_as_of(20)), true).await;
            disk.rename(&path, &super::name_of(DIR, Some(at(20)))).await.expect("the disk is well");
        });
        world.crash(host, Crash::Kill);
        let found = world.block_on(host, async { newest::<Sim>(&disk, DIR).await.expect("the disk is well") });
        assert_eq!(found, Some(super::name_of(DIR, Some(at(20)))));
        world.crash(host, Crash::PowerLoss);
        world.block_on(host, async { newest::<Sim>(&disk, DIR).await.expect("the disk is well") })
    };
    let expected = Some(super::name_of(DIR, Some(at(20))));
    assert!((0..100).all(|seed| newest_after(seed) == expected));
    plant(Some(Bug::FoundSnapshotNotSynced));
    let lost = (0..100).filter(|seed| newest_after(*seed) != expected).count();
    plant(None);
    assert!(lost > 0, "the test does not come to what it is about");
}

/// A transfer that broke off kept the room of the whole snapshot until the shard was opened again, also when its node had long caught up
/// by the log.
#[test]
fn a_snapshot_with_which_nobody_goes_on_gives_its_room_back() {
    on_a_disk(|disk| async move {
        let wal = WalConfig { segment_bytes: 1 << 20, spare_segments: 0, entry_bytes_max: 64 << 10, ..WalConfig::default() };
        let wal = Wal::<Sim>::open(disk.clone(), &format!("{DIR}/log"), Owner::default(), wal).await.expect("a new log");
        let (limits, history, ms) = (LIMITS, Default::default(), Duration::from_millis);
        let (net, me, outvoted) = (SimNet::new(), Member { node: 1, ..Member::default() }, Default::default());
        let context = PeerContext { net, ring: 1, shard: 0, shards: 1, me, frame_bytes_max: 1 << 20, outvoted };
        let (snapshot_pause, snapshot_after_bytes) = (Duration::ZERO, 1 << 20);
        let machine =
            MachineSettings { dir: DIR.into(), keeps_state: true, limits, snapshot_pause, snapshot_after_bytes, history };
        // Long ones, as each beat is a step of the simulation.
        let (election_timeout_min, election_timeout_max) = (ms(180_000), ms(360_000));
        let timers = Timers { heartbeat: ms(60_000), election_timeout_min, election_timeout_max, read_lease: ms(0) };
        let replica = Replica::open(Rc::new(context), disk.clone(), wal, machine, timers, Vec::new()).await;
        let replica = replica.expect("the group opens");

        let (vote, last) =
            (peer::Vote { term: 1, node: 2, committed: true }, Some(peer::LogId { term: 1, leader: 2, index: 9 }));
        let (membership_at, membership, snapshot, bytes, crc) = (None, &[][..], "", 3 * BLOCK_BYTES as u64, 0);
        let offer = || peer::SnapshotOffer { vote, last, membership_at, membership, snapshot, bytes, crc };
        let resume_at = async |says: &str| match answer_offer(&replica, 2, offer()).await.expect("the disk is well") {
            PeerReplyBody::Snapshot { resume_at, .. } => resume_at,
            other => panic!("{says}: {other:?}"),
        };
        let is_there = async || disk.list(DIR).await.expect("it can be listed").iter().any(|name| name == INCOMING);
        assert_eq!(resume_at("the first offer").await, 0);
        for offset in [0, BLOCK_BYTES as u64] {
            // A sender that is slow, or dials again, is waited for.
            Sim::sleep(INCOMING_IDLE_MAX - ms(1_000)).await;
            replica.give_up_idle_snapshot().await;
            let taken = answer_chunk(&replica, 2, offset, &[0; BLOCK_BYTES], false).await.expect("the disk is well");
            assert!(matches!(taken, PeerReplyBody::Snapshot { .. }), "{taken:?}");
        }
        Sim::sleep(INCOMING_IDLE_MAX - ms(1_000)).await;
        replica.give_up_idle_snapshot().await;
        assert_eq!((resume_at("a second offer").await, is_there().await), (2 * BLOCK_BYTES as u64, true));
        Sim::sleep(INCOMING_IDLE_MAX + ms(1_000)).await;
        replica.give_up_idle_snapshot().await;
        assert!(!is_there().await, "its room is given back");
        assert_eq!(resume_at("an offer after that").await, 0);
        replica.shutdown().await;
    });
}
