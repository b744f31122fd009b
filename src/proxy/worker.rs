//! What all connections of one worker share. Nothing here is shared between
//! workers but what the metrics count.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use metrics::Gauge;

use super::bulkheads::{Bulkhead, Bulkheads};
use super::keyrings::Keyrings;
use super::ledger::Ledger;
use super::notice::Notices;
use super::original::Dialled;
use super::rates::Rates;
use super::router::Router;
use super::stack::Layer;
use super::umpire::Bench;
use crate::base::UpstreamName;
use crate::base::clock;
use crate::base::drain::Stage;
use crate::base::timers::Timers;
use crate::codec::ServerContext;
use crate::config::Model;
use crate::config::model::{Concurrency, RateServer, RateService};
use crate::policy::budget::Budgets;
use crate::policy::mirror::Rooms;
use crate::telemetry::record::{Direction, RouteMetrics};
use crate::telemetry::{Metrics, names};
use crate::upstream::snapshot::EndpointStats;
use crate::upstream::{Board, Fuses, Quotas, Table};

/// How often idle connections are swept and gauges are brought up to date.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Connections that a worker holds at one time before their callers have spoken.
const MAX_AHEAD: usize = 128;

/// What tells this sidecar from all others, for `Via` and where a connection
/// comes back, and what its workers count together.
#[derive(Clone)]
pub struct Instance {
    inbound: HeaderValue,
    outbound: HeaderValue,
    gateway: HeaderValue,
    dialled: Dialled,
    budgets: Budgets,
    fuses: Fuses,
    rooms: Rooms,
    keyrings: Keyrings,
    bulkheads: Bulkheads,
    name: UpstreamName,
}

/// See the module's text.
pub struct Worker {
    /// The coarse timers.
    pub timers: Timers,
    /// The upstreams.
    pub table: Table,
    /// Counts.
    pub metrics: Metrics,
    /// Seeded once; good enough for jitter and choices, not for secrets.
    pub random: RefCell<fastrand::Rng>,
    /// What a user of the library puts around every route.
    pub layer: Option<Layer>,
    /// The limits of rates, of all workers.
    pub rates: Rates,
    /// The way to the server that counts for all sidecars.
    ledger: RefCell<Option<(RateServer, Rc<dyn Ledger>)>>,
    /// The way to the server that decides by rules of its own.
    umpire: RefCell<Option<(RateService, Rc<Bench>)>>,
    /// What the log was told.
    pub notices: Notices,
    stages: [Rc<Cell<Stage>>; 3],
    listeners: [Cell<usize>; 3],
    ahead: Cell<usize>,
    /// Held by each handshake of TLS.
    handshakes: Rc<()>,
    instance: Instance,
    router: RefCell<Option<Rc<Router>>>,
    contexts: RefCell<Option<[Rc<ServerContext>; 3]>>,
    unrouted: [Rc<RouteMetrics>; 3],
    open: [Told; 3],
    tunnels: [Told; 3],
    active: [Told; 3],
    date: RefCell<(u64, HeaderValue)>,
}

/// A number of one direction, and the gauge that is told of it now and then.
struct Told {
    now: Cell<i64>,
    told: Cell<i64>,
    gauge: Gauge,
}

/// Says that a listener is served, for as long as it is held.
pub struct Accepting(Rc<Worker>, Direction);

/// Counts a connection that is made ahead, for as long as it is held.
pub struct Ahead(Rc<Worker>);

/// Counts a tunnel for as long as it is held.
pub struct OpenTunnel {
    worker: Rc<Worker>,
    direction: Direction,
}

/// Counts a connection for as long as it is held.
pub struct OpenConnection {
    worker: Rc<Worker>,
    direction: Direction,
}

impl Instance {
    /// An instance of the service `name`, with a random mark of its own.
    pub fn new(name: &str) -> Self {
        let mark = fastrand::u32(..);
        let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let via = |direction| {
            let text = format!("1.1 {plain}-{direction}-{mark:08x}");
            HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("1.1 pillion"))
        };
        Self {
            inbound: via("in"),
            outbound: via("out"),
            gateway: via("gw"),
            dialled: Dialled::default(),
            budgets: Budgets::default(),
            fuses: Fuses::default(),
            rooms: Rooms::default(),
            keyrings: Keyrings::default(),
            bulkheads: Bulkheads::default(),
            name: UpstreamName::new(name),
        }
    }

    /// The circuit breakers of all routes.
    pub fn fuses(&self) -> &Fuses {
        &self.fuses
    }

    /// The keys of issuers that are fetched.
    pub fn keyrings(&self) -> &Keyrings {
        &self.keyrings
    }

    /// The limits of calls at one time.
    pub fn bulkheads(&self) -> &Bulkheads {
        &self.bulkheads
    }

    /// The element of `Via` for a direction.
    pub fn via(&self, direction: Direction) -> &HeaderValue {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Gateway => &self.gateway,
        }
    }
}

