//! What the state tells a listener is what it did: who only listens has the same keys.

use std::collections::BTreeMap;

use super::extends;
use super::model::Work;
use super::{batch, small_limits};
use crate::state::command::parse;
use crate::state::events::{Change, ChangeKind, Sink};
use crate::state::{Found, Revision, State};

/// Keys by what was heard of them.
#[derive(Default)]
struct Heard {
    wants_previous: bool,
    keys: BTreeMap<(String, Vec<u8>), (Revision, Vec<u8>)>,
    last: Revision,
    changes: u64,
}

impl Sink for Heard {
    fn wants_previous(&self) -> bool {
        self.wants_previous
    }
    fn changed(&mut self, change: &Change<'_>) {
        let Change { kind, namespace, key, value, revision, previous } = *change;
        assert!(revision >= self.last, "{revision:?} after {:?}", self.last);
        (self.last, self.changes) = (revision, self.changes + 1);
        let place = (namespace.to_string(), key.to_vec());
        let before = self.keys.remove(&place);
        let known = before.as_ref().map(|(revision, value)| Found { value, revision: *revision });
        assert_eq!(previous, known.filter(|_| self.wants_previous));
        match kind {
            ChangeKind::Put => {
                self.keys.insert(place, (revision, value.to_vec()));
            }
            ChangeKind::Delete | ChangeKind::Expire => {
                assert!(before.is_some() && value.is_empty(), "a delete of nothing is told");
            }
            ChangeKind::Extend(fold) => {
                let before = before.as_ref().map(|(_, value)| &value[..]);
                let value = extends::folded(fold, before, value).expect("what is denied is not told");
                self.keys.insert(place, (revision, value));
            }
        }
    }
}

#[test]
fn who_listens_has_the_same_keys() {
    for seed in 0..40 {
        let mut state = State::new(small_limits());
        let mut deaf = State::new(small_limits());
        let mut heard = Heard { wants_previous: seed % 2 == 0, ..Heard::default() };
        let mut work = Work::new(seed, if seed % 4 < 2 { 40 } else { 4_000 });
        let (mut answers, mut same) = (Vec::new(), Vec::new());
        for step in 0..400 {
            let writes = work.batch();
            let bytes = batch(work.ring_time_ms, &writes);
            let (parsed, index) = (parse(&bytes).expect("just built"), state.applied() + 1);
            answers.clear();
            same.clear();
            state.apply_to(index, &parsed, &mut answers, &mut heard);
            deaf.apply(index, &parsed, &mut same);
            assert_eq!(answers, same, "seed {seed}");
            work.learn(&writes, &answers);
            if step % 100 == 17 {
                state.freeze().expect("none is under way");
            } else if step % 100 == 60 {
                state.thaw();
            }
        }
        assert_eq!(state.hash(), deaf.hash(), "who listens changes nothing; seed {seed}");
        assert!(heard.changes > 200, "seed {seed}: {} changes", heard.changes);
        assert_eq!(heard.keys.len() as u64, state.keys(), "seed {seed}");
        for ((namespace, key), (revision, value)) in &heard.keys {
            assert_eq!(state.get(namespace, key), Some(Found { value, revision: *revision }), "seed {seed}");
        }
    }
}
