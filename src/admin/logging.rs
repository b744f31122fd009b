//! /logging: the level, live.

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::telemetry::logging::{self, LevelError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    level: String,
}

pub(super) async fn show() -> Response {
    match logging::level() {
        Some(level) => super::json(&json!({ "level": level })).into_response(),
        None => problem(&LevelError::NotOurs),
    }
}

pub(super) async fn change(Query(change): Query<Change>) -> Response {
    match logging::set_level(&change.level) {
        Ok(()) => {
            tracing::info!(level = change.level, "log level changed");
            show().await
        }
        Err(error) => problem(&error),
    }
}

fn problem(error: &LevelError) -> Response {
    let status = match error {
        LevelError::Malformed(_) => StatusCode::BAD_REQUEST,
        LevelError::NotOurs => StatusCode::CONFLICT,
    };
    (status, format!("{error}\n")).into_response()
}
