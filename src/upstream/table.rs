//! The upstreams that a worker knows, and what discovery says of each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::board::{Board, Known, News};
use super::connect::Connects;
use super::picker::{Crew, Picker};
use super::quota::{Quota, Quotas};
use super::snapshot::EndpointStats;
use crate::base::clock;
use crate::base::timers::Timers;
use crate::base::{self, EndpointSet, Protocol, ProxyError, ProxyProtocol, Reason, Resolution, UpstreamName};
use crate::config::model::Locality;
use crate::policy::fleet::{Fleet, Layout, Slots, Ways};
use crate::policy::vitals::Watch;
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
    board: Board,
    metrics: Metrics,
    quotas: Quotas,
    upstreams: RefCell<HashMap<UpstreamName, Rc<Upstream>>>,
}

/// One upstream as one worker sees it.
pub struct Upstream {
    /// Its name.
    pub name: UpstreamName,
    connects: Rc<Connects>,
    /// Where it is followed; `None` where its endpoints never change.
    board: Option<Board>,
    /// `None` while it is not followed.
    news: RefCell<Option<watch::Receiver<News>>>,
    known: RefCell<Known>,
    crew: Rc<Crew>,
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
    /// An empty table over `board`.
    pub fn new(board: Board, metrics: Metrics, quotas: Quotas) -> Self {
        Self { board, metrics, quotas, upstreams: RefCell::default() }
    }

    /// The upstream of this name; discovery begins to look for it if need be.
    pub fn get(&self, name: &UpstreamName) -> Result<Rc<Upstream>, ProxyError> {
        if let Some(upstream) = self.upstreams.borrow().get(name) {
            return Ok(upstream.clone());
        }
        let full = |_| ProxyError::unsent(Reason::Overload, "too many upstreams are in use at one time");
        Ok(self.enter(name, self.board.watch(name).map_err(full)?))
    }

    /// The same for a name of the policy, for which there is always room.
    pub fn named(&self, name: &UpstreamName) -> Rc<Upstream> {
        let known = self.upstreams.borrow().get(name).cloned();
        known.unwrap_or_else(|| self.enter(name, self.board.watch_named(name)))
    }

    fn enter(&self, name: &UpstreamName, news: watch::Receiver<News>) -> Rc<Upstream> {
        let connects = Connects::new(self.metrics.clone(), name.clone(), self.quotas.get(name));
        let crew = Crew::new(connects.clone());
        let upstream = Rc::new(Upstream {
            name: name.clone(),
            connects,
            board: Some(self.board.clone()),
            news: RefCell::new(Some(news)),
            known: RefCell::default(),
            picker: RefCell::new(Picker::new(Arc::default(), &crew, None)),
            crew,
            last_used: Cell::new(None),
            learned: Cell::default(),
        });
        self.upstreams.borrow_mut().insert(name.clone(), upstream.clone());
        upstream
    }

    /// The upstream that has `address` as an endpoint, as far as is known.
    pub fn at(&self, address: SocketAddr) -> Option<UpstreamName> {
        self.board.directory().at(address)
    }

    /// Says how callers are told to each upstream from now on.
    pub fn set_proxy_protocol(&self, of: impl Fn(&UpstreamName) -> Option<ProxyProtocol>) {
        for (name, upstream) in &*self.upstreams.borrow() {
            upstream.set_proxy_protocol(of(name));
        }
    }

    /// Closes idle connections, and lets go of upstreams that nobody calls. Of
    /// those that the policy `names` only what discovery says is let go, and not
    /// where connections are captured: their addresses must be known.
    pub fn sweep(&self, now: Instant, names: impl Fn(&UpstreamName) -> bool) {
        let captures = self.board.directory().is_asked_for_addresses();
        self.upstreams.borrow_mut().retain(|name, upstream| {
            upstream.crew.for_each(|endpoint| endpoint.sweep(now));
            let used = upstream.last_used.get().get_or_insert(now).to_owned();
            upstream.last_used.set(Some(used));
            let unused = now.saturating_duration_since(used);
            if names(name) {
                match unused >= UNUSED && !captures {
                    true => upstream.rest(),
                    false if captures => upstream.follow(),
                    false => {}
                }
                return true;
            }
            let unknown = !upstream.rests() && upstream.known() == Some(None);
            Rc::strong_count(upstream) > 1 || unused < if unknown { UNKNOWN } else { UNUSED }
        });
    }

