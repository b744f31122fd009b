//! The upstreams that a worker knows, and what discovery says of each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Endpoint;
use super::connect::Connects;
use super::picker::Picker;
use super::quota::{Quota, Quotas};
use super::snapshot::EndpointStats;
use crate::base::directory::Directory;
use crate::base::timers::Timers;
use crate::base::{self, EndpointSet, Protocol, ProxyError, ProxyProtocol, Reason, Resolution, UpstreamName};
use crate::telemetry::Metrics;

/// How long the first request of an upstream waits for discovery.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// What stands for the source of an upstream whose endpoints never change.
pub const FIXED: &str = "fixed";
/// How long an upstream is kept that nobody calls.
const UNUSED: Duration = Duration::from_secs(300);
/// The same, where no source knows it: names that callers make up.
const UNKNOWN: Duration = Duration::from_secs(30);

/// The upstreams of one worker.
pub struct Table {
    directory: Directory,
    metrics: Metrics,
    quotas: Quotas,
    upstreams: RefCell<HashMap<UpstreamName, Rc<Upstream>>>,
}

/// One upstream as one worker sees it.
pub struct Upstream {
    /// Its name.
    pub name: UpstreamName,
    connects: Rc<Connects>,
    resolution: RefCell<Option<watch::Receiver<Resolution>>>,
    picker: RefCell<Rc<Picker>>,
    last_used: Cell<Option<Instant>>,
    learned: Cell<Learned>,
}

/// Who was seen to speak first on connections to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learned {
    /// Not seen yet.
    #[default]
    Nothing,
    /// Its callers speak HTTP.
    Http,
    /// It speaks before its callers do.
    ServerFirst,
}

impl Table {
    /// An empty table over `directory`.
    pub fn new(directory: Directory, metrics: Metrics, quotas: Quotas) -> Self {
        Self { directory, metrics, quotas, upstreams: RefCell::default() }
    }

    /// The upstream of this name; discovery begins to look for it if need be.
    pub fn get(&self, name: &UpstreamName) -> Result<Rc<Upstream>, ProxyError> {
        if let Some(upstream) = self.upstreams.borrow().get(name) {
            return Ok(upstream.clone());
        }
        let full = |_| ProxyError::unsent(Reason::Overload, "too many upstreams are in use at one time");
        Ok(self.enter(name, self.directory.watch(name).map_err(full)?))
    }

    /// The same for a name of the policy, for which there is always room.
    pub fn named(&self, name: &UpstreamName) -> Rc<Upstream> {
        let known = self.upstreams.borrow().get(name).cloned();
        known.unwrap_or_else(|| self.enter(name, self.directory.watch_named(name)))
    }

    fn enter(&self, name: &UpstreamName, resolution: watch::Receiver<Resolution>) -> Rc<Upstream> {
        let upstream = Rc::new(Upstream {
            name: name.clone(),
            connects: Connects::new(self.metrics.clone(), name.clone(), self.quotas.get(name)),
            resolution: RefCell::new(Some(resolution)),
            picker: RefCell::new(Rc::new(Picker::new(Vec::new()))),
            last_used: Cell::new(None),
            learned: Cell::default(),
        });
        self.upstreams.borrow_mut().insert(name.clone(), upstream.clone());
        upstream
    }

    /// The upstream that has `address` as an endpoint, as far as is known.
    pub fn at(&self, address: SocketAddr) -> Option<UpstreamName> {
        self.directory.at(address)
    }

    /// Says how callers are told to each upstream from now on.
    pub fn set_proxy_protocol(&self, of: impl Fn(&UpstreamName) -> Option<ProxyProtocol>) {
        for (name, upstream) in &*self.upstreams.borrow() {
            upstream.set_proxy_protocol(of(name));
        }
    }

    /// Closes idle connections, and lets go of upstreams that nobody calls
    /// unless `keep` says otherwise.
    pub fn sweep(&self, now: Instant, keep: impl Fn(&UpstreamName) -> bool) {
        self.upstreams.borrow_mut().retain(|name, upstream| {
            upstream.picker.borrow().endpoints().iter().for_each(|endpoint| endpoint.sweep(now));
            let used = upstream.last_used.get().get_or_insert(now).to_owned();
            upstream.last_used.set(Some(used));
            let limit = if upstream.known() == Some(None) { UNKNOWN } else { UNUSED };
            Rc::strong_count(upstream) > 1 || keep(name) || now.saturating_duration_since(used) < limit
        });
    }

