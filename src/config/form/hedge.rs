//! `hedge` of an outbound entry.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Patience, Span};

/// Another attempt beside one that is slow to be answered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hedge {
    /// How long an answer may take before: a percentile of the route's calls, `p50`
    /// to `p99.9`, or a duration.
    #[schemars(extend("default" = "p95"))]
    pub after: Option<Patience>,
    /// The least that a percentile comes to.
    #[schemars(extend("default" = "10ms"))]
    pub min: Option<Span>,
    /// Attempts beside the first; 0 turns hedging off.
    #[schemars(range(min = 0, max = 3), extend("default" = 1))]
    pub max: Option<u32>,
    /// Which calls.
    #[schemars(extend("default" = "safe"))]
    pub only_if: Option<HedgeIf>,
}

/// Which calls are hedged.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HedgeIf {
    /// GET, HEAD, OPTIONS, TRACE, and calls of gRPC that have no side effects by
    /// the descriptor that `json` names.
    Safe,
    /// Any.
    Always,
}
