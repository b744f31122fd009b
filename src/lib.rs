//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod app;
pub mod base;
pub mod config;
pub mod discovery;
pub mod telemetry;
