//! What a Service and its EndpointSlices come to: endpoints. Nothing here waits.
//!
//! Of the objects only what is used is held.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::name::Asked;
use crate::base::{Endpoint, Protocol, Standing};

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Service {
    /// The name that it stands for, of type ExternalName.
    pub external: Option<Arc<str>>,
    /// The address that kube-proxy serves; none of a headless Service.
    cluster_ips: Vec<IpAddr>,
    ports: Vec<ServicePort>,
    /// Its first family is IPv6.
    prefers_v6: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct ServicePort {
    /// Empty where it is the only one.
    name: Arc<str>,
    number: u16,
    protocol: Protocol,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice {
    ports: Vec<ServicePort>,
    backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq)]
struct Backend {
    ip: IpAddr,
    standing: Standing,
    zone: Option<Arc<str>>,
    /// Zones that should use it.
    hints: Vec<Arc<str>>,
    host_name: Option<Arc<str>>,
    /// Which pod it is: one of two families has two addresses.
    pod: Option<Arc<str>>,
}

/// Which port of the slices is meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Port {
    /// Port `number` of the Service, which the slices know by `name`.
    Named {
        /// Empty where it is the only one.
        name: Arc<str>,
        /// What is spoken there, as far as the Service says.
        protocol: Protocol,
        /// Of the Service.
        number: u16,
    },
    /// This port of each pod: headless Services have no other way.
    Number(u16),
}

impl From<core::Service> for Service {
    fn from(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let external = spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName"));
        let ips = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        let families = spec.ip_families.unwrap_or_default();
        let port = |port: core::ServicePort| {
            let number = tcp(port.protocol.as_deref(), Some(port.port))?;
            Some(ServicePort {
                name: port.name.unwrap_or_default().into(),
                number,
                protocol: protocol(port.app_protocol.as_deref()),
            })
        };
        Self {
            external: external.map(Arc::from),
            cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            ports: spec.ports.unwrap_or_default().into_iter().filter_map(port).collect(),
            prefers_v6: families.first().is_some_and(|family| family == "IPv6"),
        }
    }
}

impl From<discovery::EndpointSlice> for Slice {
    fn from(slice: discovery::EndpointSlice) -> Self {
        let port = |port: discovery::EndpointPort| {
            let number = tcp(port.protocol.as_deref(), port.port)?;
            Some(ServicePort {
                name: port.name.unwrap_or_default().into(),
                number,
                protocol: protocol(port.app_protocol.as_deref()),
            })
        };
        Self {
            ports: slice.ports.unwrap_or_default().into_iter().filter_map(port).collect(),
            backends: slice.endpoints.into_iter().filter_map(Backend::read).collect(),
        }
    }
}

impl Backend {
    /// `None` for an endpoint that takes no calls.
    fn read(endpoint: discovery::Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.unwrap_or_default();
        // What is not said counts as ready (the API's own rule).
        let ready = conditions.ready.unwrap_or(true);
        let standing = match (ready, conditions.terminating, conditions.serving) {
            (true, ..) => Standing::Ready,
            (false, Some(true), Some(true)) => Standing::Terminating,
            _ => return None,
        };
        let hints = endpoint.hints.and_then(|hints| hints.for_zones).unwrap_or_default();
        Some(Self {
            // Only the first means anything, and an FQDN is no address.
            ip: endpoint.addresses.first()?.parse().ok()?,
            standing,
            zone: endpoint.zone.map(Arc::from),
            hints: hints.into_iter().map(|hint| hint.name.into()).collect(),
            host_name: endpoint.hostname.map(Arc::from),
            pod: endpoint.target_ref.and_then(|target| target.uid.or(target.name)).map(Arc::from),
        })
    }
}

impl Service {
    /// The port that is meant, or a sentence that says why there is none.
    pub(super) fn port(&self, asked: Option<u16>) -> Result<Port, String> {
        let named = |port: &ServicePort| Port::Named {
            name: port.name.clone(),
            protocol: port.protocol,
            number: port.number,
        };
        let found = match asked {
            Some(number) => self.ports.iter().find(|port| port.number == number),
            None if self.ports.len() == 1 => self.ports.first(),
            None => {
                let by_name = |name| self.ports.iter().find(move |port| &*port.name == name);
                let usual = || self.ports.iter().find(|port| port.number == 80);
                by_name("http").or_else(|| by_name("grpc")).or_else(usual)
            }
        };
        if let Some(port) = found {
            return Ok(named(port));
        }
        match asked {
            Some(number) if self.cluster_ips.is_empty() => Ok(Port::Number(number)),
            Some(number) => Err(format!("the Service has no TCP port {number}; it has {}", self.says())),
            None if self.ports.is_empty() => Err("the Service has no TCP port".to_owned()),
            None => Err(format!("which port? write one after the name: the Service has {}", self.says())),
        }
    }

    /// The only port, of a Service whose endpoints are elsewhere.
    pub(super) fn only_port(&self) -> Option<u16> {
        if let [port] = &self.ports[..] { Some(port.number) } else { None }
    }

