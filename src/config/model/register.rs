//! How the service is entered into Consul.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// `discovery: [consul: {register: {…}}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Where callers reach the sidecar; default: found out.
    pub address: Option<Reach>,
    /// What says whether the service is well.
    pub check: Check,
    /// Consul takes the service out when it was critical for so long; default
    /// 10 min, at least 1 min.
    pub deregister_after: Duration,
    /// Default 1, at most 1,000.
    pub weight: u32,
    /// More of the entry's metadata.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
}

/// A host that callers reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// An IP address without brackets, or a name.
    pub host: Arc<str>,
    /// Default: the port of `listen.inbound`.
    pub port: Option<u16>,
}

/// What says whether the service is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The sidecar tells, three times in this time; default 15 s.
    Ttl(Duration),
    /// The agent asks `service.health.path` through the sidecar.
    Http,
    /// The agent asks `service.health.grpc` through the sidecar.
    Grpc,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            address: None,
            check: Check::Ttl(Duration::from_secs(15)),
            deregister_after: Duration::from_secs(600),
            weight: 1,
            metadata: BTreeMap::new(),
        }
    }
}
