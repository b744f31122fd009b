//! Every example that users may copy loads: the marked blocks of the docs, and
//! the files of `examples/` and `config/`.

use std::path::Path;

use pillion::config::{Environment, dev, load, load_policy, load_str};

use super::source::{none, root, text, tracked};

#[test]
fn every_marked_block_of_the_docs_loads() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::of([] as [(&str, &str); 0]);
    // What examples name beside themselves.
    std::fs::copy(root().join("config/policies/shop.pb"), folder.path().join("shop.pb")).unwrap();
    std::fs::copy(root().join("config/policies/api-keys.txt"), folder.path().join("api-keys.txt")).unwrap();
    let mut problems = Vec::new();
    let mut seen = 0;
    for page in tracked().into_iter().filter(|path| path.extension().is_some_and(|found| found == "md")) {
        for (line, kind, yaml) in blocks(&text(&page).expect("a page is text")) {
            let name = format!("{}:{line}", page.display());
            let result = match kind.as_str() {
                "pillion.yaml" => load_str(&name, &yaml, &environment),
                "policy" => {
                    let file = folder.path().join(format!("{seen}.yaml"));
                    std::fs::write(&file, &yaml).unwrap();
                    load_policy(&file, &environment)
                }
                other => panic!("{name}: no kind of file is called {other:?}"),
            };
            seen += 1;
            problems.extend(result.err().map(|found| format!("{name}: {found}")));
        }
    }
    assert!(seen >= 4, "the marked blocks were found: {seen}");
    none(&problems, "examples in the docs");
}

#[test]
fn every_example_file_loads() {
    let environment = Environment::of([] as [(&str, &str); 0]);
    let mut problems = Vec::new();
    let mut seen = 0;
    for path in tracked() {
        let example = path.starts_with("examples") || path.starts_with("config");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !example || !name.ends_with(".yaml") || name == "compose.yaml" {
            continue;
        }
        let whole = root().join(&path);
        let in_policies = path.parent().is_some_and(|folder| folder.ends_with(Path::new("policies")));
        let result = if in_policies {
            load_policy(&whole, &environment).map(drop)
        } else if name.starts_with("pillion.dev.") {
            dev::read(&whole, &environment).map(drop)
        } else {
            load(&whole, &environment).map(drop)
        };
        seen += 1;
        problems.extend(result.err().map(|found| format!("{}: {found}", path.display())));
    }
    assert!(seen >= 4, "the example files were found: {seen}");
    none(&problems, "files that users copy");
}

/// The blocks with a second word behind `yaml`: first line, that word, text.
fn blocks(page: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```").filter(|info| !info.is_empty()) else {
            continue;
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
        if let Some(kind) = info.strip_prefix("yaml ") {
            found.push((number + 1, kind.trim().to_owned(), body.join("\n") + "\n"));
        }
    }
    found
}

#[test]
fn marked_blocks_are_found() {
    let page = "```yaml\na: 1\n```\n```yaml policy\nb: 2\n```\n";
    assert_eq!(blocks(page), [(4, "policy".to_owned(), "b: 2\n".to_owned())]);
}
