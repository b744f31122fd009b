//! The routes of one model, as one worker holds them: matched, with their
//! metrics, budget and upstream at hand.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request;

use super::connection::Door;
use super::worker::Worker;
use crate::base::{self, Authority, Origin, Protocol, ProxyError, Reason, UpstreamName};
use crate::config::Model;
use crate::config::model::{self, Limits, RoutePolicy};
use crate::policy::retry::Budget;
use crate::policy::routes::Matcher;
use crate::telemetry::record::{Direction, RouteMetrics};
use crate::upstream::Upstream;

/// Upstreams without a policy that keep their route at hand.
const MAX_OTHERS: usize = 1024;

/// See the module's text.
pub struct Router {
    /// What it was made of.
    pub model: Arc<Model>,
    limits: Rc<Limits>,
    inbound: Option<Routes>,
    outbound: HashMap<UpstreamName, Routes>,
    others: RefCell<HashMap<UpstreamName, Rc<Route>>>,
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
    /// Its retries.
    pub budget: RefCell<Budget>,
    /// For heads of answers.
    pub limits: Rc<Limits>,
    /// Where it was written.
    pub origin: Option<Origin>,
    last_used: Cell<Instant>,
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
            let protocol = model.service.protocol;
            let target =
                Target { direction: Direction::Inbound, upstream, protocol, limits: &limits, worker, now };
            Routes::new(&target, &model.inbound_defaults, model.inbound.iter())
        });
        let mut outbound = HashMap::new();
        let named = model.outbound.iter().filter_map(|route| route.to.as_ref());
        for name in model.upstreams.keys().chain(named) {
            if outbound.contains_key(name) {
                continue;
            }
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
            outbound.insert(name.clone(), Routes::new(&target, catch_all, routes));
        }
        Self { model, limits, inbound, outbound, others: RefCell::default() }
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
        let Some(authority) = authority else {
            let detail = "the request names no host, so there is nowhere to send it";
            return Err(ProxyError::unsent(Reason::NoRoute, detail));
        };
        let full;
        let name = match authority.port() {
            None | Some(80) => host,
            Some(port) => {
                full = format!("{host}:{port}");
                if !self.outbound.contains_key(&*full) && self.outbound.contains_key(host) {
                    host
                } else {
                    &full
                }
            }
        };
        match self.outbound.get(name) {
            Some(routes) => Ok(found(routes)),
            None => self.other(name, door),
        }
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
        self.others.borrow_mut().retain(|_, route| {
            Rc::strong_count(route) > 1 || now.saturating_duration_since(route.last_used.get()).as_secs() < 60
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

    /// The route to an upstream that the policy does not name.
    fn other(&self, name: &str, door: &Door) -> Result<Rc<Route>, ProxyError> {
        let now = Instant::now();
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
        let route = Rc::new(target.route("".into(), &self.model.defaults, None));
        let mut others = self.others.borrow_mut();
        if others.len() < MAX_OTHERS {
            others.insert(name, route.clone());
        }
        Ok(route)
    }
}

impl Routes {
    fn new<'r>(
        target: &Target<'_>,
        catch_all: &RoutePolicy,
        written: impl Iterator<Item = &'r model::Route>,
    ) -> Self {
        let written: Vec<_> = written.collect();
        let patterns = written.iter().enumerate().map(|(index, route)| (route.pattern.clone(), index));
        let routes = written.iter().map(|route| {
            let template = route.pattern.template.clone();
            Rc::new(target.route(template, &route.policy, Some(route.origin.clone())))
        });
        Self {
            matcher: Matcher::new(patterns),
            routes: routes.collect(),
            catch_all: Rc::new(target.route("".into(), catch_all, None)),
        }
    }
}

impl Target<'_> {
    fn route(&self, template: Arc<str>, policy: &RoutePolicy, origin: Option<Origin>) -> Route {
        let metrics = &self.worker.metrics;
        let label = metrics.label(self.upstream.name.as_str());
        let share = policy.retry.as_ref().map_or(0.0, |retry| retry.budget);
        Route {
            metrics: Rc::new(RouteMetrics::new(metrics, self.direction, &label, &template)),
            template,
            policy: policy.clone(),
            protocol: self.protocol,
            upstream: self.upstream.clone(),
            budget: RefCell::new(Budget::new(share)),
            limits: self.limits.clone(),
            origin,
            last_used: Cell::new(self.now),
        }
    }
}
