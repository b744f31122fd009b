//! `pillion test`: the calls of `tests` in policy files, made in a world of
//! their own. The path of a request is the sidecar's own, from the first byte of
//! the caller to the service's last; only what is outside is made up: the
//! caller, the called services, the network between them, and the time.

mod judge;
mod service;
mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::base::Origin;
use crate::config::Model;
use crate::config::model::Test;

/// Where the world's random choices begin, so that a test goes the same way
/// each time.
const SEED: u64 = 1;

/// Where the fronted service is, where the files do not say it.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What a test found wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it was expected.
    pub origin: Origin,
    /// Which call it was, and what is not as expected.
    pub why: String,
    /// What came to the called services, a line each.
    pub seen: Vec<String>,
}

/// Runs one test. It ends with the first call that is not as expected.
pub fn run(model: &Arc<Model>, test: &Test) -> Result<(), Failure> {
    fastrand::seed(SEED);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Failure {
        origin: test.origin.clone(),
        why: format!("it can't be run: {error}"),
        seen: Vec::new(),
    })?;
    let local = tokio::task::LocalSet::new();
    let mut model = model.clone();
    if model.service.address.is_none() {
        // A policy file by itself does not say where the service listens.
        Arc::make_mut(&mut model).service.address = Some(SERVICE);
    }
    let ended = local.block_on(&runtime, world::run(model, test));
    // Tasks end before the runtime whose timers they hold.
    drop(local);
    ended
}

#[cfg(test)]
mod tests;
