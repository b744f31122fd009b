//! From Consul's instances to endpoints.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::{Endpoint, Protocol, UpstreamName};
use crate::clients::consul::{Instance, Status};
use crate::config::model::ConsulInstances;
use crate::discovery::dns::{Lookup, Resolver};
use crate::discovery::fronted;

/// The largest weight, as in a file.
const WEIGHT: u32 = 1000;

/// Which instances are used, and where they are.
pub(super) struct Chosen {
    which: ConsulInstances,
    dns: Resolver,
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

/// The addresses of hosts that Consul names by a name, as they were last.
pub(super) type Hosts = HashMap<String, Vec<IpAddr>>;

impl Chosen {
    pub(super) fn new(which: ConsulInstances, dns: Resolver) -> Self {
        Self { which, dns }
    }

    /// What the instances come to for calls of `name`. A host that can't be
    /// looked up keeps the addresses that it has in `hosts`.
    pub(super) async fn endpoints(
        &self,
        name: &UpstreamName,
        mut instances: Vec<Instance>,
        hosts: &mut Hosts,
    ) -> Listed {
        let mut listed = Listed { any: !instances.is_empty(), ..Listed::default() };
        fronted::leave_out_plain(&mut instances);
        let mut now = Hosts::new();
        let mut left = self.which.limit.map_or(usize::MAX, |limit| limit as usize);
        for instance in &instances {
            let port = Some(instance.port).filter(|port| *port > 0).or(name.port());
            let Some(port) = port else { continue };
            let weight = self.weight(instance).filter(|_| left > 0);
            left -= usize::from(weight.is_some());
            let found = match instance.address.parse::<IpAddr>() {
                Ok(ip) => vec![ip],
                Err(_) => self.look_up(&instance.address, hosts, &mut now).await,
            };
            for ip in found.into_iter().filter(|ip| !ip.is_unspecified()) {
                let address = SocketAddr::new(ip, port);
                listed.all.push(address);
                listed.used.extend(weight.map(|weight| endpoint(instance, address, weight)));
            }
        }
        *hosts = now;
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

    async fn look_up(&self, host: &str, before: &Hosts, now: &mut Hosts) -> Vec<IpAddr> {
        if let Some(known) = now.get(host) {
            return known.clone();
        }
        let found = match self.dns.addresses(host).await {
            Lookup::Found(found, _) => found,
            Lookup::Failed(why) => {
                tracing::debug!(host, %why, "an instance of Consul could not be looked up");
                before.get(host).cloned().unwrap_or_default()
            }
            Lookup::Empty(_) | Lookup::Unknown(_) => Vec::new(),
        };
        now.insert(host.to_owned(), found.clone());
        found
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
