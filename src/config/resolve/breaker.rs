//! `circuit_breaker` and `failures`.

use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{At, set};
use crate::config::form::{self, FailureClass};
use crate::config::model::{CircuitBreaker, Failures, Fallback, Mode, Rules, Scope, Style};
use crate::config::problem::Problems;

/// What an entry says of its breaker.
pub(super) fn breaker(form: &form::CircuitBreaker) -> CircuitBreaker {
    let form = match form {
        form::CircuitBreaker::Preset(preset) => return CircuitBreaker::new(Rules::preset(style(*preset))),
        form::CircuitBreaker::Own(form) => form,
    };
    let rules = form.preset.map_or_else(|| rules(form), |preset| Rules::preset(style(preset)));
    let mut breaker = CircuitBreaker::new(rules);
    set(
        &mut breaker.scope,
        form.scope.map(|scope| match scope {
            form::Scope::Endpoint => Scope::Endpoint,
            form::Scope::Route => Scope::Route,
        }),
    );
    set(&mut breaker.mode, form.mode.map(mode));
    breaker.fallback = form.fallback.as_ref().map(|form| Arc::new(fallback(form)));
    breaker
}

/// Whether a policy acts.
pub(super) fn mode(form: form::Mode) -> Mode {
    match form {
        form::Mode::Enforce => Mode::Enforce,
        form::Mode::Shadow => Mode::Shadow,
    }
}

fn style(preset: form::Preset) -> Style {
    match preset {
        form::Preset::Gobreaker => Style::Gobreaker,
        form::Preset::Pybreaker => Style::Pybreaker,
        form::Preset::Failsafe => Style::Failsafe,
    }
}

fn rules(form: &form::Breaker) -> Rules {
    let mut rules = Rules::default();
    let others = form.failure_rate.is_some() || form.slow_calls.is_some();
    rules.consecutive_failures = match form.consecutive_failures {
        None if others => 0,
        told => told.unwrap_or(rules.consecutive_failures),
    };
    if let Some(form) = &form.failure_rate {
        rules.failure_rate = Some(form.over.as_ref().map_or(0.5, |over| over.0));
        set(&mut rules.window, form.window.as_ref().map(|span| span.0));
        set(&mut rules.min_requests, form.min_requests);
    }
    if let Some(form) = &form.slow_calls {
        let over = form.over.as_ref().map_or(0.8, |over| over.0);
        rules.slow_calls = form.slower_than.as_ref().map(|limit| (limit.0, over));
    }
    set(&mut rules.open_for, form.open_for.as_ref().map(|range| range.0));
    set(&mut rules.half_open_requests, form.half_open_requests);
    rules.close_after = form.close_after.unwrap_or(rules.half_open_requests);
    rules
}

fn fallback(form: &form::Fallback) -> Fallback {
    let status = form.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    let kind = form.content_type.as_ref().and_then(|kind| HeaderValue::from_str(&kind.0).ok());
    let others = form.headers.iter().flatten();
    let others = others.filter_map(|(name, value)| field(name, value).ok());
    Fallback {
        status,
        body: form.body.as_deref().unwrap_or_default().as_bytes().into(),
        headers: kind.map(|kind| (CONTENT_TYPE, kind)).into_iter().chain(others).collect(),
    }
}

fn field(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let header = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no name of a header"))?;
    let own = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    if own.contains(&header) || header.as_str() == "keep-alive" {
        return Err(format!("`{name}` is for the sidecar to write"));
    }
    if header == CONTENT_TYPE {
        return Err("the type has a key of its own: write `content_type: …`".into());
    }
    let value =
        HeaderValue::from_str(value).map_err(|_| format!("`{name}` has a value that no header can have"))?;
    Ok((header, value))
}

/// Reports what can't come to pass.
pub(super) fn check(form: &form::CircuitBreaker, grpc: bool, at: At<'_>, problems: &mut Problems) {
    let form::CircuitBreaker::Own(form) = form else { return };
    if form.preset.is_some() {
        for key in [
            "consecutive_failures",
            "failure_rate",
            "slow_calls",
            "open_for",
            "half_open_requests",
            "close_after",
        ] {
            if at.node.get(key).is_some() {
                let problem = at.word(key).problem(format!("`{key}` is said by the preset already"));
                problems.push(problem.help("take one of the two out"));
            }
        }
    }
    let shares = [
        ("failure_rate", form.failure_rate.as_ref().and_then(|form| form.over.as_ref())),
        ("slow_calls", form.slow_calls.as_ref().and_then(|form| form.over.as_ref())),
    ];
    for (key, share) in shares {
        if share.is_some_and(|share| share.0 >= 1.0) {
            let at = at.key(key).key("over");
            problems.push(at.problem("no share is over 100%: it would never open"));
        }
    }
    let Some(fallback) = &form.fallback else { return };
    let at = at.key("fallback");
    if grpc {
        problems.push(at.problem("a call of gRPC takes no `fallback`: it gets its status"));
    }
    if let Some(kind) = &fallback.content_type
        && HeaderValue::from_str(&kind.0).is_err()
    {
        problems.push(at.key("content_type").problem("no header can have this value"));
    }
    for (name, value) in fallback.headers.iter().flatten() {
        if let Err(message) = field(name, value) {
            problems.push(at.key("headers").word(name).problem(message));
        }
    }
}

/// What an entry says of failures.
pub(super) fn failures(forms: &[form::Failure]) -> Failures {
    let mut failures = Failures::NONE;
    for form in forms {
        match form {
            form::Failure::Status(status) => failures.statuses.push(*status),
            form::Failure::Class(FailureClass::Connect) => failures.connect = true,
            form::Failure::Class(FailureClass::Reset) => failures.reset = true,
            form::Failure::Class(FailureClass::Timeout) => failures.timeout = true,
            form::Failure::Class(FailureClass::ServerError) => failures.server_error = true,
            form::Failure::Class(FailureClass::Gateway) => failures.gateway = true,
            form::Failure::Class(code) => failures.grpc |= 1 << (*code as u32 - FailureClass::Gateway as u32),
        }
    }
    failures
}
