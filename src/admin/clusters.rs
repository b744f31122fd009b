//! /clusters: each upstream with its endpoints, who told of them, how old that
//! is, and how the endpoints fare.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AdminState, BreakerState, ConcurrencyState, EndpointStats};
use crate::base::directory::Known;
use crate::base::{Endpoint, EndpointSet, Resolution, Said, Standing, Told, Trail, UpstreamName};
use crate::config::Model;
use crate::upstream::snapshot::IN_USE;

#[derive(Deserialize)]
pub(super) struct Wanted {
    format: Option<String>,
}

/// What the workers know, and the breakers that are not closed.
struct Stats {
    endpoints: HashMap<(UpstreamName, SocketAddr), EndpointStats>,
    breakers: Vec<BreakerState>,
    concurrency: Vec<ConcurrencyState>,
}

const CLOSED: &str = "closed";

pub(super) async fn clusters(State(state): State<AdminState>, Query(wanted): Query<Wanted>) -> Response {
    let upstreams = with_named(state.directory.dump(), &(state.model)());
    let endpoints =
        (state.endpoints)().into_iter().map(|one| ((one.upstream.clone(), one.address), one)).collect();
    let breakers = (state.breakers)().into_iter().filter(|one| one.state != CLOSED).collect();
    let stats = Stats { endpoints, breakers, concurrency: (state.concurrency)() };
    #[expect(clippy::disallowed_methods, reason = "the age of an answer is shown to a person")]
    let now = SystemTime::now();
    match wanted.format.as_deref() {
        None | Some("json") => super::json(&as_json(&upstreams, &stats, now)).into_response(),
        Some("text") => as_text(&upstreams, &stats, now).into_response(),
        Some(_) => (StatusCode::BAD_REQUEST, "format is json or text\n").into_response(),
    }
}

/// Also what the policy names and nobody has called for a while: without any
/// word of a source.
fn with_named(mut all: Vec<Known>, model: &Model) -> Vec<Known> {
    for name in model.named() {
        if let Err(index) = all.binary_search_by(|known| known.name.cmp(name)) {
            let (resolution, trail) = (Resolution::Pending, Trail::default());
            all.insert(index, Known { name: name.clone(), resolution, trail });
        }
    }
    all
}

fn as_json(upstreams: &[Known], stats: &Stats, now: SystemTime) -> Value {
    let one = |known: &Known| {
        let Known { name, resolution, trail } = known;
        let mut shown = match resolution {
            Resolution::Found(set) => json!({
                "source": set.source,
                "age_seconds": age(set, trail, now),
                "kept": kept(trail).map(|(_, why)| why),
                "endpoints":
                    set.endpoints.iter().map(|e| endpoint(e, name, stats)).collect::<Vec<_>>(),
            }),
            _ => json!({ "why": why(known), "endpoints": [] }),
        };
        shown["upstream"] = name.as_str().into();
        shown["state"] = state_of(known).into();
        let breakers = stats.breakers.iter().filter(|one| one.upstream == *name);
        shown["breakers"] = breakers.map(breaker).collect();
        shown["concurrency"] = stats.limits(Some(name)).collect();
        shown["chain"] = trail.told.iter().map(|told| link(told, now)).collect();
        shown
    };
    json!({
        "upstreams": upstreams.iter().map(one).collect::<Vec<_>>(),
        "inbound": { "concurrency": stats.limits(None).collect::<Vec<_>>() },
    })
}

impl Stats {
    /// The limits of calls at one time, to an upstream or to the service.
    fn limits(&self, upstream: Option<&UpstreamName>) -> impl Iterator<Item = Value> {
        self.concurrency.iter().filter(move |one| one.upstream.as_ref() == upstream).map(|one| {
            json!({
                "route": &*one.route,
                "adaptive": one.adaptive,
                "limit": one.limit,
                "in_use": one.in_use,
                "waiting": one.waiting,
            })
        })
    }
}

fn breaker(breaker: &BreakerState) -> Value {
    json!({ "route": &*breaker.route, "endpoint": breaker.address, "state": breaker.state })
}

/// The state of the worst of an endpoint's breakers, where it is not closed.
fn worst(endpoint: &Endpoint, name: &UpstreamName, stats: &Stats) -> Option<&'static str> {
    let own = |one: &&BreakerState| one.upstream == *name && one.address == Some(endpoint.address);
    // `open` comes last.
    stats.breakers.iter().filter(own).map(|one| one.state).max()
}

/// What one source said.
fn link(told: &Told, now: SystemTime) -> Value {
    let mut shown = json!({ "source": told.source, "said": word(&told.said) });
    match &told.said {
        Said::Found(number) => shown["endpoints"] = (*number).into(),
        Said::Failed(why) => shown["why"] = (&**why).into(),
        _ => {}
    }
    // An answer that is watched counts as said again all the time.
    let said = told.at.map(|at| match told.said {
        Said::Failed(_) => at,
        _ => told.confirmed.since(at, now),
    });
    if let Some(at) = said {
        shown["age_seconds"] = seconds_since(at, now).into();
    }
    if let (false, Some(at)) = (matches!(told.said, Said::Found(_)), told.named_at) {
        shown["named_endpoints_seconds_ago"] = seconds_since(at, now).into();
    }
    if let Some(until) = told.kept_until {
        shown["kept_for_seconds"] = until.duration_since(now).unwrap_or_default().as_secs().into();
    }
    shown
}

