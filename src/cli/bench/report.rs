//! What a run came to: a summary for people, JSON for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::tally::Tally;
use super::workload::Workload;

/// The format of the JSON, as peerbench's README defines it. Other fields are ours, and ignored there.
pub const SCHEMA: &str = "peerbench/1";

/// Rows of the percentile plot, in percent.
const PLOT_ROWS: [f64; 11] = [1.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0];

/// Width of the longest bar, columns.
const PLOT_COLUMNS: f64 = 44.0;

/// The end of a run.
pub struct Report {
    /// What was asked for.
    pub workload: Workload,
    /// What was seen.
    pub tally: Tally,
    /// The window, Unix time: begin and end.
    pub window: (Duration, Duration),
    /// Version of the server that was asked, or "".
    pub server_version: String,
}

impl Report {
    fn seconds(&self) -> f64 {
        self.window.1.saturating_sub(self.window.0).as_secs_f64()
    }

    fn ops_per_s(&self) -> f64 {
        match self.seconds() {
            seconds if seconds > 0.0 => self.tally.ops() as f64 / seconds,
            _ => 0.0,
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (workload, tally) = (&self.workload, &self.tally);
        let breakdown_us = tally.writes.means_us().map(|means| {
            let object = means.into_iter().map(|(name, mean)| (name.to_string(), json!(mean)));
            Value::Object(object.collect())
        });
        json!({
            "schema": SCHEMA,
            "start_unix_ns": nanoseconds(self.window.0),
            "end_unix_ns": nanoseconds(self.window.1),
            "ops": tally.ops(),
            "ops_per_s": self.ops_per_s(),
            "errors": tally.errors,
            "latency_us": summary(&tally.latency),
            "unsent": tally.unsent,
            "bytes": tally.bytes,
            "send_lag_us": workload.rate.map(|_| summary(&tally.send_lag)),
            "warmup_errors": tally.warmup_errors,
            "server_version": self.server_version,
            "first_error": tally.first_error,
            "op": workload.op_name(),
            "endpoints": workload.endpoints,
            "clients": workload.clients,
            "inflight": workload.inflight,
            "value_size": workload.value_bytes,
            "keys": workload.keys,
            "read_percent": workload.read_percent,
            "warmup_s": workload.warmup.as_secs_f64(),
            "seconds": self.seconds(),
            "rate": workload.rate,
            "threads": workload.threads,
            "writes": tally.writes.count,
            "write_breakdown_us": breakdown_us,
        })
    }

    /// Writes the JSON to a file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        write_atomically(path, &format!("{:#}\n", self.json()))
    }

    /// For people.
    pub fn text(&self) -> String {
        let (workload, tally) = (&self.workload, &self.tally);
        let mut text = String::new();
        let lines = &mut text;
        let loop_ = match workload.rate {
            None => "closed loop".into(),
            Some(rate) => {
                format!("open loop at {rate} operations/s, latency from when each was due")
            }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            lines,
            "{}, {} clients x {} in flight, {} B values, {} keys, {loop_}",
            workload.op_name(),
            workload.clients,
            workload.inflight,
            workload.value_bytes,
            workload.keys,
        );
        let _ = writeln!(
            lines,
            "{} operations/s: {} in {:.1} s, {} errors{}",
            thousands(self.ops_per_s()),
            thousands(tally.ops() as f64),
            self.seconds(),
            tally.errors,
            if tally.unsent > 0 { format!(", {} never sent", tally.unsent) } else { String::new() },
        );
        if tally.warmup_errors > 0 {
            let _ = writeln!(lines, "{} operations sent before the window failed too", tally.warmup_errors);
        }
        if let Some(error) = &tally.first_error {
            let _ = writeln!(lines, "first error: {error}");
        }
        if !tally.latency.is_empty() {
            let _ = writeln!(lines, "latency   {}", line(&tally.latency));
        }
        if workload.rate.is_some() && !tally.send_lag.is_empty() {
            let _ = writeln!(lines, "send lag  {}", line(&tally.send_lag));
        }
        if let Some(means) = tally.writes.means_us() {
            let parts: Vec<_> = means.iter().map(|(name, mean)| format!("{name} {mean:.0} us")).collect();
            let _ = writeln!(
                lines,
                "a write   {}  (means from {} replies; fsync runs beside quorum)",
                parts.join("  "),
                thousands(tally.writes.count as f64)
            );
        }
        if !tally.latency.is_empty() {
            let _ = write!(lines, "\n{}", plot(&tally.latency));
        }
        text
    }
}

/// One line of a histogram: mean, p50, p90, p99, p99.9, max.
fn line(histogram: &Histogram<u64>) -> String {
    let at = |quantile: f64| time(histogram.value_at_quantile(quantile));
    format!(
        "mean {}  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
        time(histogram.mean().round() as u64),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        time(histogram.max()),
    )
}

/// What a second came to, for the live line.
pub fn live(tally: &Tally) -> String {
    let all = tally.all_latencies();
    let errors = tally.errors + tally.warmup_errors;
    let at = |quantile: f64| time(all.value_at_quantile(quantile));
    let times = match all.len() {
        0 => String::new(),
        _ => format!("  p50 {:>8}  p99 {:>8}  p99.9 {:>8}", at(0.5), at(0.99), at(0.999)),
    };
    format!("{:>9} ops/s{times}  errors {errors}", thousands((all.len() - tally.unsent) as f64))
}

fn summary(histogram: &Histogram<u64>) -> Value {
    json!({
        "mean": histogram.mean(),
        "p50": histogram.value_at_quantile(0.5),
        "p90": histogram.value_at_quantile(0.9),
        "p99": histogram.value_at_quantile(0.99),
        "p999": histogram.value_at_quantile(0.999),
        "max": histogram.max(),
    })
}

