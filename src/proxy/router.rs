//! The routes of one model, as one worker holds them: matched, with their
//! metrics, budget and upstream at hand.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request;

use super::authorize::{self, Porter};
use super::bulkheads::Bulkhead;
use super::connection::Door;
use super::gateway::Entrance;
use super::mirror::Mirror;
use super::rates::Rated;
use super::split::Ways;
use super::worker::Worker;
use crate::base::clock;
use crate::base::{self, Authority, Origin, Protocol, ProxyError, Reason, UpstreamName};
use crate::config::Model;
use crate::config::model::{self, Limits, RoutePolicy};
use crate::policy::budget::Budget;
use crate::policy::deadline::Quickest;
use crate::policy::latency::Latencies;
use crate::policy::routes::{Matcher, upstream_of};
use crate::policy::sni::Names;
use crate::telemetry::record::{Direction, RouteMetrics};
use crate::upstream::{Panel, Upstream};

/// Upstreams without a policy that keep their route at hand.
const MAX_OTHERS: usize = 1024;

/// See the module's text.
pub struct Router {
    /// What it was made of.
    pub model: Arc<Model>,
    /// Who is let in.
    pub porter: Porter,
    /// Where TLS goes by its name.
    pub sni: Names,
    limits: Rc<Limits>,
    inbound: Option<Routes>,
    /// Whether an inbound route refuses or changes calls.
    inbound_is_held: bool,
    outbound: HashMap<UpstreamName, Routes>,
    gateways: HashMap<SocketAddr, Entrance>,
    others: RefCell<HashMap<UpstreamName, Rc<Route>>>,
    /// Routes to where captured connections were going.
    addresses: RefCell<HashMap<(Direction, SocketAddr), Rc<Route>>>,
}

/// The routes to one upstream.
struct Routes {
    matcher: Matcher,
    routes: Vec<Rc<Route>>,
    catch_all: Rc<Route>,
}

/// One route.
pub struct Route {
    /// The value of `http.route`; empty for a catch-all.
    pub template: Arc<str>,
    /// What it does.
    pub policy: RoutePolicy,
    /// What its upstream speaks.
    pub protocol: Protocol,
    /// Where its requests go.
    pub upstream: Rc<Upstream>,
    /// Its metrics.
    pub metrics: Rc<RouteMetrics>,
    /// Its circuit breakers.
    pub panel: Option<Rc<Panel>>,
    /// What calls of its upstream may be sent again, by whatever route.
    pub budget: Arc<Budget>,
    /// The limits of `policy.rate_limits`, in the same order.
    pub rates: Vec<Arc<Rated>>,
    /// Whom it has denied.
    pub denied: authorize::Counts,
    /// The limits of `policy.concurrency`, in the same order.
    pub bulkheads: Vec<Arc<Bulkhead>>,
    /// How long its calls take, where `hedge` asks for it.
    pub latencies: Option<Box<RefCell<Latencies>>>,
    /// What its quickest answers take.
    pub quickest: Cell<Quickest>,
    /// For heads of answers.
    pub limits: Rc<Limits>,
    /// Where it was written.
    pub origin: Option<Origin>,
    /// Written as `grpc package.Service/Method`.
    pub grpc: bool,
    /// Where else its calls go.
    pub split: Option<Box<Ways>>,
    /// Copies of its calls.
    pub mirror: Option<Rc<Mirror>>,
    last_used: Cell<Instant>,
}

impl Route {
    /// What its upstream speaks, as far as anybody has told.
    pub fn speaks(&self) -> Protocol {
        match self.protocol {
            Protocol::Auto => self.upstream.speaks(),
            told => told,
        }
    }
}

/// What the routes to one upstream share.
struct Target<'a> {
    direction: Direction,
    upstream: Rc<Upstream>,
    protocol: Protocol,
    limits: &'a Rc<Limits>,
    worker: &'a Worker,
    now: Instant,
}

