use super::*;

const LEAST: &str = "[node]\nid = 1\ndata_dir = \"data\"\n[ring]\nfounders = [{ id = 1, peer = \"127.0.0.1:7702\" }]\n";
const SHIPPED: &str = include_str!("../../deploy/node.toml");

fn valid() -> Config {
    Config::parse(LEAST, "least.toml").expect("the least file is valid")
}

fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = valid();
    change(&mut config);
    let from_text = Config::parse(&config.to_toml(), "node.toml").expect_err("it was made invalid");
    assert_eq!(from_text, format!("configuration node.toml: {}", config.check().expect_err("the same")));
    from_text
}

#[test]
fn shipped_file_shows_every_key_with_its_default() {
    let shipped = Config::parse(SHIPPED, "deploy/node.toml").expect("the shipped file is valid");
    let mut defaults = Config::default();
    (defaults.node.id, defaults.node.data_dir) = (1, "/var/lib/ringbeam".into());
    defaults.ring.founders = vec![FounderEntry { id: 1, peer: "127.0.0.1:7702".into() }];
    assert_eq!(shipped, defaults);

    let mentioned: toml::Table = toml::from_str(SHIPPED).expect("TOML");
    let all: toml::Table = toml::from_str(&shipped.to_toml()).expect("TOML");
    for (section, keys) in &all {
        for key in keys.as_table().expect("a section").keys() {
            assert!(mentioned[section].get(key).is_some(), "{section}.{key} is not in deploy/node.toml");
        }
    }
    let lines: Vec<&str> = SHIPPED.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_key || lines[at - 1].starts_with("# "), "line {}: `{line}` has no comment above", at + 1);
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut config = valid();
    config.node.role = Role::TieBreaker;
    config.node.cores = vec![1, 3];
    config.log.durable_writes = DurableWrites::Fdatasync;
    config.logging.level = Level::Trace;
    assert_eq!(Config::parse(&config.to_toml(), "x"), Ok(config));
}

#[test]
fn unknown_key_is_refused_by_name_and_line() {
    for (text, line, name) in [
        ("[node]\nid = 1\ndata_dri = \"x\"\n", "line 3", "data_dri"),
        ("[timer]\n", "line 1", "timer"),
        ("[ring]\nfounders = [{ id = 1, pear = \"x\" }]\n", "line 2", "pear"),
    ] {
        let why = Config::parse(text, "node.toml").expect_err("an unknown key");
        assert!(why.starts_with("configuration node.toml: "), "{why}");
        assert!(why.contains(line) && why.contains(&format!("unknown field `{name}`")), "{why}");
    }
}

#[test]
fn wrong_word_is_refused_with_the_right_ones() {
    let with = |extra: &str| Config::parse(&format!("[node]\nid = 1\n{extra}"), "node.toml").expect_err("a wrong word");
    let role = with("role = \"king\"");
    assert!(role.contains("line 3") && role.contains("node.role = \"king\": it is voter, tie-breaker or observer"), "{role}");
    let writes = with("[log]\ndurable_writes = \"maybe\"");
    assert!(writes.contains("log.durable_writes = \"maybe\": it is adaptive, dsync or fdatasync"), "{writes}");
    let level = with("[logging]\nlevel = \"loud\"");
    assert!(level.contains("`loud`") && level.contains("`debug`"), "{level}");
    let negative = with("[ring]\nshards = -1");
    assert!(negative.contains("line 4") && negative.contains("-1"), "{negative}");
}

#[test]
fn missing_file_is_named() {
    let why = Config::load(Path::new("/nowhere/node.toml")).expect_err("no file");
    assert!(why.starts_with("configuration /nowhere/node.toml: "), "{why}");
}