    /// Gives up connections that stand idle while somebody waits for one of the
    /// same upstream, whenever that is so, for as long as it is polled.
    pub async fn relieve(&self) {
        let mut pokes = self.quotas.pokes();
        while pokes.changed().await.is_ok() {
            for upstream in self.upstreams.borrow().values() {
                let picker = upstream.picker.borrow();
                let short = || upstream.connects.quota.is_short();
                picker.endpoints().iter().for_each(|endpoint| while short() && endpoint.close_idle() {});
            }
        }
    }

    /// What the admin port shows of every endpoint.
    pub fn stats(&self, now: Instant) -> Vec<EndpointStats> {
        let upstreams = self.upstreams.borrow();
        upstreams.values().flat_map(|upstream| upstream.stats(now)).collect()
    }
}

impl Upstream {
    /// An upstream whose endpoints never change: the fronted service itself.
    pub fn fixed(name: UpstreamName, endpoints: Vec<base::Endpoint>, metrics: &Metrics) -> Rc<Self> {
        let quota = Quota::unlimited(name.clone(), metrics);
        let connects = Connects::new(metrics.clone(), name.clone(), quota);
        let endpoints = endpoints.into_iter().map(|facts| Endpoint::new(facts, connects.clone())).collect();
        Rc::new(Self {
            name,
            connects,
            resolution: RefCell::new(None),
            picker: RefCell::new(Rc::new(Picker::new(endpoints))),
            last_used: Cell::new(None),
            learned: Cell::default(),
        })
    }

    /// The endpoints now; waits for discovery's first answer.
    pub async fn picker(&self, now: Instant, timers: &Timers) -> Result<Rc<Picker>, ProxyError> {
        self.last_used.set(Some(now));
        if let Some(answer) = self.current() {
            return answer;
        }
        let Some(mut news) = self.resolution.borrow().clone() else {
            return Ok(self.picker.borrow().clone());
        };
        let mut timer = timers.at(now + FIRST_ANSWER);
        tokio::select! {
            _ = news.wait_for(|resolution| *resolution != Resolution::Pending) => {}
            () = timer.fired() => {}
        }
        self.current().unwrap_or_else(|| {
            Err(ProxyError::unsent(Reason::DiscoveryFailed, "no source of discovery has answered yet"))
        })
    }

