//! What a route changes of a call, and what it answers itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Header, Percent, Span, Upstream, UrlPath, Word};

/// What becomes of header fields: first `remove`, then `set`, then `add`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdit {
    /// Fields that have exactly this value then.
    pub set: Option<BTreeMap<String, String>>,
    /// Values that are added to what is there.
    pub add: Option<BTreeMap<String, String>>,
    /// Fields that are taken out.
    pub remove: Option<Vec<Header>>,
}

/// Another target for the request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// The whole new path; `{name}` stands for a parameter of the route.
    pub path: Option<UrlPath>,
    /// What stands in place of the route's path before its first parameter;
    /// not beside `path`.
    pub prefix: Option<UrlPath>,
    /// The new `Host`.
    pub host: Option<Upstream>,
}

/// Sends the caller elsewhere.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// The whole URL; `{name}` stands in its path for a parameter of the route;
    /// instead of the keys below.
    pub to: Option<Word>,
    /// Default: `http`, as the caller came.
    pub scheme: Option<Scheme>,
    /// Default: the host that the request names.
    pub host: Option<Upstream>,
    /// The new path; `{name}` stands for a parameter of the route. Default: the
    /// path of the request.
    pub path: Option<UrlPath>,
    /// 301, 302, 303, 307 or 308.
    #[schemars(range(min = 301, max = 308), extend("default" = 302))]
    pub status: Option<u16>,
}

/// A scheme of URLs.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// An answer without an upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Respond {
    /// The status.
    #[schemars(range(min = 200, max = 599), extend("default" = 200))]
    pub status: Option<u16>,
    /// The body, at most 64 KiB. Default: none.
    pub body: Option<String>,
    /// What the body is.
    #[schemars(extend("default" = "text/plain; charset=utf-8"))]
    pub content_type: Option<Word>,
    /// Further fields.
    pub headers: Option<BTreeMap<String, String>>,
}

/// Which pages of other origins may read answers (the Fetch standard).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["origins"]))]
pub struct Cors {
    /// `https://app.example`, `https://*.example` for every name below, or `*`
    /// for everyone.
    #[schemars(length(min = 1))]
    pub origins: Option<Vec<Word>>,
    /// Methods that they may use, or `*`.
    #[schemars(length(min = 1), extend("default" = ["GET", "HEAD", "POST"]))]
    pub methods: Option<Vec<Word>>,
    /// Header fields that they may send beyond the harmless ones, or `*`.
    #[schemars(extend("default" = []))]
    pub headers: Option<Vec<Word>>,
    /// Header fields of answers that they may read beyond the harmless ones, or `*`.
    #[schemars(extend("default" = []))]
    pub expose: Option<Vec<Word>>,
    /// Whether they may send cookies and the like; not beside a `*`.
    #[schemars(extend("default" = false))]
    pub credentials: Option<bool>,
    /// How long a browser may keep the answer to its question; at most 1 d.
    #[schemars(extend("default" = "10m"))]
    pub max_age: Option<Span>,
}

/// What keeps the calls of one caller together; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Sticky {
    /// The value of this header.
    pub header: Option<Header>,
    /// The value of this cookie.
    pub cookie: Option<Word>,
}

/// Faults that are made on purpose.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// How long a call waits first; at most 1 m. This or `abort`, or both.
    pub delay: Option<Span>,
    /// How it is answered instead of being sent.
    pub abort: Option<Abort>,
    /// Share of the calls.
    #[schemars(extend("default" = "100%"))]
    pub percent: Option<Percent>,
    /// Only calls that carry this header. Default: all.
    pub if_header: Option<Header>,
    /// Only where `service.environment` is one of these. Default: everywhere.
    #[schemars(length(min = 1))]
    pub environments: Option<Vec<Word>>,
}

/// How a call fails on purpose; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Abort {
    /// With this status; a caller of gRPC gets the code that goes with it.
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// With this code of gRPC; another caller gets the status that goes with it.
    pub grpc: Option<Code>,
}

/// A code of gRPC.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// 1.
    Cancelled,
    /// 2.
    Unknown,
    /// 3.
    InvalidArgument,
    /// 4.
    DeadlineExceeded,
    /// 5.
    NotFound,
    /// 6.
    AlreadyExists,
    /// 7.
    PermissionDenied,
    /// 8.
    ResourceExhausted,
    /// 9.
    FailedPrecondition,
    /// 10.
    Aborted,
    /// 11.
    OutOfRange,
    /// 12.
    Unimplemented,
    /// 13.
    Internal,
    /// 14.
    Unavailable,
    /// 15.
    DataLoss,
    /// 16.
    Unauthenticated,
}
