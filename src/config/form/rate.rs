//! How many calls there may be in a time.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Header, Label, Percent, Rate, RedisAddress, Span, Target, Word};

/// What counts for all sidecars.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1))]
pub struct RateServers {
    /// A Redis that all sidecars reach, for what is `shared`.
    pub redis: Option<Redis>,
    /// A server of Envoy's rate-limit protocol, for what has a `descriptor`.
    pub service: Option<RateService>,
}

/// A server of Envoy's rate-limit protocol.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["address", "domain"]))]
pub struct RateService {
    /// `host:port`; spoken to over HTTP/2 without TLS.
    pub address: Option<Target>,
    /// Whose rules hold, of those that the server has.
    pub domain: Option<Word>,
    /// How long a call may wait for it; 2 ms to 1 s.
    #[schemars(extend("default" = "20ms"))]
    pub timeout: Option<Span>,
}

/// A Redis that all sidecars reach.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["address"]))]
pub struct Redis {
    /// `redis://[[user]:password@]host[:port][/db]`, or `unix:///path`.
    pub address: Option<RedisAddress>,
    /// How long a call may wait for it; 2 ms to 1 s.
    #[schemars(extend("default" = "5ms"))]
    pub timeout: Option<Span>,
    /// Before each key.
    #[schemars(extend("default" = "pillion"))]
    pub prefix: Option<Word>,
}

/// One limit or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RateLimits {
    /// One.
    One(Box<RateLimit>),
    /// All of them hold.
    Several(#[schemars(length(min = 1))] Vec<RateLimit>),
}

/// How many calls there may be in a time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["rate"]))]
pub struct RateLimit {
    /// What it is called in answers and metrics. Default: by `per`.
    pub name: Option<Label>,
    /// How many there may be for long: `50/s`, or per `min`, `h` or `day`.
    pub rate: Option<Rate>,
    /// How many there may be at once after a pause. Default: the count of `rate`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// Who has a count of its own. Default: all calls count together.
    pub per: Option<Per>,
    /// Values of `per` that this sidecar tells apart at one time; further ones share
    /// a count. Those of a limit in Redis are not bounded: they expire.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 100_000))]
    pub keys: Option<usize>,
    /// Whether calls are refused, or only counted.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<RateMode>,
    /// Which answers tell the caller what it has left.
    #[schemars(extend("default" = "refusals"))]
    pub headers: Option<RateHeaders>,
    /// Counted together with all sidecars that write the same name here, by the
    /// server of `rate_limits`. Default: each counts for itself.
    pub shared: Option<Label>,
    /// With `shared` or `descriptor`, the part of the limit that this sidecar lets
    /// pass by itself while the server says nothing. Default: an equal part of all
    /// sidecars, with `descriptor` the whole.
    pub fallback: Option<Percent>,
    /// Decided by the server of `rate_limits.service`, by its rule for these entries.
    #[schemars(length(min = 1, max = 16))]
    pub descriptor: Option<Vec<DescriptorEntry>>,
    /// With `descriptor`, what becomes of calls while the server says nothing.
    #[schemars(extend("default" = "local"))]
    pub on_error: Option<OnError>,
}

/// One entry of what a rate-limit service is asked; `key` and exactly one more.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["key"], "minProperties" = 2, "maxProperties" = 2))]
pub struct DescriptorEntry {
    /// As the server's rules call it.
    pub key: Option<Word>,
    /// Always this value.
    pub value: Option<Word>,
    /// The value of this header; a call without it is not limited.
    pub header: Option<Header>,
    /// The value of this parameter of the route.
    pub path: Option<Word>,
    /// The caller's address.
    #[schemars(schema_with = "super::policy::yes")]
    pub source: Option<bool>,
}

/// What becomes of calls while a rate-limit service says nothing.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// They pass.
    Allow,
    /// They are refused.
    Deny,
    /// This sidecar counts by `rate`.
    Local,
}

/// Who has a count of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Per {
    /// Something that every call has.
    Whom(Whom),
    /// Something of the request.
    Part(PerPart),
}

/// Something that every call has.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Whom {
    /// Each caller, as far as it is known: who `allow` found it to be, or else its
    /// address, of IPv6 the /64.
    Client,
    /// Each address, of IPv6 each /64.
    Source,
}

/// Something of the request; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PerPart {
    /// Each value of this header.
    pub header: Option<Header>,
    /// Each value of this parameter of the route.
    pub path: Option<Word>,
    /// Each value of this claim of the caller's token; only for calls to the
    /// service.
    pub claim: Option<Word>,
}

/// Whether calls are refused.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateMode {
    /// They are.
    Enforce,
    /// They pass, and are counted.
    Shadow,
}

/// Which answers tell the caller what it has left.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RateHeaders {
    /// None.
    None,
    /// Those that refuse.
    Refusals,
    /// All.
    All,
}
