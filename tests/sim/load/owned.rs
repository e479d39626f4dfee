//! Clients that have keys for themselves: puts, deltas of both kinds, deletes and range deletes, each answer and each read held against
//! a model at once, and the states of all nodes at the end.
//!
//! One task on each client's host, with its own client and random numbers, like those that count. Its keys are in one shard, `{tag}/..`,
//! in a namespace of their own. When the outcome of a write stays unknown, it takes new keys.
//!
//! **Not here**: what must come of it (`check/owned.rs`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringbeam_wire::client::{Consistency, Fold};
use serde_json::{Value, json};

use super::Load;
use crate::check::owned::{Form, Model};
use crate::client::{Client, Outcome, Write};
use crate::random::Random;
use crate::world::Ring;

/// Where the keys are.
const NAMESPACE: &str = "owned";
/// Mean pause between two operations of a task: they are beside the load, not the load.
const PAUSE_US: u64 = 150_000;
/// Keys of the range that is deleted in slices.
const RANGE_KEYS: u64 = 6;
/// Most of it that goes at once.
const SLICE_MAX: u64 = 4;
/// Names of a document.
const NAMES: u64 = 5;

/// What one owner knows.
#[derive(Debug, Default)]
pub struct Owner {
    name: String,
    generation: u64,
    model: Model,
    /// A write is under way: what its keys are is not known.
    busy: bool,
    wrong: Vec<String>,
}

/// All owners.
pub type Owners = Rc<RefCell<Vec<Owner>>>;

/// One task.
pub struct Owning {
    random: Random,
    limit: Duration,
    shared: Load,
    number: usize,
    steps: u64,
}

/// What is asked next.
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Append(Vec<u8>, Vec<u8>),
    Patch(Vec<u8>, Value),
    Delete(Vec<u8>),
    Erase(Vec<u8>, Vec<u8>, u32),
    Read(Vec<u8>),
}

impl Owning {
    /// The task of one client's host.
    pub fn new(random: Random, limit: Duration, shared: Load) -> Owning {
        let number = shared.owners.borrow().len();
        shared.owners.borrow_mut().push(Owner { name: format!("o{number}"), ..Owner::default() });
        Owning { random, limit, shared, number, steps: 0 }
    }

    pub async fn run(mut self) {
        let mut client = Client::new(self.shared.addresses.borrow().clone(), self.shared.shards);
        loop {
            let pause = Duration::from_micros(self.random.below(2 * PAUSE_US));
            self.shared.turn_of(&mut client, pause).await;
            let step = self.next();
            self.shared.under_way.set(self.shared.under_way.get() + 1);
            match step {
                Step::Read(key) => self.read(&mut client, &key).await,
                write => self.write(&mut client, write).await,
            }
            self.shared.under_way.set(self.shared.under_way.get() - 1);
        }
    }

    fn owner<T>(&self, act: impl FnOnce(&mut Owner) -> T) -> T {
        act(&mut self.shared.owners.borrow_mut()[self.number])
    }

