//! Tests of the whole sidecar, in process, between real servers and clients.
//!
//! Every server of a test has a free port and is joined at the end; a panic in
//! any thread, the sidecar's included, fails the test.
#![allow(missing_docs)]

mod errors;
mod forwarding;
mod harness;
mod hostile_http1;
mod hostile_http2;
mod misbehaving;
mod support;
