//! Random work, and the ends of watches one by one.

use std::time::Duration;

use super::model::{Random, World, key};
use crate::state::Revision;
use crate::watch::engine::{NotTaken, Wanted};
use crate::watch::limits::CONNECTION_WATCHES_MAX;

fn wanted(random: &mut Random, applied: u64) -> Wanted {
    let (from, until) = match random.below(5) {
        0 => (Vec::new(), Vec::new()),
        1 => (b"u/".to_vec(), b"u0".to_vec()),
        2 => {
            let key = key(random);
            (key.clone(), [&key[..], &[0]].concat())
        }
        3 => (key(random), Vec::new()),
        _ => {
            let (a, b) = (key(random), key(random));
            if a < b { (a, b) } else { (b, Vec::new()) }
        }
    };
    let after = random.one_in(2).then(|| Revision {
        index: applied.saturating_sub(random.below(40)) + random.below(3),
        position: [0, 3, u32::MAX][random.below(3) as usize],
    });
    let snapshot = random.one_in(3);
    Wanted {
        namespace: ["", "", "n"][random.below(3) as usize].into(),
        from,
        until,
        after,
        snapshot,
        no_puts: random.one_in(8),
        no_deletes: random.one_in(8),
        previous: random.one_in(3),
        conflate: random.one_in(3),
        progress: random.one_in(2).then(|| Duration::from_millis(100)),
    }
}

#[test]
fn clients_have_exactly_what_happened_whatever_happens_to_them() {
    let (mut ended, mut copied_again, mut conflated, mut compacted) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut random = Random(seed);
        let mut world = World::new(if seed % 3 == 0 { 1 << 20 } else { 4 << 10 });
        let mut request = 0;
        for _ in 0..300 {
            match random.below(14) {
                0..4 => {
                    let writes = random.below(12);
                    world.write(&mut random, writes);
                }
                4 => {
                    let writes = 20 + random.below(40);
                    world.write(&mut random, writes);
                }
                5..7 => {
                    request += 1;
                    let wanted = wanted(&mut random, world.state.applied());
                    compacted += u32::from(world.ask(random.below(5), request, wanted).is_err());
                }
                7 => {
                    let watches: Vec<(u64, u64)> = world.ways.clients.keys().copied().collect();
                    if let Some((connection, request)) = watches.get(random.below(watches.len().max(1) as u64) as usize) {
                        let had = world.ways.clients.remove(&(*connection, *request)).expect("it is there");
                        assert_eq!(world.engine.unwatch(*connection, *request, &mut world.history), had.ended.is_none());
                    }
                }
                8 if random.one_in(4) => {
                    let connection = random.below(5);
                    world.engine.close(connection, &mut world.history);
                    world.ways.clients.retain(|(of, _), _| *of != connection);
                }
                8..11 => {
                    let messages = [0, 1, 5, 1_000][random.below(4) as usize];
                    world.room(random.below(5), messages);
                }
                11 if random.one_in(20) => world.install(&mut random),
                11 => world.settle(),
                _ => {
                    for _ in 0..random.below(6) {
                        world.turn();
                    }
                }
            }
        }
        (0..5).for_each(|connection| world.room(connection, u64::MAX));
        world.settle();
        let applied = world.state.applied();
        for client in world.ways.clients.values() {
            ended += u32::from(client.ended.is_some());
            copied_again += u32::from(client.copied_again);
            conflated += u32::from(client.conflated > 0 && !client.copied_again);
            if client.ended.is_none() {
                assert_eq!(client.copying, None, "seed {seed}");
                client.check(&world.ways.facts, applied);
            }
        }
        for connection in 0..5 {
            world.engine.close(connection, &mut world.history);
        }
        assert!(world.engine.is_empty() && world.engine.next_due().is_none(), "seed {seed}: something is left");
        assert_eq!(world.history.previous_wanted, 0, "seed {seed}");
    }
    assert!(
        ended > 20 && copied_again > 20 && conflated > 20 && compacted > 20,
        "{ended} ended, {copied_again} copied again, {conflated} conflated, {compacted} compacted: the work must meet all of it"
    );
}

#[test]
fn a_watch_that_nothing_happens_to_is_told_so_at_its_pace() {
    let mut world = World::new(1 << 20);
    let mut random = Random(1);
    world.room(1, u64::MAX);
    let progress = Some(Duration::from_millis(250));
    world
        .ask(1, 7, Wanted { from: b"none".to_vec(), until: b"nonf".to_vec(), progress, ..Wanted::default() })
        .expect("there is room");
    for step in 1..=10 {
        world.write(&mut random, 3);
        world.settle();
        world.now = world.now + Duration::from_millis(100);
        world.settle();
        let (messages, passed_ms) = (world.ways.clients[&(1, 7)].messages, world.now.0 / 1_000_000);
        assert!(messages <= passed_ms / 250 && messages + 1 >= passed_ms / 350, "{messages} after {passed_ms} ms, step {step}");
    }
    assert!(world.ways.clients[&(1, 7)].index >= 8);
}

#[test]
fn a_connection_has_so_many_watches_and_a_request_one() {
    let mut world = World::new(1 << 20);
    for request in 0..CONNECTION_WATCHES_MAX as u64 {
        let key = request.to_string().into_bytes();
        let until = [&key[..], &[0]].concat();
        world.ask(1, request, Wanted { from: key, until, ..Wanted::default() }).expect("there is room");
    }
    assert!(matches!(world.ask(1, 9_999, Wanted::default()), Err(NotTaken::TooMany(_, CONNECTION_WATCHES_MAX))));
    world.ask(2, 1, Wanted::default()).expect("another connection");
    assert_eq!(world.ask(2, 1, Wanted::default()), Err(NotTaken::SameRequest));
    assert!(world.engine.unwatch(1, 5, &mut world.history));
    world.ask(1, 9_999, Wanted::default()).expect("one has gone");
}

#[test]
fn ranges_that_are_no_prefix_are_counted() {
    let mut world = World::new(1 << 20);
    let range = |n: usize| Wanted { from: format!("a{n:04}").into_bytes(), until: b"zz".to_vec(), ..Wanted::default() };
    let most = crate::watch::limits::ODD_RANGES_MAX;
    for n in 0..most {
        world.ask(1, n as u64, range(n)).expect("there is room");
    }
    assert!(matches!(world.ask(1, 9_999, range(most)), Err(NotTaken::TooMany(..))));
    world.ask(1, 9_999, range(0)).expect("the same range again");
}
