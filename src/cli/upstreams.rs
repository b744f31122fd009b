//! `pillion upstreams`: what a running sidecar knows of the services that it
//! calls, from where, how old that is, and how each endpoint fares.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{NoAnswer, Which};

/// Shows what a running sidecar knows of the services that it calls.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion upstreams                        all of them, of the sidecar of ./pillion.yaml
  pillion upstreams users                  its endpoints, and what each source said of it
  pillion upstreams --admin 127.0.0.1:8700 --json | jq .

A service is known to the sidecar once a policy names it or a call went to it.
Exit codes: 0; 1 no sidecar answers, or it does not know NAME; 2 the command line is
wrong; 78 the configuration is bad.")]
pub(super) struct Args {
    /// Only this one, with all that is known of it.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    which: Which,
    /// The admin port's own form, for programs.
    #[arg(long)]
    json: bool,
}

/// What is read of the admin port's answer; more may stand there.
#[derive(Deserialize)]
struct Upstream {
    upstream: String,
    state: String,
    source: Option<String>,
    age_seconds: Option<u64>,
    kept: Option<String>,
    why: Option<String>,
    endpoints: Vec<Endpoint>,
    /// Those that are not closed.
    #[serde(default)]
    breakers: Vec<Breaker>,
    #[serde(default)]
    concurrency: Vec<Concurrency>,
    #[serde(default)]
    chain: Vec<Link>,
}

