//! `discovery`: one place each where services are looked up.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Consul;
use crate::config::text::{Pause, Server, Span, Target, Word};

/// One place where services are looked up; exactly one of the keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Source {
    /// The sidecars on this machine.
    pub local: Option<Local>,
    /// Addresses that are written here, by the name of the service.
    #[serde(rename = "static")]
    pub fixed: Option<BTreeMap<String, Vec<Endpoint>>>,
    /// Consul, through its agent.
    pub consul: Option<Consul>,
    /// The API of Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    /// The domain name system.
    pub dns: Option<Dns>,
}

/// The sidecars on this machine.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// Where they meet. Default: `pillion` in `$XDG_RUNTIME_DIR`, else
    /// `/tmp/pillion-<user id>`.
    pub directory: Option<Word>,
    /// Whether to enter the fronted service.
    #[schemars(extend("default" = true))]
    pub register: Option<bool>,
}

/// One address of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    /// An IP address or a name, with a port.
    Short(Target),
    /// An address with more.
    Long(LongEndpoint),
}

/// An address with more.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["address"]))]
pub struct LongEndpoint {
    /// An IP address or a name, with a port.
    pub address: Option<Target>,
    /// Share of the traffic beside the other addresses.
    #[schemars(range(min = 1, max = 1000), extend("default" = 1))]
    pub weight: Option<u32>,
    /// The region it stands in.
    pub region: Option<Word>,
    /// The zone it stands in.
    pub zone: Option<Word>,
}

/// The API of Kubernetes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// A kubeconfig. Default: the service account of the pod, and outside of a
    /// pod `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<Word>,
    /// A context of the kubeconfig. Default: its current one.
    pub context: Option<Word>,
    /// The namespace of names without one. Default: that of the pod or of the
    /// context.
    pub namespace: Option<Word>,
    /// What full names end in.
    #[schemars(extend("default" = "cluster.local"))]
    pub cluster_domain: Option<Word>,
    /// What holds when a Service has no endpoint left, or exists no more.
    #[schemars(extend("default" = "fail"))]
    pub when_empty: Option<WhenEmpty>,
    /// With `when_empty: keep`: for how long. Default: 30s.
    pub keep_for: Option<Span>,
}

/// The domain name system.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Servers to ask instead of those of `/etc/resolv.conf`.
    #[schemars(extend("default" = []))]
    pub servers: Option<Vec<Server>>,
    /// Answers live at least this long.
    #[schemars(extend("default" = "1s"))]
    pub min_ttl: Option<Pause>,
    /// Answers live at most this long.
    #[schemars(extend("default" = "1m"))]
    pub max_ttl: Option<Span>,
    /// For one question.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Option<Span>,
    /// The port of a service whose name carries none.
    #[schemars(range(min = 1, max = 65535), extend("default" = 80))]
    pub default_port: Option<u16>,
    /// What holds when DNS takes back what it said: the name exists no more, or
    /// has no address.
    #[schemars(extend("default" = "keep"))]
    pub when_empty: Option<WhenEmpty>,
    /// With `when_empty: keep`: for how long.
    #[schemars(extend("default" = "30s"))]
    pub keep_for: Option<Span>,
}

/// What holds when a source says that a service has no endpoint, or that it
/// knows no such service, after it had named endpoints of it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenEmpty {
    /// The endpoints are used for `keep_for` yet, unless another source knows
    /// the service.
    Keep,
    /// The endpoints are used no more.
    Fail,
}
