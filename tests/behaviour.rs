//! The scenarios of `wire/sdk/vectors/behaviour.json` through the Rust SDK, on a real ring. Every SDK runs the same list.
//!
//! ```text
//!   scenario ─▶ steps: put get delete cas txn add append merge_patch get_many scan delete_range
//!                      watch events  kill_leader restart sleep ─▶ what is expected of each answer
//! ```
//! **Not here**: what a step means (`wire/sdk/vectors/README.md`).

mod ring;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ring::{Plan, Ring};
use ringbeam_sdk::{
    AddOptions, Client, Compare, Consistency, Error, Event, EventKind, Expect, GetOptions, PutOptions, Range, Relation,
    Revision, Step, Target, Transacted, Txn, Watch, WatchOptions,
};
use serde_json::{Map, Value};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/wire/sdk/vectors/behaviour.json");

/// Room for the largest values by default, and no more.
const LOG: &str = "[log]\nsegment_bytes = 33554432\nspare_segments_count = 1\n";

/// A shard has a leader within this.
const LED_WITHIN: Duration = Duration::from_secs(15);

/// The next event of a watch comes within this.
const EVENTS_WITHIN: Duration = Duration::from_secs(30);

/// Between two tries of a step that may be answered otherwise at first.
const AGAIN: Duration = Duration::from_millis(20);

/// What a call answered, as far as scenarios ask.
#[derive(Debug, Default)]
struct Answer {
    found: Option<bool>,
    value: Option<Vec<u8>>,
    existed: Option<bool>,
    duplicate: Option<bool>,
    revision: Option<Revision>,
    succeeded: Option<bool>,
    keys: Option<Vec<Vec<u8>>>,
    values: Option<Vec<Option<Vec<u8>>>>,
    sum: Option<i64>,
    deleted: Option<u64>,
}

struct Scenario {
    ring: Ring,
    client: Client,
    killed: Vec<u64>,
    remembered: BTreeMap<String, Revision>,
    /// Watches under way, with what has come of them and was not looked at.
    watches: BTreeMap<String, (Watch, VecDeque<Event>)>,
}

#[tokio::test]
async fn the_sdk_behaves_as_every_sdk_does() {
    let list: Value = serde_json::from_slice(&std::fs::read(SCENARIOS).expect("the scenarios are there")).expect("JSON");
    let (nodes, shards) = (number(&list["ring"]["nodes"]), number(&list["ring"]["shards"]) as u32);
    let ring = Ring::start("behaviour", Plan { nodes, shards, extra: LOG.to_string(), ..Plan::default() }).await;
    let client = ring.client().await;
    let mut run = Scenario { ring, client, killed: Vec::new(), remembered: BTreeMap::new(), watches: BTreeMap::new() };
    let scenarios = list["scenarios"].as_array().expect("a list of scenarios");
    assert!(scenarios.len() >= 10, "the list has shrunk");
    for scenario in scenarios {
        run.remembered.clear();
        run.watches.clear();
        for (at, step) in scenario["steps"].as_array().expect("a list of steps").iter().enumerate() {
            if let Err(why) = run.step(step).await {
                panic!("{}, step {}: {step}: {why}\n{}", scenario["name"], at + 1, run.ring.tails());
            }
        }
    }
}

impl Scenario {
    async fn step(&mut self, step: &Value) -> Result<(), String> {
        match text(&step["do"])? {
            "put" | "get" | "delete" | "cas" | "txn" | "add" | "append" | "merge_patch" | "get_many" | "scan"
            | "delete_range" => self.calls(step, None).await,
            "kill_leader" => {
                let shard = number(&step["shard"]) as u32;
                match &step["during"] {
                    Value::Null => self.kill_leader(shard).await,
                    during => self.calls(during, Some(shard)).await,
                }
            }
            "restart" => {
                for node in std::mem::take(&mut self.killed) {
                    self.ring.spawn(node);
                }
                Ok(())
            }
            "watch" => self.watch(step).await,
            "events" => self.events(step).await,
            "sleep" => {
                tokio::time::sleep(Duration::from_millis(number(&step["ms"]))).await;
                Ok(())
            }
            other => Err(format!("there is no step {other:?}")),
        }
    }

