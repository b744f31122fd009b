//! `circuit_breaker` and `failures` of an outbound entry.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Percent, Range, Span, Word};

/// Refusing calls of what fails, for a while.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CircuitBreaker {
    /// As a library does it.
    Preset(Preset),
    /// With rules of its own.
    Own(Box<Breaker>),
}

/// A library whose way is followed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// More than 5 failures in a row within 10 s open it for 60 s; 3 probes close it.
    Gobreaker,
    /// 5 failures in a row open it for 60 s; one probe closes it.
    Pybreaker,
    /// An average of more than 50 % failures over 30 s opens it for 60 s; one
    /// success closes it.
    Failsafe,
}

/// When it opens, for how long, and what is answered then.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// The rules of a library; then only `scope`, `fallback` and `mode` can stand beside it.
    pub preset: Option<Preset>,
    /// Failures in a row that open it. Default: 5 where neither `failure_rate`
    /// nor `slow_calls` is set.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// A share of failures that opens it. Default: none does.
    pub failure_rate: Option<FailureRate>,
    /// A share of slow calls that opens it. Default: none does.
    pub slow_calls: Option<SlowCalls>,
    /// The first and the longest time open: it doubles each time that it opens
    /// without having been closed for the longest.
    #[schemars(extend("default" = "5s..60s"))]
    pub open_for: Option<Range>,
    /// Probes at one time, after that.
    #[schemars(range(min = 1, max = 1000), extend("default" = 3))]
    pub half_open_requests: Option<u32>,
    /// Probes in a row that must go well to close it. Default: as many as
    /// `half_open_requests`.
    #[schemars(range(min = 1, max = 1000))]
    pub close_after: Option<u32>,
    /// What one breaker stands before. Default: `endpoint`, with a preset `route`.
    pub scope: Option<Scope>,
    /// What is answered in place of an error. Default: an error.
    pub fallback: Option<Fallback>,
    /// Whether calls are refused, or only counted that would be.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<Mode>,
}

/// A share of failures.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailureRate {
    /// More than this opens it.
    #[schemars(extend("default" = "50%"))]
    pub over: Option<Percent>,
    /// How far back calls are counted, for slow ones too.
    #[schemars(extend("default" = "10s"))]
    pub window: Option<Span>,
    /// With fewer calls in the window nothing is judged, slow ones neither.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 20))]
    pub min_requests: Option<u32>,
}

/// A share of slow calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["slower_than"]))]
pub struct SlowCalls {
    /// Calls whose answer begins later are slow.
    pub slower_than: Option<Span>,
    /// More than this opens it.
    #[schemars(extend("default" = "80%"))]
    pub over: Option<Percent>,
}

/// What one breaker stands before.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One endpoint: it gets no calls while its breaker is open.
    Endpoint,
    /// All calls of the route.
    Route,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It acts.
    Enforce,
    /// It counts only.
    Shadow,
}

/// An answer in place of an error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fallback {
    /// Its status.
    #[schemars(range(min = 200, max = 599), extend("default" = 200))]
    pub status: Option<u16>,
    /// Its body.
    #[schemars(extend("default" = ""))]
    pub body: Option<String>,
    /// The type of the body. Default: none is said.
    pub content_type: Option<Word>,
    /// More fields of its head.
    pub headers: Option<BTreeMap<String, String>>,
}

/// What counts as a failure.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Failure {
    /// A class of failures, or a code of gRPC.
    Class(FailureClass),
    /// One status.
    Status(#[schemars(range(min = 400, max = 599))] u16),
}

/// A class of failures, or a code of gRPC.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureClass {
    /// No connection could be made.
    #[serde(rename = "connect")]
    Connect,
    /// The connection ended before the answer, or what came was none.
    #[serde(rename = "reset")]
    Reset,
    /// No answer came in time.
    #[serde(rename = "timeout")]
    Timeout,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503 and 504.
    #[serde(rename = "gateway")]
    Gateway,
    /// gRPC's code 1.
    Cancelled,
    /// gRPC's code 2.
    Unknown,
    /// gRPC's code 3.
    InvalidArgument,
    /// gRPC's code 4.
    DeadlineExceeded,
    /// gRPC's code 5.
    NotFound,
    /// gRPC's code 6.
    AlreadyExists,
    /// gRPC's code 7.
    PermissionDenied,
    /// gRPC's code 8.
    ResourceExhausted,
    /// gRPC's code 9.
    FailedPrecondition,
    /// gRPC's code 10.
    Aborted,
    /// gRPC's code 11.
    OutOfRange,
    /// gRPC's code 12.
    Unimplemented,
    /// gRPC's code 13.
    Internal,
    /// gRPC's code 14.
    Unavailable,
    /// gRPC's code 15.
    DataLoss,
    /// gRPC's code 16.
    Unauthenticated,
}