impl Router {
    /// The routes of `model`. Connections to the service are kept from `old`
    /// where its address stays.
    pub fn new(model: Arc<Model>, worker: &Worker, old: Option<&Self>, now: Instant) -> Self {
        let limits = Rc::new(model.limits.clone());
        let inbound = model.service.address.map(|address| {
            let kept = old
                .and_then(|old| old.inbound.as_ref())
                .filter(|_| old.is_some_and(|old| old.model.service.address == Some(address)))
                .map(|routes| routes.catch_all.upstream.clone());
            let name = model.service.name.clone();
            let upstream = kept.unwrap_or_else(|| {
                Upstream::fixed(name, vec![base::Endpoint::new(address)], &worker.metrics)
            });
            upstream.set_proxy_protocol(model.service.proxy_protocol);
            let protocol = model.service.protocol;
            let target =
                Target { direction: Direction::Inbound, upstream, protocol, limits: &limits, worker, now };
            Routes::new(&target, &model, &model.inbound_defaults, model.inbound.iter())
        });
        let mut outbound = HashMap::new();
        for name in model.named() {
            let block = model.upstreams.get(name);
            let target = Target {
                direction: Direction::Outbound,
                upstream: worker.table.named(name),
                protocol: block.map_or(Protocol::Auto, |block| block.protocol),
                limits: &limits,
                worker,
                now,
            };
            let catch_all = block.map_or(&model.defaults, |block| &block.policy);
            let routes = model.outbound.iter().filter(|route| route.to.as_ref() == Some(name));
            outbound.insert(name.clone(), Routes::new(&target, &model, catch_all, routes));
        }
        let gateways = model.gateways.iter();
        let gateways =
            gateways.map(|gateway| (gateway.listen, entrance(gateway, &model, worker, &limits, now)));
        let gateways = gateways.collect();
        let told = |name: &UpstreamName| model.upstreams.get(name).and_then(|block| block.proxy_protocol);
        worker.table.set_proxy_protocol(told);
        let mut policies = model.inbound.iter().map(|route| &route.policy);
        Self {
            porter: Porter::new(&model, worker.keyrings()),
            sni: Names::new(&model),
            inbound_is_held: model.inbound_defaults.holds() || policies.any(RoutePolicy::holds),
            model,
            limits,
            inbound,
            outbound,
            gateways,
            others: RefCell::default(),
            addresses: RefCell::default(),
        }
    }

    /// The route of a request.
    pub fn find(
        &self,
        door: &Door,
        head: &request::Parts,
        authority: Option<&Authority>,
    ) -> Result<Rc<Route>, ProxyError> {
        let host = authority.map_or("", Authority::host);
        let found = |routes: &Routes| match routes.matcher.find(head, host) {
            Some(index) => routes.routes[index].clone(),
            None => routes.catch_all.clone(),
        };
        if let Some(entry) = &door.gateway {
            let none = || ProxyError::unsent(Reason::NoRoute, "this listener is no longer served");
            return self.gateways.get(&entry.listen).ok_or_else(none)?.find(head, host);
        }
        if door.direction == Direction::Inbound {
            let none =
                || ProxyError::unsent(Reason::NoRoute, "`service.port` is not set: nothing is served here");
            return self.inbound.as_ref().map(found).ok_or_else(none);
        }
        if let Some(name) = &door.fixed {
            return match self.outbound.get(name) {
                Some(routes) => Ok(found(routes)),
                None => self.other(name.as_str(), door),
            };
        }
        let name = authority.map(|authority| self.name_of(authority));
        match (name, door.original) {
            (Some(name), _) if self.outbound.contains_key(&*name) => Ok(found(&self.outbound[&*name])),
            (name, Some(original)) => self.captured(name.as_deref(), original, door, found),
            (Some(name), None) => self.other(&name, door),
            (None, None) => {
                let detail = "the request names no host, so there is nowhere to send it";
                Err(ProxyError::unsent(Reason::NoRoute, detail))
            }
        }
    }