    /// Whether a source of discovery knows it, and which; `None` while none has
    /// answered.
    pub fn known(&self) -> Option<Option<&'static str>> {
        let resolution = self.resolution.borrow();
        let Some(news) = resolution.as_ref() else { return Some(Some(FIXED)) };
        match &*news.borrow() {
            Resolution::Pending => None,
            Resolution::Found(EndpointSet { source, .. }) | Resolution::Empty { source } => {
                Some(Some(source))
            }
            Resolution::Unknown | Resolution::Failed { .. } => Some(None),
        }
    }

    /// The same, once a source has answered; waits for that in at most `limit`.
    pub async fn answered(&self, limit: Duration, timers: &Timers) -> Option<Option<&'static str>> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        let mut news = self.resolution.borrow().clone()?;
        let mut timer = timers.at(Instant::now() + limit);
        tokio::select! {
            _ = news.wait_for(|resolution| *resolution != Resolution::Pending) => {}
            () = timer.fired() => {}
        }
        self.known()
    }

    /// What it speaks, where the policy leaves that open: by the port of its
    /// name, by what discovery says, by the ports of its endpoints.
    pub fn speaks(&self) -> Protocol {
        let named = self.name.port().map_or(Protocol::Auto, Protocol::of_port);
        if named != Protocol::Auto {
            return named;
        }
        let Some(Ok(picker)) = self.current() else { return Protocol::Auto };
        let told = |facts: &base::Endpoint| facts.protocol.or(Protocol::of_port(facts.address.port()));
        let mut all = picker.endpoints().iter().map(|endpoint| told(&endpoint.facts));
        let first = all.next().unwrap_or_default();
        if all.all(|other| other == first) { first } else { Protocol::Auto }
    }

    /// How callers are told to it; `None` where they are not.
    pub fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        self.connects.proxy_protocol.get()
    }

    /// The same from now on. Connections that are there stay.
    pub fn set_proxy_protocol(&self, version: Option<ProxyProtocol>) {
        self.connects.proxy_protocol.set(version);
    }

    /// Who was seen to speak first.
    pub fn learned(&self) -> Learned {
        self.learned.get()
    }

    /// Whether its entry bounds the number of connections.
    pub fn is_limited(&self) -> bool {
        self.connects.quota.is_limited()
    }

    /// Whether somebody waits for one of a bounded number of connections.
    pub fn is_short(&self) -> bool {
        self.connects.quota.is_short()
    }

    /// Remembers who spoke first.
    pub fn learn(&self, learned: Learned) {
        self.learned.set(learned);
    }

    /// Closes idle connections of a fixed upstream.
    pub fn sweep(&self, now: Instant) {
        self.picker.borrow().endpoints().iter().for_each(|endpoint| endpoint.sweep(now));
    }

    /// What the admin port shows of its endpoints.
    pub fn stats(&self, now: Instant) -> Vec<EndpointStats> {
        let picker = self.picker.borrow();
        picker.endpoints().iter().map(|endpoint| endpoint.stats(&self.name, now)).collect()
    }

    /// What is known now; `None` while discovery has not answered.
    fn current(&self) -> Option<Result<Rc<Picker>, ProxyError>> {
        let mut resolution = self.resolution.borrow_mut();
        let Some(news) = resolution.as_mut() else { return Some(Ok(self.picker.borrow().clone())) };
        let no = |reason, detail: String| Some(Err(ProxyError::unsent(reason, detail)));
        if news.has_changed().unwrap_or(false)
            && let Resolution::Found(set) = &*news.borrow_and_update()
        {
            self.update(set);
        }
        match &*news.borrow() {
            Resolution::Found(set) => {
                if self.picker.borrow().endpoints().is_empty() {
                    self.update(set);
                }
                Some(Ok(self.picker.borrow().clone()))
            }
            Resolution::Pending => None,
            Resolution::Unknown => {
                no(Reason::UnknownUpstream, format!("no source of discovery knows `{}`", self.name))
            }
            Resolution::Empty { source } => {
                no(Reason::NoEndpoint, format!("`{}` has no endpoint now, says {source}", self.name))
            }
            Resolution::Failed { why } => no(Reason::DiscoveryFailed, why.to_string()),
        }
    }

    /// Takes over a new set; an endpoint that stays keeps what is known of it
    /// and its connections.
    fn update(&self, set: &EndpointSet) {
        let old = self.picker.borrow().clone();
        let known: HashMap<_, _> = old.endpoints().iter().map(|e| (e.facts.address, e)).collect();
        let endpoints = set.usable().map(|facts| match known.get(&facts.address) {
            Some(endpoint) if endpoint.facts == *facts => Rc::clone(endpoint),
            _ => Endpoint::new(facts.clone(), self.connects.clone()),
        });
        let picker = Picker::new(endpoints.collect());
        let stays = |old: &&Rc<Endpoint>| picker.endpoints().iter().any(|new| Rc::ptr_eq(old, new));
        old.endpoints().iter().filter(|old| !stays(old)).for_each(|old| old.retire());
        *self.picker.borrow_mut() = Rc::new(picker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::directory::Subscription;
    use tokio::sync::mpsc::UnboundedReceiver;

    /// Discovery that needs a second for each answer.
    async fn slow(mut names: UnboundedReceiver<Subscription>) {
        while let Some(Subscription { name, sender, .. }) = names.recv().await {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send_replace(match name.as_str() {
                "users" | "named" => {
                    let endpoints = vec![base::Endpoint::new(([10, 0, 0, 1], 1).into())];
                    Resolution::Found(EndpointSet::new(endpoints, "test", std::time::SystemTime::UNIX_EPOCH))
                }
                _ => Resolution::Unknown,
            });
        }
    }

    #[tokio::test]
    async fn what_nobody_calls_is_let_go_and_found_again_without_failing_a_call() {
        let (directory, names) = Directory::new();
        let discovery = tokio::spawn(slow(names));
        let (metrics, timers) = (Metrics::new(), Timers::default());
        let table = Table::new(directory.clone(), metrics.clone(), Quotas::new(metrics));
        let users = UpstreamName::new("users");
        let known = || directory.dump().into_iter().map(|known| known.name.to_string()).collect::<Vec<_>>();
        let mut now = Instant::now();
        table.named(&UpstreamName::new("named"));
        let made_up = table.get(&UpstreamName::new("made-up")).unwrap();
        tokio::select! {
            () = timers.drive() => {}
            () = async {
                assert!(made_up.picker(now, &timers).await.is_err());
                drop(made_up);
                for _ in 0..2 {
                    let upstream = table.get(&users).unwrap();
                    let picker = upstream.picker(now, &timers).await;
                    assert_eq!(picker.expect("found, though slowly").endpoints().len(), 1);
                    drop(upstream);
                    let keep = |name: &UpstreamName| name.as_str() == "named";
                    table.sweep(now + UNKNOWN, keep);
                    assert_eq!(known().iter().filter(|name| *name == "users").count(), 1, "too soon");
                    now += UNUSED;
                    table.sweep(now, keep);
                    assert!(directory.forget(&users), "nobody reads it");
                    assert!(directory.forget(&UpstreamName::new("made-up")), "let go before");
                    assert_eq!(known(), ["named"], "what a policy names is kept");
                }
            } => {}
        }
        discovery.abort();
    }
}