impl Worker {
    /// A worker that serves `model`.
    pub fn new(
        model: Arc<Model>,
        board: Board,
        (quotas, rates): (Quotas, Rates),
        metrics: &Metrics,
        instance: Instance,
        layer: Option<Layer>,
    ) -> Rc<Self> {
        let told = |name| {
            Direction::ALL.map(|direction| Told {
                now: Cell::new(0),
                told: Cell::new(0),
                gauge: metrics.gauge(name, &[direction.as_str()]),
            })
        };
        let unrouted = |direction| Rc::new(RouteMetrics::new(metrics, direction, "", ""));
        let worker = Rc::new(Self {
            timers: Timers::new(),
            table: Table::new(board, metrics.clone(), quotas),
            metrics: metrics.clone(),
            random: RefCell::new(fastrand::Rng::new()),
            layer,
            rates,
            ledger: RefCell::default(),
            umpire: RefCell::default(),
            notices: Notices::default(),
            stages: Default::default(),
            listeners: Default::default(),
            ahead: Cell::new(0),
            handshakes: Rc::default(),
            instance,
            router: RefCell::default(),
            contexts: RefCell::default(),
            unrouted: Direction::ALL.map(unrouted),
            open: told(&names::CONNECTIONS_OPEN),
            tunnels: told(&names::TUNNELS_OPEN),
            active: told(&names::ACTIVE_REQUESTS),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        });
        worker.apply(model);
        worker
    }

    /// Serves `model` from now on. Connections stay; each next request follows it.
    pub fn apply(&self, model: Arc<Model>) {
        let old = self.router.borrow().clone();
        self.set_ledger(model.rate_server.as_ref());
        self.set_umpire(model.rate_service.as_ref());
        let router = Router::new(model, self, old.as_deref(), clock::now());
        let context = |stage: &Rc<Cell<Stage>>| {
            let limits = router.model.limits.clone();
            Rc::new(ServerContext { limits, timers: self.timers.clone(), stage: stage.clone() })
        };
        *self.contexts.borrow_mut() = Some(self.stages.each_ref().map(context));
        *self.router.borrow_mut() = Some(Rc::new(router));
    }

    /// Keeps the way to the server that counts for all sidecars where it stays.
    fn set_ledger(&self, server: Option<&RateServer>) {
        let mut ledger = self.ledger.borrow_mut();
        if ledger.as_ref().map(|(server, _)| server) != server {
            *ledger = server.and_then(|server| Some((server.clone(), self.rates.ledger(server)?)));
        }
    }

    fn set_umpire(&self, service: Option<&RateService>) {
        let mut umpire = self.umpire.borrow_mut();
        if umpire.as_ref().map(|(service, _)| service) != service {
            *umpire = service.and_then(|service| Some((service.clone(), self.rates.umpire(service)?)));
        }
    }

    /// The server that decides by rules of its own.
    pub fn umpire(&self) -> Option<Rc<Bench>> {
        self.umpire.borrow().as_ref().map(|(_, bench)| bench.clone())
    }

    /// The server that counts for all sidecars.
    pub fn ledger(&self) -> Option<Rc<dyn Ledger>> {
        self.ledger.borrow().as_ref().map(|(_, ledger)| ledger.clone())
    }

    /// The routes in force.
    #[allow(clippy::expect_used, reason = "`new` applies a model before anybody has the worker")]
    pub fn router(&self) -> Rc<Router> {
        self.router.borrow().clone().expect("a worker has a model")
    }

    /// What connections accepted now are served by.
    #[allow(clippy::expect_used, reason = "`new` applies a model before anybody has the worker")]
    pub fn context(&self, direction: Direction) -> Rc<ServerContext> {
        self.contexts.borrow().as_ref().expect("a worker has a model")[direction as usize].clone()
    }

    /// The drain of one direction has come to `stage`: its connections end
    /// after their next answer, then when nothing is at hand, and at last what
    /// still runs is answered with `shutting_down`.
    pub fn advance(&self, direction: Direction, stage: Stage) {
        self.stages[direction as usize].set(stage);
        self.timers.wake_all();
    }

    /// Whether the time for what still runs is over.
    pub fn is_stopping(&self, direction: Direction) -> bool {
        self.stages[direction as usize].get() == Stage::Stopped
    }

    /// The element of `Via` for a direction.
    pub fn via(&self, direction: Direction) -> &HeaderValue {
        self.instance.via(direction)
    }

    /// The connections that captured ones were continued with, of all workers.
    pub fn dialled(&self) -> &Dialled {
        &self.instance.dialled
    }

