//! What the configuration says of one upstream's endpoints.

use crate::base::{Protocol, ProxyProtocol, UpstreamName};
use crate::config::Model;
use crate::config::model::{Balance, Fitness, Locality};
use crate::policy::fleet::Ways;
use crate::policy::vitals::Watch;

/// What the model says of one upstream.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Health checks and ejection.
    pub fitness: Fitness,
    /// What is near; nothing where that does not matter.
    pub near: Locality,
    /// What is laid out for picking.
    pub ways: Ways,
    /// What endpoints speak.
    pub protocol: Protocol,
    /// The header before the first byte, if any.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl Settings {
    /// What `model` says of `name`.
    pub fn of(name: &UpstreamName, model: &Model) -> Self {
        let block = model.upstreams.get(name);
        let fitness = block.map(|block| block.fitness.clone()).unwrap_or_default();
        let near = if fitness.prefer_near { model.service.locality.clone() } else { Locality::default() };
        let mut ways = Ways::default();
        let routes = model.outbound.iter().filter(|route| route.to.as_ref() == Some(name));
        let policies = routes.map(|route| &route.policy);
        for policy in policies.chain([block.map_or(&model.defaults, |block| &block.policy)]) {
            ways.turns |= policy.balance == Balance::RoundRobin;
            ways.ring |= matches!(policy.balance, Balance::Hash(_));
        }
        let protocol = block.map_or(Protocol::Auto, |block| block.protocol);
        let proxy_protocol = block.and_then(|block| block.proxy_protocol);
        Self { fitness, near, ways, protocol, proxy_protocol }
    }

    /// Tells the limits to those who count.
    pub fn tell(&self, watch: &Watch) {
        let slow = self.fitness.slow_start.unwrap_or_default();
        match &self.fitness.ejection {
            Some(rules) => {
                watch.set(rules.consecutive_failures, rules.gateway_errors, true, slow);
            }
            None => watch.set(0, 0, false, slow),
        }
    }
}
