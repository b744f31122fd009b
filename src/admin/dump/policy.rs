//! The policy of one route, as the files write it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Values, text};
use crate::config::Model;
use crate::config::model::{
    Allow, Allowed, Asked, Balance, HashOn, Hedge, Json, Mirror, Per, RateLimit, RatePart, Retry,
    RoutePolicy, Timeout, Who,
};
use crate::config::units::show_rate;

/// Each value of `policy`, with its place: that of the first of `prefixes` under
/// which it was written.
pub fn policy(model: &Model, prefixes: &[&str], policy: &RoutePolicy) -> Map<String, Value> {
    let mut values = Values::within(model, prefixes);
    let (timeout, scope) = match policy.timeout {
        Timeout::Head(time) => (time, "head of the answer"),
        Timeout::Whole(time) => (time, "whole call"),
    };
    values.put("timeout", json!({ "time": text(timeout), "bounds": scope }));
    values.put("idle_timeout", text(policy.idle_timeout));
    values.put("tunnel_idle", text(policy.tunnel_idle));
    values.put("connect_timeout", text(policy.connect_timeout));
    values.put("balance", balance(&policy.balance));
    super::breaker::put(&mut values, policy);
    values.put("grpc_web", policy.grpc_web);
    values.put("json", policy.json.as_deref().map(json_calls));
    values.put("allow", policy.allow.as_deref().map(allow));
    values.put("rate_limit", policy.rate_limits.iter().map(rate_limit).collect::<Vec<_>>());
    values.put(
        "concurrency",
        policy.concurrency.iter().map(super::concurrency::concurrency).collect::<Vec<_>>(),
    );
    super::shaping::put(&mut values, policy.shaping.as_deref());
    match &policy.retry {
        None => values.put("retry", Value::Null),
        Some(retry) => put_retry(&mut values, retry),
    }
    values.put("hedge", policy.hedge.as_ref().map(hedge));
    values.put("mirror", policy.mirror.as_deref().map(mirror));
    values.shown
}

fn hedge(hedge: &Hedge) -> Value {
    json!({
        "after": hedge.after.show(),
        "min": text(hedge.min),
        "max": hedge.max,
        "only_if": hedge.only_if.as_str(),
    })
}

fn mirror(mirror: &Mirror) -> Value {
    let compare = mirror.compare.as_ref().map(|compare| {
        let headers: Vec<_> = compare.headers.iter().map(http::HeaderName::as_str).collect();
        json!({ "status": compare.status, "headers": headers, "body": compare.body })
    });
    json!({
        "to": mirror.to.as_str(),
        "percent": super::share(mirror.share),
        "host": mirror.host.as_ref().and_then(|host| host.to_str().ok()),
        "max": mirror.max,
        "buffer": mirror.buffer,
        "timeout": text(mirror.timeout),
        "compare": compare,
    })
}

fn put_retry(values: &mut Values<'_>, retry: &Retry) {
    values.put("retry.max", retry.max);
    values.put("retry.per_try", retry.per_try.map(text));
    values.put("retry.on", retry.on.iter().map(|on| on.name()).collect::<Vec<_>>());
    values.put("retry.only_if", retry.only_if.as_str());
    values.put("retry.backoff", format!("{}..{}", text(retry.backoff.0), text(retry.backoff.1)));
    values.put("retry.budget", format!("{}%", retry.budget * 100.0));
    values.put("retry.buffer", retry.buffer);
}

fn json_calls(json: &Json) -> Value {
    json!({
        "descriptor": &*json.file,
        "services": json.services.iter().map(|name| &**name).collect::<Vec<_>>(),
        "rules": json.bindings.len(),
        "preserve_names": json.preserve_names,
        "emit_defaults": json.emit_defaults,
        "ignore_unknown": json.ignore_unknown,
        "max_message": json.max_message,
    })
}

fn allow(allow: &Allow) -> Value {
    json!({
        "mode": if allow.shadow { "shadow" } else { "enforce" },
        "any": allow.any.iter().map(allowed).collect::<Vec<_>>(),
        "origin": allow.origin.to_string(),
    })
}

fn allowed(one: &Allowed) -> Value {
    let words = |words: &[Arc<str>]| words.iter().map(|word| &**word).collect::<Vec<_>>().into();
    let who: (&str, Value) = match &one.who {
        Who::Anyone => ("anyone", true.into()),
        Who::Source(networks) => {
            ("source", networks.iter().map(ToString::to_string).collect::<Vec<_>>().into())
        }
        Who::ApiKey(keys) => {
            let clients: BTreeSet<&str> = keys.keys.iter().map(|(name, _)| &**name).collect();
            let (header, file) = (keys.header.as_str(), &*keys.file);
            ("api_key", json!({ "header": header, "file": file, "clients": clients }))
        }
        Who::Jwt(rule) => {
            let mut shown = Map::new();
            if let Some(issuer) = &rule.issuer {
                shown.insert("issuer".into(), (**issuer).into());
            }
            for (key, list) in [("audience", &rule.audience), ("scope", &rule.scope)] {
                if !list.is_empty() {
                    shown.insert(key.into(), words(list));
                }
            }
            if !rule.claims.is_empty() {
                let claims = rule.claims.iter().map(|(name, values)| (name.to_string(), words(values)));
                shown.insert("claims".into(), Value::Object(claims.collect()));
            }
            ("jwt", Value::Object(shown))
        }
    };
    json!({ who.0: who.1, "origin": one.origin.to_string() })
}

fn rate_limit(limit: &RateLimit) -> Value {
    let per = match &limit.quota.per {
        Per::All => Value::Null,
        Per::Client => "client".into(),
        Per::Source => "source".into(),
        Per::Header(name) => json!({ "header": name.as_str() }),
        Per::Path(index) => json!({ "segment": index }),
        Per::Claim(name) => json!({ "claim": name.as_ref() }),
    };
    json!({
        "name": &*limit.name,
        "rate": show_rate(limit.quota.rate),
        "burst": limit.quota.burst,
        "per": per,
        "keys": limit.quota.keys,
        "mode": if limit.shadow { "shadow" } else { "enforce" },
        "shared": limit.shared.as_ref().map(|shared| &*shared.name),
        "fallback": limit.shared.as_ref().and_then(|shared| shared.fallback).map(super::share),
        "descriptor": limit.service.as_ref().map(asked),
        "on_error": limit.service.as_ref().map(|asked| asked.on_error.as_str()),
        "headers": limit.headers.as_str(),
        "origin": limit.origin.to_string(),
    })
}

fn asked(asked: &Asked) -> Vec<Value> {
    let entry = |(key, part): &(std::sync::Arc<str>, RatePart)| match part {
        RatePart::Value(value) => json!({ "key": &**key, "value": &**value }),
        RatePart::Header(name) => json!({ "key": &**key, "header": name.as_str() }),
        RatePart::Path(index) => json!({ "key": &**key, "segment": index }),
        RatePart::Source => json!({ "key": &**key, "source": true }),
    };
    asked.entries.iter().map(entry).collect()
}

fn balance(balance: &Balance) -> Value {
    match balance {
        Balance::Ewma => "ewma".into(),
        Balance::LeastRequest => "least_request".into(),
        Balance::RoundRobin => "round_robin".into(),
        Balance::Hash(HashOn::Header(name)) => json!({ "hash": { "header": name.as_str() } }),
        Balance::Hash(HashOn::Cookie(name)) => json!({ "hash": { "cookie": name.as_ref() } }),
        Balance::Hash(HashOn::Source) => json!({ "hash": "source" }),
    }
}
