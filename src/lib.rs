//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod app;
pub mod base;
pub mod codec;
pub mod config;
pub mod policy;
pub mod proxy;
pub mod discovery;
pub mod telemetry;
pub mod upstream;
