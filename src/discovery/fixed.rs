//! Addresses that stand in the file. A host that is a name is resolved by DNS
//! and followed by its TTL.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::answer::Answer;
use super::dns::{Lookup, Resolver};
use super::source::{Outlet, jittered, pause_after_failures};
use crate::base::{Endpoint, UpstreamName};
use crate::config::model::{self, StaticEndpoint};

/// The `static` source.
pub(super) struct Fixed {
    services: BTreeMap<UpstreamName, Vec<StaticEndpoint>>,
    dns: Resolver,
}

impl Fixed {
    pub(super) fn new(services: BTreeMap<UpstreamName, Vec<StaticEndpoint>>, dns: Resolver) -> Self {
        Self { services, dns }
    }

    /// Whether all of it are addresses, which nobody needs to be asked for.
    pub(super) fn is_written(&self) -> bool {
        self.services.values().flatten().all(|entry| ip(entry).is_some())
    }

    /// A name with a port that the file does not hold is looked for without it.
    fn entries(&self, name: &UpstreamName) -> Option<&[StaticEndpoint]> {
        let entries = self.services.get(name).or_else(|| self.services.get(name.host()))?;
        Some(entries)
    }

    /// Tells the endpoints of `name`, once if all of them are addresses.
    pub(super) async fn follow(&self, name: &UpstreamName, outlet: &Outlet) {
        let Some(entries) = self.entries(name) else {
            outlet.tell(Answer::Unknown).await;
            return;
        };
        let mut last: Vec<Vec<IpAddr>> = vec![Vec::new(); entries.len()];
        let mut failures = 0;
        loop {
            let questions: Vec<_> = entries.iter().map(|entry| self.look_up(entry)).collect();
            let lookups = join_all(questions).await;
            let mut failed = None;
            let mut ttl: Option<Duration> = None;
            for (held, lookup) in last.iter_mut().zip(lookups) {
                match lookup.0 {
                    Ok(addresses) => *held = addresses,
                    // The host keeps the addresses that it had.
                    Err(why) => failed = Some(why),
                }
                ttl = [ttl, lookup.1].into_iter().flatten().min();
            }
            let found = Answer::found(endpoints(entries, &last));
            let listened = match (found, &failed) {
                (Answer::Empty, Some(why)) => outlet.tell(Answer::Failed(why.clone())).await,
                (answer, _) => outlet.tell(answer).await,
            };
            failures = if failed.is_some() { failures + 1 } else { 0 };
            let pause = match (failures, ttl) {
                (0, None) => return,
                (0, Some(ttl)) => ttl,
                (failures, _) => pause_after_failures(failures),
            };
            if !listened {
                return;
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// The addresses of one entry, and how long they hold; `None` for ever.
    async fn look_up(&self, entry: &StaticEndpoint) -> (Result<Vec<IpAddr>, Arc<str>>, Option<Duration>) {
        if let Some(address) = ip(entry) {
            return (Ok(vec![address]), None);
        }
        match self.dns.addresses(&entry.host).await {
            Lookup::Found(addresses, ttl) => (Ok(addresses), Some(ttl)),
            Lookup::Empty(ttl) | Lookup::Unknown(ttl) => (Ok(Vec::new()), Some(ttl)),
            Lookup::Failed(why) => (Err(format!("{}: {why}", entry.host).into()), None),
        }
    }
}

/// The addresses that stand in the file, and whose they are.
pub(super) fn addresses(sources: &[model::Source]) -> Vec<(SocketAddr, UpstreamName)> {
    let services = sources.iter().filter_map(|source| match source {
        model::Source::Static(services) => Some(services),
        _ => None,
    });
    let each = services.flatten().flat_map(|(name, entries)| entries.iter().map(move |entry| (name, entry)));
    let address = |(name, entry): (&UpstreamName, &StaticEndpoint)| {
        Some((SocketAddr::new(ip(entry)?, entry.port), name.clone()))
    };
    each.filter_map(address).collect()
}

/// The host, if it is an address and no name.
fn ip(entry: &StaticEndpoint) -> Option<IpAddr> {
    entry.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn endpoints(entries: &[StaticEndpoint], addresses: &[Vec<IpAddr>]) -> Vec<Endpoint> {
    let endpoint = |entry: &StaticEndpoint, address: IpAddr| Endpoint {
        weight: entry.weight.max(1),
        region: entry.locality.region.clone(),
        zone: entry.locality.zone.clone(),
        ..Endpoint::new(SocketAddr::new(address, entry.port))
    };
    let each = entries.iter().zip(addresses);
    each.flat_map(|(entry, addresses)| addresses.iter().map(|ip| endpoint(entry, *ip))).collect()
}
