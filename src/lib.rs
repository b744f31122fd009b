//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod admin;
pub mod app;
pub mod base;
pub mod child;
pub mod config;
pub mod telemetry;
