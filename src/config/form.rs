//! The file's own shape: what a user writes, key by key. The schema for editors
//! is generated from these types, and so are the checks of structure; the doc
//! comments are its descriptions.
//!
//! Every key is optional here, also those that the schema requires: what is
//! missing was reported by the check of the shape, and the rest is still read.

mod authorize;
mod breaker;
mod concurrency;
mod consul;
mod fitness;
mod gateway;
mod hedge;
mod mirror;
mod policy;
mod rate;
mod register;
mod retry;
mod shaping;
mod source;
pub mod test;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::text::{Bind, GrpcService, Network, Pause, ServiceName, Size, Span, UrlPath, Word};

pub use authorize::*;
pub use breaker::*;
pub use concurrency::*;
pub use consul::*;
pub use fitness::*;
pub use gateway::*;
pub use hedge::*;
pub use mirror::*;
pub use policy::*;
pub use rate::*;
pub use register::*;
pub use retry::*;
pub use shaping::*;
pub use source::*;
pub use test::Test;

/// `pillion.yaml`: the sidecar.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["version", "service"]))]
pub struct Main {
    /// Version of this format.
    #[schemars(schema_with = "version")]
    pub version: Option<u32>,
    /// The service that the sidecar fronts.
    pub service: Option<Service>,
    /// The addresses to bind; port 0 binds a free port.
    pub listen: Option<Listen>,
    /// Threads that carry requests. Default: the processors that the process
    /// may use, by affinity and cgroup quota.
    #[schemars(range(min = 1, max = 256))]
    pub workers: Option<usize>,
    /// Files with routes, relative to this file; `*`, `?` and `**` are
    /// patterns. Default: `policies/*.yaml`.
    #[schemars(extend("default" = ["policies/*.yaml"]))]
    pub policies: Option<Vec<Word>>,
    /// What one caller or upstream may take.
    pub limits: Option<Limits>,
    /// The pace of a shutdown.
    pub drain: Option<Drain>,
    /// Where services are looked up, in this order. Default: `local`, then `dns`.
    pub discovery: Option<Vec<Source>>,
    /// What the service may call.
    #[schemars(extend("default" = "allow"))]
    pub egress: Option<Egress>,
    /// Metrics, traces, logs.
    pub telemetry: Option<Telemetry>,
    /// What counts for all sidecars, where a `rate_limit` is `shared`.
    pub rate_limits: Option<RateServers>,
    /// How callers prove who they are.
    pub authentication: Option<Authentication>,
    /// Listeners for callers from outside.
    pub gateway: Option<Vec<Gateway>>,
    /// Routes of calls to the service.
    pub inbound: Option<Vec<Inbound>>,
    /// Routes of calls that the service makes.
    pub outbound: Option<Vec<Outbound>>,
    /// What `pillion test` tries.
    pub tests: Option<Vec<Test>>,
}

/// A policy file: routes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["version"]))]
pub struct Policy {
    /// Version of this format.
    #[schemars(schema_with = "version")]
    pub version: Option<u32>,
    /// Routes of calls to the service.
    pub inbound: Option<Vec<Inbound>>,
    /// Routes of calls that the service makes.
    pub outbound: Option<Vec<Outbound>>,
    /// What `pillion test` tries.
    pub tests: Option<Vec<Test>>,
}

/// The service that the sidecar fronts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct Service {
    /// Its name: what others write in `to:`.
    pub name: Option<ServiceName>,
    /// The port on 127.0.0.1 where it listens. Left out for a service that
    /// only calls.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The address where it listens, where that is not 127.0.0.1; instead of `port`.
    pub address: Option<Bind>,
    /// What it speaks.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Option<Protocol>,
    /// Tells it the caller's address at the beginning of a connection. Default:
    /// not told but in `Forwarded`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How its health is asked. Default: a connection that it accepts is health.
    pub health: Option<Health>,
    /// Free words for discovery.
    #[schemars(extend("default" = []))]
    pub tags: Option<Vec<Word>>,
    /// Where it runs.
    pub locality: Option<Locality>,
    /// Which of several like it this is, such as `dev` or `production`: some
    /// faults are made only there.
    pub environment: Option<Word>,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// What the caller speaks: HTTP/2 calls go on as HTTP/2, others as HTTP/1.1.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// HTTP/2 by prior knowledge, with gRPC's errors.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// TLS from the first byte, passed through.
    Tls,
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
    /// Redis and Valkey.
    Redis,
    /// AMQP 0-9-1 and 1.0 (RabbitMQ).
    Amqp,
    /// Kafka.
    Kafka,
    /// MongoDB.
    Mongodb,
    /// NATS.
    Nats,
    /// SMTP.
    Smtp,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

impl From<ProxyProtocol> for crate::base::ProxyProtocol {
    fn from(form: ProxyProtocol) -> Self {
        match form {
            ProxyProtocol::V1 => Self::V1,
            ProxyProtocol::V2 => Self::V2,
        }
    }
}