fn word(said: &Said) -> &'static str {
    match said {
        Said::NotAsked => "not_asked",
        Said::Asked => "asked",
        Said::Found(_) => "found",
        Said::Empty => "empty",
        Said::Unknown => "unknown",
        Said::Failed(_) => "failed",
    }
}

/// The source whose endpoints are in use although it does not name them now,
/// and what it says instead.
fn kept(trail: &Trail) -> Option<(&Told, &'static str)> {
    let told = trail.told.get(trail.winner?)?;
    let taken_back = matches!(told.said, Said::Empty | Said::Unknown | Said::Failed(_));
    taken_back.then(|| (told, word(&told.said)))
}

fn endpoint(endpoint: &Endpoint, name: &UpstreamName, all: &Stats) -> Value {
    let stats = of(all, name, endpoint);
    json!({
        "address": endpoint.address.to_string(),
        "weight": endpoint.weight,
        "region": endpoint.region.as_deref(),
        "zone": endpoint.zone.as_deref(),
        "standing": endpoint.standing.as_str(),
        "state": word_for(endpoint, stats),
        "breaker": worst(endpoint, name, all),
        "protocol": endpoint.protocol.as_str(),
        "active": stats.map(|s| s.active),
        "requests": stats.map(|s| s.requests),
        "failures": stats.map(|s| s.failures),
        "ewma_ms": stats.and_then(|s| s.ewma_ms).map(|ms| (ms * 1000.0).round() / 1000.0),
        "connections": stats.map(|s| s.connections),
        "why": stats.map(|s| s.why.as_str()).filter(|why| !why.is_empty()),
    })
}

fn as_text(upstreams: &[Known], stats: &Stats, now: SystemTime) -> String {
    let mut text = String::new();
    for known in upstreams {
        let Known { name, resolution, trail } = known;
        match resolution {
            Resolution::Found(set) => {
                let (number, age) = (set.endpoints.len(), age(set, trail, now));
                let _ = write!(text, "{name}  {number} by {}, {age} s ago", set.source);
                if let Some((told, why)) = kept(trail) {
                    let _ = write!(text, ", kept: {} says {why} now", told.source);
                }
                text.push('\n');
                for endpoint in set.endpoints.iter() {
                    line(&mut text, endpoint, name, stats);
                }
            }
            _ => {
                let _ = writeln!(text, "{name}  {}", why(known));
            }
        }
    }
    if upstreams.is_empty() {
        text.push_str("no upstream has been asked for\n");
    }
    text
}

fn line(text: &mut String, endpoint: &Endpoint, name: &UpstreamName, all: &Stats) {
    let stats = of(all, name, endpoint);
    let _ = write!(
        text,
        "  {:<21} {:<5} weight {}",
        endpoint.address,
        endpoint.protocol.as_str(),
        endpoint.weight
    );
    for (word, value) in [("region", &endpoint.region), ("zone", &endpoint.zone)] {
        if let Some(value) = value {
            let _ = write!(text, " {word} {value}");
        }
    }
    if endpoint.standing == Standing::Terminating {
        text.push_str(" terminating");
    }
    if let Some(s) = stats {
        let _ = write!(text, "  active {} requests {} failures {}", s.active, s.requests, s.failures);
        let _ = write!(text, " connections {}", s.connections);
        if let Some(ewma) = s.ewma_ms {
            let _ = write!(text, " ewma {ewma:.1} ms");
        }
    }
    let word = word_for(endpoint, stats);
    if word != endpoint.standing.as_str() {
        let _ = write!(text, "  {word}");
    }
    if let Some(state) = worst(endpoint, name, all) {
        let _ = write!(text, "  breaker {state}");
    }
    if let Some(s) = stats.filter(|s| !s.why.is_empty()) {
        let _ = write!(text, " ({})", s.why);
    }
    text.push('\n');
}

/// How it stands: what keeps calls away from it, or what its source says.
fn word_for(endpoint: &Endpoint, stats: Option<&EndpointStats>) -> &'static str {
    match stats {
        Some(stats) if stats.state != IN_USE => stats.state,
        Some(stats) if stats.away => "away",
        _ => endpoint.standing.as_str(),
    }
}

fn of<'a>(stats: &'a Stats, name: &UpstreamName, endpoint: &Endpoint) -> Option<&'a EndpointStats> {
    stats.endpoints.get(&(name.clone(), endpoint.address))
}

fn age(set: &EndpointSet, trail: &Trail, now: SystemTime) -> u64 {
    trail.age(now).map_or_else(|| seconds_since(set.as_of, now), |age| age.as_secs())
}

fn seconds_since(at: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(at).map_or(0, |since| since.as_secs())
}

fn state_of(known: &Known) -> &'static str {
    match known.resolution {
        Resolution::Pending if known.trail.told.is_empty() => "idle",
        Resolution::Pending => "pending",
        Resolution::Found(_) => "found",
        Resolution::Unknown => "unknown",
        Resolution::Empty { .. } => "empty",
        Resolution::Failed { .. } => "failed",
    }
}

fn why(known: &Known) -> String {
    match &known.resolution {
        Resolution::Pending if known.trail.told.is_empty() => {
            "not called for a while; the next call finds it again".into()
        }
        Resolution::Pending => "no source has answered yet".into(),
        Resolution::Found(_) => String::new(),
        Resolution::Unknown => "no source knows a service of this name".into(),
        Resolution::Empty { source } => format!("known to {source}, which says that it has no endpoint now"),
        Resolution::Failed { why } => format!("no source could answer: {why}"),
    }
}
