//! `discovery: [consul: {…}]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::WhenEmpty;
use crate::config::text::{ConsulAddress, Span, Word};

/// Consul, through its agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consul {
    /// `http://host:port`, `https://host:port` or `unix:///path`. Default:
    /// `$CONSUL_HTTP_ADDR`, else `http://127.0.0.1:8500`.
    pub address: Option<ConsulAddress>,
    /// The ACL token; an empty one is none. Default: `$CONSUL_HTTP_TOKEN`, else
    /// the file `$CONSUL_HTTP_TOKEN_FILE`, else none.
    pub token: Option<String>,
    /// A file that holds the token, read again when it changes.
    pub token_file: Option<Word>,
    /// The files of TLS, with an `https` address.
    pub tls: Option<ConsulTls>,
    /// Default: the agent's.
    pub datacenter: Option<Word>,
    /// Of Consul Enterprise. Default: the token's.
    pub namespace: Option<Word>,
    /// Instances must have each of these tags.
    #[schemars(extend("default" = []))]
    pub tags: Option<Vec<Word>>,
    /// Instances must have these keys with these values.
    #[schemars(extend("default" = {}))]
    pub metadata: Option<BTreeMap<String, Word>>,
    /// An expression of Consul's filter language. A service of which it lets
    /// nothing through counts as not known.
    pub filter: Option<Word>,
    /// With `limit`: instances near to this node first; `_agent` is the agent's.
    pub near: Option<Word>,
    /// At most so many instances of each service.
    #[schemars(range(min = 1, max = 10000))]
    pub limit: Option<u32>,
    /// Whether instances with a check in the state `warning` are left out.
    #[schemars(extend("default" = false))]
    pub only_passing: Option<bool>,
    /// Services that are asked for by a prepared query, with its name.
    #[schemars(extend("default" = {}))]
    pub queries: Option<BTreeMap<String, Word>>,
    /// From one run of a prepared query to the next.
    #[schemars(extend("default" = "2s"))]
    pub query_interval: Option<Span>,
    /// How fresh an answer has to be.
    #[schemars(extend("default" = "default"))]
    pub consistency: Option<Consistency>,
    /// How long Consul may hold a question when nothing changes; 1s to 10m.
    #[schemars(extend("default" = "30s"))]
    pub wait: Option<Span>,
    /// How long instances are kept that Consul has lost together with its
    /// memory.
    #[schemars(extend("default" = "5m"))]
    pub keep_lost: Option<Span>,
    /// What holds when Consul takes back what it said: a service has no instance
    /// that is well, or there is no such service any more.
    #[schemars(extend("default" = "fail"))]
    pub when_empty: Option<WhenEmpty>,
    /// With `when_empty: keep`: for how long. Default: 30s.
    pub keep_for: Option<Span>,
    /// Whether and how the fronted service is entered. Default: it is not.
    pub register: Option<super::Register>,
    /// Questions at one time.
    #[schemars(range(min = 1, max = 10000), extend("default" = 100))]
    pub connections: Option<u32>,
}

/// The files of TLS, each read again when it changes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsulTls {
    /// Whom to trust, as PEM. Default: whom the system trusts.
    pub ca_file: Option<Word>,
    /// Our certificate, as PEM.
    pub cert_file: Option<Word>,
    /// Its key, as PEM.
    pub key_file: Option<Word>,
    /// The name in the agent's certificate, such as `server.dc1.consul`.
    /// Default: the host of the address.
    pub server_name: Option<Word>,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// From the leader.
    Default,
    /// From any server, also while there is no leader.
    Stale,
    /// From a leader who has made sure that it is one.
    Consistent,
}
