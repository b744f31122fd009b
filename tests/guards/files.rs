//! What must and must not be in the tree.

use super::source::{code_only, none, root, text, tracked, tracked_below};

/// Lines that are not blank, before the tests of a file.
const LONGEST: usize = 450;

#[test]
fn no_file_is_too_long() {
    let mut problems = Vec::new();
    for path in tracked_below("src", "rs") {
        let text = text(&path).expect("Rust code is text");
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > LONGEST {
            problems.push(format!("{}: {lines} lines before its tests", path.display()));
        }
    }
    none(&problems, &format!("at most {LONGEST} lines: split it by concern"));
}

#[test]
fn nothing_is_left_undone_and_no_test_is_ignored() {
    let mut problems = Vec::new();
    for path in tracked().into_iter().filter(|path| path.extension().is_some_and(|found| found == "rs")) {
        let code = code_only(&text(&path).expect("Rust code is text"));
        for (line, content) in code.lines().enumerate() {
            for banned in ["todo!", "unimplemented!", "#[ignore", "dbg!("] {
                if content.contains(banned) {
                    problems.push(format!("{}:{}: {banned}", path.display(), line + 1));
                }
            }
        }
    }
    none(&problems, "code is complete, and a test that can't run fails and says why");
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    // In two parts each, so that this file does not name them.
    let hosts = [
        ("crates", ".io"),
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("proxy.golang", ".org"),
        ("sum.golang", ".org"),
        ("npmjs", ".org"),
        ("deb.debian", ".org"),
        ("maven", ".org"),
        ("docker", ".io"),
        ("ghcr", ".io"),
        ("gcr", ".io"),
        ("quay", ".io"),
    ];
    let folders = [("/wo", "rk"), ("/ro", "ot"), ("/home", "/")];
    let mut problems = Vec::new();
    for path in tracked() {
        // Written by tools: they name where each package came from.
        let written_by_tools = ["Cargo.lock", "go.sum"].iter().any(|name| path.ends_with(name));
        let Some(text) = text(&path).filter(|_| !written_by_tools) else { continue };
        for (number, line) in text.lines().enumerate() {
            let host = hosts.iter().find(|(a, b)| line.contains(&format!("{a}{b}")));
            let folder = folders.iter().find(|(a, b)| has_path(line, &format!("{a}{b}")));
            for (a, b) in host.into_iter().chain(folder) {
                problems.push(format!("{}:{}: {a}{b}", path.display(), number + 1));
            }
        }
    }
    none(&problems, "the project runs on any machine, from any registry");
}

/// Whether `line` holds `folder` as the beginning of an absolute path.
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().last();
        let after = line[at + folder.len()..].chars().next();
        let begins = before.is_none_or(|c| c.is_whitespace() || "\"'`=(:<>,[".contains(c));
        let ends = folder.ends_with('/') || after.is_none_or(|c| !(c.is_alphanumeric() || "_-.".contains(c)));
        begins && ends
    })
}

#[test]
fn a_path_is_told_from_a_word() {
    let folder = ["/ro", "ot"].concat();
    for line in [format!("cd {folder}"), format!("x=\"{folder}/a\""), folder.clone()] {
        assert!(has_path(&line, &folder), "{line}");
    }
    for line in [format!("{folder}s"), format!("a{folder}"), format!("$x{folder}/b")] {
        assert!(!has_path(&line, &folder), "{line}");
    }
}

#[test]
fn the_changelog_has_an_open_section() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let mut open = text.split("\n## [Unreleased]\n").skip(1);
    let section = open.next().expect("CHANGELOG.md has a section `## [Unreleased]`");
    assert!(section.lines().any(|line| line.starts_with("- ")), "and it says what changed");
    assert!(open.next().is_none(), "only one");
}

#[test]
fn scripts_stop_at_the_first_failure_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let mut problems = Vec::new();
    let mut seen = 0;
    for path in tracked() {
        let Some(first) = text(&path).and_then(|text| text.lines().next().map(str::to_owned)) else {
            continue;
        };
        if !first.starts_with("#!") {
            continue;
        }
        seen += 1;
        let whole = text(&path).unwrap_or_default();
        if first.ends_with("sh") && !whole.contains("\nset -eu") {
            problems.push(format!("{}: no `set -eu…`", path.display()));
        }
        let mode = std::fs::metadata(root().join(&path)).unwrap().permissions().mode();
        if mode & 0o111 == 0 {
            problems.push(format!("{}: can't be run: chmod +x", path.display()));
        }
    }
    assert!(seen > 3, "the scripts were found");
    none(&problems, "scripts");
}