impl From<Protocol> for crate::base::Protocol {
    fn from(form: Protocol) -> Self {
        match form {
            Protocol::Auto => Self::Auto,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
            Protocol::Tcp => Self::Tcp,
            Protocol::Tls => Self::Tls,
            Protocol::Postgres => Self::Postgres,
            Protocol::Mysql => Self::Mysql,
            Protocol::Redis => Self::Redis,
            Protocol::Amqp => Self::Amqp,
            Protocol::Kafka => Self::Kafka,
            Protocol::Mongodb => Self::Mongodb,
            Protocol::Nats => Self::Nats,
            Protocol::Smtp => Self::Smtp,
        }
    }
}

/// How the service's health is asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Path of a GET that answers 2xx; this or `grpc`.
    pub path: Option<UrlPath>,
    /// Whom the service's `grpc.health.v1.Health` is asked about: a service such
    /// as `shop.v1.Users`, or `""` for the server as a whole; this or `path`.
    pub grpc: Option<GrpcService>,
    /// From one question to the next.
    #[schemars(extend("default" = "10s"))]
    pub interval: Option<Span>,
    /// For one answer.
    #[schemars(extend("default" = "3s"))]
    pub timeout: Option<Span>,
}

/// Where the service runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// Such as `eu`.
    pub region: Option<Word>,
    /// Such as `eu-1a`.
    pub zone: Option<Word>,
}

/// The addresses to bind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Calls to the service.
    #[schemars(extend("default" = "0.0.0.0:8702"))]
    pub inbound: Option<Bind>,
    /// Calls of the service.
    #[schemars(extend("default" = "127.0.0.1:8701"))]
    pub outbound: Option<Bind>,
    /// The admin API.
    #[schemars(extend("default" = "127.0.0.1:8700"))]
    pub admin: Option<Bind>,
    /// `/livez`, `/readyz` and `/metrics`.
    #[schemars(extend("default" = "0.0.0.0:8790"))]
    pub probes: Option<Bind>,
    /// Callers whose connections to `inbound` begin with a header of the PROXY
    /// protocol, which says who the caller is.
    #[schemars(extend("default" = []))]
    pub proxy_protocol: Option<Vec<Network>>,
}

/// What one caller or upstream may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one head; 1 KiB to 1 MiB.
    #[schemars(extend("default" = "64KiB"))]
    pub header_bytes: Option<Size>,
    /// Fields of one head.
    #[schemars(range(min = 8, max = 4096), extend("default" = 128))]
    pub header_fields: Option<usize>,
    /// Bytes of one request target; 64 B to 1 MiB.
    #[schemars(extend("default" = "8KiB"))]
    pub target: Option<Size>,
    /// From the first byte of a head to its end.
    #[schemars(extend("default" = "10s"))]
    pub header_timeout: Option<Span>,
    /// Longest pause within a request body.
    #[schemars(extend("default" = "30s"))]
    pub body_idle: Option<Span>,
    /// How long an HTTP/2 stream may wait for its caller to take bytes.
    #[schemars(extend("default" = "5m"))]
    pub stream_idle: Option<Span>,
    /// How long a connection may wait for its next request.
    #[schemars(extend("default" = "2m"))]
    pub connection_idle: Option<Span>,
    /// Age at which a connection is closed after the request at hand.
    #[schemars(extend("default" = "1h"))]
    pub connection_age: Option<Span>,
    /// Connections accepted at one time, over all workers.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 20000))]
    pub connections: Option<usize>,
    /// Concurrent streams of one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 100))]
    pub streams: Option<u32>,
    /// Streams of one HTTP/2 connection that the peer may reset in 10 s.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 200))]
    pub resets: Option<u32>,
    /// PING, SETTINGS, PRIORITY and empty frames that a peer may send in 10 s
    /// beyond one for each stream.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub control_frames: Option<u32>,
}

/// The pace of a shutdown.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// From failing readiness to closing the listeners.
    #[schemars(extend("default" = "2s"))]
    pub delay: Option<Pause>,
    /// From closing the listeners to ending what still runs.
    #[schemars(extend("default" = "20s"))]
    pub deadline: Option<Pause>,
}

/// What the service may call.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Everything.
    Allow,
    /// What a policy names in `to:`, and what a source of discovery other than
    /// DNS knows.
    RegisteredOnly,
}

/// Metrics, traces, logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// The trace contexts that are made whole on their way; others pass untouched.
    #[schemars(extend("default" = ["tracecontext", "baggage"]))]
    pub propagate: Option<Vec<Propagator>>,
}

/// A way to pass a trace on.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Propagator {
    /// W3C `traceparent` and `tracestate`.
    TraceContext,
    /// W3C `baggage`.
    Baggage,
}

fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "const": 1})
}