    /// What may be sent again, counted over all workers.
    pub fn budgets(&self) -> &Budgets {
        &self.instance.budgets
    }

    /// The circuit breakers of all routes.
    pub fn fuses(&self) -> &Fuses {
        self.instance.fuses()
    }

    /// Room for the copies of all routes.
    pub fn rooms(&self) -> &Rooms {
        &self.instance.rooms
    }

    /// The keys of issuers that are fetched.
    pub fn keyrings(&self) -> &Keyrings {
        self.instance.keyrings()
    }

    /// A limit of calls at one time, of all workers.
    pub fn bulkhead(&self, limit: &Concurrency, now: Instant) -> Arc<Bulkhead> {
        let Instance { bulkheads, name, .. } = &self.instance;
        bulkheads.get(limit, name.as_str(), &self.metrics, now)
    }

    /// Metrics of requests whose route is not known.
    pub fn unrouted(&self, direction: Direction) -> Rc<RouteMetrics> {
        self.unrouted[direction as usize].clone()
    }

    /// A limit was hit.
    pub fn limited(&self, limit: &str) {
        self.metrics.counter(&names::LIMITED, &[limit]).increment(1);
    }

    /// Counts a connection.
    pub fn open(self: &Rc<Self>, direction: Direction) -> OpenConnection {
        let open = &self.open[direction as usize];
        open.now.set(open.now.get() + 1);
        OpenConnection { worker: self.clone(), direction }
    }

    /// Counts a tunnel.
    pub fn tunnel(self: &Rc<Self>, direction: Direction) -> OpenTunnel {
        let open = &self.tunnels[direction as usize];
        open.now.set(open.now.get() + 1);
        OpenTunnel { worker: self.clone(), direction }
    }

    /// A listener is served as long as what this gives is held.
    pub fn accepting(self: &Rc<Self>, direction: Direction) -> Accepting {
        let listeners = &self.listeners[direction as usize];
        listeners.set(listeners.get() + 1);
        Accepting(self.clone(), direction)
    }

    /// Room for one connection that is made before its caller has spoken.
    pub fn may_dial_ahead(self: &Rc<Self>) -> Option<Ahead> {
        let room = self.ahead.get() < MAX_AHEAD;
        room.then(|| {
            self.ahead.set(self.ahead.get() + 1);
            Ahead(self.clone())
        })
    }

    /// Room for one more handshake of TLS, of so many; held as long as it lasts.
    pub fn may_shake_hands(&self, most: usize) -> Option<Rc<()>> {
        (Rc::strong_count(&self.handshakes) <= most).then(|| self.handshakes.clone())
    }

    /// Whether a connection of this direction is open, or may still be accepted.
    pub fn is_busy(&self, direction: Direction) -> bool {
        self.listeners[direction as usize].get() > 0 || self.open[direction as usize].now.get() > 0
    }

    /// Connections that are open on this worker.
    pub fn connections(&self) -> usize {
        self.open.iter().map(|open| usize::try_from(open.now.get()).unwrap_or(0)).sum()
    }

    /// What the admin port shows of the endpoints, as this worker sees them.
    pub fn stats(&self) -> Vec<EndpointStats> {
        let now = clock::now();
        let mut all = self.table.stats(now);
        if let Some(service) = self.router().service() {
            all.extend(service.stats(now));
        }
        all
    }

    /// `Date`, renewed once a second.
    #[allow(clippy::disallowed_methods, reason = "the edge: a wall clock for a wall-clock field")]
    pub fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(now);
            *date = (second, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")));
        }
        date.1.clone()
    }

    /// Sweeps and counts, for as long as it is polled.
    pub async fn keep_house(self: Rc<Self>) {
        let mut every = tokio::time::interval(HOUSEKEEPING);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut rounds = 0u32;
        loop {
            every.tick().await;
            self.tell();
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(5) {
                let (router, now) = (self.router(), clock::now());
                router.sweep(now);
                self.table.sweep(now, |name: &UpstreamName| router.names(name));
            }
        }
    }

    fn tell(&self) {
        for (active, unrouted) in self.active.iter().zip(&self.unrouted) {
            active.now.set(unrouted.active());
        }
        for told in self.open.iter().chain(&self.tunnels).chain(&self.active) {
            let change = told.now.get() - told.told.replace(told.now.get());
            if change != 0 {
                told.gauge.increment(change as f64);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let listeners = &self.0.listeners[self.1 as usize];
        listeners.set(listeners.get() - 1);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.ahead.set(self.0.ahead.get() - 1);
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        let open = &self.worker.tunnels[self.direction as usize];
        open.now.set(open.now.get() - 1);
    }
}

impl OpenConnection {
    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let open = &self.worker.open[self.direction as usize];
        open.now.set(open.now.get() - 1);
    }
}
