//! `circuit_breaker` and `failures` of one route, as the files write them.

use serde_json::{Value, json};

use super::{Values, text};
use crate::base::grpc;
use crate::config::model::{CircuitBreaker, Failures, Mode, RoutePolicy, Scope, Style};

/// Puts both in.
pub fn put(values: &mut Values<'_>, policy: &RoutePolicy) {
    match &policy.circuit_breaker {
        None => values.put("circuit_breaker", Value::Null),
        Some(breaker) => put_breaker(values, breaker),
    }
    values.put("failures", failures(&policy.failures));
}

fn put_breaker(values: &mut Values<'_>, breaker: &CircuitBreaker) {
    let mut put = |key: &str, value: Value| values.put(&format!("circuit_breaker.{key}"), value);
    let rules = &breaker.rules;
    let percent = |share: f64| format!("{}%", share * 100.0);
    put(
        "preset",
        match rules.style {
            Style::Own => Value::Null,
            Style::Gobreaker => "gobreaker".into(),
            Style::Pybreaker => "pybreaker".into(),
            Style::Failsafe => "failsafe".into(),
        },
    );
    put("consecutive_failures", rules.consecutive_failures.into());
    put(
        "failure_rate",
        json!({
            "over": rules.failure_rate.map(percent),
            "window": text(rules.window),
            "min_requests": rules.min_requests,
        }),
    );
    let slow =
        rules.slow_calls.map(|(limit, over)| json!({"slower_than": text(limit), "over": percent(over)}));
    put("slow_calls", slow.into());
    put("open_for", format!("{}..{}", text(rules.open_for.0), text(rules.open_for.1)).into());
    put("half_open_requests", rules.half_open_requests.into());
    put("close_after", rules.close_after.into());
    put("scope", if breaker.scope == Scope::Route { "route" } else { "endpoint" }.into());
    put("mode", if breaker.mode == Mode::Shadow { "shadow" } else { "enforce" }.into());
    let fallback = breaker.fallback.as_ref();
    put("fallback", fallback.map(|fallback| json!({"status": fallback.status.as_u16()})).into());
}

fn failures(failures: &Failures) -> Vec<Value> {
    let classes = [
        ("5xx", failures.server_error),
        ("gateway", failures.gateway),
        ("connect", failures.connect),
        ("reset", failures.reset),
        ("timeout", failures.timeout),
    ];
    let classes = classes.into_iter().filter(|(_, told)| *told).map(|(word, _)| word.into());
    let statuses = failures.statuses.iter().map(|status| (*status).into());
    let codes = (0u32..).zip(grpc::CODES).filter(|(code, _)| failures.grpc >> code & 1 == 1);
    classes.chain(statuses).chain(codes.map(|(_, name)| name.into())).collect()
}