#[derive(Deserialize)]
struct Endpoint {
    address: String,
    #[serde(default)]
    state: String,
    why: Option<String>,
    breaker: Option<String>,
    weight: u64,
    region: Option<String>,
    zone: Option<String>,
    active: Option<u64>,
    requests: Option<u64>,
    failures: Option<u64>,
    connections: Option<u64>,
    ewma_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Breaker {
    route: String,
    endpoint: Option<String>,
    state: String,
}

#[derive(Deserialize)]
struct Concurrency {
    route: String,
    adaptive: bool,
    limit: u64,
    in_use: u64,
    waiting: u64,
}

#[derive(Deserialize)]
struct Link {
    source: String,
    said: String,
    endpoints: Option<u64>,
    why: Option<String>,
    age_seconds: Option<u64>,
    named_endpoints_seconds_ago: Option<u64>,
    kept_for_seconds: Option<u64>,
}

/// What to print on standard output, and the exit code.
pub(super) fn run(args: &Args) -> Result<String, NoAnswer> {
    let mut answer: Value = args.which.ask("/clusters")?;
    let all = answer["upstreams"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let name = |value: &Value| value["upstream"].as_str().unwrap_or_default().to_owned();
    let wanted = args.name.as_deref().map(str::to_ascii_lowercase);
    let (found, others): (Vec<Value>, Vec<Value>) = match &wanted {
        None => (all, Vec::new()),
        Some(wanted) => all.into_iter().partition(|value| is(&name(value), wanted)),
    };
    if let (Some(wanted), true) = (&wanted, found.is_empty()) {
        return Err(NoAnswer(missing(wanted, &others.iter().map(name).collect::<Vec<_>>()), 1));
    }
    if args.json {
        return Ok(format!("{:#}\n", json!({ "upstreams": found })));
    }
    let read = found.into_iter().map(serde_json::from_value::<Upstream>).collect::<Result<Vec<_>, _>>();
    let upstreams = read.map_err(|error| other_version(&error))?;
    Ok(match wanted {
        Some(_) => upstreams.iter().map(whole).collect::<Vec<_>>().join("\n"),
        None => list(&upstreams),
    })
}

/// One upstream of the sidecar's answer, with all that is known of it.
pub(super) fn one(upstream: Value) -> Result<String, NoAnswer> {
    serde_json::from_value(upstream).map(|upstream| whole(&upstream)).map_err(|error| other_version(&error))
}

fn other_version(error: &serde_json::Error) -> NoAnswer {
    NoAnswer(format!("the sidecar's answer is not that of this version: {error}"), 1)
}

/// `users` is also `users:50051`.
fn is(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn missing(wanted: &str, others: &[String]) -> String {
    let mut text =
        format!("the sidecar does not follow `{wanted}`: no policy names it, and no call went to it");
    if !others.is_empty() {
        let more = if others.len() > 8 { ", …" } else { "" };
        let _ = write!(text, "\nIt follows {}{more}", others[..others.len().min(8)].join(", "));
    }
    text
}

fn list(upstreams: &[Upstream]) -> String {
    if upstreams.is_empty() {
        return "no upstream yet: no policy names one, and no call was made\n".into();
    }
    let mut rows = vec![["UPSTREAM", "STATE", "ENDPOINTS", "SOURCE", "AGE", ""].map(String::from).to_vec()];
    for upstream in upstreams {
        let age = upstream.age_seconds.filter(|_| !upstream.chain.is_empty());
        rows.push(vec![
            upstream.upstream.clone(),
            state(upstream).to_owned(),
            endpoints(upstream),
            upstream.source.clone().unwrap_or_default(),
            age.map(time).unwrap_or_default(),
            note(upstream),
        ]);
    }
    table(&rows, "")
}

fn state(upstream: &Upstream) -> &str {
    if upstream.kept.is_some() { "kept" } else { &upstream.state }
}

/// How many, and how many of them are not simply ready.
fn endpoints(upstream: &Upstream) -> String {
    // Nobody knows: they are not looked for.
    if upstream.state == "idle" {
        return "-".to_owned();
    }
    let mut words: Vec<(&str, usize)> = Vec::new();
    let special = |endpoint: &&Endpoint| !matches!(endpoint.state.as_str(), "" | "ready");
    let states = upstream.endpoints.iter().filter(special).map(|endpoint| endpoint.state.as_str());
    let open = upstream.endpoints.iter().filter(|endpoint| endpoint.breaker.as_deref() == Some("open"));
    for word in states.chain(open.map(|_| "breaker open")) {
        match words.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => words.push((word, 1)),
        }
    }
    let words: Vec<String> = words.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let all = upstream.endpoints.len();
    if words.is_empty() { all.to_string() } else { format!("{all} ({})", words.join(", ")) }
}

fn note(upstream: &Upstream) -> String {
    if let Some(why) = &upstream.why {
        return why.clone();
    }
    let Some(kept) = &upstream.kept else { return String::new() };
    let winner = upstream.chain.iter().find(|link| Some(&link.source) == upstream.source.as_ref());
    winner.map_or_else(|| kept.clone(), |link| format!("{} {}", link.source, said(link)))
}

/// One upstream with all that is known of it.
fn whole(upstream: &Upstream) -> String {
    let mut text = format!("{}: {}", clean(&upstream.upstream), state(upstream));
    if let Some(source) = &upstream.source {
        let count = upstream.endpoints.len();
        let _ = write!(text, ", {count} endpoint{} by {source}", plural(count));
        if let Some(age) = upstream.age_seconds.filter(|_| !upstream.chain.is_empty()) {
            let _ = write!(text, ", {} old", time(age));
        }
    }
    if let Some(why) = &upstream.why {
        let _ = write!(text, ": {}", clean(why));
    }
    text.push('\n');
    if !upstream.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&table(&fares(&upstream.endpoints), "  "));
    }
    let of_routes = || upstream.breakers.iter().filter(|breaker| breaker.endpoint.is_none());
    if of_routes().next().is_some() {
        let mut rows = vec![["ROUTE", "BREAKER"].map(String::from).to_vec()];
        rows.extend(of_routes().map(|breaker| {
            let route = if breaker.route.is_empty() { "all others" } else { &breaker.route };
            vec![route.to_owned(), words(&breaker.state)]
        }));
        text.push('\n');
        text.push_str(&table(&rows, "  "));
    }
    if !upstream.concurrency.is_empty() {
        let mut rows = vec![["ROUTE", "CALLS", "LIMIT", "WAITING"].map(String::from).to_vec()];
        rows.extend(upstream.concurrency.iter().map(|one| {
            let route = if one.route.is_empty() { "the whole upstream" } else { &one.route };
            let limit = format!("{}{}", one.limit, if one.adaptive { " by the latency" } else { "" });
            vec![route.to_owned(), one.in_use.to_string(), limit, one.waiting.to_string()]
        }));
        text.push('\n');
        text.push_str(&table(&rows, "  "));
    }
    if !upstream.chain.is_empty() {
        let mut rows = vec![["SOURCE", "AGE", "SAYS"].map(String::from).to_vec()];
        for link in &upstream.chain {
            let age = link.age_seconds.map(time).unwrap_or_default();
            rows.push(vec![link.source.clone(), age, said(link)]);
        }
        text.push('\n');
        text.push_str(&table(&rows, "  "));
    }
    text
}

