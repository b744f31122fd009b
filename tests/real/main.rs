//! The sidecar between real servers and real clients: one module a part.
//!
//! `tests/parts/install.sh` installs what these tests start. A part that is
//! missing fails its tests, which say so.
#![allow(missing_docs)]
// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod authorization;
mod breakers;
mod consul;
mod databases;
mod gateway;
mod grpc;
mod h2spec;
mod haproxy;
mod parts;
mod rate_limits;
mod rate_service;
mod server;
#[allow(dead_code, unused_imports, reason = "shared with the tests in process")]
#[path = "../it/support/mod.rs"]
mod support;
mod transcode;
mod websocket;
