//! From Consul's instances to endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::hosts::Hosts;
use crate::base::{Endpoint, Protocol, UpstreamName};
use crate::clients::consul::{Instance, Status};
use crate::config::model::ConsulInstances;
use crate::discovery::dns::Resolver;
use crate::discovery::fronted;

/// The largest weight, as in a file.
const WEIGHT: u32 = 1000;

/// Which instances are used, and where they are.
pub(super) struct Chosen {
    which: ConsulInstances,
    dns: Arc<Resolver>,
}

/// The instances of an answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listed {
    /// Each address that stands there, also of those that are not used.
    pub all: Vec<SocketAddr>,
    /// Those that are used.
    pub used: Vec<Endpoint>,
    /// Whether any instance stands there, also one without a usable address.
    pub any: bool,
}

impl Chosen {
    pub(super) fn new(which: ConsulInstances, dns: Resolver) -> Self {
        Self { which, dns: Arc::new(dns) }
    }

    /// What the instances come to for calls of `name`.
    pub(super) async fn endpoints(
        &self,
        name: &UpstreamName,
        mut instances: Vec<Instance>,
        hosts: &mut Hosts,
    ) -> Listed {
        let mut listed = Listed { any: !instances.is_empty(), ..Listed::default() };
        fronted::leave_out_plain(&mut instances);
        let named = instances.iter().map(|instance| &instance.address);
        let named = named.filter(|address| address.parse::<IpAddr>().is_err());
        hosts.look_up(&self.dns, named.cloned().collect()).await;
        let mut left = self.which.limit.map_or(usize::MAX, |limit| limit as usize);
        for instance in &instances {
            let port = Some(instance.port).filter(|port| *port > 0).or(name.port());
            let Some(port) = port else { continue };
            let weight = self.weight(instance).filter(|_| left > 0);
            left -= usize::from(weight.is_some());
            let written = instance.address.parse::<IpAddr>();
            let found = written.as_ref().map_or_else(|_| hosts.of(&instance.address), std::slice::from_ref);
            for ip in found.iter().filter(|ip| !ip.is_unspecified()) {
                let address = SocketAddr::new(*ip, port);
                listed.all.push(address);
                listed.used.extend(weight.map(|weight| endpoint(instance, address, weight)));
            }
        }
        listed
    }

    /// `None` for one that is not used.
    fn weight(&self, instance: &Instance) -> Option<u32> {
        let which = &self.which;
        let tags = which.tags.iter().all(|tag| instance.tags.iter().any(|other| **other == **tag));
        let metadata = which
            .metadata
            .iter()
            .all(|(key, value)| instance.meta.get(&**key).is_some_and(|v| **v == **value));
        let weight = match instance.status {
            Status::Passing => instance.weights.0.max(1),
            Status::Warning if !which.only_passing => instance.weights.1,
            Status::Warning | Status::Critical => 0,
        };
        (tags && metadata && weight > 0).then_some(weight.min(WEIGHT))
    }
}

fn endpoint(instance: &Instance, address: SocketAddr, weight: u32) -> Endpoint {
    let meta = |key: &str| instance.meta.get(key).map(String::as_str);
    let of = |own: Option<&str>, key: &str| -> Option<Arc<str>> {
        own.filter(|own| !own.is_empty())
            .or_else(|| meta(key))
            .filter(|word| !word.is_empty())
            .map(Into::into)
    };
    let locality = instance.locality.as_ref();
    let protocol = meta("protocol").filter(|_| fronted::is_sidecar(&instance.meta));
    Endpoint {
        weight,
        region: of(locality.map(|locality| locality.region.as_str()), "region"),
        zone: of(locality.map(|locality| locality.zone.as_str()), "zone"),
        protocol: Protocol::ALL
            .into_iter()
            .find(|known| Some(known.as_str()) == protocol)
            .unwrap_or(Protocol::Auto),
        ..Endpoint::new(address)
    }
}
