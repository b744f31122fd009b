//! `retry` of an outbound entry.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Percent, Range, Size, Span};

/// Sending again what failed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts beside the first; 0 turns retries off.
    #[schemars(range(min = 0, max = 10), extend("default" = 1))]
    pub max: Option<u32>,
    /// For one attempt, until the head of its answer. Default: what is left of
    /// `timeout`.
    pub per_try: Option<Span>,
    /// Which failures.
    #[schemars(
        length(min = 1),
        extend("default" = ["connect", "refused", "reset", "gateway", "UNAVAILABLE"])
    )]
    pub on: Option<Vec<On>>,
    /// Which calls. What was surely not sent may always be sent again.
    #[schemars(extend("default" = "idempotent"))]
    pub only_if: Option<OnlyIf>,
    /// First and longest pause between attempts.
    #[schemars(extend("default" = "25ms..250ms"))]
    pub backoff: Option<Range>,
    /// Share of calls that may be sent again.
    #[schemars(extend("default" = "20%"))]
    pub budget: Option<Percent>,
    /// Bytes of a request's body that are kept for another attempt; at most 1 MiB.
    #[schemars(extend("default" = "64KiB"))]
    pub buffer: Option<Size>,
}

/// Which calls are tried anew.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnlyIf {
    /// GET, HEAD, OPTIONS, TRACE, PUT, DELETE, and calls of gRPC whose
    /// `idempotency_level` says so in the descriptor that `json` names.
    Idempotent,
    /// The same, and those with an `Idempotency-Key`.
    IdempotencyKey,
    /// Any.
    Always,
}

/// A failure that is worth another attempt.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum On {
    /// A class of failures.
    Class(Class),
    /// One status.
    Status(#[schemars(range(min = 400, max = 599))] u16),
}

/// A class of failures, or a code of gRPC.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// No connection could be made.
    Connect,
    /// The connection ended before the head of the answer.
    Reset,
    /// HTTP/2 REFUSED_STREAM.
    Refused,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503 and 504.
    Gateway,
    /// `per_try` passed.
    Timeout,
    /// gRPC's CANCELLED, in the head of the answer.
    #[serde(rename = "CANCELLED")]
    Cancelled,
    /// gRPC's UNKNOWN, in the head of the answer.
    #[serde(rename = "UNKNOWN")]
    Unknown,
    /// gRPC's INVALID_ARGUMENT, in the head of the answer.
    #[serde(rename = "INVALID_ARGUMENT")]
    InvalidArgument,
    /// gRPC's DEADLINE_EXCEEDED, in the head of the answer.
    #[serde(rename = "DEADLINE_EXCEEDED")]
    DeadlineExceeded,
    /// gRPC's NOT_FOUND, in the head of the answer.
    #[serde(rename = "NOT_FOUND")]
    NotFound,
    /// gRPC's ALREADY_EXISTS, in the head of the answer.
    #[serde(rename = "ALREADY_EXISTS")]
    AlreadyExists,
    /// gRPC's PERMISSION_DENIED, in the head of the answer.
    #[serde(rename = "PERMISSION_DENIED")]
    PermissionDenied,
    /// gRPC's RESOURCE_EXHAUSTED, in the head of the answer.
    #[serde(rename = "RESOURCE_EXHAUSTED")]
    ResourceExhausted,
    /// gRPC's FAILED_PRECONDITION, in the head of the answer.
    #[serde(rename = "FAILED_PRECONDITION")]
    FailedPrecondition,
    /// gRPC's ABORTED, in the head of the answer.
    #[serde(rename = "ABORTED")]
    Aborted,
    /// gRPC's OUT_OF_RANGE, in the head of the answer.
    #[serde(rename = "OUT_OF_RANGE")]
    OutOfRange,
    /// gRPC's UNIMPLEMENTED, in the head of the answer.
    #[serde(rename = "UNIMPLEMENTED")]
    Unimplemented,
    /// gRPC's INTERNAL, in the head of the answer.
    #[serde(rename = "INTERNAL")]
    Internal,
    /// gRPC's UNAVAILABLE, in the head of the answer.
    #[serde(rename = "UNAVAILABLE")]
    Unavailable,
    /// gRPC's DATA_LOSS, in the head of the answer.
    #[serde(rename = "DATA_LOSS")]
    DataLoss,
    /// gRPC's UNAUTHENTICATED, in the head of the answer.
    #[serde(rename = "UNAUTHENTICATED")]
    Unauthenticated,
}
