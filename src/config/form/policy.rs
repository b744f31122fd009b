//! The entries of policy files.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    Allow, CircuitBreaker, Concurrency, Cors, Ejection, Failure, Fault, HeaderEdit, HealthCheck, Hedge,
    Mirror, Near, Protocol, ProxyProtocol, RateLimits, Redirect, Respond, Retry, Rewrite, Sticky,
};
use crate::config::text::{Bind, Header, Host, Percent, Size, Span, Upstream, Word};

/// Calls to the service: a route, or without `route` what applies to all of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Inbound {
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
    /// The same for upgraded connections, CONNECT tunnels and opaque streams.
    #[schemars(extend("default" = "1h"))]
    pub tunnel_idle: Option<Span>,
    /// Calls of gRPC-Web become gRPC calls.
    #[schemars(extend("default" = false))]
    pub grpc_web: Option<bool>,
    /// Calls with JSON become gRPC calls. Default: they pass untouched.
    pub json: Option<Json>,
    /// Who may call. Default: everyone.
    pub allow: Option<Allow>,
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
    /// Which pages of other origins may read answers. Default: the service says.
    pub cors: Option<Cors>,
}

/// Calls that the service makes: a route, or without `route` what applies to
/// all calls to this service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["to"]))]
pub struct Outbound {
    /// The called service.
    pub to: Option<Upstream>,
    /// What it speaks; only without `route`.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Option<Protocol>,
    /// Tells it the caller's address at the beginning of a connection; only
    /// without `route`. Default: not told.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A local address whose every connection goes to this service; only
    /// without `route`.
    pub listen: Option<Bind>,
    /// TLS that asks for one of these names goes to this service, passed
    /// through; `*.example` takes every name below; only without `route`.
    #[schemars(extend("default" = []))]
    pub sni: Option<Vec<Host>>,
    /// How many connections all workers together may have to this service; only
    /// without `route`. Default: any number.
    pub connections: Option<Connections>,
    /// Asks endpoints for their health; only without `route`. Default: not asked.
    pub health_check: Option<HealthCheck>,
    /// Leaves endpoints out to which calls fail; only without `route`.
    pub ejection: Option<Ejection>,
    /// How long the share of an endpoint grows that is new or has come back;
    /// only without `route`. Default: it has its whole share at once.
    pub slow_start: Option<Span>,
    /// Whether endpoints near `service.locality` are preferred; only without `route`.
    #[schemars(extend("default" = "prefer"))]
    pub locality: Option<Near>,
    /// With a smaller share of healthy endpoints than this all are used; only
    /// without `route`.
    #[schemars(extend("default" = "30%"))]
    pub panic: Option<Percent>,
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
    /// The same for upgraded connections, CONNECT tunnels and opaque streams.
    #[schemars(extend("default" = "1h"))]
    pub tunnel_idle: Option<Span>,
    /// Making one connection.
    #[schemars(extend("default" = "1s"))]
    pub connect_timeout: Option<Span>,
    /// Sending again. Default: only what was surely not sent.
    pub retry: Option<Retry>,
    /// Another attempt beside one that is slow. Default: one at a time.
    pub hedge: Option<Hedge>,
    /// Copies of calls for another service. Default: none.
    pub mirror: Option<Mirror>,
    /// Refusing calls of what fails, for a while. Default: none is refused.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What counts as a failure, for `circuit_breaker` and `ejection`.
    #[schemars(
        length(min = 1),
        extend("default" = [
            "5xx", "connect", "reset", "timeout",
            "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
        ])
    )]
    pub failures: Option<Vec<Failure>>,
    /// How an address is picked.
    pub balance: Option<Balance>,
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
}

/// How calls with JSON become gRPC calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["descriptor"]))]
pub struct Json {
    /// A `FileDescriptorSet` with all imports, relative to this file; at most 16 MiB.
    pub descriptor: Option<Word>,
    /// Full names of the services that can be called. Default: all of the descriptor.
    pub services: Option<Vec<Word>>,
    /// Answers name fields as the `.proto` does, and not in `lowerCamelCase`.
    #[schemars(extend("default" = false))]
    pub preserve_names: Option<bool>,
    /// Answers hold fields that have their default value.
    #[schemars(extend("default" = false))]
    pub emit_defaults: Option<bool>,
    /// Fields and query parameters that nobody knows are passed over, and not refused.
    #[schemars(extend("default" = false))]
    pub ignore_unknown: Option<bool>,
    /// Bytes of one message; 1 KiB to 256 MiB.
    #[schemars(extend("default" = "4MiB"))]
    pub max_message: Option<Size>,
}

/// How many connections there may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["max"]))]
pub struct Connections {
    /// Connections at one time, used and idle.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<usize>,
    /// How many callers may wait for one.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 100))]
    pub pending: Option<usize>,
    /// How long they may wait.
    #[schemars(extend("default" = "1s"))]
    pub wait: Option<Span>,
}

/// A condition on a value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Condition {
    /// Exactly this value.
    Exact(String),
    /// Less than the whole value.
    Part(Part),
}

/// Less than the whole value; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Part {
    /// The value begins with this.
    pub prefix: Option<String>,
    /// Whether there must be a value, or must be none.
    pub present: Option<bool>,
}

/// How an address is picked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["by"]))]
pub struct Balance {
    /// The way.
    #[schemars(extend("default" = "ewma"))]
    pub by: Option<By>,
}

/// A way to pick an address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum By {
    /// A way that needs nothing more.
    Way(Way),
    /// A consistent hash.
    Hash(Hash),
}

/// A way to pick an address.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The better of two by peak EWMA of latency.
    Ewma,
    /// The one of two with fewer requests at hand.
    LeastRequest,
    /// By weight, in turn.
    RoundRobin,
}

/// A consistent hash.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["hash"]))]
pub struct Hash {
    /// What it looks at.
    pub hash: Option<HashOn>,
}

/// What a consistent hash looks at; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct HashOn {
    /// The value of this header.
    pub header: Option<Header>,
    /// The value of this cookie.
    pub cookie: Option<Word>,
    /// The caller's address.
    #[schemars(schema_with = "yes")]
    pub source: Option<bool>,
}

pub(super) fn yes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "boolean", "const": true})
}
