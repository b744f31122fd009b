//! /livez, /readyz, /metrics.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::AdminState;
use crate::base::readiness;
use crate::telemetry::process;

const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(state): State<AdminState>) -> (StatusCode, String) {
    match state.readiness.state() {
        readiness::State::Ready => (StatusCode::OK, "ready\n".into()),
        readiness::State::Leaving => (StatusCode::SERVICE_UNAVAILABLE, "leaving\n".into()),
        readiness::State::Waiting(names) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waits for: {}\n", names.join(", ")))
        }
    }
}

pub(super) async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    process::observe(&state.metrics, state.readiness.state() == readiness::State::Ready);
    state.metrics.upkeep();
    ([(CONTENT_TYPE, EXPOSITION)], state.metrics.render())
}
