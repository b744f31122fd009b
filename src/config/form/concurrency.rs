//! `concurrency` of an entry.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Mode;
use crate::config::text::{Header, Percent, Span};

/// How many calls there may be at one time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Concurrency {
    /// As many as the latency allows.
    Adaptive(AdaptiveWord),
    /// With values of its own.
    Own(Box<Bulkhead>),
}

/// The word for a limit that follows the latency.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdaptiveWord {
    /// As many calls as the latency allows.
    Adaptive,
}

/// How many calls there may be at one time; exactly one of `max` and `adaptive`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bulkhead {
    /// So many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<usize>,
    /// As many as the latency allows.
    pub adaptive: Option<Adaptive>,
    /// How many more may wait.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 0))]
    pub pending: Option<usize>,
    /// How long they may wait.
    #[schemars(extend("default" = "100ms"))]
    pub wait: Option<Span>,
    /// Which calls are refused first. Default: all are alike.
    pub priority: Option<Priority>,
    /// Whether calls are refused, or only counted that would be.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<Mode>,
}

/// A limit that follows the latency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// It never becomes less.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 5))]
    pub min: Option<usize>,
    /// Where it begins.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 50))]
    pub start: Option<usize>,
    /// It never becomes more.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub max: Option<usize>,
    /// How long calls may take, in percent of what they take without a queue.
    #[schemars(range(min = 110, max = 1000), extend("default" = 200))]
    pub tolerance: Option<u32>,
}

/// Which calls are refused first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["header"]))]
pub struct Priority {
    /// The header whose value is the level of a call.
    pub header: Option<Header>,
    /// Levels, and the part of the limit that each may use. Default: `high` 100%,
    /// `normal` 80%, `low` 50%.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub levels: Option<BTreeMap<String, Percent>>,
    /// The part of the limit that calls with another value or none may use.
    #[schemars(extend("default" = "80%"))]
    pub others: Option<Percent>,
}
