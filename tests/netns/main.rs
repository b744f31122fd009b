//! What takes root: transparent capture with the kernel's own rules, in two pods,
//! each a network namespace with a service and a sidecar that runs as user 8700;
//! several users of one machine; and endpoints that end in hard ways.
//!
//! Capture happens in namespaces that the tests make and delete; the rules of the
//! machine itself are never written.
#![allow(missing_docs)]
// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod capture;
mod endings;
mod place;
mod rules;
#[allow(dead_code, unused_imports, reason = "shared with the tests in process")]
#[path = "../it/support/mod.rs"]
mod support;
mod users;
mod world;
