//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod base;
pub mod config;
