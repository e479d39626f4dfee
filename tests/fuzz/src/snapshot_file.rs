//! A snapshot's file: written down as docs/format.md says, damaged, and installed by a real machine on a simulated disk.

use crate::batch::LIMITS;
use crate::choices::Choices;
use crate::disk::{Files, files_of, padded, world_with};
use crate::snapshot::{damage, frozen, seal};
use ringbeam_shards::io::sim::Sim;
use ringbeam_shards::raft::machine::MachineSettings;
use ringbeam_shards::raft::sim_doors::install_newest;
use ringbeam_shards::state::State;
use ringbeam_wire::peer::{Member, Membership, Role};
use std::time::Duration;

const DIR: &str = "shard-0";
const NAME: &str = "shard-0/snapshot-0000000000000007-0000000000000002.snap";

/// One input.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let flags = choices.byte();
    let state_bytes = choices.below(256) * 2;
    let (state, mut bodies) = frozen(&mut Choices::new(choices.bytes(state_bytes)));
    let has_state = flags & 0x10 == 0;
    if !has_state {
        bodies.clear();
    }
    let (meta, mut edits) = meta(&mut choices, has_state, state.applied());
    bodies.insert(0, meta);
    // Bodies first, the file afterwards: the first are sealed again, the second are not.
    while flags & 1 == 1 && !choices.is_over() && edits < 8 {
        damage(&mut bodies, &mut choices);
        edits += 1;
    }
    if flags & 2 == 2 {
        bodies.iter_mut().skip(1).for_each(|slice| seal(slice));
    }
    let mut file = vec![framed(&bodies)];
    while flags & 4 == 4 && !choices.is_over() && edits < 12 {
        damage(&mut file, &mut choices);
        edits += 1;
    }
    let contents = if flags & 8 == 8 { padded(choices.rest().to_vec()) } else { padded(file.concat()) };
    let files = Files::from([(NAME.to_string(), contents)]);
    let keeps_state = flags & 0x20 == 0;
    let first = install(&files, keeps_state);
    assert_eq!(install(&files, keeps_state), first, "the same file, the same verdict");
    let raw = flags & 8 == 8;
    match first {
        Ok((hash, _)) if !raw && edits == 0 && keeps_state => assert_eq!(hash, state.hash(), "what loads is what was frozen"),
        Ok(_) => {}
        Err(why) => {
            // The one refusal that is right without damage: a tie-breaker's snapshot has no state to keep.
            assert!(raw || edits > 0 || (keeps_state && !has_state), "an undamaged snapshot is refused: {why}");
            assert!(why.contains(NAME) || why.contains("shard-0/"), "it does not say which file: {why}");
        }
    }
}

/// The meta, and how often it was damaged.
fn meta(choices: &mut Choices<'_>, has_state: bool, applied: u64) -> (Vec<u8>, usize) {
    let member =
        |node: u64| Member { node, incarnation: node, peer: format!("node-{node}:1"), role: Role::Voter, ..Member::default() };
    let membership = Membership { configs: vec![vec![1, 2]], members: vec![member(1), member(2)] };
    let any = choices.byte() % 8 == 7;
    let membership = if any { choices.bytes(40).to_vec() } else { membership.encode() };
    let mut out = vec![1, 0, u8::from(has_state)];
    // Of a state it has to be the index that the state is as of.
    let index = choices.number(applied);
    let other = has_state && index != applied;
    for number in [2, 1, index, 1, 1, 1] {
        out.extend_from_slice(&u64::to_le_bytes(number));
    }
    out.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    out.extend_from_slice(&membership);
    (out, usize::from(any) + usize::from(other))
}

fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
    let (mut out, mut crcs) = (Vec::new(), crc32fast::Hasher::new());
    for body in bodies {
        let crc = crc32fast::hash(body).to_le_bytes();
        crcs.update(&crc);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc);
        out.extend_from_slice(body);
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&crcs.finalize().to_le_bytes());
    out
}

/// Hash of the state and applied index, or why not.
fn install(files: &Files, keeps_state: bool) -> Result<(u64, u64), String> {
    let (world, host) = world_with(1, files);
    let disk = world.disk(host);
    let settings = MachineSettings {
        dir: DIR.to_string(),
        keeps_state,
        limits: LIMITS,
        snapshot_pause: Duration::from_millis(2),
        snapshot_after_bytes: 64 << 20,
        history: Default::default(),
    };
    let installed = world.block_on(host, async {
        let machine = install_newest::<Sim>(disk.clone(), settings).await?;
        Ok::<_, std::io::Error>((machine.with_state(State::hash), machine.applied_index()))
    });
    let after = files_of(&disk);
    assert_eq!(after.values().collect::<Vec<_>>(), files.values().collect::<Vec<_>>(), "a snapshot is read, never written");
    installed.map_err(|error| error.to_string())
}
