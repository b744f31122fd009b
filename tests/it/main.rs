//! Tests of the whole sidecar, in process, between real servers and clients.
//!
//! Every server of a test has a free port and is joined at the end; a panic in
//! any thread, the sidecar's included, fails the test.
#![allow(missing_docs)]
// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod authorization;
mod breaker;
mod concurrency;
mod deadlines;
mod discovery;
mod egress;
mod endurance;
mod errors;
mod forwarding;
mod gateway;
mod grpc;
mod harness;
mod health;
mod hedging;
mod hostile_http1;
mod hostile_http2;
mod limits;
mod metrics;
mod mirroring;
mod misbehaving;
mod policy;
mod process;
mod rate_limits;
mod rate_service;
mod retries;
mod shaping;
mod support;
mod tcp;
mod transcode;
