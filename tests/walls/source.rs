//! Source files as the walls see them: without comments, string literals and test modules; and what they name.
//!
//! Textual on purpose: it reads what is in the tree, whichever features or targets a build would choose. It understands as much
//! of Rust as it takes to tell code from words: comments, literals, `use` trees, `crate::`, `super::`.
//!
//! **Not here**: macros that build paths, and inline modules that are no tests (a `super` in one is taken for the file's).

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the tree.
pub struct Source {
    /// From the project's root, `/`-separated.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Without comments, literals and `#[cfg(test)]` modules.
    pub code: String,
    /// It is compiled for tests only.
    pub is_test: bool,
}

impl Source {
    /// A file that need not exist.
    pub fn new(path: &str, text: &str) -> Source {
        let is_test = path.contains("/tests/")
            || path.ends_with("/tests.rs")
            || path.starts_with("tests/")
            || path.contains("/benches/")
            || path.ends_with("/bench.rs");
        Source { path: path.to_string(), text: text.to_string(), code: without_tests(&bare(text)), is_test }
    }

    /// Every path that the code names, whole: `crate::raft::log`, `std::thread::spawn`. `super` and `self` are resolved.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut rest = self.code.as_str();
        while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
            let after_colons = rest[..start].ends_with("::");
            rest = &rest[start..];
            let end = path_end(rest);
            let (path, tail) = rest.split_at(end);
            // `use<'a>` of a return type is no import.
            if path == "use" && !tail.trim_start().starts_with('<') {
                let end = tail.find(';').unwrap_or(tail.len());
                expand(String::new(), &tail[..end], &mut names);
                rest = &tail[end..];
                continue;
            }
            if path.contains("::") && !after_colons {
                names.push(path.to_string());
            }
            rest = tail;
        }
        names.iter().map(|name| self.absolute(name)).collect()
    }

    /// True when `word` stands in the code as a word of its own.
    pub fn says(&self, word: &str) -> bool {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.code.match_indices(word).any(|(at, _)| {
            !is_part(self.code[..at].chars().next_back()) && !is_part(self.code[at + word.len()..].chars().next())
        })
    }

    /// The module of this file below its crate's root, as in `["raft", "log"]`.
    pub fn module(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("wire/sdk/rust/src/").or_else(|| Some(self.path.split_once('/')?.1)).unwrap_or("");
        let mut module: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        if matches!(module.last(), Some(&("mod" | "lib" | "main"))) {
            module.pop();
        }
        module
    }

    fn absolute(&self, name: &str) -> String {
        let mut parts: Vec<&str> = name.split("::").map(str::trim).collect();
        let mut module = self.module();
        if parts.first() == Some(&"self") {
            parts.remove(0);
        } else if parts.first() != Some(&"super") {
            return parts.join("::");
        }
        while parts.first() == Some(&"super") {
            parts.remove(0);
            module.pop();
        }
        ["crate"].into_iter().chain(module).chain(parts).collect::<Vec<_>>().join("::")
    }
}

/// All Rust files below `folders`, in order.
pub fn tree(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root.join(folder), "rs", &mut paths);
    }
    let mut sources: Vec<Source> = paths.iter().map(|path| read(root, path)).collect();
    // `#[cfg(test)] mod name;` makes a file one of tests, wherever it lies.
    let tests: Vec<String> = sources.iter().flat_map(test_files).collect();
    for source in &mut sources {
        source.is_test |=
            tests.iter().any(|test| source.path == format!("{test}.rs") || source.path.starts_with(&format!("{test}/")));
    }
    sources
}

/// All manifests: path and text.
pub fn manifests(root: &Path) -> Vec<(String, String)> {
    let mut paths = vec![root.join("Cargo.toml")];
    for folder in ["shards", "wire"] {
        collect(&root.join(folder), "toml", &mut paths);
    }
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name == "Cargo.toml");
    paths.iter().filter(|path| named(path)).map(|path| read(root, path)).map(|source| (source.path, source.text)).collect()
}

fn read(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let inside = path.strip_prefix(root).expect("found below the root");
    Source::new(&inside.to_string_lossy(), &text)
}

/// Folders that hold nothing of ours: what a build makes, and the copy of a dependency.
const FOREIGN: [&str; 2] = ["target", "glommio"];

fn collect(folder: &Path, extension: &str, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && path.file_name().is_some_and(|name| !FOREIGN.contains(&name.to_str().unwrap_or_default())) {
            collect(&path, extension, paths);
        } else if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
}

