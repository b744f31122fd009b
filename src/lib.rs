//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod admin;
pub mod app;
pub mod base;
pub mod child;
pub mod codec;
pub mod config;
pub mod policy;
pub mod telemetry;
pub mod upstream;
