//! `discovery`: where services are looked up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Consul, Locality};
use crate::base::UpstreamName;

/// One entry of `discovery`.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The sidecars on this machine.
    Local(Local),
    /// Addresses written in the file.
    Static(BTreeMap<UpstreamName, Vec<StaticEndpoint>>),
    /// Consul, through its agent.
    Consul(Box<Consul>),
    /// The API of Kubernetes.
    Kubernetes(Kubernetes),
    /// The domain name system.
    Dns(Dns),
}

/// `when_empty` and `keep_for` of a source: what holds when it says that a
/// service of which it had named endpoints has none, or is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenEmpty {
    /// The endpoints are used no more.
    Fail,
    /// They are used for this long yet, unless another source knows the service.
    Keep(Duration),
}

/// `discovery: [local: {…}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// Default `$XDG_RUNTIME_DIR/pillion`, else `/tmp/pillion-<uid>`.
    pub directory: PathBuf,
    /// Whether to enter the fronted service; default true.
    pub register: bool,
}

/// One address of `discovery: [static: {…}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticEndpoint {
    /// An IP address or a name that DNS resolves.
    pub host: Arc<str>,
    /// 1 to 65535.
    pub port: u16,
    /// Default 1, at most 1,000.
    pub weight: u32,
    /// Where it stands.
    pub locality: Locality,
}

/// `discovery: [kubernetes: {…}]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Default: the pod's service account, else `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; default: its current one.
    pub context: Option<Arc<str>>,
    /// Of names without one; default: that of the pod or the context.
    pub namespace: Option<Arc<str>>,
    /// What full names end in; default `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Default: nothing is kept.
    pub when_empty: WhenEmpty,
}

/// `discovery: [dns: {…}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Servers to ask instead of those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// Answers live at least this long; default 1 s.
    pub min_ttl: Duration,
    /// Answers live at most this long; default 60 s.
    pub max_ttl: Duration,
    /// For one question; default 2 s.
    pub timeout: Duration,
    /// The port of an upstream whose name carries none; default 80.
    pub default_port: u16,
    /// Default: kept for [`KEEP_FOR`], as DNS can't say why a name has gone.
    pub when_empty: WhenEmpty,
}

/// `keep_for`, unless the file says otherwise.
pub const KEEP_FOR: Duration = Duration::from_secs(30);

impl Source {
    /// What holds when it takes endpoints back. What stands in the file and the
    /// locks of this machine are certain, so that nothing is kept there.
    pub fn when_empty(&self) -> WhenEmpty {
        match self {
            Self::Local(_) | Self::Static(_) => WhenEmpty::Fail,
            Self::Consul(consul) => consul.when_empty,
            Self::Kubernetes(kubernetes) => kubernetes.when_empty,
            Self::Dns(dns) => dns.when_empty,
        }
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: None,
            cluster_domain: "cluster.local".into(),
            when_empty: WhenEmpty::Fail,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
            default_port: 80,
            when_empty: WhenEmpty::Keep(KEEP_FOR),
        }
    }
}
