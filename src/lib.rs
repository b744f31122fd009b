//! Pillion: a service-mesh sidecar. `docs/architecture.md` is the map.

pub mod admin;
pub mod app;
pub mod base;
pub mod cli;
pub mod clients;
pub mod codec;
pub mod config;
pub mod dev;
pub mod discovery;
pub mod kubernetes;
pub mod policy;
pub mod proxy;
pub mod run;
pub mod runtime;
pub mod telemetry;
pub mod trial;
pub mod upstream;