    /// Its addresses that kube-proxy serves, with `port`.
    pub(super) fn cluster_addresses(&self, port: &Port) -> Vec<SocketAddr> {
        match port {
            Port::Named { number, .. } => {
                self.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, *number)).collect()
            }
            Port::Number(_) => Vec::new(),
        }
    }

    fn says(&self) -> String {
        if self.ports.is_empty() {
            return "none".to_owned();
        }
        let one = |port: &ServicePort| match &*port.name {
            "" => port.number.to_string(),
            name => format!("{} ({name})", port.number),
        };
        self.ports.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// One endpoint on its way.
struct Candidate<'a> {
    backend: &'a Backend,
    protocol: Protocol,
}

/// The endpoints of `service`. `zone` is our own; `reachable` says whether this
/// machine has a way to an address.
pub(super) fn endpoints<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice>,
    asked: &Asked,
    port: &Port,
    zone: Option<&str>,
    reachable: impl Fn(IpAddr) -> bool,
) -> Vec<Endpoint> {
    let mut all: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let Some((number, protocol)) = slice.port(port) else { continue };
        let wanted = |backend: &&Backend| asked.pod.is_none() || backend.host_name == asked.pod;
        for backend in slice.backends.iter().filter(wanted) {
            // An endpoint on its way from one slice to another stands in both.
            let held =
                all.entry(SocketAddr::new(backend.ip, number)).or_insert(Candidate { backend, protocol });
            if backend.standing < held.backend.standing {
                *held = Candidate { backend, protocol };
            }
        }
    }
    one_family(&mut all, service.prefers_v6, reachable);
    if let (Some(zone), None) = (zone, &asked.pod) {
        by_hints(&mut all, zone);
    }
    let endpoint = |(address, candidate): (SocketAddr, Candidate<'_>)| Endpoint {
        zone: candidate.backend.zone.clone(),
        standing: candidate.backend.standing,
        protocol: candidate.protocol,
        ..Endpoint::new(address)
    };
    all.into_iter().map(endpoint).collect()
}

impl Slice {
    /// The number of a port in this slice, and what is spoken there.
    fn port(&self, port: &Port) -> Option<(u16, Protocol)> {
        match port {
            Port::Named { name, protocol, .. } => {
                let held = self.ports.iter().find(|held| held.name == *name)?;
                Some((held.number, held.protocol.or(*protocol)))
            }
            Port::Number(number) => {
                let held = self.ports.iter().find(|held| held.number == *number);
                Some((*number, held.map_or(Protocol::Auto, |held| held.protocol)))
            }
        }
    }
}

/// A pod that has an address of each family is one endpoint: that of the
/// family which the Service prefers, where this machine has a way to it.
fn one_family(
    all: &mut BTreeMap<SocketAddr, Candidate<'_>>,
    prefers_v6: bool,
    reachable: impl Fn(IpAddr) -> bool,
) {
    let has_v4 = all.keys().any(SocketAddr::is_ipv4);
    let first_v6 = all.keys().find(|address| address.is_ipv6());
    let no_way = has_v4 && first_v6.is_some_and(|address| !reachable(address.ip()));
    all.retain(|address, _| !(no_way && address.is_ipv6()));
    let preferred: HashSet<(Arc<str>, u16)> = all
        .iter()
        .filter(|(address, _)| address.is_ipv6() == prefers_v6)
        .filter_map(|(address, candidate)| Some((candidate.backend.pod.clone()?, address.port())))
        .collect();
    all.retain(|address, candidate| {
        let twice = |pod: Arc<str>| preferred.contains(&(pod, address.port()));
        address.is_ipv6() == prefers_v6 || !candidate.backend.pod.clone().is_some_and(twice)
    });
}

/// As kube-proxy does: if each ready endpoint says which zones should use it,
/// and one of them names ours, only those that do are used.
fn by_hints(all: &mut BTreeMap<SocketAddr, Candidate<'_>>, zone: &str) {
    let ready = |candidate: &Candidate<'_>| candidate.backend.standing == Standing::Ready;
    let ours = |candidate: &Candidate<'_>| candidate.backend.hints.iter().any(|hint| &**hint == zone);
    let all_say = all.values().filter(|candidate| ready(candidate)).all(|c| !c.backend.hints.is_empty());
    if all_say && all.values().any(|candidate| ready(candidate) && ours(candidate)) {
        all.retain(|_, candidate| !ready(candidate) || ours(candidate));
    }
}

fn tcp(protocol: Option<&str>, number: Option<i32>) -> Option<u16> {
    let is_tcp = matches!(protocol, None | Some("TCP"));
    u16::try_from(number?).ok().filter(|number| is_tcp && *number > 0)
}

/// What `appProtocol` says: names of IANA, those of Kubernetes, and ours.
fn protocol(word: Option<&str>) -> Protocol {
    let Some(word) = word else { return Protocol::Auto };
    let word = word.to_ascii_lowercase();
    match word.strip_prefix("kubernetes.io/").unwrap_or(&word) {
        "http" | "ws" => Protocol::Http1,
        "h2c" => Protocol::Http2,
        "https" | "wss" => Protocol::Tls,
        "postgresql" => Protocol::Postgres,
        "mongo" => Protocol::Mongodb,
        "amqps" => Protocol::Tls,
        word => {
            let known = Protocol::ALL.into_iter().find(|known| known.as_str() == word);
            known.unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests;
