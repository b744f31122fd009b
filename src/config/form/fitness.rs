//! Which endpoints take calls.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{GrpcService, Percent, Range, Span, UrlPath};

/// How endpoints are asked for their health; one of `path`, `grpc` and `tcp`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Path of a GET that answers 2xx.
    pub path: Option<UrlPath>,
    /// Whom `grpc.health.v1.Health` is asked about: a service such as
    /// `shop.v1.Users`, or `""` for the server as a whole.
    pub grpc: Option<GrpcService>,
    /// Whether an accepted connection is health.
    pub tcp: Option<bool>,
    /// From one question to the next.
    #[schemars(extend("default" = "10s"))]
    pub interval: Option<Span>,
    /// For one answer.
    #[schemars(extend("default" = "3s"))]
    pub timeout: Option<Span>,
    /// Healthy answers in a row after which an endpoint is used again.
    #[schemars(range(min = 1, max = 100), extend("default" = 2))]
    pub healthy: Option<u32>,
    /// Misses in a row after which an endpoint is not used.
    #[schemars(range(min = 1, max = 100), extend("default" = 3))]
    pub unhealthy: Option<u32>,
    /// Where to ask. Default: the port of the endpoint.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// When an endpoint is left out to which calls fail.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ejection {
    /// Whether any is.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// Calls in a row without an answer: no connection, a reset, silence. 0: these
    /// eject nobody.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 5))]
    pub consecutive_failures: Option<u32>,
    /// Answers in a row of 502, 503, 504 or UNAVAILABLE. 0: these eject nobody.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 5))]
    pub gateway_errors: Option<u32>,
    /// Endpoints that succeed less often than the others.
    pub success_rate: Option<SuccessRate>,
    /// The first and the longest time out.
    #[schemars(extend("default" = "5s..2m"))]
    pub time: Option<Range>,
    /// Share of the endpoints that may be out at one time.
    #[schemars(extend("default" = "50%"))]
    pub max_percent: Option<Percent>,
}

/// When an endpoint succeeds too seldom beside the others.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Whether rates are compared.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// How often they are.
    #[schemars(extend("default" = "10s"))]
    pub interval: Option<Span>,
    /// Calls in an interval without which an endpoint is not judged.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 100))]
    pub requests: Option<u64>,
    /// Endpoints with so many calls, without which nobody is judged.
    #[schemars(range(min = 2, max = 10_000), extend("default" = 5))]
    pub endpoints: Option<usize>,
    /// Thousandths of a standard deviation below the mean.
    #[schemars(range(min = 0, max = 10_000), extend("default" = 1900))]
    pub stdev_factor: Option<u32>,
}

/// Whether near endpoints are preferred.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Near {
    /// The own zone first, then the own region, then all.
    Prefer,
    /// All are alike.
    Any,
}
