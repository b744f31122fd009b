//! `gateway`: listeners for callers from outside, and their routes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Allow, Balance, CircuitBreaker, Concurrency, Condition, Cors, Failure, Fault, HeaderEdit, Hedge, Json,
    Mirror, RateLimits, Redirect, Respond, Retry, Rewrite, Sticky,
};
use crate::config::text::{Bind, Host, Network, Size, Span, Upstream, Word};

/// A listener for callers from outside.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["listen", "routes"]))]
pub struct Gateway {
    /// Where it listens.
    pub listen: Option<Bind>,
    /// Certificates and what else TLS needs. Default: in the clear.
    pub tls: Option<GatewayTls>,
    /// Proxies before it, whose `Forwarded` and `X-Forwarded-*` are believed.
    #[schemars(extend("default" = []))]
    pub trusted_proxies: Option<Vec<Network>>,
    /// Callers whose connections begin with a header of the PROXY protocol, which
    /// says for whom they speak.
    #[schemars(extend("default" = []))]
    pub proxy_protocol: Option<Vec<Network>>,
    /// What becomes of paths with `%2F` or `%5C`.
    #[schemars(extend("default" = "refuse"))]
    pub encoded_slashes: Option<EncodedSlashes>,
    /// Which calls go where.
    pub routes: Option<Vec<GatewayRoute>>,
}

/// TLS that is served.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["certificates"]))]
pub struct GatewayTls {
    /// The first that is for the name that a caller asks for is shown, else the
    /// first of all.
    #[schemars(length(min = 1))]
    pub certificates: Option<Vec<Certificate>>,
    /// The oldest version that is spoken.
    #[schemars(extend("default" = "TLSv1.2"))]
    pub min_version: Option<TlsVersion>,
    /// How long a handshake may take.
    #[schemars(extend("default" = "10s"))]
    pub handshake_timeout: Option<Span>,
    /// Handshakes at one time, over all workers.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub handshakes: Option<usize>,
}

/// A certificate and its key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["cert", "key"]))]
pub struct Certificate {
    /// The file of the chain in PEM, the server's own first; relative to this file.
    pub cert: Option<Word>,
    /// The file of the private key in PEM.
    pub key: Option<Word>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// 1.2.
    #[serde(rename = "TLSv1.2")]
    Tls12,
    /// 1.3.
    #[serde(rename = "TLSv1.3")]
    Tls13,
}

/// What becomes of paths with `%2F` or `%5C`, which some servers take for a `/`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlashes {
    /// Answered with 400.
    Refuse,
    /// Part of a segment.
    Keep,
}

/// Calls from outside: a route, or without `route` what applies to all routes
/// of the listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayRoute {
    /// The called service; not beside `redirect` and `respond`.
    pub to: Option<Upstream>,
    /// Which calls: `[METHOD[,METHOD…]] /path/{name}/{rest...}` or
    /// `grpc package.Service/Method`.
    pub route: Option<String>,
    /// Only calls to this host; `*.example` takes every name below.
    pub host: Option<Host>,
    /// Only calls with these headers.
    pub headers: Option<BTreeMap<String, Condition>>,
    /// Only calls with these query parameters.
    pub query: Option<BTreeMap<String, Condition>>,
    /// The whole call. Default: only the head of the answer is awaited, for 30 s.
    pub timeout: Option<Span>,
    /// Nothing moves in either direction for this long.
    #[schemars(extend("default" = "5m"))]
    pub idle_timeout: Option<Span>,
    /// The same for upgraded connections.
    #[schemars(extend("default" = "1h"))]
    pub tunnel_idle: Option<Span>,
    /// Making one connection.
    #[schemars(extend("default" = "1s"))]
    pub connect_timeout: Option<Span>,
    /// Sending again. Default: only what was surely not sent.
    pub retry: Option<Retry>,
    /// Another attempt beside one that is slow. Default: one at a time.
    pub hedge: Option<Hedge>,
    /// Refusing calls of what fails, for a while. Default: none is refused.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What counts as a failure, for `circuit_breaker` and `ejection`.
    #[schemars(length(min = 1))]
    pub failures: Option<Vec<Failure>>,
    /// How an address is picked.
    pub balance: Option<Balance>,
    /// Whose calls are let in. Default: everyone's.
    pub allow: Option<Allow>,
    /// Calls of gRPC-Web become gRPC calls.
    #[schemars(extend("default" = false))]
    pub grpc_web: Option<bool>,
    /// Calls with JSON become gRPC calls. Default: they pass untouched.
    pub json: Option<Json>,
    /// How many calls there may be in a time. Default: any number.
    pub rate_limit: Option<RateLimits>,
    /// How many calls there may be at one time. Default: any number.
    pub concurrency: Option<Concurrency>,
    /// What becomes of the header fields of calls.
    pub request_headers: Option<HeaderEdit>,
    /// What becomes of the header fields of answers.
    pub response_headers: Option<HeaderEdit>,
    /// Another target. Default: as the caller wrote it.
    pub rewrite: Option<Rewrite>,
    /// Sends callers elsewhere; only with `route`.
    pub redirect: Option<Redirect>,
    /// Answers without an upstream; only with `route`.
    pub respond: Option<Respond>,
    /// Faults that are made on purpose.
    pub fault: Option<Fault>,
    /// Most bytes of a request's body. Default: any number.
    pub max_request_body: Option<Size>,
    /// Most bytes of an answer's body. Default: any number.
    pub max_response_body: Option<Size>,
    /// Services among which calls are divided, with their weights. Default: all
    /// go to that of `to`.
    pub split: Option<BTreeMap<String, u32>>,
    /// What keeps the calls of one caller at one service of `split`. Default:
    /// each call is on its own.
    pub sticky: Option<Sticky>,
    /// Copies of calls for another service. Default: none.
    pub mirror: Option<Mirror>,
    /// Which pages of other origins may read answers. Default: the service says.
    pub cors: Option<Cors>,
}
