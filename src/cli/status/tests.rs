use ringbeam_sdk::{Error, Member, Progress, Role, Status};

use super::{Report, json, table};

fn member(node: u64) -> Member {
    Member { node, client: format!("h{node}:7701"), peer: format!("h{node}:7702"), region: "north".into(), ..Member::default() }
}

fn progress(node: u64, lag: u64, learner: bool) -> Progress {
    Progress { node, role: Role::Voter, matched: 100 - lag, lag, learner }
}

fn status(node: u64, shard: u32, leads: bool, voters: Vec<Progress>) -> Status {
    Status {
        node,
        ring: 0xabc,
        shard,
        shards: 2,
        version: "0.1.0".into(),
        uptime_ms: 3_725_000,
        raft_state: if leads { "leader".into() } else { "follower".into() },
        leader: 1,
        term: 4,
        last_index: 100,
        committed_index: 99,
        applied_index: 98,
        keys: 5,
        log_bytes: 8192,
        voters,
        ..Status::default()
    }
}

fn three() -> Vec<Progress> {
    vec![progress(1, 0, false), progress(2, 0, false), progress(3, 12, false)]
}

#[test]
fn a_ring_with_a_dead_node_on_one_page() {
    let answers = vec![
        (1, 0, Ok(status(1, 0, true, three()))),
        (2, 0, Ok(status(2, 0, false, three()))),
        (3, 0, Err(Error::Connect("h3:7701: connection refused".into()))),
    ];
    let report = Report::new(0xabc, 1, answers, vec![member(1), member(2), member(3)]);
    let expected = "\
ring 0000000000000abc

shard  leader  term  last  committed  applied  keys  log      lag of the others
0      1       4     100   99         98       5     8.0 KiB  2:0  3:12

node  role   version      uptime  client   region  leads
1     voter  0.1.0        1h 2m   h1:7701  north   0
2     voter  0.1.0        1h 2m   h2:7701  north   -
3     voter  unreachable  -       h3:7701  north   -

! node 3 cannot be reached: no connection, check the endpoints and whether the nodes run: h3:7701: connection refused
";
    assert_eq!(table::render(&report), expected);

    let json = json::report(&report);
    assert_eq!(json["ring"], "0000000000000abc");
    let shard = &json["shards"][0];
    assert_eq!((shard["leader"].as_u64(), shard["committed_index"].as_u64()), (Some(1), Some(99)));
    assert_eq!(shard["voters"][2]["lag"], 12);
    assert_eq!(shard["replicas"][1]["raft_state"], "follower");
    assert_eq!((&json["nodes"][0]["uptime_ms"], &json["nodes"][2]["reachable"]), (&3_725_000.into(), &false.into()));
}

fn findings(shards: Vec<(bool, Vec<Progress>)>) -> Vec<String> {
    let answers = shards.into_iter().enumerate().map(|(shard, (joint, voters))| {
        let shard = shard as u32;
        (1, shard, Ok(Status { voters_joint: joint, ..status(1, shard, true, voters) }))
    });
    Report::new(1, 2, answers.collect(), vec![member(1), member(4)]).findings
}

#[test]
fn membership_that_differs_between_shards_is_named_with_the_command_that_finishes_it() {
    let with = |node: u64, learner: bool| {
        let mut all = three();
        all.push(progress(node, 0, learner));
        all
    };
    let cases = [
        (
            with(4, false),
            with(4, true),
            "a voter in shard 0 and without a vote in shard 1; finish the change: ringbeam ring promote --node 4",
        ),
        (with(4, true), three(), "no member in shard 1; finish the change: ringbeam ring add --node 4 --peer h4:7702"),
        (
            three(),
            with(4, false),
            "no member in shard 0 and a voter in shard 1; finish the change: ringbeam ring remove --node 4",
        ),
        (with(4, true), with(4, false), "finish the change: ringbeam ring remove --node 4"),
    ];
    for (first, second, expected) in cases {
        let found = findings(vec![(false, first), (false, second)]);
        assert!(found.len() == 1 && found[0].contains(expected), "expected `{expected}` in {found:?}");
    }
    let waiting = findings(vec![(false, with(4, true)), (false, with(4, true))]);
    assert_eq!(waiting, ["node 4 has no vote yet; once it has caught up: ringbeam ring promote --node 4"]);
    let joint = findings(vec![(false, three()), (true, three())]);
    assert!(joint.len() == 1 && joint[0].starts_with("a change of the voters is half done in shard 1;"), "{joint:?}");
    assert_eq!(findings(vec![(false, three()), (false, three())]), Vec::<String>::new());
}

#[test]
fn faults_and_missing_leaders_are_found_and_an_old_leader_is_not_believed() {
    let broken = Status { fault: Some("segment 3 is torn".into()), ..status(1, 0, true, three()) };
    let alone = Status { leader: 0, ..status(2, 0, false, three()) };
    let report = Report::new(1, 1, vec![(1, 0, Ok(broken)), (2, 0, Ok(alone))], vec![]);
    assert_eq!(report.findings[0], "shard 0: node 1 should lead, but does not say so itself");
    assert_eq!(report.findings[1], "shard 0 on node 1 does not serve: segment 3 is torn");

    let old = Status { term: 3, ..status(1, 0, true, three()) };
    let new = Status { leader: 2, ..status(2, 0, true, three()) };
    let report = Report::new(1, 1, vec![(1, 0, Ok(old)), (2, 0, Ok(new))], vec![]);
    assert_eq!(report.shards[0].leader.as_ref().map(|s| s.node), Some(2));

    let nobody = Status { leader: 0, ..status(2, 0, false, vec![]) };
    let report = Report::new(1, 1, vec![(2, 0, Ok(nobody))], vec![]);
    assert_eq!(report.findings, ["shard 0 has no leader: no writes; is a majority of its voters up?"]);
    assert!(table::render(&report).contains("none"));
}