    /// Gives up connections that stand idle while somebody waits for one of the
    /// same upstream, whenever that is so, for as long as it is polled.
    pub async fn relieve(&self) {
        let mut pokes = self.quotas.pokes();
        while pokes.changed().await.is_ok() {
            for upstream in self.upstreams.borrow().values() {
                let short = || upstream.connects.quota.is_short();
                upstream.crew.for_each(|endpoint| while short() && endpoint.close_idle() {});
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
        let now = clock::now();
        let set = EndpointSet { endpoints: endpoints.into(), source: FIXED, as_of: std::time::UNIX_EPOCH };
        let (members, _) = Slots::new(Watch::new(now)).place(&set, now);
        let layout = Arc::new(Layout::new(members, &Locality::default()));
        let crew = Crew::new(connects.clone());
        let fleet = Arc::new(Fleet::new(layout, 0.0, Ways::ALL, now));
        Rc::new(Self {
            name,
            connects,
            board: None,
            news: RefCell::new(None),
            known: RefCell::new(Known::Found(FIXED)),
            picker: RefCell::new(Picker::new(fleet, &crew, None)),
            crew,
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
        let Some(mut news) = self.news.borrow().clone() else {
            return Ok(self.picker.borrow().clone());
        };
        let mut timer = timers.at(now + FIRST_ANSWER);
        tokio::select! {
            _ = news.wait_for(|news| news.resolution != Known::Pending) => {}
            () = timer.fired() => {}
        }
        self.current().unwrap_or_else(|| {
            Err(ProxyError::unsent(Reason::DiscoveryFailed, "no source of discovery has answered yet"))
        })
    }

    /// Discovery looks for it no longer, until somebody asks for it again.
    fn rest(&self) {
        let mut busy = false;
        self.crew.for_each(|endpoint| busy |= endpoint.is_busy());
        if busy || self.rests() {
            return;
        }
        self.news.replace(None);
        self.known.replace(Known::Pending);
        self.picker.replace(Picker::new(Arc::default(), &self.crew, None));
    }

    fn rests(&self) -> bool {
        self.board.is_some() && self.news.borrow().is_none()
    }

    /// Discovery looks for it from now on, if it does not already.
    fn follow(&self) {
        if self.rests() {
            // Only what the policy names ever rests.
            let news = self.board.as_ref().map(|board| board.watch_named(&self.name));
            self.news.replace(news);
        }
    }

    /// Whether a source of discovery knows it, and which; `None` while none has
    /// answered.
    pub fn known(&self) -> Option<Option<&'static str>> {
        let _ = self.current();
        match &*self.known.borrow() {
            Known::Pending | Known::Not(Resolution::Pending) => None,
            Known::Found(source) => Some(Some(source)),
            Known::Not(Resolution::Found(EndpointSet { source, .. }) | Resolution::Empty { source }) => {
                Some(Some(source))
            }
            Known::Not(Resolution::Unknown | Resolution::Failed { .. }) => Some(None),
        }
    }

    /// The same, once a source has answered; waits for that in at most `limit`.
    pub async fn answered(&self, limit: Duration, timers: &Timers) -> Option<Option<&'static str>> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        let mut news = self.news.borrow().clone()?;
        let mut timer = timers.at(clock::now() + limit);
        tokio::select! {
            _ = news.wait_for(|news| news.resolution != Known::Pending) => {}
            () = timer.fired() => {}
        }
        self.known()
    }

    /// How many endpoints it has.
    pub fn count(&self) -> usize {
        self.picker.borrow().count()
    }

    /// What it speaks, where the policy leaves that open: by the port of its
    /// name, by what discovery says, by the ports of its endpoints.
    pub fn speaks(&self) -> Protocol {
        let named = self.name.port().map_or(Protocol::Auto, Protocol::of_port);
        if named != Protocol::Auto {
            return named;
        }
        let Some(Ok(picker)) = self.current() else { return Protocol::Auto };
        picker.fleet().layout.speaks
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
        self.crew.for_each(|endpoint| endpoint.sweep(now));
    }

    /// What the admin port shows of its endpoints.
    pub fn stats(&self, now: Instant) -> Vec<EndpointStats> {
        let mut all = Vec::new();
        self.crew.for_each(|endpoint| all.push(endpoint.stats(&self.name, now)));
        all
    }

    /// What is known now; `None` while discovery has not answered.
    fn current(&self) -> Option<Result<Rc<Picker>, ProxyError>> {
        self.follow();
        if let Some(news) = self.news.borrow_mut().as_mut()
            && news.has_changed().unwrap_or(false)
        {
            let News { resolution, fleet, .. } = news.borrow_and_update().clone();
            if let Some(fleet) = fleet {
                let picker = Picker::new(fleet, &self.crew, Some(&self.picker.borrow()));
                self.picker.replace(picker);
            }
            self.known.replace(resolution);
        }
        let no = |reason, detail: String| Some(Err(ProxyError::unsent(reason, detail)));
        match &*self.known.borrow() {
            Known::Pending | Known::Not(Resolution::Pending) => None,
            Known::Found(_) | Known::Not(Resolution::Found(_)) => Some(Ok(self.picker.borrow().clone())),
            Known::Not(Resolution::Unknown) => {
                no(Reason::UnknownUpstream, format!("no source of discovery knows `{}`", self.name))
            }
            Known::Not(Resolution::Empty { source }) => {
                no(Reason::NoEndpoint, format!("`{}` has no endpoint now, says {source}", self.name))
            }
            Known::Not(Resolution::Failed { why }) => no(Reason::DiscoveryFailed, why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::directory::{Directory, Subscription};
    use crate::config::Model;
    use crate::upstream::Keepers;
    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio::task::{LocalSet, spawn_local};

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

    /// The control thread's part.
    fn keep(directory: &Directory, metrics: &Metrics) -> (Board, watch::Sender<Arc<Model>>) {
        let (board, wanted) = Board::new(directory.clone());
        let (sender, config) = watch::channel(Arc::new(Model::minimal("front")));
        let keepers = Keepers { board: board.clone(), wanted, config, metrics: metrics.clone() };
        spawn_local(keepers.run(Rc::new(|_| Box::pin(async { Ok(()) }))));
        (board, sender)
    }

    #[tokio::test]
    async fn what_a_newer_policy_needs_is_laid_out_when_a_worker_misses_it() {
        let (directory, names) = Directory::new();
        let discovery = tokio::spawn(slow(names));
        let (metrics, timers) = (Metrics::new(), Timers::default());
        let missed = async {
            let (board, _config) = keep(&directory, &metrics);
            let table = Table::new(board, metrics.clone(), Quotas::new(metrics.clone()));
            let upstream = table.named(&UpstreamName::new("users"));
            let picker = upstream.picker(Instant::now(), &timers).await.ok().unwrap();
            let (fleet, tier) = (picker.fleet(), &picker.fleet().tiers()[0]);
            assert!(fleet.ring(tier).is_none(), "by latency");
            in_time("the ring", || fleet.ring(tier).is_some()).await;
            assert!(fleet.turns(tier).is_none(), "nobody has missed it");
        };
        LocalSet::new().run_until(missed).await;
        discovery.abort();
    }

    async fn in_time(what: &str, met: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !met() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_nobody_calls_is_let_go_and_found_again_without_failing_a_call() {
        LocalSet::new().run_until(let_go_and_found_again()).await;
    }

    async fn let_go_and_found_again() {
        let (directory, names) = Directory::new();
        let discovery = tokio::spawn(slow(names));
        let (metrics, timers) = (Metrics::new(), Timers::default());
        let (board, _config) = keep(&directory, &metrics);
        let table = Table::new(board, metrics.clone(), Quotas::new(metrics));
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
                    assert_eq!(picker.expect("found, though slowly").count(), 1);
                    drop(upstream);
                    let keep = |name: &UpstreamName| name.as_str() == "named";
                    table.sweep(now + UNKNOWN, keep);
                    assert_eq!(known().iter().filter(|name| *name == "users").count(), 1, "too soon");
                    now += UNUSED;
                    table.sweep(now, keep);
                    in_time("nobody reads it", || directory.forget(&users)).await;
                    in_time("let go before", || directory.forget(&UpstreamName::new("made-up"))).await;
                    assert!(known().iter().all(|name| name == "named"), "{:?}", known());
                }
                // What a policy names, though its routes hold it.
                let (name, keep) = (UpstreamName::new("named"), |_: &UpstreamName| true);
                let named = table.named(&name);
                now += UNUSED;
                table.sweep(now, keep);
                in_time("what a policy names is let go", || directory.forget(&name)).await;
                assert_eq!(known(), [""; 0]);
                assert_eq!(named.picker(now, &timers).await.expect("found again").count(), 1);
                table.sweep(now + UNUSED / 2, keep);
                assert_eq!(known(), ["named"], "it was called");
                table.sweep(now + UNUSED, keep);
                in_time("it is let go again", || directory.forget(&name)).await;
                // Captured connections may need it.
                assert_eq!(table.at(([10, 0, 0, 1], 1).into()), None);
                table.sweep(now + UNUSED * 2, keep);
                assert_eq!(known(), ["named"], "it is followed");
            } => {}
        }
        discovery.abort();
    }
}
