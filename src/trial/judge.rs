//! Whether a call came to what was expected.

use std::fmt::Write as _;
use std::time::Duration;

use super::service::Seen;
use super::world::{Answer, Got};
use crate::base::Reason;
use crate::base::grpc::CODES;
use crate::config::Model;
use crate::config::model::{Expect, Outcome, Status, Step};
use crate::config::units;
use crate::policy::routes::find;

/// What is not as expected, if anything is.
pub fn judge(model: &Model, step: &Step, got: &Got) -> Result<(), String> {
    let expect = &step.expect;
    let found = find(&step.call, model);
    if let Some(wanted) = &expect.route {
        let route = found.route.map(|route| route.pattern.to_string());
        differs("the route", wanted, route.as_deref().unwrap_or("none"))?;
    }
    let Some(answer) = &got.answer else {
        return Err("the connection ended without an answer".into());
    };
    if let Some(wanted) = expect.status {
        let differs = differs("the status", &status(wanted), &status(got_status(answer, wanted)));
        differs.map_err(|text| format!("{text}{}", why(answer)))?;
    }
    if let Some(wanted) = expect.reason {
        let word = |reason: Option<Reason>| reason.map_or("none", Reason::as_str);
        let got = answer.headers.get("pillion-error").and_then(|word| word.to_str().ok());
        differs("the reason", word(wanted), got.unwrap_or("none"))?;
    }
    if let Some(wanted) = expect.attempts {
        let came = calls(got).count();
        differs("the number of attempts", &wanted.to_string(), &came.to_string())?;
    }
    if let Some(wanted) = &expect.to {
        differs("the service", wanted.as_str(), calls(got).last().map_or("none", |seen| seen.to.as_str()))?;
    }
    if let Some(wanted) = &expect.mirrored {
        let to = got.seen.iter().find(|seen| seen.copy).map_or("none", |seen| seen.to.as_str());
        differs("the service that gets a copy", wanted.as_ref().map_or("none", |to| to.as_str()), to)?;
    }
    took(expect, got.took)?;
    for (name, wanted) in &expect.headers {
        let got =
            answer.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let wanted = wanted.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let text =
            |value: Option<String>| value.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        differs(&format!("the header `{name}`"), &text(wanted), &text(got))?;
    }
    if let Some(wanted) = &expect.body {
        let text = |bytes: &[u8]| format!("`{}`", String::from_utf8_lossy(bytes));
        differs("the body", &text(wanted), &text(&answer.body))?;
    }
    Ok(())
}

/// The attempts that came to a service.
fn calls(got: &Got) -> impl Iterator<Item = &Seen> {
    got.seen.iter().filter(|seen| seen.request.is_some() && !seen.copy)
}

fn differs(what: &str, wanted: &str, got: &str) -> Result<(), String> {
    if wanted == got { Ok(()) } else { Err(format!("{what} is {got}, not {wanted}")) }
}

fn took(expect: &Expect, took: Duration) -> Result<(), String> {
    let Some((least, most)) = expect.took else { return Ok(()) };
    if (least..=most).contains(&took) {
        return Ok(());
    }
    let wanted = match least.is_zero() {
        true => format!("within {}", units::show(most)),
        false => format!("after {} to {}", units::show(least), units::show(most)),
    };
    Err(format!("the answer is there after {}, not {wanted}", units::show(took)))
}

/// The status in the terms of what was wanted.
fn got_status(answer: &Answer, wanted: Status) -> Status {
    let code = answer.headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    match (wanted, code) {
        (Status::Grpc(_), Some(code)) => Status::Grpc(code),
        _ => Status::Http(answer.status.as_u16()),
    }
}

fn status(status: Status) -> String {
    match status {
        Status::Http(status) => status.to_string(),
        Status::Grpc(code) => {
            CODES.get(usize::from(code)).map_or_else(|| code.to_string(), |name| (*name).to_owned())
        }
    }
}

/// Why the sidecar answered in place of a service, where it did.
fn why(answer: &Answer) -> String {
    match answer.headers.get("pillion-error") {
        Some(reason) => format!(": {}", String::from_utf8_lossy(reason.as_bytes())),
        None => String::new(),
    }
}

/// An attempt, for a person.
pub fn shown(seen: &Seen) -> String {
    let mut text = format!("{:>8} ", format!("{} ms", seen.at.as_millis()));
    let _ = match &seen.request {
        Some(request) => write!(text, "{} at {}: {request}", seen.to, seen.address),
        None => write!(text, "{} at {}", seen.to, seen.address),
    };
    if seen.copy {
        text.push_str(", a copy");
    }
    let _ = match &seen.outcome {
        Outcome::Connect => write!(text, ", connection refused"),
        Outcome::Reset => write!(text, ", connection reset"),
        Outcome::Silence => write!(text, ", no answer"),
        Outcome::Answer(answer) => write!(text, ", {}", status(answer.status)),
    };
    text
}
