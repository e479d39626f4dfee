//! What the admin port says, from what the shards answered. Pure.

use std::fmt::Write;

use ringbeam_sdk::{Error, Status};
use serde_json::json;

use crate::cli::status::json;

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status code.
    pub code: u16,
    /// Its form.
    pub content_type: &'static str,
    /// Its text.
    pub body: String,
}

impl Page {
    /// A sentence.
    pub fn text(code: u16, body: impl Into<String>) -> Page {
        Page { code, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// 200 when every shard of this node serves and knows a leader; else 503 and why.
pub fn health(answers: &[Result<Status, Error>]) -> Page {
    let troubles: Vec<String> = answers.iter().enumerate().filter_map(|(shard, answer)| trouble(shard, answer)).collect();
    match troubles.is_empty() {
        true => Page::text(200, "ok\n"),
        false => Page::text(503, troubles.join("\n") + "\n"),
    }
}

fn trouble(shard: usize, answer: &Result<Status, Error>) -> Option<String> {
    match answer {
        Err(error) => Some(format!("shard {shard} does not answer: {error}")),
        Ok(Status { fault: Some(fault), .. }) => Some(format!("shard {shard} does not serve: {fault}")),
        Ok(status) if status.leader == 0 => Some(format!("shard {shard} knows no leader")),
        Ok(_) => None,
    }
}

/// Every shard of this node.
pub fn status(answers: &[Result<Status, Error>]) -> Page {
    let shards: Vec<_> = answers
        .iter()
        .enumerate()
        .map(|(shard, answer)| match answer {
            Ok(status) => json::status(status),
            Err(error) => json!({ "shard": shard, "error": error.to_string() }),
        })
        .collect();
    Page { code: 200, content_type: "application/json", body: format!("{}\n", json!({ "shards": shards })) }
}

struct Metric {
    name: &'static str,
    help: &'static str,
    value: fn(&Status) -> u64,
}

const METRICS: &[Metric] = &[
    Metric { name: "uptime_ms", help: "Time since the process started, milliseconds.", value: |s| s.uptime_ms },
    Metric { name: "leads", help: "1 when this node leads the shard.", value: |s| u64::from(s.leader == s.node) },
    Metric { name: "leader_node", help: "Node id of the leader, 0 when none is known.", value: |s| s.leader },
    Metric { name: "term", help: "Current term.", value: |s| s.term },
    Metric { name: "last_index", help: "Last log index on this node.", value: |s| s.last_index },
    Metric { name: "committed_index", help: "Last index known to be committed.", value: |s| s.committed_index },
    Metric { name: "applied_index", help: "Last index applied to the state.", value: |s| s.applied_index },
    Metric { name: "snapshot_index", help: "Last index in the newest snapshot.", value: |s| s.snapshot_index },
    Metric { name: "keys", help: "Keys in the state.", value: |s| s.keys },
    Metric { name: "state_bytes", help: "Approximate memory of the state, bytes.", value: |s| s.state_bytes },
    Metric { name: "log_bytes", help: "The log on disk, bytes.", value: |s| s.log_bytes },
    Metric { name: "sessions", help: "Open client sessions.", value: |s| s.sessions },
    Metric { name: "connections", help: "Client connections.", value: |s| s.connections },
    Metric { name: "fault", help: "1 when the shard does not serve.", value: |s| u64::from(s.fault.is_some()) },
    Metric { name: "voters_joint", help: "1 while a change of the voters is under way.", value: |s| u64::from(s.voters_joint) },
];

/// Prometheus text, all gauges, one sample per shard.
pub fn metrics(answers: &[Result<Status, Error>]) -> Page {
    let mut body = String::new();
    head(&mut body, "up", "1 when the shard on this node answers.");
    for (shard, answer) in answers.iter().enumerate() {
        let _ = writeln!(body, "ringbeam_shard_up{{shard=\"{shard}\"}} {}", u8::from(answer.is_ok()));
    }
    for metric in METRICS {
        head(&mut body, metric.name, metric.help);
        for status in answers.iter().flatten() {
            let _ = writeln!(body, "ringbeam_shard_{}{{shard=\"{}\"}} {}", metric.name, status.shard, (metric.value)(status));
        }
    }
    head(&mut body, "lag_entries", "Entries a member is behind; only where this node leads.");
    for status in answers.iter().flatten().filter(|s| s.leader == s.node) {
        for member in status.voters.iter().filter(|member| member.node != status.node) {
            let (shard, node, lag) = (status.shard, member.node, member.lag);
            let _ = writeln!(body, "ringbeam_shard_lag_entries{{shard=\"{shard}\",node=\"{node}\"}} {lag}");
        }
    }
    Page { code: 200, content_type: "text/plain; version=0.0.4", body }
}

fn head(body: &mut String, name: &str, help: &str) {
    let _ = writeln!(body, "# HELP ringbeam_shard_{name} {help}\n# TYPE ringbeam_shard_{name} gauge");
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringbeam_sdk::Progress;

    fn leading() -> Status {
        let behind = Progress { node: 2, lag: 7, ..Progress::default() };
        Status {
            node: 1,
            leader: 1,
            term: 3,
            keys: 5,
            voters: vec![Progress { node: 1, ..behind }, behind],
            ..Status::default()
        }
    }

    #[test]
    fn health_gives_every_reason() {
        assert_eq!(health(&[Ok(leading())]), Page::text(200, "ok\n"));
        let broken = Status { fault: Some("torn".into()), ..leading() };
        let lost = Status { leader: 0, ..leading() };
        let page = health(&[Ok(leading()), Ok(broken), Ok(lost), Err(Error::Protocol("odd".into()))]);
        assert_eq!(page.code, 503);
        let lines: Vec<&str> = page.body.lines().collect();
        assert_eq!(lines[..2], ["shard 1 does not serve: torn", "shard 2 knows no leader"]);
        assert!(lines[2].starts_with("shard 3 does not answer: ") && lines.len() == 3, "{lines:?}");
    }

    #[test]
    fn status_keeps_the_shards_that_do_not_answer() {
        let page = status(&[Ok(leading()), Err(Error::Protocol("odd".into()))]);
        let read: serde_json::Value = serde_json::from_str(&page.body).expect("JSON");
        assert_eq!((&read["shards"][0]["keys"], &read["shards"][1]["shard"]), (&json!(5), &json!(1)));
        assert!(read["shards"][1]["error"].as_str().is_some_and(|e| e.contains("odd")));
    }

    #[test]
    fn every_metric_has_its_head_and_one_sample_per_shard() {
        let page = metrics(&[Ok(leading()), Err(Error::Protocol("odd".into()))]);
        for line in [
            "ringbeam_shard_up{shard=\"0\"} 1",
            "ringbeam_shard_up{shard=\"1\"} 0",
            "ringbeam_shard_leads{shard=\"0\"} 1",
            "ringbeam_shard_term{shard=\"0\"} 3",
            "ringbeam_shard_lag_entries{shard=\"0\",node=\"2\"} 7",
            "# TYPE ringbeam_shard_keys gauge",
        ] {
            assert!(page.body.lines().any(|l| l == line), "no `{line}` in:\n{}", page.body);
        }
        assert!(!page.body.contains("node=\"1\""), "the leader is never behind itself");
    }
}
