//! The golden frames of `wire/sdk/vectors/frames.json`: one message of every kind, as every SDK must write it.

const FRAMES: &str = include_str!("../../../wire/sdk/vectors/frames.json");

/// Kind, name and bytes of each frame.
pub fn frames() -> Vec<(String, String, Vec<u8>)> {
    // One object a line, written by our own test: no JSON parser is needed to find three strings.
    let field = |line: &str, name: &str| {
        let from = line.find(&format!("\"{name}\": \""))? + name.len() + 5;
        let end = line[from..].find('"')? + from;
        Some(line[from..end].to_string())
    };
    let bytes = |hex: &str| (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()).collect();
    FRAMES
        .lines()
        .filter_map(|line| {
            let frame = line.rfind("\"frame\": \"").map(|at| &line[at..])?;
            Some((field(line, "kind")?, field(line, "name")?, bytes(&field(frame, "frame")?)))
        })
        .collect()
}
