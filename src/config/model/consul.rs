//! Consul as a source of discovery.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::WhenEmpty;
use super::register::Register;
use crate::base::UpstreamName;

/// `discovery: [consul: {…}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Consul {
    /// A URL; default `http://127.0.0.1:8500`.
    pub address: Arc<str>,
    /// The ACL token.
    pub token: ConsulToken,
    /// The files of TLS.
    pub tls: ConsulTls,
    /// Default: the agent's.
    pub datacenter: Option<Arc<str>>,
    /// Default: the token's.
    pub namespace: Option<Arc<str>>,
    /// Which instances are used.
    pub instances: ConsulInstances,
    /// The prepared query of an upstream, where it has one.
    pub queries: BTreeMap<UpstreamName, Arc<str>>,
    /// From one run of a prepared query to the next; default 2 s.
    pub query_interval: Duration,
    /// How fresh an answer has to be.
    pub consistency: Consistency,
    /// How long Consul may hold a question; default 30 s.
    pub wait: Duration,
    /// How long instances are kept that Consul lost with its memory; default 5 min.
    pub keep_lost: Duration,
    /// Default: given up, as Consul knows what it says.
    pub when_empty: WhenEmpty,
    /// Questions at one time; default 100.
    pub connections: u32,
    /// How the service is entered; default not at all.
    pub register: Option<Register>,
}

/// Which instances of a service are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsulInstances {
    /// They have each of these.
    pub tags: Vec<Arc<str>>,
    /// They have each key with its value.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
    /// An expression of Consul's.
    pub filter: Option<Arc<str>>,
    /// Those near to this node first.
    pub near: Option<Arc<str>>,
    /// At most so many; default all.
    pub limit: Option<u32>,
    /// Not those that warn; default false.
    pub only_passing: bool,
}

/// Where the ACL token comes from. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum ConsulToken {
    /// There is none.
    #[default]
    None,
    /// The token itself.
    Text(Arc<str>),
    /// A file that holds it.
    File(PathBuf),
}

/// The files of TLS to Consul.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsulTls {
    /// Default: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Default none.
    pub cert_file: Option<PathBuf>,
    /// Default none.
    pub key_file: Option<PathBuf>,
    /// Default: the host of the address.
    pub server_name: Option<Arc<str>>,
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// From the leader; the default.
    #[default]
    Default,
    /// From any server.
    Stale,
    /// From a leader who has made sure.
    Consistent,
}

impl Consistency {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Stale => "stale",
            Self::Consistent => "consistent",
        }
    }
}

impl Default for Consul {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8500".into(),
            token: ConsulToken::None,
            tls: ConsulTls::default(),
            datacenter: None,
            namespace: None,
            instances: ConsulInstances::default(),
            queries: BTreeMap::new(),
            query_interval: Duration::from_secs(2),
            consistency: Consistency::Default,
            wait: Duration::from_secs(30),
            keep_lost: Duration::from_secs(300),
            when_empty: WhenEmpty::Fail,
            connections: 100,
            register: None,
        }
    }
}

impl fmt::Debug for ConsulToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}