#[test]
fn bad_values_are_refused_with_key_value_and_what_would_be_right() {
    type Change = fn(&mut Config);
    let cases: &[(Change, &str)] = &[
        (|c| c.node.id = 0, "node.id is missing or 0: give this node a number from 1"),
        (|c| c.node.data_dir = "".into(), "node.data_dir is missing or empty: name a directory"),
        (|c| c.node.region = "r".repeat(65), "it has 65 bytes, the limit is 64"),
        (|c| c.node.cores = vec![2, 1, 2], "node.cores names core 2 twice"),
        (|c| c.listen.client = "localhost".into(), "listen.client = \"localhost\": it must be host:port"),
        (|c| c.listen.client = ":7701".into(), "listen.client = \":7701\": it must be host:port"),
        (|c| c.listen.peer = "127.0.0.1:0".into(), "listen.peer = \"127.0.0.1:0\": it must be host:port with a port from 1"),
        (|c| c.listen.admin = "a b:1".into(), "listen.admin = \"a b:1\": it must be host:port"),
        (|c| c.listen.advertise_peer = "x:99999".into(), "listen.advertise_peer = \"x:99999\": it must be host:port"),
        (
            |c| c.listen.client = "0.0.0.0:7701".into(),
            "listen.client = \"0.0.0.0:7701\": nobody can connect to that; set listen.advertise_client",
        ),
        (|c| c.listen.peer = "127.0.0.1:7701".into(), "listen.peer = \"127.0.0.1:7701\": listen.client has it already"),
        (|c| c.ring.shards = 0, "ring.shards = 0: it must be from 1 to 256"),
        (|c| c.ring.shards = 257, "ring.shards = 257: it must be from 1 to 256"),
        (|c| c.ring.founders.clear(), "ring.founders is empty: name the nodes"),
        (|c| c.ring.founders[0].id = 0, "ring.founders has id 0"),
        (|c| c.ring.founders[0].peer = "x".into(), "ring.founders: peer of node 1 = \"x\": it must be host:port"),
        (|c| c.ring.founders.push(founder(1, "b:1")), "ring.founders names node 1 twice"),
        (|c| c.ring.founders.push(founder(2, "127.0.0.1:7702")), "to node 1 and to node 2: each node has its own"),
        (|c| c.ring.founders = (1..9).map(|id| founder(id, &format!("h{id}:1"))).collect(), "names 8 nodes: at most 7"),
        (|c| c.limits.key_bytes_max = 4097, "limits.key_bytes_max = 4097: it must be from 1 to 4096"),
        (|c| c.limits.value_bytes_max = (16 << 20) + 1, "limits.value_bytes_max = 16777217: it must be from 1 to 16777216"),
        (|c| c.limits.connections_max = 0, "limits.connections_max = 0: it must be from 16"),
        (|c| c.limits.batch_bytes_max = 1, "limits.batch_bytes_max = 1: it must be from 4096 to 16777216"),
        (|c| c.limits.queue_bytes_max = 1 << 20, "limits.queue_bytes_max = 1048576: it must be at least 1118272"),
        (|c| c.limits.sessions_max = 0, "limits.sessions_max = 0"),
        (|c| c.limits.session_window_count = 65_537, "limits.session_window_count = 65537: it must be from 1 to 65536"),
        (|c| c.limits.session_lifetime_ms = 0, "limits.session_lifetime_ms = 0: it must be from 1000"),
        (|c| c.log.segment_bytes = 100_000, "log.segment_bytes = 100000: it must be a multiple of 4096 below 4 GiB"),
        (|c| c.log.segment_bytes = 1 << 32, "log.segment_bytes = 4294967296: it must be a multiple of 4096 below 4 GiB"),
        (|c| c.log.segment_bytes = 2 << 20, "log.segment_bytes = 2097152: it must be at least "),
        (|c| c.log.snapshot_after_bytes = 1, "log.snapshot_after_bytes = 1: it must be from 65536"),
        (|c| c.log.cache_bytes = 1 << 40, "log.cache_bytes = 1099511627776: it must be from 0"),
        (|c| c.log.spare_segments_count = 65, "log.spare_segments_count = 65: it must be from 0 to 64"),
        (|c| c.log.snapshot_pause_us = 1_000_001, "log.snapshot_pause_us = 1000001: it must be from 0 to 1000000"),
        (|c| c.timers.heartbeat_ms = 0, "timers.heartbeat_ms = 0: it must be from 1"),
        (
            |c| c.timers.heartbeat_ms = 150,
            "timers.election_timeout_min_ms = 300: it must be more than twice timers.heartbeat_ms = 150",
        ),
        (
            |c| c.timers.election_timeout_max_ms = 300,
            "timers.election_timeout_max_ms = 300: it must be more than timers.election_timeout_min_ms = 300",
        ),
        (
            |c| c.timers.read_lease_ms = 149,
            "timers.read_lease_ms = 149: it must be 0, or from one and a half times timers.heartbeat_ms = 100",
        ),
        (|c| c.timers.read_lease_ms = 301, "to timers.election_timeout_min_ms = 300, or a follower elects itself within it"),
        (|c| c.scan.pinned_bytes_max = 1, "scan.pinned_bytes_max = 1: it must be from 1048576"),
    ];
    for (change, expected) in cases {
        let why = refusal(change);
        assert!(why.contains(expected), "expected `{expected}` in: {why}");
    }
}

fn founder(id: u64, peer: &str) -> FounderEntry {
    FounderEntry { id, peer: peer.into() }
}

#[test]
fn smallest_segment_that_a_refusal_names_is_accepted() {
    for value_bytes_max in [1, 4096, 1 << 20, 16 << 20] {
        let mut config = valid();
        config.limits.value_bytes_max = value_bytes_max;
        config.log.segment_bytes = 4096;
        let why = config.check().expect_err("too small");
        let least = why.split("at least ").nth(1).and_then(|rest| rest.split(',').next()).expect("it names the least");
        config.log.segment_bytes = least.parse().expect("a number");
        assert_eq!(config.check(), Ok(()), "{why}");
        // And the log agrees: a segment holds two flushes of such an entry.
        let wal = config.wal();
        let blocks = (wal.entry_bytes_max as u64 + 1024).div_ceil(4096 - 32);
        assert!(wal.segment_bytes >= (2 * blocks + 1) * 4096, "{wal:?}");
    }
}

#[test]
fn admin_off_and_advertised_addresses() {
    let mut config = valid();
    config.listen.admin.clear();
    config.listen.client = "0.0.0.0:7701".into();
    config.listen.advertise_client = "node-1.example:7701".into();
    assert_eq!(config.check(), Ok(()));
    assert_eq!(config.listen.client_address(), "node-1.example:7701");
    assert_eq!(config.listen.peer_address(), "127.0.0.1:7702");
    assert_eq!(config.listen.admin_address(), "");
}
