//! The composition root: the only place that wires the parts together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::UpstreamName;
use crate::base::readiness::Readiness;
use crate::config::Model;
use crate::telemetry::Metrics;

/// What to run, beside the model.
#[derive(Default)]
pub struct Options {
    /// Newer models, each validated; the app applies them.
    pub reloads: Option<tokio::sync::mpsc::Receiver<Arc<Model>>>,
    /// Where to count; a fresh registry unless told otherwise.
    pub metrics: Metrics,
}

/// A running sidecar: its threads are up and its listeners are bound.
pub struct App {
    /// The addresses that were bound.
    pub addresses: Addresses,
    /// Whether it takes traffic.
    pub readiness: Readiness,
    /// Its metrics.
    pub metrics: Metrics,
}

/// The addresses that were bound; port 0 has become a real port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Calls to the service.
    pub inbound: SocketAddr,
    /// Calls of the service.
    pub outbound: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
    /// Probes and metrics.
    pub probes: SocketAddr,
    /// The local port of each upstream that has one.
    pub upstreams: BTreeMap<UpstreamName, SocketAddr>,
}

/// Why a sidecar could not start, for a person.
#[derive(Debug)]
pub struct StartError(pub String);

impl App {
    /// Binds every listener, then starts the threads. An address that is taken
    /// is an error here, and nothing is left running.
    pub fn start(_model: Arc<Model>, _options: Options) -> Result<Self, StartError> {
        Err(StartError("not wired yet".into()))
    }

    /// Fails readiness, waits `drain.delay`, closes the listeners and lets what
    /// runs finish until `drain.deadline`. Returns whether all was finished.
    pub async fn drain(&self) -> bool {
        false
    }

    /// Ends at once and joins every thread. A panic in one of them is returned.
    pub fn stop(self) -> Result<(), String> {
        Ok(())
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}
