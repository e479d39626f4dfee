//! The status for people.

use std::fmt::Write;

use ringbeam_sdk::Progress;

use super::Report;
use super::report::{NodeReport, ShardReport};

/// Everything on one page.
pub fn render(report: &Report) -> String {
    let mut out = format!("ring {:016x}\n\n", report.ring);
    let head = ["shard", "leader", "term", "last", "committed", "applied", "keys", "log", "lag of the others"];
    table(&mut out, &head, report.shards.iter().map(shard_row).collect());
    out.push('\n');
    let head = ["node", "role", "version", "uptime", "client", "region", "leads"];
    table(&mut out, &head, report.nodes.iter().map(|node| node_row(node, &report.shards)).collect());
    if !report.findings.is_empty() {
        out.push('\n');
        for finding in &report.findings {
            let _ = writeln!(out, "! {finding}");
        }
    }
    out
}

fn shard_row(shard: &ShardReport) -> Vec<String> {
    let number = |pick: fn(&ringbeam_sdk::Status) -> u64| shard.best().map_or("?".into(), |s| pick(s).to_string());
    let lags: Vec<String> = shard.followers().map(lag).collect();
    vec![
        shard.shard.to_string(),
        shard.leader.as_ref().map_or("none".into(), |s| s.node.to_string()),
        number(|s| s.term),
        number(|s| s.last_index),
        number(|s| s.committed_index),
        number(|s| s.applied_index),
        number(|s| s.keys),
        shard.best().map_or("?".into(), |s| bytes(s.log_bytes)),
        lags.join("  "),
    ]
}

fn lag(progress: &Progress) -> String {
    let vote = if progress.learner { " (no vote)" } else { "" };
    format!("{}:{}{vote}", progress.node, progress.lag)
}

fn node_row(node: &NodeReport, shards: &[ShardReport]) -> Vec<String> {
    let leads = shards.iter().filter(|s| s.leader.as_ref().is_some_and(|l| l.node == node.node));
    let leads: Vec<String> = leads.map(|s| s.shard.to_string()).collect();
    let dash = || "-".to_string();
    let member = |pick: fn(&ringbeam_sdk::Member) -> &str| {
        node.member.as_ref().map(pick).filter(|text| !text.is_empty()).map_or_else(dash, str::to_string)
    };
    vec![
        node.node.to_string(),
        node.role().map_or_else(dash, |role| role.to_string()),
        node.status.as_ref().map_or_else(|| "unreachable".into(), |s| s.version.clone()),
        node.status.as_ref().map_or_else(dash, |s| duration(s.uptime_ms)),
        member(|m| &m.client),
        member(|m| &m.region),
        if leads.is_empty() { dash() } else { leads.join(",") },
    ]
}

/// Columns as wide as their widest cell; the last as long as it is.
fn table(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    let head: Vec<String> = head.iter().map(|&cell| cell.into()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in all {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..=59 => format!("{s}s"),
        60..=3_599 => format!("{}m {}s", s / 60, s % 60),
        3_600..=86_399 => format!("{}h {}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}
