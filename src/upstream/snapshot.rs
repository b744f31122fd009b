//! What the admin port shows of the upstreams: values, no machinery.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::UpstreamName;

/// The state of an endpoint of which nothing is wrong.
pub const IN_USE: &str = "in_use";

/// What the workers know of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStats {
    /// The upstream it belongs to.
    pub upstream: UpstreamName,
    /// Where it is.
    pub address: SocketAddr,
    /// Requests at hand.
    pub active: u64,
    /// Requests since the start.
    pub requests: u64,
    /// Those of them that failed, as `failures` of their routes says.
    pub failures: u64,
    /// Peak EWMA of the time to the head of an answer; `None` before the first.
    pub ewma_ms: Option<f64>,
    /// Connections that are idle or shared.
    pub connections: u64,
    /// Whether it is passed over because it could not be reached.
    pub away: bool,
    /// How it stands for all workers: `in_use`, `warming`, `on_probation`,
    /// `ejected`, `unhealthy`.
    pub state: &'static str,
    /// Why it is not in use; empty where it is.
    pub why: String,
}

impl EndpointStats {
    /// Of an endpoint that nobody has called.
    pub fn new(upstream: UpstreamName, address: SocketAddr) -> Self {
        Self {
            upstream,
            address,
            active: 0,
            requests: 0,
            failures: 0,
            ewma_ms: None,
            connections: 0,
            away: false,
            state: IN_USE,
            why: String::new(),
        }
    }

    /// Takes in what another worker knows of the same endpoint.
    pub fn add(&mut self, other: &Self) {
        self.active += other.active;
        self.requests += other.requests;
        self.failures += other.failures;
        self.connections += other.connections;
        self.away |= other.away;
        self.ewma_ms = match (self.ewma_ms, other.ewma_ms) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }
}

/// How a circuit breaker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerState {
    /// Whose it is.
    pub upstream: UpstreamName,
    /// The route as a policy writes it; empty for what no route takes.
    pub route: Arc<str>,
    /// The endpoint; `None` for the whole route.
    pub address: Option<SocketAddr>,
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
}

/// How a limit of calls at one time stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyState {
    /// The called service; `None` for calls to the service.
    pub upstream: Option<UpstreamName>,
    /// The route as a policy writes it; empty for an entry without one.
    pub route: Arc<str>,
    /// Whether it follows the latency.
    pub adaptive: bool,
    /// Calls that may be there at one time now.
    pub limit: usize,
    /// Calls that are.
    pub in_use: usize,
    /// Calls that wait.
    pub waiting: usize,
}