/// Bars over percentiles. Their scale is logarithmic, from half the least to the most: a tail of 100 times the median
/// would leave linear bars empty.
pub fn plot(histogram: &Histogram<u64>) -> String {
    let low = (histogram.min().max(1) as f64 / 2.0).ln();
    let high = (histogram.max().max(1) as f64).ln();
    let mut text = String::new();
    for percent in PLOT_ROWS {
        let value = histogram.value_at_quantile(percent / 100.0).min(histogram.max());
        let share = ((value.max(1) as f64).ln() - low) / (high - low);
        let name = if percent == 100.0 { "max".into() } else { format!("p{percent}") };
        let _ = writeln!(text, "{name:>8} {:>9} {}", time(value), bar(share.clamp(0.0, 1.0) * PLOT_COLUMNS));
    }
    text
}

/// A bar of this many columns, to an eighth of one.
fn bar(columns: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (columns * 8.0).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// Microseconds as a person reads them, three or four digits.
pub fn time(us: u64) -> String {
    match us {
        0..=9_999 => format!("{us} us"),
        10_000..=99_999 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..=9_999_999 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A count with commas.
pub fn thousands(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a file beside its place and renames it there, so that a reader never sees half of it. What is no plain file is
/// written to instead: `/dev/stdout` must stay what it is.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), String> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

/// Removes what an earlier run has written there with [`write_atomically`], if there is any.
pub fn remove_stale(path: &Path) -> Result<(), String> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| there.is_file()) {
        std::fs::remove_file(path).map_err(|error| format!("{} cannot be removed: {error}", path.display()))?;
    }
    Ok(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tally::{histogram, record};
    use super::super::workload::tests::args;
    use super::*;

    fn report(words: &str) -> Report {
        let mut tally = Tally::default();
        for us in 1..=1000 {
            record(&mut tally.latency, Duration::from_micros(us));
            record(&mut tally.send_lag, Duration::from_micros(1));
        }
        tally.unsent = 100;
        tally.bytes = 900 * 256;
        let second = Duration::from_secs(1);
        Report {
            workload: Workload::new(&args(words), |_| None).expect("it can run"),
            tally,
            window: (1_795_244_989 * second, 1_795_244_991 * second),
            server_version: String::new(),
        }
    }

    #[test]
    fn json_has_every_field_of_peerbench() {
        let json = report("--rate 500").json();
        assert_eq!(json["schema"], "peerbench/1");
        assert_eq!(json["start_unix_ns"], 1_795_244_989_000_000_000_u64);
        assert_eq!(json["end_unix_ns"], 1_795_244_991_000_000_000_u64);
        assert_eq!((json["ops"].as_u64(), json["unsent"].as_u64()), (Some(900), Some(100)));
        assert_eq!(json["ops_per_s"], 450.0);
        assert_eq!(json["errors"], 0);
        for name in ["latency_us", "send_lag_us"] {
            assert!(json[name]["mean"].is_f64(), "{name}");
            for field in ["p50", "p90", "p99", "p999", "max"] {
                assert!(json[name][field].is_u64(), "{name}.{field}");
            }
        }
        assert!(json["first_error"].is_null() && json["server_version"].is_string());
        assert!(report("").json()["send_lag_us"].is_null(), "a closed loop has no lag");
    }

    #[test]
    fn plot_rows_grow_with_the_percentile() {
        let report = report("");
        let plot = plot(&report.tally.latency);
        let bars: Vec<usize> = plot.lines().map(|line| line.chars().filter(|&c| c == '█').count()).collect();
        assert_eq!(bars.len(), PLOT_ROWS.len());
        assert!(bars.is_sorted() && bars.last() == Some(&44), "{plot}");
        assert!(plot.contains("   p99.9") && plot.contains("     max   1000 us"), "{plot}");
        let mut same = histogram();
        record(&mut same, Duration::ZERO);
        assert_eq!(super::plot(&same).lines().count(), PLOT_ROWS.len(), "no division by nothing");
    }

    #[test]
    fn a_file_is_replaced_and_removed_but_a_link_stays_a_link() {
        let name = format!("ringbeam-report-test-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a temporary directory can be made");
        let (file, link) = (dir.join("file"), dir.join("link"));
        std::os::unix::fs::symlink(&file, &link).expect("a link can be made");
        for text in ["first", "second"] {
            // `--json /dev/stdout` once put a file in the place of that link.
            write_atomically(&link, text).expect("writable");
            assert_eq!(std::fs::read_to_string(&file).expect("written"), text);
        }
        write_atomically(&file, "third").expect("writable");
        assert_eq!(std::fs::read_to_string(&link).expect("the same"), "third");
        remove_stale(&link).expect("nothing to do");
        assert!(link.is_symlink() && file.exists());
        remove_stale(&file).expect("it can be removed");
        remove_stale(&file).expect("it is gone already");
        let left = std::fs::read_dir(&dir).expect("readable").count();
        std::fs::remove_dir_all(&dir).expect("ours");
        assert_eq!(left, 1, "only the link");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([time(0), time(9_999), time(12_340)], ["0 us", "9999 us", "12.3 ms"]);
        assert_eq!([time(512_345), time(12_000_000)], ["512 ms", "12.0 s"]);
        assert_eq!([thousands(0.4), thousands(999.0), thousands(1_234_567.0)], ["0", "999", "1,234,567"]);
        let text = report("--rate 500").text();
        assert!(text.contains("450 operations/s: 900 in 2.0 s, 0 errors, 100 never sent"), "{text}");
    }
}