    /// The upstream that an authority names.
    fn name_of<'a>(&self, authority: &'a Authority) -> Cow<'a, str> {
        upstream_of(authority, |name| self.outbound.contains_key(name))
    }

    /// The route of a captured request whose authority no policy names: the
    /// upstream of that name if a source knows it, but for DNS, which knows the
    /// whole world; the one that has the first destination as an endpoint; the
    /// name by DNS; at last the first destination itself.
    fn captured(
        &self,
        name: Option<&str>,
        original: SocketAddr,
        door: &Door,
        found: impl Fn(&Routes) -> Rc<Route>,
    ) -> Result<Rc<Route>, ProxyError> {
        let named = name.filter(|name| !is_literal(name)).and_then(|name| self.other(name, door).ok());
        let known = named.as_ref().and_then(|route| route.upstream.known().flatten());
        let by_name = named.filter(|_| known.is_some());
        match (by_name, door.worker.table.at(original)) {
            (Some(route), _) if known != Some("dns") => Ok(route),
            (_, Some(name)) => match self.outbound.get(&name) {
                Some(routes) => Ok(found(routes)),
                None => self.other(name.as_str(), door),
            },
            (Some(route), None) => Ok(route),
            (None, None) => match self.outbound.get(&*original.to_string()) {
                Some(routes) => Ok(found(routes)),
                None => Ok(self.to_address(original, door.direction, &door.worker)),
            },
        }
    }

    /// The upstream that a captured request names, where no source has said yet
    /// whether it knows it.
    pub fn unanswered(&self, door: &Door, authority: Option<&Authority>) -> Option<Rc<Upstream>> {
        door.original?;
        let name = self.name_of(authority?);
        if self.outbound.contains_key(&*name) || is_literal(&name) {
            return None;
        }
        let upstream = self.other(&name, door).ok()?.upstream.clone();
        upstream.known().is_none().then_some(upstream)
    }

    /// The route to where a captured connection was going.
    pub fn to_address(&self, address: SocketAddr, direction: Direction, worker: &Worker) -> Rc<Route> {
        let now = clock::now();
        let key = (direction, address);
        if let Some(route) = self.addresses.borrow().get(&key) {
            route.last_used.set(now);
            return route.clone();
        }
        let name = UpstreamName::new(&address.to_string());
        if direction == Direction::Outbound
            && let Some(routes) = self.outbound.get(&name)
        {
            return routes.catch_all.clone();
        }
        let upstream = Upstream::fixed(name, vec![base::Endpoint::new(address)], &worker.metrics);
        let protocol = Protocol::Auto;
        let target = Target { direction, upstream, protocol, limits: &self.limits, worker, now };
        let policy = match direction {
            Direction::Inbound => &self.model.inbound_defaults,
            Direction::Outbound | Direction::Gateway => &self.model.defaults,
        };
        let route = Rc::new(target.route("".into(), policy, None, String::new()));
        let mut addresses = self.addresses.borrow_mut();
        if addresses.len() < MAX_OTHERS {
            addresses.insert(key, route.clone());
        }
        route
    }

    /// The catch-all to an upstream, for opaque streams.
    pub fn route_to(&self, name: &UpstreamName, door: &Door) -> Result<Rc<Route>, ProxyError> {
        match self.outbound.get(name) {
            Some(routes) => Ok(routes.catch_all.clone()),
            None => self.other(name.as_str(), door),
        }
    }

    /// Whether the policy names this upstream.
    pub fn names(&self, name: &UpstreamName) -> bool {
        self.outbound.contains_key(name)
    }

    /// Lets go of upstreams without a policy that nobody has called for a while.
    pub fn sweep(&self, now: Instant) {
        if let Some(inbound) = &self.inbound {
            inbound.catch_all.upstream.sweep(now);
        }
        let is_used = |route: &Rc<Route>| {
            Rc::strong_count(route) > 1 || now.saturating_duration_since(route.last_used.get()).as_secs() < 60
        };
        self.others.borrow_mut().retain(|_, route| is_used(route));
        self.addresses.borrow_mut().retain(|_, route| {
            route.upstream.sweep(now);
            is_used(route)
        });
    }

    /// The service as an upstream.
    pub fn service(&self) -> Option<&Rc<Upstream>> {
        self.inbound.as_ref().map(|routes| &routes.catch_all.upstream)
    }

    /// The catch-all of the service, for opaque streams.
    pub fn service_route(&self) -> Option<Rc<Route>> {
        self.inbound.as_ref().map(|routes| routes.catch_all.clone())
    }

    /// Whether nothing but HTTP is let through to the service by `route`: its
    /// policy holds callers to something that bytes of no known form would get around.
    pub fn takes_http_only(&self, route: &Route) -> bool {
        let to_service = self.service().is_some_and(|service| Rc::ptr_eq(service, &route.upstream));
        to_service && self.inbound_is_held
    }

    /// The route to an upstream that the policy does not name.
    fn other(&self, name: &str, door: &Door) -> Result<Rc<Route>, ProxyError> {
        let now = clock::now();
        if let Some(route) = self.others.borrow().get(name) {
            route.last_used.set(now);
            return Ok(route.clone());
        }
        let name = UpstreamName::new(name);
        let target = Target {
            direction: Direction::Outbound,
            upstream: door.worker.table.get(&name)?,
            protocol: Protocol::Auto,
            limits: &self.limits,
            worker: &door.worker,
            now,
        };
        let route = Rc::new(target.route("".into(), &self.model.defaults, None, String::new()));
        let mut others = self.others.borrow_mut();
        if others.len() < MAX_OTHERS {
            others.insert(name, route.clone());
        }
        Ok(route)
    }
}

