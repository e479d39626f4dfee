//! Random operations against a model, with closes and crashes at random moments.

use super::*;

/// xorshift64*: the seed is printed when a run fails.
pub(super) struct Random(u64);
impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed * 2 + 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }
    async fn check(&self, wal: &Wal<Uring>) {
        assert_eq!(all(wal).await, self.entries);
        assert_eq!((wal.vote(), wal.purged(), wal.last()), (self.vote, self.purged, self.last()));
        assert!(wal.committed() <= self.committed, "never ahead");
    }
}

async fn round(seed: u64, steps: u64) {
    let mut random = Random::new(seed);
    let mut scratch = Scratch::new("model");
    let cache_bytes = [0, 8 << 10, 1 << 20][random.below(3) as usize];
    let config = WalConfig { cache_bytes, spare_segments: random.below(4) as u32, ..SMALL };
    let mut wal = scratch.open(config).await.expect("a new log");
    let mut model = Model::default();
    let mut term = 1;
    let some = |model: &Model, random: &mut Random| {
        let at = random.below(model.entries.len() as u64) as usize;
        model.entries[at].id
    };
    for _ in 0..steps {
        match random.below(16) {
            0..7 => {
                let from = model.last().map_or(0, |last| last.index + 1);
                let few: Vec<Entry> = (from..from + random.below(6))
                    .map(|i| {
                        let bytes = [0, 20, 900, 4000, 24 << 10][random.below(5) as usize];
                        entry(term, i, random.below(bytes + 1) as usize)
                    })
                    .collect();
                model.entries.extend(few.iter().cloned());
                append(&wal, few).await.expect("flushed");
            }
            7 => {
                term += 1;
                model.vote = Some(Vote { term, node: random.below(3), committed: random.below(2) == 0 });
                durable(|f| wal.save_vote(model.vote.unwrap_or_default(), f)).await.expect("flushed");
            }
            8 if !model.entries.is_empty() => {
                let after = some(&model, &mut random);
                if Some(after) >= model.committed.max(model.purged) {
                    model.entries.retain(|entry| entry.id.index <= after.index);
                    durable(|f| wal.truncate_after(Some(after), f)).await.expect("flushed");
                }
            }
            9 if !model.entries.is_empty() => {
                let upto = some(&model, &mut random);
                model.entries.retain(|entry| entry.id.index > upto.index);
                model.purged = Some(upto);
                durable(|f| wal.purge(upto, f)).await.expect("flushed");
            }
            10 if !model.entries.is_empty() => {
                let id = some(&model, &mut random);
                model.committed = model.committed.max(Some(id));
                wal.save_committed(model.committed);
            }
            11 => {
                wal.close().await;
                wal = scratch.open(config).await.expect("it was closed in order");
                assert_eq!(wal.committed(), model.committed);
                model.check(&wal).await;
            }
            12 => {
                // A crash: nothing but what is on disk by now, with an append under way or not.
                let from = model.last().map_or(0, |last| last.index + 1);
                let few: Vec<Entry> = (from..from + random.below(5)).map(|i| entry(term, i, 7000)).collect();
                wal.append(few.clone(), |_| ());
                for _ in 0..random.below(4) {
                    Uring::yield_now().await;
                }
                let crashed = scratch.copy("crash");
                wal.close().await;
                scratch = crashed;
                wal = scratch.open(config).await.expect("a crash is no damage");
                let found = all(&wal).await;
                let extra = found.len().checked_sub(model.entries.len()).expect("nothing durable is lost");
                model.entries.extend_from_slice(&few[..extra]);
                model.check(&wal).await;
                model.committed = wal.committed();
            }
            _ => {
                let start = model.entries.first().map_or(0, |entry| entry.id.index) + random.below(30);
                let end = start + random.below(30);
                let wanted: Vec<&Entry> = model.entries.iter().filter(|entry| (start..end).contains(&entry.id.index)).collect();
                let bytes_max = [0, 5000, 100_000, usize::MAX][random.below(4) as usize];
                let read = wal.read(start..end, bytes_max).await.expect("read");
                assert_eq!(read.iter().collect::<Vec<_>>(), wanted[..read.len()]);
                assert!(wanted.is_empty() || !read.is_empty());
                let bytes: usize = read.iter().map(|entry| entry.payload.len()).sum();
                assert!(read.len() <= 1 || bytes <= bytes_max);
                if let Some(next) = wanted.get(read.len()) {
                    assert!(bytes + next.payload.len() > bytes_max || bytes >= bytes_max, "too few");
                }
            }
        }
    }
    model.check(&wal).await;
    wal.close().await;
}

#[test]
fn random_operations_closes_and_crashes_agree_with_the_model() {
    for seed in 1..=12 {
        eprintln!("seed {seed}"); // shown when the test fails
        run(round(seed, 150));
    }
}
