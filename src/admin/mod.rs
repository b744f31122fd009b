//! The HTTP API of the sidecar itself: probes and metrics on a port for
//! orchestrators, and what an operator asks on a loopback port.
//!
//! Nothing here is on the path of a request; all of it runs on the control
//! thread and only reads, but for the log level and `POST /drain`.

mod clusters;
pub mod dump;
mod guard;
mod logging;
mod probes;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::base::directory::Directory;
use crate::base::readiness::Readiness;
use crate::config::Model;
use crate::telemetry::Metrics;

pub use server::serve;

use crate::upstream::snapshot::{BreakerState, ConcurrencyState, EndpointStats};

/// What the API shows and changes; cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// Asked by /readyz. `POST /drain` makes it leave: whoever runs the app
    /// waits for [`Readiness::leaving`] and then drains as on a SIGTERM.
    pub readiness: Readiness,
    /// Rendered by /metrics.
    pub metrics: Metrics,
    /// The model in force.
    pub model: Arc<dyn Fn() -> Arc<Model> + Send + Sync>,
    /// What discovery holds.
    pub directory: Directory,
    /// What the workers know of each endpoint.
    pub endpoints: Arc<dyn Fn() -> Vec<EndpointStats> + Send + Sync>,
    /// How the circuit breakers stand.
    pub breakers: Arc<dyn Fn() -> Vec<BreakerState> + Send + Sync>,
    /// How the limits of calls at one time stand.
    pub concurrency: Arc<dyn Fn() -> Vec<ConcurrencyState> + Send + Sync>,
    /// Lets callers from other machines use the admin port; false unless the
    /// operator says otherwise.
    pub allow_remote: bool,
}

/// The routes of the probes port: /livez, /readyz, /metrics.
pub fn probes(state: AdminState) -> Router {
    probe_routes().with_state(state)
}

/// The routes of the admin port, behind the guard.
pub fn admin(state: AdminState) -> Router {
    probe_routes()
        .route("/", get(index))
        .route("/config_dump", get(dump::config_dump))
        .route("/clusters", get(clusters::clusters))
        .route("/logging", get(logging::show).put(logging::change))
        .route("/drain", post(drain))
        .layer(from_fn_with_state(state.clone(), guard::check))
        .with_state(state)
}

fn probe_routes() -> Router<AdminState> {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
}

const INDEX: &str = "\
GET  /livez           200 while the process lives
GET  /readyz          200 while it takes traffic; 503 says what it waits for
GET  /metrics         Prometheus text
GET  /config_dump     the configuration in force, each value with the place it came from
GET  /clusters        upstreams and their endpoints (?format=text for a table)
GET  /logging         the log level
PUT  /logging?level=  another level: debug, or pillion=debug,h2=warn
POST /drain           leave: as a SIGTERM does
";

/// For people as well as for programs.
fn json(value: &serde_json::Value) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n"))
}

async fn index(axum::extract::State(state): axum::extract::State<AdminState>) -> String {
    let model = (state.model)();
    format!("pillion {} beside {}\n\n{INDEX}", env!("CARGO_PKG_VERSION"), model.service.name)
}

async fn drain(
    axum::extract::State(state): axum::extract::State<AdminState>,
) -> (axum::http::StatusCode, &'static str) {
    state.readiness.leave();
    (axum::http::StatusCode::ACCEPTED, "draining\n")
}

#[cfg(test)]
mod tests;
