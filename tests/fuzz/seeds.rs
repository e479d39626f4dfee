//! Writes seeds below the directory that is named: real structures, from which libFuzzer goes on. `corpus/` was made of them by
//! merging (docs/fuzzing.md), and is what is run.

use ringbeam_fuzz::golden;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::args().nth(1).expect("usage: seeds DIRECTORY"));
    for (at, (kind, _, frame)) in golden::frames().into_iter().enumerate() {
        let payload = &frame[8..];
        match kind.as_str() {
            "request" | "reply" => save(&root, "client_request", at, payload)?,
            "membership" => save(&root, "peer_request", at, &[&[0], &frame[..]].concat())?,
            _ => save(&root, "peer_request", at, &[&[3], payload].concat())?,
        }
        // As a stream: everything up to the largest frame, cut by these, and then the bytes.
        save(&root, "frame", at, &[&[2, 3, 9, 0, 200, 40, 7, 255, 1, 7], &frame[..]].concat())?;
    }
    save(&root, "config", 0, &[&[0], include_bytes!("../../deploy/node.toml").as_slice()].concat())?;
    for (at, line) in
        ["[1, 2]", "\"observer\"", "8192", "0", "18446744073709551615", "\"[::]:7701\"", "true"].iter().enumerate()
    {
        save(&root, "config", 1 + at, &[&[1, 0, 4 * at as u8, 0, line.len() as u8], line.as_bytes()].concat())?;
    }
    // The others are rows of choices: any bytes are a story. Longer ones are longer stories.
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for target in ["batch", "snapshot", "snapshot_file", "wal_damage", "wal_forge", "frame", "peer_request"] {
        for at in 0..24 {
            let mut story = Vec::new();
            for _ in 0..16 + at * 24 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                story.push((random >> 32) as u8);
            }
            save(&root, target, 1_000 + at, &story)?;
        }
    }
    Ok(())
}

fn save(root: &Path, target: &str, number: usize, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(root.join(target))?;
    fs::write(root.join(target).join(format!("seed-{number:04}")), bytes)
}
