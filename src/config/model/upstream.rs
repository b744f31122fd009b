//! What a policy says of an upstream as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Fitness, RoutePolicy};
use crate::base::{Origin, Protocol, ProxyProtocol};

/// What a policy says of an upstream as a whole: an `outbound` entry without `route`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upstream {
    /// Overrides what discovery says, unless auto.
    pub protocol: Protocol,
    /// How it is told of its callers; default not at all.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A local port whose every connection goes to this upstream.
    pub listen: Option<SocketAddr>,
    /// Names of TLS that lead here, in lower case; a leading `*.` takes every
    /// name below. Default none.
    pub sni: Vec<Arc<str>>,
    /// How many connections the process may have to it; default any number.
    pub connections: Option<Connections>,
    /// Which of its endpoints take calls.
    pub fitness: Fitness,
    /// What applies to its calls that no route takes.
    pub policy: RoutePolicy,
    /// Where the entry stands; `None` where only routes name the upstream.
    pub origin: Option<Origin>,
}

/// `connections`.
#[derive(Clone, Debug, PartialEq)]
pub struct Connections {
    /// Connections of all workers together.
    pub max: usize,
    /// How many may wait for one; default 100.
    pub pending: usize,
    /// How long they may wait; default 1 s.
    pub wait: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { max: usize::MAX, pending: 100, wait: Duration::from_secs(1) }
    }
}
