//! `concurrency` of one route, as the files write it.

use serde_json::{Map, Value, json};

use super::{share, text};
use crate::config::model::{Ceiling, Concurrency, Mode, Priority};

/// One limit.
pub fn concurrency(limit: &Concurrency) -> Value {
    let rules = &limit.rules;
    let (max, adaptive) = match &rules.limit {
        Ceiling::Fixed(max) => (Some(max), None),
        Ceiling::Adaptive(bounds) => (None, Some(bounds)),
    };
    let adaptive = adaptive.map(|bounds| {
        json!({
            "min": bounds.min,
            "start": bounds.start,
            "max": bounds.max,
            "tolerance": bounds.tolerance * 100.0,
        })
    });
    json!({
        "max": max,
        "adaptive": adaptive,
        "pending": rules.pending,
        "wait": text(rules.wait),
        "priority": rules.priority.as_ref().map(priority),
        "mode": if limit.mode == Mode::Shadow { "shadow" } else { "enforce" },
        "route": &*limit.place.route,
        "origin": limit.origin.to_string(),
    })
}

fn priority(priority: &Priority) -> Value {
    let levels: Map<_, _> =
        priority.levels.iter().map(|(name, part)| (name.to_string(), share(*part).into())).collect();
    json!({ "header": priority.header.as_str(), "levels": levels, "others": share(priority.others) })
}