/// Paths without `.rs` of the modules that `source` declares for tests.
fn test_files(source: &Source) -> Vec<String> {
    let folder = match source.path.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_string(),
        _ => source.path.trim_end_matches(".rs").to_string(),
    };
    let bare = bare(&source.text);
    let declared = bare.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let name = after.trim_start().trim_start_matches("pub ").strip_prefix("mod ")?;
        let end = name.find([';', '{'])?;
        name[end..].starts_with(';').then(|| format!("{folder}/{}", name[..end].trim()))
    });
    declared.collect()
}

/// Takes out comments, and what stands in literals.
fn bare(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest, code.chars().next_back()) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = rest.find('"').expect("a raw string has a quote") + 1;
            rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
        } else if first == '"' {
            1 + closing(&rest[1..], '"')
        } else if first == '\'' && is_char(rest) {
            1 + closing(&rest[1..], '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        // A space keeps apart what the comment or literal kept apart.
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Hashes of the raw string that begins here, if one does.
fn raw_string(rest: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let hashes = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let quoted = hashes.trim_start_matches('#');
    quoted.starts_with('"').then_some(hashes.len() - quoted.len())
}

/// A character, not a lifetime.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (_, second) => second == Some('\''),
    }
}

/// Bytes up to the end of a literal, the closing quote included.
fn closing(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Cuts `#[cfg(test)] mod name { .. }` out of bare code.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, after) = rest.split_at(at);
        kept.push_str(before);
        let item = after["#[cfg(test)]".len()..].trim_start();
        let opens = item.find('{').unwrap_or(item.len());
        let is_inline_module = item.starts_with("mod ") && !item[..opens].contains(';');
        rest = if is_inline_module { &item[block_end(item)..] } else { item };
    }
    kept + rest
}

/// Bytes up to the end of the first `{ .. }`.
fn block_end(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Bytes of the path, or the word, that begins here.
fn path_end(rest: &str) -> usize {
    let mut end = 0;
    loop {
        end += rest[end..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - end);
        let next = rest[end..].strip_prefix("::").and_then(|after| after.chars().next());
        if !next.is_some_and(|c| c.is_alphabetic() || c == '_') {
            return end;
        }
        end += 2;
    }
}

/// The leaves of a `use` tree.
fn expand(prefix: String, tree: &str, names: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(opens) = tree.find('{') else {
        let leaf = tree.split(" as ").next().unwrap_or(tree).trim();
        if !leaf.is_empty() {
            names.push(format!("{prefix}{}", leaf.trim_start_matches("::")));
        }
        return;
    };
    let prefix = format!("{prefix}{}", tree[..opens].trim().trim_start_matches("::"));
    let inside = tree[opens + 1..].trim_end().trim_end_matches('}');
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(prefix.clone(), &inside[from..at], names);
                from = at + 1;
            }
            _ => {}
        }
    }
    expand(prefix, &inside[from..], names);
}

#[test]
fn code_is_told_from_words() {
    let text = "// glommio\nuse crate::{io::{Env, channel}, wal as log, limits::*};\nlet a = \"std::thread\"; /* tokio */ let b = '\"'; \
                super::log::open(r#\"openraft \" x\"#); fn f<'a>(x: &'a str) { std::fs::read(x) }\n\
                #[cfg(test)]\nmod tests { use std::net::TcpListener; fn g() { } }\nfn last() { self::near() }";
    let source = Source::new("shards/raft/replica.rs", text);
    assert_eq!(
        source.names(),
        [
            "crate::io::Env",
            "crate::io::channel",
            "crate::wal",
            "crate::limits::*",
            "crate::raft::log::open",
            "std::fs::read",
            "crate::raft::replica::near"
        ]
    );
    for word in ["glommio", "thread", "tokio", "openraft", "TcpListener"] {
        assert!(!source.says(word), "{word} in: {}", source.code);
    }
    assert!(source.says("Env") && !source.says("En"));
}

#[test]
fn test_modules_are_known_wherever_they_lie() {
    let source = Source::new("shards/state/mod.rs", "mod table;\n#[cfg(test)]\nmod bench;\n#[cfg(test)]\npub fn x() {}");
    assert_eq!(test_files(&source), ["shards/state/bench"]);
    let source = Source::new("wire/client.rs", "#[cfg(test)] mod golden;");
    assert_eq!(test_files(&source), ["wire/client/golden"]);
}
