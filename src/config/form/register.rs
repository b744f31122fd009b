//! `register` of Consul: how the fronted service is entered.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::text::{Reach, Span, Word};

/// Whether and how the fronted service is entered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Register {
    /// Whether to enter it.
    Whether(bool),
    /// How to enter it.
    How(RegisterHow),
}

/// How the fronted service is entered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterHow {
    /// Where callers reach `listen.inbound`: an address or a name, with a port
    /// where that is another one. Default: the host of `listen.inbound`; where
    /// that is every address, the agent's node if the agent is on this machine,
    /// else the address from which this machine reaches the agent.
    pub address: Option<Reach>,
    /// What says whether the service is well.
    #[schemars(extend("default" = "ttl"))]
    pub check: Option<Check>,
    /// With `check: ttl`: the service is critical when nothing was heard for so
    /// long. Said three times as often.
    #[schemars(extend("default" = "15s"))]
    pub ttl: Option<Span>,
    /// Consul takes the service out when it has been critical for so long; at
    /// least 1 minute.
    #[schemars(extend("default" = "10m"))]
    pub deregister_after: Option<Span>,
    /// Share of the traffic beside the other instances.
    #[schemars(range(min = 1, max = 1000), extend("default" = 1))]
    pub weight: Option<u32>,
    /// More of the entry's metadata; keys of letters, digits, `-` and `_`.
    #[schemars(extend("default" = {}))]
    pub metadata: Option<BTreeMap<String, Word>>,
}

/// What says whether the service is well.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The sidecar tells Consul what it finds itself by `service.health`.
    Ttl,
    /// Consul asks `service.health.path`, through the sidecar.
    Http,
    /// Consul asks `service.health.grpc`, through the sidecar.
    Grpc,
}
