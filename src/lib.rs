//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod admin;
pub mod app;
pub mod banner;
pub mod base;
pub mod child;
pub mod cli;
pub mod codec;
pub mod config;
pub mod discovery;
pub mod dev;
pub mod policy;
pub mod ports;
pub mod proxy;
pub mod run;
pub mod runtime;
pub mod signals;
pub mod telemetry;
pub mod upstream;