    fn next(&mut self) -> Step {
        self.steps += 1;
        let steps = self.steps;
        let tag = self.owner(|owner| format!("{{{}.{}}}", owner.name, owner.generation));
        let named = |name: &str| format!("{tag}/{name}").into_bytes();
        let one_of_range = named(&format!("k{}", self.random.below(RANGE_KEYS)));
        match self.random.below(20) {
            0..=4 => Step::Append(named("text"), format!("{steps};").into_bytes()),
            5..=8 => Step::Patch(named("doc"), self.patch()),
            9 => Step::Put(named("doc"), br#"{"n0": {"since": 0}}"#.to_vec()),
            // A delta behind a document, and a patch of what is no document, are for the state's own model.
            10..=12 => Step::Put(one_of_range, vec![b'x'; self.random.below(200) as usize]),
            13 => Step::Erase(named("k"), named("l"), self.random.between(1, SLICE_MAX) as u32),
            14 => Step::Delete(named(if self.random.below(2) == 0 { "text" } else { "doc" })),
            15 | 16 => Step::Read(named("text")),
            17 | 18 => Step::Read(named("doc")),
            _ => Step::Read(one_of_range),
        }
    }

    fn patch(&mut self) -> Value {
        let (name, steps) = (format!("n{}", self.random.below(NAMES)), self.steps);
        match self.random.below(4) {
            0 => json!({name: null}),
            1 => json!({name: {format!("at{}", steps % 3): steps}}),
            2 => json!({name: steps, "last": steps}),
            _ => json!({name: "x".repeat(self.random.below(600) as usize)}),
        }
    }

    async fn write(&mut self, client: &mut Client, step: Step) {
        self.owner(|owner| owner.busy = true);
        let patch = if let Step::Patch(_, patch) = &step { patch.to_string().into_bytes() } else { Vec::new() };
        let write = match &step {
            Step::Put(key, value) => Write::PutIn(NAMESPACE, key, value),
            Step::Append(key, delta) => Write::Extend(NAMESPACE, key, Fold::Concatenate, delta),
            Step::Patch(key, _) => Write::Extend(NAMESPACE, key, Fold::MergePatch, &patch),
            Step::Delete(key) => Write::DeleteIn(NAMESPACE, key),
            Step::Erase(from, until, limit) => Write::Erase(NAMESPACE, from, until, *limit),
            Step::Read(_) => return,
        };
        // What the answer says: whether there was a value, or how many went and whether there are more.
        let said = match client.write(write, self.limit).await {
            Outcome::Done(answer) => answer.said(),
            Outcome::Refused(_) | Outcome::Timeout => return self.owner(|owner| owner.busy = false),
            Outcome::Unknown => return self.owner(Owner::leave),
        };
        self.owner(|owner| {
            owner.busy = false;
            let model = &mut owner.model;
            let expected = match &step {
                Step::Put(key, value) => (u32::from(model.put(key, value)), false),
                Step::Append(key, delta) => (u32::from(model.append(key, delta)), false),
                Step::Patch(key, patch) => (u32::from(model.patch(key, patch)), false),
                Step::Delete(key) => (u32::from(model.delete(key)), false),
                Step::Erase(from, until, limit) => model.erase(from, until, *limit as usize),
                Step::Read(_) => return,
            };
            if said != Some(expected) {
                owner.wrong.push(format!(
                    "{}.{}: {} says {said:?}, not {expected:?}",
                    owner.name,
                    owner.generation,
                    words(&step)
                ));
            }
        });
    }

    async fn read(&self, client: &mut Client, key: &[u8]) {
        if let Outcome::Done(read) = client.get_in(NAMESPACE, key, Consistency::Linearizable, self.limit).await {
            let found = read.found.map(|found| found.value);
            self.owner(|owner| owner.wrong.extend(owner.model.judge(key, found.as_deref(), form(key))));
        }
    }
}

impl Owner {
    /// What becomes of the last write is not known: other keys from now on.
    fn leave(&mut self) {
        self.generation += 1;
        self.model = Model::default();
        self.busy = false;
    }

    /// What is wrong with its keys, as it was told and as the states of live nodes have them.
    fn judge(&self, ring: &Ring) -> Vec<String> {
        let mut found = self.wrong.clone();
        if self.busy {
            return found;
        }
        let probes: Vec<_> = ring.live().into_iter().flat_map(|node| ring.probes(node)).collect();
        for (key, _) in self.model.iter() {
            let value = probes.iter().find_map(|probe| probe.read(NAMESPACE, key)).map(|(value, _)| value);
            found.extend(self.model.judge(key, value.as_deref(), form(key)).map(|why| format!("{why}, at the end")));
        }
        found
    }
}

/// What is wrong with the keys of all owners, at a ring at rest.
pub fn judge(owners: &Owners, ring: &Ring) -> Vec<String> {
    owners.borrow().iter().flat_map(|owner| owner.judge(ring)).map(|why| format!("owned: {why}")).take(8).collect()
}

fn form(key: &[u8]) -> Form {
    if key.ends_with(b"/doc") { Form::Json } else { Form::Bytes }
}

fn words(step: &Step) -> String {
    let (what, key) = match step {
        Step::Put(key, _) => ("put", key),
        Step::Append(key, _) => ("append to", key),
        Step::Patch(key, _) => ("patch of", key),
        Step::Delete(key) => ("delete of", key),
        Step::Erase(from, ..) => ("range delete from", from),
        Step::Read(key) => ("read of", key),
    };
    format!("{what} {}", String::from_utf8_lossy(key))
}