/// The routes of a gateway. Those that answer themselves have an upstream without
/// endpoints.
fn entrance(
    gateway: &model::Gateway,
    model: &Model,
    worker: &Worker,
    limits: &Rc<Limits>,
    now: Instant,
) -> Entrance {
    let itself = Upstream::fixed(model.service.name.clone(), Vec::new(), &worker.metrics);
    Entrance::new(gateway, |route| {
        let block = route.to.as_ref().and_then(|to| model.upstreams.get(to));
        let target = Target {
            direction: Direction::Gateway,
            upstream: route.to.as_ref().map_or_else(|| itself.clone(), |to| worker.table.named(to)),
            protocol: block.map_or(Protocol::Auto, |block| block.protocol),
            limits,
            worker,
            now,
        };
        let pattern = (&route.pattern.template, format!("{} {:?}", gateway.listen, route.pattern));
        Rc::new(target.routes(model, pattern, &route.policy, Some(&route.origin), route.pattern.grpc))
    })
}

fn is_literal(name: &str) -> bool {
    UpstreamName::new(name).as_literal(0).is_some()
}

impl Routes {
    fn new<'r>(
        target: &Target<'_>,
        model: &Model,
        catch_all: &RoutePolicy,
        written: impl Iterator<Item = &'r model::Route>,
    ) -> Self {
        let written: Vec<_> = written.collect();
        let patterns = written.iter().enumerate().map(|(index, route)| (route.pattern.clone(), index));
        let routes = written.iter().map(|route| {
            let template = route.pattern.template.clone();
            let (origin, pattern) = (Some(route.origin.clone()), format!("{:?}", route.pattern));
            Rc::new(target.routes(
                model,
                (&template, pattern),
                &route.policy,
                origin.as_ref(),
                route.pattern.grpc,
            ))
        });
        Self {
            matcher: Matcher::new(patterns),
            routes: routes.collect(),
            catch_all: Rc::new(target.routes(model, (&"".into(), String::new()), catch_all, None, false)),
        }
    }
}

impl Target<'_> {
    /// A route, and the same to each upstream among which it divides its calls.
    fn routes(
        &self,
        model: &Model,
        (template, pattern): (&Arc<str>, String),
        policy: &RoutePolicy,
        origin: Option<&Origin>,
        grpc: bool,
    ) -> Route {
        let place = (&*self.upstream, pattern.as_str(), &**template);
        let mirror = Mirror::new(policy.mirror.as_ref(), place, model, self.worker, self.limits);
        let split = Ways::new(policy.shaping.as_ref(), |name| {
            let protocol = model.upstreams.get(name).map_or(Protocol::Auto, |block| block.protocol);
            let target = Target { upstream: self.worker.table.named(name), protocol, ..*self };
            // Not the route of this pattern that the other upstream may have itself.
            let pattern = format!("{} {pattern}", self.upstream.name);
            let mirror = mirror.clone();
            Route { grpc, mirror, ..target.route(template.clone(), policy, origin.cloned(), pattern) }
        });
        Route { grpc, split, mirror, ..self.route(template.clone(), policy, origin.cloned(), pattern) }
    }

    /// `pattern` tells it from all others to the same upstream.
    fn route(
        &self,
        template: Arc<str>,
        policy: &RoutePolicy,
        origin: Option<Origin>,
        pattern: String,
    ) -> Route {
        let metrics = &self.worker.metrics;
        let panel = policy.circuit_breaker.as_ref().map(|breaker| {
            let (name, fuses) = (&self.upstream.name, self.worker.fuses());
            fuses.get(name, (pattern, &template), breaker, origin.clone(), metrics)
        });
        let label = metrics.label(self.upstream.name.as_str());
        let inbound = self.direction == Direction::Inbound;
        Route {
            metrics: Rc::new(RouteMetrics::new(metrics, self.direction, &label, &template)),
            template,
            policy: policy.clone(),
            panel,
            protocol: self.protocol,
            upstream: self.upstream.clone(),
            rates: policy.rate_limits.iter().map(|limit| self.worker.rates.get(limit, self.now)).collect(),
            budget: self.worker.budgets().get(&self.upstream.name, inbound, self.now),
            denied: authorize::Counts::default(),
            bulkheads: policy.concurrency.iter().map(|limit| self.worker.bulkhead(limit, self.now)).collect(),
            latencies: policy.hedge.as_ref().map(|_| Box::default()),
            quickest: Cell::default(),
            limits: self.limits.clone(),
            origin,
            grpc: false,
            split: None,
            mirror: None,
            last_used: Cell::new(self.now),
        }
    }
}
