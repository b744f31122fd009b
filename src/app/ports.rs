//! Listeners that come and go with a model.

use std::net::SocketAddr;

use crate::config::Model;
use crate::proxy::Gate;

/// The listeners that come and go with a model.
pub fn ports(model: &Model) -> Vec<(Gate, SocketAddr)> {
    let upstreams = model.upstreams.iter();
    let upstreams = upstreams.filter_map(|(name, block)| Some((Gate::Upstream(name.clone()), block.listen?)));
    let gateways = model.gateways.iter().map(|gateway| (Gate::Gateway(gateway.listen), gateway.listen));
    upstreams.chain(gateways).collect()
}

/// What the files call such a listener.
pub fn key(gate: &Gate) -> String {
    match gate {
        Gate::Upstream(name) => format!("outbound: to: {name}: listen"),
        _ => "gateway: listen".to_owned(),
    }
}
