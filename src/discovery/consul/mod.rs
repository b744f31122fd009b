//! Consul as a source: one question an upstream in use, which Consul holds
//! until something changes.
//!
//! What must hold:
//!
//! - a change is told within a second, and no upstream is asked about more than
//!   once a second over any longer time;
//! - what an agent says that has lost its memory, or that takes us for somebody
//!   else, evicts nothing at once: `judge` decides that;
//! - there are never more questions at one time than `connections`, and no
//!   upstream waits for another one's question;
//! - dropping a feed ends its question and its connection.

mod entries;
mod hosts;
mod judge;
mod pace;
mod query;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use self::entries::Chosen;
use self::judge::InForce;
use super::answer::Answer;
use super::dns::Resolver;
use super::source::Outlet;
use crate::base::UpstreamName;
use crate::base::directory::MAX_UPSTREAMS;
use crate::clients::consul::{Client, Error, Options, Read, Selection, Tls, Token};
use crate::config::model::{self, Consistency, ConsulToken};

/// Fewer questions at one time are never made out of refusals.
const LEAST: usize = 4;

/// The `consul` source.
pub(super) struct Consul {
    made_of: model::Consul,
    client: Result<Client, Arc<str>>,
    selection: Selection,
    chosen: Chosen,
    places: Places,
    /// What is in force, for a source that takes the place of this one.
    memory: Arc<Memory>,
}

/// What names had at last, with the time when that was said.
#[derive(Default)]
struct Memory {
    held: Mutex<HashMap<UpstreamName, Held>>,
}

type Held = (InForce, Instant);

/// The questions that may be asked at one time. An upstream for which there is
/// no place to be held is asked about again and again.
struct Places {
    held: Semaphore,
    /// For questions that are answered at once.
    quick: Semaphore,
    /// The places to be held that there were at first.
    most: usize,
    /// Those that there are now; fewer while the agent refuses.
    now: AtomicUsize,
}

/// How the agent of `consul` is reached.
pub(super) fn options(consul: &model::Consul) -> Result<Options, Error> {
    let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
    Ok(Options {
        address: consul.address.parse().map_err(|_| Error::Invalid("address"))?,
        token: match &consul.token {
            ConsulToken::None => Token::Anonymous,
            ConsulToken::Text(text) => Token::Text(text.to_string()),
            ConsulToken::File(path) => Token::File(path.clone()),
        },
        tls: Tls {
            ca_file: consul.tls.ca_file.clone(),
            cert_file: consul.tls.cert_file.clone(),
            key_file: consul.tls.key_file.clone(),
            server_name: text(&consul.tls.server_name),
        },
        datacenter: text(&consul.datacenter),
        namespace: text(&consul.namespace),
    })
}

impl Consul {
    /// `before` is the source in whose place it comes. If that one asked for the
    /// same, what it had in force is not given up for a first answer that does
    /// not name it.
    pub(super) fn new(consul: &model::Consul, dns: &model::Dns, before: Option<&Self>) -> Self {
        let client = options(consul).and_then(Client::new).map_err(|error| error.to_string().into());
        let instances = &consul.instances;
        let selection = Selection {
            filter: instances.filter.as_deref().map(str::to_owned),
            near: instances.near.as_deref().map(str::to_owned),
            limit: instances.limit,
            read: match consul.consistency {
                Consistency::Default => Read::Default,
                Consistency::Stale => Read::Stale,
                Consistency::Consistent => Read::Consistent,
            },
        };
        let before = before.filter(|before| before.asks_for_the_same(consul));
        Self {
            client,
            selection,
            chosen: Chosen::new(instances.clone(), Resolver::new(dns.clone())),
            places: Places::new(consul.connections as usize),
            memory: before.map(|before| before.memory.clone()).unwrap_or_default(),
            made_of: consul.clone(),
        }
    }

    /// Whether the same instances are asked for, whichever agent is asked.
    fn asks_for_the_same(&self, other: &model::Consul) -> bool {
        let what = |of: &model::Consul| {
            (of.datacenter.clone(), of.namespace.clone(), of.instances.clone(), of.queries.clone())
        };
        what(&self.made_of) == what(other)
    }

    /// Tells who serves `name`, at once and whenever that changes.
    pub(super) async fn follow(&self, name: &UpstreamName, outlet: &Outlet) {
        let client = match &self.client {
            Ok(client) => client,
            Err(why) => {
                outlet.tell(Answer::Failed(why.clone())).await;
                return;
            }
        };
        match self.made_of.queries.get(name).or_else(|| self.made_of.queries.get(name.host())) {
            Some(query) => self.run(client, query, name, outlet).await,
            None => self.watch(client, name, outlet).await,
        }
    }
}

/// The name of the service in Consul. A port is no part of it: an instance has
/// its own. The form of Consul's DNS is understood too.
fn service(name: &UpstreamName) -> &str {
    name.host().strip_suffix(".service.consul").filter(|host| !host.contains('.')).unwrap_or(name.host())
}

impl Memory {
    /// What `name` had, if that was said within `limit`.
    fn recall(&self, name: &UpstreamName, limit: Duration) -> Option<InForce> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(name).filter(|(_, then)| then.elapsed() <= limit).map(|(force, _)| force.clone())
    }

    fn keep(&self, name: &UpstreamName, force: InForce, limit: Duration) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_UPSTREAMS && !held.contains_key(name) {
            held.retain(|_, (_, then)| then.elapsed() <= limit);
        }
        if held.len() < MAX_UPSTREAMS || held.contains_key(name) {
            held.insert(name.clone(), (force, Instant::now()));
        }
    }
}

impl Places {
    fn new(connections: usize) -> Self {
        let quick = (connections / 4).clamp(1, 16);
        let most = connections.saturating_sub(quick);
        Self { held: Semaphore::new(most), quick: Semaphore::new(quick), most, now: AtomicUsize::new(most) }
    }

    /// A place for a question that is held, if there is one.
    fn held(&self) -> Option<SemaphorePermit<'_>> {
        self.held.try_acquire().ok()
    }

    /// Waits for a place for a question that is answered at once.
    async fn quick(&self) -> Option<SemaphorePermit<'_>> {
        self.quick.acquire().await.ok()
    }

    /// The agent refuses to be asked so much at once: one place less.
    fn shrink(&self, held: SemaphorePermit<'_>) {
        let fewer = |now: usize| (now > LEAST).then(|| now - 1);
        if self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            held.forget();
        }
    }

    /// Nothing was refused for a while: one place more.
    fn grow(&self) {
        let more = |now: usize| (now < self.most).then(|| now + 1);
        if self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.held.add_permits(1);
        }
    }
}
