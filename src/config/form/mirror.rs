//! `mirror` of an outbound entry.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Header, Percent, Size, Span, Upstream};

/// Copies of calls for another service, whose answers nobody gets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["to"]))]
pub struct Mirror {
    /// The service that gets the copies.
    pub to: Option<Upstream>,
    /// Share of the calls.
    #[schemars(extend("default" = "100%"))]
    pub percent: Option<Percent>,
    /// The `Host` of copies. Default: that of the call.
    pub host: Option<Upstream>,
    /// Copies at one time, of all workers; further calls are not copied.
    #[schemars(range(min = 1, max = 100_000), extend("default" = 100))]
    pub max: Option<usize>,
    /// Bytes of one request's body, at most 1 MiB; a call with more is not copied.
    #[schemars(extend("default" = "64KiB"))]
    pub buffer: Option<Size>,
    /// For a copy and the whole answer to it.
    #[schemars(extend("default" = "10s"))]
    pub timeout: Option<Span>,
    /// Whether both answers are alike. Default: not compared.
    pub compare: Option<Compare>,
}

/// What two answers must have in common.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compare {
    /// The status, and that of gRPC.
    #[schemars(extend("default" = true))]
    pub status: Option<bool>,
    /// These header fields.
    #[schemars(extend("default" = []))]
    pub headers: Option<Vec<Header>>,
    /// The body, byte by byte.
    #[schemars(extend("default" = false))]
    pub body: Option<bool>,
}