/// Its state, why it is that, and its breaker where that is not closed.
fn fares_as(e: &Endpoint) -> String {
    let breaker = e.breaker.as_ref().map(|state| format!("breaker {}", words(state)));
    let more: Vec<String> = e.why.clone().into_iter().chain(breaker).collect();
    if more.is_empty() { e.state.clone() } else { format!("{} ({})", e.state, more.join("; ")) }
}

fn words(state: &str) -> String {
    state.replace('_', "-")
}

/// A row for each endpoint, without columns that hold nothing of interest.
fn fares(endpoints: &[Endpoint]) -> Vec<Vec<String>> {
    let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let place = |e: &Endpoint| {
        let parts: Vec<&str> = [&e.region, &e.zone].into_iter().flatten().map(String::as_str).collect();
        parts.join("/")
    };
    let (weights, places) =
        (endpoints.iter().any(|e| e.weight != 1), endpoints.iter().any(|e| !place(e).is_empty()));
    let row = |cells: [String; 9]| {
        let shown = [true, true, weights, places, true, true, true, true, true];
        cells.into_iter().zip(shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    };
    let titles =
        ["ENDPOINT", "STATE", "WEIGHT", "PLACE", "ACTIVE", "REQUESTS", "FAILURES", "CONNECTIONS", "LATENCY"];
    let mut rows: Vec<Vec<String>> = vec![row(titles.map(String::from))];
    for e in endpoints {
        let latency = e.ewma_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        rows.push(row([
            e.address.clone(),
            fares_as(e),
            e.weight.to_string(),
            place(e),
            count(e.active),
            count(e.requests),
            count(e.failures),
            count(e.connections),
            latency,
        ]));
    }
    rows
}

/// What a source says, as one would tell it.
fn said(link: &Link) -> String {
    let mut text = match link.said.as_str() {
        "not_asked" => "not asked: one before it knows the name".to_owned(),
        "asked" => "nothing yet".to_owned(),
        "found" => {
            let count = link.endpoints.unwrap_or_default();
            format!("{count} endpoint{}", plural(usize::try_from(count).unwrap_or(usize::MAX)))
        }
        "empty" => "known, without an endpoint now".to_owned(),
        "unknown" => "not known".to_owned(),
        "failed" => format!("failed: {}", link.why.as_deref().unwrap_or_default()),
        other => other.to_owned(),
    };
    if let Some(ago) = link.named_endpoints_seconds_ago {
        let _ = write!(text, "; named endpoints {} ago", time(ago));
    }
    if let Some(left) = link.kept_for_seconds {
        let _ = write!(text, ", kept for {} more", time(left));
    }
    text
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// What others wrote must not move a terminal's cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A longer cell does not make its column wider.
const LONG: usize = 64;

/// Columns as wide as what they hold; the last one is not filled up.
pub(super) fn table(rows: &[Vec<String>], indent: &str) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        let counts = rows.iter().map(|row: &Vec<String>| row[column].chars().count());
        counts.filter(|count| *count <= LONG).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
