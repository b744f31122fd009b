//! Forwarding by the rules of RFC 9110, 9112 and 9113.

mod bodies;
mod extended;
mod http1;
mod http2;
mod tunnels;
mod websockets;

use std::net::SocketAddr;

use crate::support::{Sidecar, sidecar};

/// A sidecar whose upstream `users` and whose own service are at `at`.
fn before(at: SocketAddr) -> Sidecar {
    sidecar("front").upstream("users", at).service(at).start()
}
