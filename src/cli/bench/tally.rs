//! What was seen: histograms and counts, cheap to add to and to merge.

use std::time::Duration;

use hdrhistogram::Histogram;
use ringbeam_sdk::Written;

/// Longest latency that is told apart, microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// What one thread, or all of them, have seen in a second or in all.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Of operations that belong to the window and succeeded, and of the unsent; microseconds.
    pub latency: Histogram<u64>,
    /// Of operations of the warm-up that succeeded; microseconds.
    pub warmup: Histogram<u64>,
    /// Open loop, in the window: from due to sent; microseconds.
    pub send_lag: Histogram<u64>,
    /// Failed or timed out, in the window.
    pub errors: u64,
    /// The same before the window.
    pub warmup_errors: u64,
    /// Due in the window, never sent.
    pub unsent: u64,
    /// Value bytes of `latency`'s operations.
    pub bytes: u64,
    /// Writes among them, and where their time went.
    pub writes: Writes,
    /// The first failure of all.
    pub first_error: Option<String>,
}

/// Sums over writes, from their replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Writes.
    pub count: u64,
    /// Microseconds, in all.
    pub queue_us: u64,
    /// Microseconds, in all.
    pub fsync_us: u64,
    /// Microseconds, in all.
    pub quorum_us: u64,
    /// Microseconds, in all.
    pub apply_us: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            latency: histogram(),
            warmup: histogram(),
            send_lag: histogram(),
            errors: 0,
            warmup_errors: 0,
            unsent: 0,
            bytes: 0,
            writes: Writes::default(),
            first_error: None,
        }
    }
}

impl Tally {
    /// Takes another's in.
    pub fn add(&mut self, other: Tally) {
        merge(&mut self.latency, &other.latency);
        merge(&mut self.warmup, &other.warmup);
        merge(&mut self.send_lag, &other.send_lag);
        self.errors += other.errors;
        self.warmup_errors += other.warmup_errors;
        self.unsent += other.unsent;
        self.bytes += other.bytes;
        self.writes.add(&other.writes);
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Operations of the window that succeeded. The unsent are in the histogram with the age they reached.
    pub fn ops(&self) -> u64 {
        self.latency.len() - self.unsent
    }

    /// All latencies, of the warm-up too.
    pub fn all_latencies(&self) -> Histogram<u64> {
        let mut all = self.latency.clone();
        merge(&mut all, &self.warmup);
        all
    }
}

impl Writes {
    /// Counts one in.
    pub fn count(&mut self, written: &Written) {
        let breakdown = &written.breakdown;
        self.count += 1;
        self.queue_us += u64::from(breakdown.queue_us);
        self.fsync_us += u64::from(breakdown.fsync_us);
        self.quorum_us += u64::from(breakdown.quorum_us);
        self.apply_us += u64::from(breakdown.apply_us);
    }

    fn add(&mut self, other: &Writes) {
        self.count += other.count;
        self.queue_us += other.queue_us;
        self.fsync_us += other.fsync_us;
        self.quorum_us += other.quorum_us;
        self.apply_us += other.apply_us;
    }

    /// Mean queue, fsync, quorum and apply, microseconds; `None` without writes.
    pub fn means_us(&self) -> Option<[(&'static str, f64); 4]> {
        let mean = |sum: u64| sum as f64 / self.count as f64;
        (self.count > 0).then(|| {
            [
                ("queue", mean(self.queue_us)),
                ("fsync", mean(self.fsync_us)),
                ("quorum", mean(self.quorum_us)),
                ("apply", mean(self.apply_us)),
            ]
        })
    }
}

/// An empty histogram: whole microseconds, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid")
}

/// Records a time.
pub fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LATENCY_US_MAX));
}

fn merge(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    // A second of an idle or warming-up thread: nothing to walk through.
    if !from.is_empty() {
        into.add(from).expect("all histograms have the same bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeam_sdk::Breakdown;

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::default();
        for unsent in 0..2 {
            let mut one =
                Tally { errors: 1, unsent, bytes: 7, first_error: Some(format!("error {unsent}")), ..Tally::default() };
            record(&mut one.latency, Duration::from_micros(100));
            record(&mut one.warmup, Duration::from_millis(1));
            let breakdown = Breakdown { queue_us: 10, fsync_us: 20, quorum_us: 30, apply_us: 4 };
            one.writes.count(&Written { breakdown, ..Written::default() });
            all.add(one);
        }
        assert_eq!((all.ops(), all.unsent, all.errors, all.bytes), (1, 1, 2, 14));
        assert_eq!(all.all_latencies().len(), 4);
        assert_eq!(all.first_error.as_deref(), Some("error 0"));
        let means = all.writes.means_us().expect("two writes");
        assert_eq!(means, [("queue", 10.0), ("fsync", 20.0), ("quorum", 30.0), ("apply", 4.0)]);
    }
}