    /// The calls of a step, one after the other. The leader of `kill` is killed when a third of them has been answered.
    async fn calls(&mut self, step: &Value, kill: Option<u32>) -> Result<(), String> {
        let count = step["count"].as_u64();
        for n in 0..count.unwrap_or(1) {
            if let Some(shard) = kill.filter(|_| n == count.unwrap_or(1) / 3) {
                self.kill_leader(shard).await?;
            }
            let step = if count.is_some() { numbered(step, n) } else { step.clone() };
            let until = Instant::now() + Duration::from_millis(step["within_ms"].as_u64().unwrap_or(0));
            loop {
                let answer = self.call(&step).await;
                match self.holds(&step["expect"], &answer) {
                    Ok(()) => {
                        if let (Some(name), Ok(Answer { revision: Some(revision), .. })) = (step["remember"].as_str(), &answer)
                        {
                            self.remembered.insert(name.to_string(), *revision);
                        }
                        break;
                    }
                    Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(())
    }

    async fn watch(&mut self, step: &Value) -> Result<(), String> {
        let namespace = String::from_utf8(bytes(&step["namespace"])).expect("a namespace is text");
        let mut options = match step["goes_on_from"].as_str() {
            Some(other) => WatchOptions::from_token(&self.watches[other].0.token()).map_err(|error| error.to_string())?,
            None => WatchOptions::default(),
        };
        if step["snapshot"] == true {
            options = options.snapshot();
        }
        let client = self.client.namespace(&namespace);
        let client = client.with_timeout(Duration::from_millis(step["timeout_ms"].as_u64().unwrap_or(15_000)));
        let watch = client.watch(&range(step), &options).await.map_err(|error| error.to_string())?;
        self.watches.insert(text(&step["as"])?.to_string(), (watch, VecDeque::new()));
        Ok(())
    }

    /// Takes as many events as are expected.
    async fn events(&mut self, step: &Value) -> Result<(), String> {
        let wanted: Vec<(String, Vec<u8>, Vec<u8>)> = list(&step["expect"]["events"])
            .iter()
            .map(|event| (text(&event[0]).expect("a kind").to_string(), bytes(&event[1]), bytes(&event[2])))
            .collect();
        let (watch, waiting) = self.watches.get_mut(text(&step["of"])?).ok_or("there is no such watch")?;
        let mut found = Vec::new();
        while found.len() < wanted.len() {
            if let Some(event) = waiting.pop_front() {
                let kind = match event.kind {
                    EventKind::Put => "put",
                    EventKind::Delete => "delete",
                    EventKind::Expire => "expire",
                    EventKind::Extend(_) => "extend",
                    EventKind::Snapshot => "snapshot",
                };
                found.push((kind.to_string(), event.key.to_vec(), event.value.to_vec()));
                continue;
            }
            let next = tokio::time::timeout(EVENTS_WITHIN, watch.next()).await.map_err(|_| format!("only {found:?} came"))?;
            let batch = next.map_err(|error| error.to_string())?.ok_or("the watch has ended")?;
            waiting.extend(batch.events);
        }
        if found == wanted { Ok(()) } else { Err(format!("{found:?} came, not {wanted:?}")) }
    }

    async fn call(&self, step: &Value) -> Result<Answer, Error> {
        let timeout = Some(Duration::from_millis(step["timeout_ms"].as_u64().unwrap_or(5_000)));
        let name = String::from_utf8(bytes(&step["namespace"])).expect("a namespace is text");
        let namespace = Some(name.clone());
        let key = bytes(&step["key"]);
        let consistency = Some(match step["consistency"].as_str() {
            Some("local") => Consistency::Local,
            _ => Consistency::Linearizable,
        });
        let written = match step["do"].as_str() {
            Some("cas") => {
                let client = self.client.namespace(&name);
                let value_is = bytes(&step["value_is"]);
                let expect = match (step["absent"].as_bool(), step["revision"].as_str()) {
                    (Some(true), _) => Expect::Absent,
                    (_, Some(name)) => Expect::Revision(self.remembered[name]),
                    _ => Expect::Value(&value_is),
                };
                return Ok(transacted(client.cas(&key, expect, bytes(&step["value"])).await?));
            }
            Some("txn") => return self.transact(step, &PutOptions { timeout, namespace, ..PutOptions::default() }).await,
            Some("add") => {
                let all = AddOptions::default();
                let bound = |name: &str, other| step[name].as_i64().unwrap_or(other);
                let options = AddOptions { min: bound("min", all.min), max: bound("max", all.max), timeout, namespace };
                let delta = step["delta"].as_i64().expect("a number");
                let done = self.client.add_with(&key, delta, &options).await?;
                let (sum, duplicate) = (Some(done.value), Some(done.duplicate));
                return Ok(Answer { sum, duplicate, revision: Some(done.revision), ..Answer::default() });
            }
            Some("delete_range") => {
                let deleted = self
                    .client
                    .delete_range_with(range(step), &PutOptions { timeout, namespace, ..PutOptions::default() })
                    .await?;
                return Ok(Answer { deleted: Some(deleted), ..Answer::default() });
            }
            Some("get_many") => {
                let keys: Vec<Vec<u8>> = list(&step["keys"]).iter().map(bytes).collect();
                let options = GetOptions { consistency, timeout, namespace, ..GetOptions::default() };
                let found = self.client.get_many_with(keys, &options).await?;
                let values = found.into_iter().map(|found| found.map(|found| found.value.to_vec())).collect();
                return Ok(Answer { values: Some(values), ..Answer::default() });
            }
            Some("scan") => {
                let mut range = range(step);
                if step["backward"] == true {
                    range = range.backward();
                }
                if step["keys_only"] == true {
                    range = range.keys_only();
                }
                if let Some(limit) = step["limit"].as_u64() {
                    range = range.limit(limit);
                }
                let entries = self
                    .client
                    .scan_with(range, &GetOptions { consistency, timeout, namespace, ..GetOptions::default() })
                    .all()
                    .await?;
                let keys = entries.iter().map(|entry| entry.key.to_vec()).collect();
                let values = entries.iter().map(|entry| Some(entry.value.to_vec())).collect();
                return Ok(Answer { keys: Some(keys), values: Some(values), ..Answer::default() });
            }
            Some("get") => {
                let found = self
                    .client
                    .get_with(&key, &GetOptions { consistency, timeout, namespace, ..GetOptions::default() })
                    .await?;
                let revision = found.as_ref().map(|found| found.revision);
                let value = found.map(|found| found.value.to_vec());
                return Ok(Answer { found: Some(value.is_some()), value, revision, ..Answer::default() });
            }
            Some("append") => {
                self.client
                    .append_with(&key, bytes(&step["delta"]), &PutOptions { timeout, namespace, ..PutOptions::default() })
                    .await?
            }
            Some("merge_patch") => {
                self.client
                    .merge_patch_with(&key, bytes(&step["patch"]), &PutOptions { timeout, namespace, ..PutOptions::default() })
                    .await?
            }
            Some("put") => {
                let ttl = step["ttl_ms"].as_u64().map(Duration::from_millis);
                let options = PutOptions { ttl, timeout, namespace, ..PutOptions::default() };
                self.client.put_with(&key, bytes(&step["value"]), &options).await?
            }
            _ => self.client.delete_with(&key, &PutOptions { timeout, namespace, ..PutOptions::default() }).await?,
        };
        let (existed, duplicate) = (Some(written.existed), Some(written.duplicate));
        Ok(Answer { existed, duplicate, revision: Some(written.revision), ..Answer::default() })
    }

    async fn transact(&self, step: &Value, options: &PutOptions) -> Result<Answer, Error> {
        // What the transaction borrows.
        let part = |part: &Value, name| (bytes(&part[name]), bytes(&part["value"]));
        let when: Vec<_> = list(&step["when"]).iter().map(|compare| (part(compare, "key"), compare)).collect();
        let named = |step: &Value| ["put", "delete", "get"].into_iter().find(|name| step.get(name).is_some()).expect("a step");
        let steps =
            |of: &str| -> Vec<_> { list(&step[of]).iter().map(|step| (named(step), part(step, named(step)))).collect() };
        let (then, otherwise) = (steps("then"), steps("otherwise"));
        let mut txn = Txn::new();
        for ((key, value), compare) in &when {
            let target = match (compare["absent"].as_bool(), compare["revision"].as_str()) {
                (Some(true), _) => Target::Revision(Revision::default()),
                (_, Some(name)) => Target::Revision(self.remembered[name]),
                _ => Target::Value(value),
            };
            let relation = match compare["relation"].as_str() {
                Some("not_equal") => Relation::NotEqual,
                Some("less") => Relation::Less,
                Some("greater") => Relation::Greater,
                _ => Relation::Equal,
            };
            txn = txn.when(Compare { key, relation, target });
        }
        for (list, is_then) in [(&then, true), (&otherwise, false)] {
            for (name, (key, value)) in list {
                let step = match *name {
                    "put" => Step::put(key, value),
                    "delete" => Step::delete(key),
                    _ => Step::get(key),
                };
                txn = if is_then { txn.then(step) } else { txn.otherwise(step) };
            }
        }
        Ok(transacted(self.client.txn_with(&txn, options).await?))
    }

    fn holds(&self, expect: &Value, answer: &Result<Answer, Error>) -> Result<(), String> {
        let none = Map::new();
        let expect = expect.as_object().unwrap_or(&none);
        let fails = |text: &str| Err(format!("{text}: {answer:?}"));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let as_expected = match error {
                    Error::Refused(refusal) => expect.get("refused").is_some_and(|code| code == refusal.code.as_str()),
                    Error::Timeout { .. } => expect.get("error").is_some_and(|error| error == "Timeout"),
                    Error::Unknown { .. } => expect.get("error").is_some_and(|error| error == "Unknown"),
                    Error::Connect(_) | Error::Protocol(_) | Error::Misuse(_) => false,
                };
                return if as_expected { Ok(()) } else { fails("the call failed") };
            }
        };
        for (what, wanted) in expect {
            let remembered = || wanted.as_str().and_then(|name| self.remembered.get(name)).copied();
            let as_expected = match what.as_str() {
                "found" => wanted.as_bool() == answer.found,
                "existed" => wanted.as_bool() == answer.existed,
                "duplicate" => wanted.as_bool() == answer.duplicate,
                "value" => Some(bytes(wanted)) == answer.value,
                "sum" => wanted.as_i64() == answer.sum,
                "deleted" => wanted.as_u64() == answer.deleted,
                "succeeded" => wanted.as_bool() == answer.succeeded,
                "keys" => Some(list(wanted).iter().map(bytes).collect()) == answer.keys,
                "values" => {
                    let wanted = list(wanted).iter().map(|value| (!value.is_null()).then(|| bytes(value)));
                    Some(wanted.collect()) == answer.values
                }
                "revision_is" => remembered().is_some() && remembered() == answer.revision,
                "revision_after" => remembered().is_some_and(|before| answer.revision.is_some_and(|now| now > before)),
                "refused" | "error" => false,
                other => return Err(format!("nothing is called {other:?}")),
            };
            if !as_expected {
                return fails(&format!("not {what} = {wanted}"));
            }
        }
        Ok(())
    }

    /// SIGKILL for whoever leads the shard.
    async fn kill_leader(&mut self, shard: u32) -> Result<(), String> {
        let until = Instant::now() + LED_WITHIN;
        loop {
            let leader = self.client.topology_of(shard).await.map_or(0, |topology| topology.leader);
            if leader != 0 && self.ring.runs(leader) {
                self.ring.kill(leader);
                self.killed.push(leader);
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!("shard {shard} has no leader after {LED_WITHIN:?}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn transacted(done: Transacted) -> Answer {
    let values = done.gets.into_iter().map(|found| found.map(|found| found.value.to_vec())).collect();
    let (succeeded, duplicate) = (Some(done.succeeded), Some(done.duplicate));
    Answer { succeeded, duplicate, revision: Some(done.revision), values: Some(values), ..Answer::default() }
}

/// The range of a step.
fn range(step: &Value) -> Range {
    match step.get("prefix") {
        Some(prefix) => Range::prefix(bytes(prefix)),
        None => Range::between(bytes(&step["start"]), bytes(&step["end"])),
    }
}

/// A list; nothing is an empty one.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The same with `n` for each `#` in a string of it.
fn numbered(value: &Value, n: u64) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('#', &n.to_string())),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), numbered(value, n))).collect(),
        other => other.clone(),
    }
}

/// A string, `{"hex": ..}` or `{"repeat": .., "times": ..}`; nothing is "".
fn bytes(value: &Value) -> Vec<u8> {
    if let Some(hex) = value["hex"].as_str() {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
        return (0..hex.len()).step_by(2).map(digits).collect();
    }
    match value["repeat"].as_str() {
        Some(part) => part.repeat(number(&value["times"]) as usize).into_bytes(),
        None => value.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{value} is no text"))
}
