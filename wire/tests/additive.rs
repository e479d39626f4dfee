//! The schema only grows: everything published in `sdk/vectors/schema.v*.fbs` is still there, in its place.
//!
//! A textual comparison is enough, because in flatbuffers the order of declarations is the format: fields of tables and members
//! of unions are numbered by position, structs are their bytes.

use std::collections::BTreeMap;
use std::path::Path;

/// A declaration: its kind with everything that may not change, and its parts in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declaration {
    kind: String,
    parts: Vec<String>,
}

type Schema = BTreeMap<String, Declaration>;

/// Reads `kind Name : base { part; part, part }` declarations; comments are dropped and white space does not count.
fn parse(text: &str) -> Schema {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut schema = Schema::new();
    let mut rest = code.as_str();
    while let Some(open) = rest.find('{') {
        let close = open + rest[open..].find('}').expect("a declaration ends");
        let head = rest[..open].rsplit(';').next().unwrap_or_default();
        let (kind, name) = head.trim().split_once(' ').expect("a declaration has a kind and a name");
        let (name, base) = name.split_once(':').unwrap_or((name, ""));
        let parts = rest[open + 1..close].split([';', ',']).map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let parts = parts.filter(|part| !part.is_empty()).collect();
        let declaration = Declaration { kind: format!("{kind} {}", base.trim()), parts };
        assert!(schema.insert(name.trim().to_string(), declaration).is_none(), "{name} is declared twice");
        rest = &rest[close + 1..];
    }
    schema
}

/// What a reader or writer built from `old` would misunderstand in `new`.
fn broken(old: &Schema, new: &Schema) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, was) in old {
        let Some(is) = new.get(name) else {
            problems.push(format!("{name} is gone"));
            continue;
        };
        if was.kind != is.kind {
            problems.push(format!("{name} was '{}', is '{}'", was.kind, is.kind));
        }
        for (at, part) in was.parts.iter().enumerate() {
            match is.parts.get(at) {
                Some(now) if now == part => {}
                Some(now) => problems.push(format!("{name}: part {at} was '{part}', is '{now}'")),
                None => problems.push(format!("{name}: '{part}' is gone")),
            }
        }
        if was.kind.starts_with("struct") && is.parts.len() > was.parts.len() {
            problems.push(format!("{name} is a struct and has grown"));
        }
    }
    problems
}

fn current() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.fbs")).expect("the schema is there")
}

#[test]
fn the_schema_holds_everything_that_was_published() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/vectors");
    let mut compared = 0;
    for file in std::fs::read_dir(&vectors).expect("the vectors are there") {
        let path = file.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "fbs") {
            let old = parse(&std::fs::read_to_string(&path).expect("readable"));
            assert!(old.len() > 40, "{} was not understood: {} declarations", path.display(), old.len());
            assert_eq!(broken(&old, &parse(&current())), Vec::<String>::new(), "against {}", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 1, "no published schema in {}", vectors.display());
}

#[test]
fn the_comparison_notices_every_kind_of_break() {
    let now = current();
    let old = parse(&now);
    let problems = |from: &str, to: &str| {
        assert!(now.contains(from), "the schema has no '{from}'");
        broken(&old, &parse(&now.replacen(from, to, 1)))
    };
    let found = |from, to| !problems(from, to).is_empty();
    assert!(found("table CloseSession { session: uint64; }", ""), "a table removed");
    assert!(found("table CloseSession { session: uint64; }", "table CloseSession { }"), "a field removed");
    assert!(found("table CloseSession { session: uint64; }", "table CloseSession { session: uint32; }"), "a type changed");
    assert!(
        found("table CloseSession { session: uint64; }", "table CloseSession { session: uint64 = 1; }"),
        "a default changed"
    );
    assert!(found("version_min: uint16;", "first: bool; version_min: uint16;"), "a field inserted");
    assert!(found("existed: bool;", ""), "a field removed from the middle");
    assert!(found("Hello, Put,", "Put, Hello,"), "union members swapped");
    assert!(found("Observer = 2", "Observer = 3"), "an enum value renumbered");
    assert!(found("enum Role : ubyte", "enum Role : ushort"), "an enum widened");
    assert!(found("position: uint32; }", "position: uint32; more: uint32; }"), "a struct grown");
    assert!(found("body: RequestBody (required)", "body: RequestBody"), "an attribute dropped");
}

#[test]
fn the_comparison_allows_growth_at_ends() {
    let now = current();
    let old = parse(&now);
    for (from, to) in [
        ("table CloseSession { session: uint64; }", "table CloseSession { session: uint64; why: string; }"),
        ("Observer = 2", "Observer = 2, Archive = 3"),
        ("Unpin }", "Unpin, CloseSession }"),
        ("table Ping { }", "table Ping { } table Pong { n: uint64; }"),
        ("// ---- shared ----", "// a comment with { and ; in it"),
    ] {
        assert!(now.contains(from), "the schema has no '{from}'");
        assert_eq!(broken(&old, &parse(&now.replacen(from, to, 1))), Vec::<String>::new());
    }
}
