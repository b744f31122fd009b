//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod app;
pub mod base;
pub mod codec;
pub mod config;
pub mod telemetry;
