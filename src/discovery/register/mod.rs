//! The service stands in the registries, and says how it is.

mod consul;
mod entry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::local;
use crate::clients::health::Unhealthy;
use crate::config::Model;
use crate::telemetry::Metrics;

/// How long the end waits for a registry to take the service out.
const LAST_WORD: Duration = Duration::from_secs(2);

/// How the service is, for registries that hold more than that it is there.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Healthy.
    Well,
    /// Not healthy, and why.
    Sick(Arc<str>),
    /// A drain has begun: it is not to be found, also not past its sidecar.
    Leaving,
    /// It must be taken out.
    Gone,
}

/// The service stands in every registry that the configuration names, as long
/// as this lives. A registry that does not answer is no obstacle: it is asked
/// again.
#[must_use = "dropping it takes the service out of the local registry"]
pub struct Standing {
    model: watch::Receiver<Arc<Model>>,
    inbound: SocketAddr,
    metrics: Metrics,
    local: Option<local::Registration>,
    state: watch::Sender<State>,
    consul: JoinHandle<()>,
}

impl Standing {
    /// Enters the service of `model` with `inbound` as its address, and follows
    /// reloads. Must be called within a runtime.
    pub fn enter(model: watch::Receiver<Arc<Model>>, inbound: SocketAddr, metrics: &Metrics) -> Self {
        let state = watch::Sender::new(State::Well);
        let consul = tokio::spawn(consul::stand(model.clone(), inbound, state.subscribe(), metrics.clone()));
        let local = Some(local::register(model.clone(), inbound, metrics));
        Self { model, inbound, metrics: metrics.clone(), local, state, consul }
    }

    /// The service is not healthy.
    pub fn sick(&mut self, why: &Unhealthy) {
        self.local = None;
        self.state.send_replace(State::Sick(why.to_string().into()));
    }

    /// The service is healthy again.
    pub fn well(&mut self) {
        self.state.send_replace(State::Well);
        self.local = Some(local::register(self.model.clone(), self.inbound, &self.metrics));
    }

    /// A drain has begun: others come here only where they know nobody else, and
    /// those that can't know that find nobody here.
    pub fn terminate(&mut self) {
        if let Some(local) = &self.local {
            local.terminate(&self.model.borrow().clone());
        }
        self.state.send_replace(State::Leaving);
    }

    /// Nobody finds the service any more.
    pub fn withdraw(&mut self) {
        self.local = None;
        self.state.send_replace(State::Leaving);
    }

    /// The end: whatever is left is taken out, unless a registry does not
    /// answer.
    pub async fn end(mut self) {
        self.local = None;
        self.state.send_replace(State::Gone);
        // It bounds its last words itself, unless it hangs in others.
        let _ = tokio::time::timeout(LAST_WORD * 2, &mut self.consul).await;
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.consul.abort();
    }
}
