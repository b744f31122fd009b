//! The words that users meet, in the code and in the docs: metrics and errors.

use std::collections::HashSet;
use std::path::Path;

use pillion::base::error::{Reason, Side};
use pillion::telemetry::names::{self, Kind};

use super::source::{code_only, none, root, text, tracked_below};

#[test]
fn docs_metrics_lists_every_metric_and_no_other() {
    let rows = names::ALL.iter().map(|name| {
        let kind = match name.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = name.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", name.name, labels.join(", "), name.help)
    });
    compare("docs/metrics.md", &rows.collect::<Vec<_>>());
}

#[test]
fn every_metric_is_counted_somewhere() {
    let declared = text(Path::new("src/telemetry/names.rs")).expect("Rust code is text");
    let names: Vec<&str> = declared
        .lines()
        .filter_map(|line| line.trim().split_once(" = ")?.0.split(' ').next_back())
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert_eq!(names.len(), names::ALL.len(), "{names:?}");
    let others = tracked_below("src", "rs").into_iter().filter(|path| !path.ends_with("telemetry/names.rs"));
    let code: String = others.map(|path| code_only(&text(&path).expect("Rust code is text"))).collect();
    let words: HashSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let unused: Vec<String> =
        names.into_iter().filter(|name| !words.contains(name)).map(ToOwned::to_owned).collect();
    none(&unused, "a metric that nothing counts");
}

#[test]
fn docs_errors_lists_every_reason_and_no_other() {
    let rows = Reason::ALL.iter().map(|reason| {
        let facts = reason.facts();
        let side = match facts.side {
            Side::Client => "client",
            Side::Proxy => "proxy",
            Side::Upstream => "upstream",
        };
        let grpc = facts.grpc.as_str();
        format!(
            "| `{}` | {} | {} {grpc} | {side} | {}. | {} |",
            facts.word, facts.status, facts.grpc as u8, facts.title, facts.remedy
        )
    });
    compare("docs/errors.md", &rows.collect::<Vec<_>>());
}

/// Holds the rows of a page's tables, those whose first cell is code, against `wanted`.
#[track_caller]
fn compare(page: &str, wanted: &[String]) {
    assert!(!wanted.is_empty());
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut there: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let mut wrong = Vec::new();
    for row in wanted {
        match there.iter().position(|line| line == row) {
            Some(at) => drop(there.remove(at)),
            None => wrong.push(format!("missing: {row}")),
        }
    }
    wrong.extend(there.iter().map(|row| format!("not in the code: {row}")));
    assert!(wrong.is_empty(), "{page} and the code disagree:\n{}", wrong.join("\n"));
}
