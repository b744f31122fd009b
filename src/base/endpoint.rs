//! What discovery knows of an upstream: a set of endpoints, or why there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::Protocol;

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Share of the traffic beside the other endpoints; at least 1, default 1.
    pub weight: u32,
    /// The zone it stands in, where the source tells one.
    pub zone: Option<Arc<str>>,
    /// What it speaks, where the source knows it better than the policy.
    pub protocol: Protocol,
}

/// The endpoints of an upstream at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSet {
    /// In a stable order: sorted by address, without repetition.
    pub endpoints: Arc<[Endpoint]>,
    /// Which source gave the answer: `local`, `static`, `dns`, ….
    pub source: &'static str,
    /// When the answer was given.
    pub as_of: SystemTime,
}

/// What is known of an upstream by now.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// No source has answered yet.
    Pending,
    /// The endpoints; never empty.
    Found(EndpointSet),
    /// Every source answered, and none knows a service of this name.
    Unknown,
    /// A source knows the service and says that it has no endpoint now.
    Empty {
        /// The source that said so.
        source: &'static str,
    },
    /// No source could answer, and there is no earlier answer to keep.
    Failed {
        /// What went wrong, for a person.
        why: Arc<str>,
    },
}

impl Endpoint {
    /// An endpoint of weight 1 with nothing else known of it.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: 1, zone: None, protocol: Protocol::Auto }
    }
}

impl EndpointSet {
    /// Sorts the endpoints and drops repetitions of an address.
    pub fn new(mut endpoints: Vec<Endpoint>, source: &'static str, as_of: SystemTime) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Self { endpoints: endpoints.into(), source, as_of }
    }
}
