//! Every link of every page leads somewhere: to a file, and to a heading in it.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::source::{none, root, text, tracked};

#[test]
fn every_relative_link_leads_somewhere() {
    let pages: HashMap<PathBuf, String> = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == "md"))
        .map(|path| (path.clone(), prose(&text(&path).expect("a page is text"))))
        .collect();
    assert!(pages.len() > 5, "the docs were found");
    let mut problems = Vec::new();
    let mut seen = 0;
    for (page, body) in &pages {
        for (line, target) in links(body) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, anchor) =
                target.split_once('#').map_or((target.as_str(), None), |(f, a)| (f, Some(a)));
            let path = if file.is_empty() { page.clone() } else { beside(page, file) };
            if !root().join(&path).exists() {
                problems.push(format!("{}:{line}: {target}: no such file", page.display()));
            } else if let (Some(anchor), Some(body)) = (anchor, pages.get(&path))
                && !anchors(body).contains(anchor)
            {
                problems.push(format!("{}:{line}: {target}: no such heading", page.display()));
            }
        }
    }
    assert!(seen > 10, "links were found: {seen}");
    problems.sort();
    none(&problems, "links");
}

#[test]
fn every_page_is_reached_from_the_index() {
    let index = text(Path::new("docs/README.md")).expect("docs/README.md is there");
    let linked: HashSet<PathBuf> = links(&prose(&index))
        .into_iter()
        .map(|(_, target)| beside(Path::new("docs/README.md"), &target))
        .collect();
    let pages = tracked().into_iter().filter(|path| {
        path.starts_with("docs")
            && path.extension().is_some_and(|found| found == "md")
            && !path.ends_with("README.md")
    });
    let lost: Vec<String> =
        pages.filter(|path| !linked.contains(path)).map(|path| path.display().to_string()).collect();
    none(&lost, "docs/README.md links every page");
}

#[test]
fn links_and_anchors_are_read_as_the_page_shows_them() {
    let page = "# The `x-y` Way, really\n[a](b.md#c) ![p](d.svg) `[no](no)`\n```\n[no](no)\n# no\n```\n<img src=\"e.png\">\n## The `x-y` way, really\n";
    let body = prose(page);
    let found: Vec<String> =
        links(&body).into_iter().map(|(line, target)| format!("{line} {target}")).collect();
    assert_eq!(found, ["2 b.md#c", "2 d.svg", "7 e.png"]);
    assert_eq!(
        anchors(&body),
        HashSet::from(["the-x-y-way-really".to_owned(), "the-x-y-way-really-1".to_owned()])
    );
    assert_eq!(beside(Path::new("docs/a/b.md"), "../c.md"), Path::new("docs/c.md"));
}

/// The page without its fenced code; lines stay where they are.
fn prose(page: &str) -> String {
    let mut fence = None;
    let mut body = String::new();
    for line in page.lines() {
        let mark = line.trim_start();
        match fence {
            None if mark.starts_with("```") => fence = Some("```"),
            Some(end) if mark.starts_with(end) => fence = None,
            None => body.push_str(line),
            Some(_) => {}
        }
        body.push('\n');
    }
    body
}

/// The targets of `[…](…)`, `src="…"`, `srcset="…"` and `[…]: …`, with their lines.
fn links(body: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in body.lines().enumerate() {
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')] {
            for (at, _) in line.match_indices(open) {
                if let Some((target, _)) = line[at + open.len()..].split_once(close) {
                    found.push((number + 1, target.split(' ').next().unwrap_or_default().to_owned()));
                }
            }
        }
        if let Some((_, target)) = line.split_once("]: ").filter(|_| line.starts_with('[')) {
            found.push((number + 1, target.trim().to_owned()));
        }
    }
    found
}

/// The anchors that a page has, as Git hosts make them of headings.
fn anchors(body: &str) -> HashSet<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut anchors = HashSet::new();
    for heading in body.lines().filter(|line| line.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let slug: String = words
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let count = times.entry(slug.clone()).or_default();
        anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// `target` as seen from `page`, relative to the root.
fn beside(page: &Path, target: &str) -> PathBuf {
    let mut path = page.parent().map(Path::to_path_buf).unwrap_or_default();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}
