//! Which module may name which. The table is also in docs/architecture.md, and
//! a test here holds the two together.

use std::path::{Component, Path};

use super::source::{code_only, none, root, text, tracked_below};

/// A module and the modules that it may name.
const TABLE: [(&str, &[&str]); 12] = [
    ("base", &[]),
    ("config", &["base"]),
    ("clients", &["base"]),
    ("telemetry", &["base", "config"]),
    ("policy", &["base", "config"]),
    ("codec", &["base"]),
    ("discovery", &["base", "config", "clients", "telemetry"]),
    ("identity", &["base", "config", "clients", "telemetry"]),
    ("upstream", &["base", "config", "codec", "telemetry", "policy"]),
    ("proxy", &["base", "config", "codec", "telemetry", "policy", "upstream"]),
    ("kubernetes", &["base", "config"]),
    // And what upstream and discovery publish for it: see `SNAPSHOTS`.
    ("admin", &["base", "config", "telemetry"]),
];

/// What admin may name beside its row: values to show, no machinery.
const SNAPSHOTS: [&str; 2] = ["upstream::snapshot", "discovery::snapshot"];

/// They wire the others together and may name all of them.
const WIRING: [&str; 8] = ["app", "runtime", "cli", "main", "lib", "dev", "run", "trial"];

#[test]
fn every_import_is_in_the_table() {
    let mut problems = Vec::new();
    for path in tracked_below("src", "rs") {
        let own = module(&path);
        let code = code_only(&text(&path).expect("Rust code is text"));
        for (line, edge) in edges(&code, depth(&path)) {
            if !allowed(&own, &edge) {
                problems.push(format!("{}:{line}: {own} may not name crate::{edge}", path.display()));
            }
        }
    }
    none(&problems, "the import table of docs/architecture.md");
}

#[test]
fn every_module_has_a_row() {
    let mut problems = Vec::new();
    for path in tracked_below("src", "rs") {
        let own = module(&path);
        if !WIRING.contains(&own.as_str()) && !TABLE.iter().any(|(name, _)| *name == own) {
            problems.push(format!("{}: {own} has no row", path.display()));
        }
    }
    none(&problems, "the import table");
}

#[test]
fn the_table_is_the_one_of_the_docs() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for (name, may) in TABLE {
        let mut row = format!("| `{name}` | ");
        match may {
            [] => row.push_str("nothing of ours"),
            _ => row.push_str(&may.iter().map(|other| format!("`{other}`")).collect::<Vec<_>>().join(", ")),
        }
        assert!(page.contains(&row), "docs/architecture.md has no row that begins with: {row}");
    }
}

#[test]
fn edges_are_seen_in_every_form() {
    let code = "use crate::base::X;\nuse crate::{config::{a, b}, policy};\nfn f() { crate::proxy::g() }\nuse super::super::upstream;\npub(crate) fn h() {}";
    let found: Vec<String> =
        edges(code, 2).into_iter().map(|(line, edge)| format!("{line} {edge}")).collect();
    assert_eq!(found, ["1 base::X", "2 config::{a", "2 policy", "3 proxy::g", "4 upstream"]);
    assert!(
        allowed("policy", "base::X") && !allowed("policy", "proxy::g") && !allowed("admin", "upstream::pool")
    );
    assert!(allowed("admin", "upstream::snapshot::Row") && !allowed("admin", "upstream::snapshots"));
    assert_eq!(module(Path::new("src/policy/retry.rs")), "policy");
    assert_eq!(module(Path::new("src/app.rs")), "app");
}

fn allowed(own: &str, edge: &str) -> bool {
    let target = edge.split("::").next().unwrap_or_default();
    let row = TABLE.iter().find(|(name, _)| *name == own).map_or(&[][..], |(_, may)| may);
    let shown = SNAPSHOTS.iter().any(|path| edge == *path || edge.starts_with(&format!("{path}::")));
    WIRING.contains(&own) || target == own || row.contains(&target) || (own == "admin" && shown)
}

/// The module at the top to which a file belongs.
fn module(path: &Path) -> String {
    let part = path.components().nth(1).map(Component::as_os_str).unwrap_or_default();
    part.to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// How many `super` lead from a file's module to the crate.
fn depth(path: &Path) -> usize {
    let folders = path.components().count() - 2;
    if path.ends_with("mod.rs") { folders } else { folders + 1 }
}

/// Every path that begins at the crate, with its line: at most two segments of it.
fn edges(code: &str, depth: usize) -> Vec<(usize, String)> {
    let climb = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in [("crate::", true), (climb.as_str(), depth > 1)].into_iter().filter(|(_, wanted)| *wanted) {
        for (at, prefix) in code.match_indices(start.0) {
            let before = code[..at].bytes().last().unwrap_or(b' ');
            let longer = code[..at].ends_with("super::");
            if before.is_ascii_alphanumeric() || before == b'_' || before == b'$' || longer {
                continue;
            }
            let line = code[..at].lines().count().max(1) + usize::from(code[..at].ends_with('\n'));
            let rest = code[at + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                Some(group) => found.extend(members(group).into_iter().map(|member| (line, member))),
                None => found.push((line, head(rest))),
            }
        }
    }
    found.sort();
    found
}

/// The members of a use group, each cut to its head.
fn members(group: &str) -> Vec<String> {
    let mut members = vec![String::new()];
    let mut open = 0;
    for c in group.chars() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => break,
            '}' => open -= 1,
            ',' if open == 0 => members.push(String::new()),
            _ => {}
        }
        if let Some(last) = members.last_mut().filter(|_| c != ',' || open > 0) {
            last.push(c);
        }
    }
    members.iter().map(|member| head(member.trim())).filter(|member| !member.is_empty()).collect()
}

/// The first two segments of a path, and what follows the name of a third.
fn head(path: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '{';
    let whole: String = path.chars().take_while(|c| word(*c)).collect();
    whole.trim_end_matches([':', '{']).split("::").take(3).collect::<Vec<_>>().join("::")
}
