//! What discovery knows of an upstream: a set of endpoints, or why there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What a service speaks on its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// What the caller speaks: HTTP/2 calls go on as HTTP/2, all others as HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// HTTP/2 by prior knowledge, with gRPC's errors.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

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

impl Protocol {
    /// The word that a policy file uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}
