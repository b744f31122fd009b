//! The addresses of instances that Consul names by a host name.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::discovery::dns::{Lookup, Resolver};

/// How long an answer waits for host names, all of them together.
const LIMIT: Duration = Duration::from_millis(500);

/// What is known of the hosts of one upstream.
#[derive(Default)]
pub(super) struct Hosts {
    known: HashMap<String, Vec<IpAddr>>,
    /// Look-ups that have not ended, and of which hosts.
    running: JoinSet<(String, Lookup<Vec<IpAddr>>)>,
    asked: HashSet<String>,
    failed: bool,
}

impl Hosts {
    /// Looks `hosts` up, all at one time. One that fails keeps its last
    /// addresses, and so does one that is late, whose look-up goes on.
    pub(super) async fn look_up(&mut self, dns: &Arc<Resolver>, hosts: HashSet<String>) {
        self.known.retain(|host, _| hosts.contains(host));
        self.failed = false;
        let until = Instant::now() + LIMIT;
        for host in &hosts {
            if self.asked.insert(host.clone()) {
                let (dns, host) = (dns.clone(), host.clone());
                self.running.spawn(async move {
                    let lookup = dns.addresses(&host).await;
                    (host, lookup)
                });
            }
        }
        while !self.asked.is_disjoint(&hosts) {
            let Ok(Some(ended)) = timeout_at(until, self.running.join_next()).await else { return };
            let Ok((host, lookup)) = ended else { continue };
            self.asked.remove(&host);
            match lookup {
                Lookup::Found(found, _) if hosts.contains(&host) => drop(self.known.insert(host, found)),
                Lookup::Found(..) => {}
                Lookup::Failed(why) => {
                    tracing::debug!(%host, %why, "an instance of Consul could not be looked up");
                    self.failed |= hosts.contains(&host);
                }
                Lookup::Empty(_) | Lookup::Unknown(_) => drop(self.known.remove(&host)),
            }
        }
    }

    /// The addresses of a host that was asked for at last.
    pub(super) fn of(&self, host: &str) -> &[IpAddr] {
        self.known.get(host).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether another look may tell more.
    pub(super) fn unsettled(&self) -> bool {
        self.failed || !self.asked.is_empty()
    }
}
