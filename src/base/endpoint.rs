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
    /// The region it stands in, such as `eu`, where the source tells one.
    pub region: Option<Arc<str>>,
    /// The zone it stands in, such as `eu-1a`, where the source tells one.
    pub zone: Option<Arc<str>>,
    /// Whether it takes new calls.
    pub standing: Standing,
    /// What it speaks, where the source knows it better than the policy.
    pub protocol: Protocol,
}

/// Whether an endpoint takes new calls, as far as its source knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It does.
    #[default]
    Ready,
    /// It ends and still serves: it is used only where none is ready, as
    /// Kubernetes does with endpoints that are serving and terminating.
    Terminating,
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
        Self {
            address,
            weight: 1,
            region: None,
            zone: None,
            standing: Standing::Ready,
            protocol: Protocol::Auto,
        }
    }
}

impl Standing {
    /// The word for it in dumps.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
        }
    }
}

impl EndpointSet {
    /// Sorts the endpoints and drops repetitions of an address.
    pub fn new(mut endpoints: Vec<Endpoint>, source: &'static str, as_of: SystemTime) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Self { endpoints: endpoints.into(), source, as_of }
    }

    /// Those that new calls go to: the ready ones, or where there are none those
    /// that end.
    pub fn usable(&self) -> impl Iterator<Item = &Endpoint> {
        let ready = self.endpoints.iter().any(|endpoint| endpoint.standing == Standing::Ready);
        self.endpoints.iter().filter(move |endpoint| !ready || endpoint.standing == Standing::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_ends_is_used_only_where_none_is_ready() {
        let endpoint = |port, standing| Endpoint { standing, ..Endpoint::new(([127, 0, 0, 1], port).into()) };
        let usable = |endpoints| {
            let set = EndpointSet::new(endpoints, "static", SystemTime::UNIX_EPOCH);
            set.usable().map(|endpoint| endpoint.address.port()).collect::<Vec<_>>()
        };
        use Standing::{Ready, Terminating};
        assert_eq!(usable(vec![endpoint(1, Terminating), endpoint(2, Ready)]), [2]);
        assert_eq!(usable(vec![endpoint(1, Terminating), endpoint(2, Terminating)]), [1, 2]);
    }
}
