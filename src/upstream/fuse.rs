//! Circuit breakers where calls are made: which of them an attempt asks, and
//! who hears how it went. What a breaker decides is in `policy/breaker`.
//!
//! The breakers of a route are shared by all workers and outlive a reload that
//! does not change them. A worker looks each one up once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};

use super::endpoint::Endpoint;
use super::snapshot::BreakerState;
use crate::base::clock;
use crate::base::{Origin, Protocol, ProxyError, Reason, UpstreamName};
use crate::config::model::{CircuitBreaker, Mode, Scope};
use crate::policy::breaker::{Breaker, Moved, Permit, Refused, State, Verdict};
use crate::policy::fleet::Member;
use crate::policy::outcome::Class;
use crate::policy::vitals::Vitals;
use crate::telemetry::{Metrics, names};

/// Breakers of endpoints that are kept for one route.
const MAX_ENDPOINTS: usize = 4096;
/// What opened a breaker, for messages.
const CAUSES: [&str; 5] = ["", "consecutive_failures", "failure_rate", "slow_calls", "probe"];

/// The breakers of all routes of the process. All clones are the same.
#[derive(Clone, Default)]
pub struct Fuses(Arc<Mutex<HashMap<Key, Arc<Fuse>>>>);

type Key = (UpstreamName, String);

/// The breakers of one route, for all workers.
pub struct Fuse {
    policy: CircuitBreaker,
    upstream: UpstreamName,
    /// As a policy writes it; empty for what no route takes.
    route: Arc<str>,
    meters: Arc<Meters>,
    whole: Arc<Held>,
    endpoints: Mutex<HashMap<(SocketAddr, Protocol), Arc<Held>>>,
}

struct Meters {
    /// By state: closed, open, half-open.
    moved: [Counter; 3],
    open: Gauge,
    half_open: Gauge,
    refused: Counter,
}

/// One breaker, and what the gauges know of it.
struct Held {
    breaker: Breaker,
    meters: Arc<Meters>,
    open: AtomicI64,
    half_open: AtomicI64,
    /// Index in [`CAUSES`].
    cause: AtomicU8,
}

/// The breaker of the endpoint with these vitals.
type Slot = (Arc<Vitals>, Arc<Held>);

/// The breakers of one route as one worker sees them.
pub struct Panel {
    fuse: Arc<Fuse>,
    rule: Option<Origin>,
    /// By the slot of the endpoint.
    slots: RefCell<Vec<Option<Slot>>>,
}

/// An attempt that a breaker let through. Dropped untold, it says nothing.
pub struct Guard {
    held: Arc<Held>,
    fuse: Arc<Fuse>,
    address: Option<SocketAddr>,
    permit: Cell<Option<Permit>>,
    began: Instant,
    took: Cell<Option<Duration>>,
    probe: bool,
}

impl Fuses {
    /// The breakers of the route that `pattern` tells from others, and how one
    /// worker sees them.
    pub fn get(
        &self,
        upstream: &UpstreamName,
        (pattern, route): (String, &Arc<str>),
        policy: &CircuitBreaker,
        rule: Option<Origin>,
        metrics: &Metrics,
    ) -> Rc<Panel> {
        let mut all = lock(&self.0);
        all.retain(|_, fuse| Arc::strong_count(fuse) > 1);
        let key = (upstream.clone(), pattern);
        let same = all.get(&key).filter(|fuse| fuse.policy == *policy).cloned();
        let fuse = same.unwrap_or_else(|| {
            let fuse = Arc::new(Fuse::new(upstream, route, policy, metrics));
            all.insert(key, fuse.clone());
            fuse
        });
        Rc::new(Panel { fuse, rule, slots: RefCell::default() })
    }

    /// How each of them stands.
    pub fn states(&self, now: Instant) -> Vec<BreakerState> {
        let fuses: Vec<_> = lock(&self.0).values().cloned().collect();
        fuses.iter().flat_map(|fuse| fuse.states(now)).collect()
    }
}

impl Fuse {
    fn new(upstream: &UpstreamName, route: &Arc<str>, policy: &CircuitBreaker, metrics: &Metrics) -> Self {
        let label = metrics.label(upstream.as_str());
        let moved = |to| metrics.counter(&names::BREAKER_TRANSITIONS, &[&label, route, to]);
        let count = |state| metrics.gauge(&names::BREAKERS, &[&label, route, state]);
        let mode = if policy.mode == Mode::Shadow { "shadow" } else { "enforce" };
        let meters = Arc::new(Meters {
            moved: ["closed", "open", "half_open"].map(moved),
            open: count("open"),
            half_open: count("half_open"),
            refused: metrics.counter(&names::BREAKER_REFUSED, &[&label, route, mode]),
        });
        Self {
            whole: Held::new(policy, &meters),
            policy: policy.clone(),
            upstream: upstream.clone(),
            route: route.clone(),
            meters,
            endpoints: Mutex::default(),
        }
    }

    fn of(&self, member: &Member) -> Arc<Held> {
        let key = (member.facts.address, member.facts.protocol);
        let mut endpoints = lock(&self.endpoints);
        if let Some(held) = endpoints.get(&key) {
            return held.clone();
        }
        // Those that are gone: no worker holds them.
        endpoints.retain(|_, held| Arc::strong_count(held) > 1);
        let held = Held::new(&self.policy, &self.meters);
        // Beyond that a worker has one of its own.
        if endpoints.len() < MAX_ENDPOINTS {
            endpoints.insert(key, held.clone());
        }
        held
    }

    fn states(&self, now: Instant) -> Vec<BreakerState> {
        let one = |address, held: &Held| BreakerState {
            upstream: self.upstream.clone(),
            route: self.route.clone(),
            address,
            state: held.breaker.state(now).0.as_str(),
        };
        match self.policy.scope {
            Scope::Route => vec![one(None, &self.whole)],
            Scope::Endpoint => {
                lock(&self.endpoints).iter().map(|((address, _), held)| one(Some(*address), held)).collect()
            }
        }
    }

    fn refuses(&self) -> bool {
        self.policy.mode == Mode::Enforce
    }
}

impl Held {
    fn new(policy: &CircuitBreaker, meters: &Arc<Meters>) -> Arc<Self> {
        Arc::new(Self {
            breaker: Breaker::new(policy.rules.clone(), clock::now()),
            meters: meters.clone(),
            open: AtomicI64::new(0),
            half_open: AtomicI64::new(0),
            cause: AtomicU8::new(0),
        })
    }

    fn told(&self, moved: &Moved, fuse: &Fuse, address: Option<SocketAddr>) {
        for (state, by) in [(moved.from, -1), (moved.to, 1)] {
            let (gauge, count) = match state {
                State::Closed => continue,
                State::Open => (&self.meters.open, &self.open),
                State::HalfOpen => (&self.meters.half_open, &self.half_open),
            };
            gauge.increment(by as f64);
            count.fetch_add(by, Relaxed);
        }
        self.meters.moved[moved.to as usize].increment(1);
        let (upstream, route) = (&fuse.upstream, &*fuse.route);
        let address = address.map(|address| address.to_string());
        match moved.to {
            State::Open => {
                let index = CAUSES.iter().position(|cause| *cause == moved.cause).unwrap_or_default();
                self.cause.store(u8::try_from(index).unwrap_or_default(), Relaxed);
                let (cause, time) = (moved.cause, moved.time);
                tracing::warn!(%upstream, route, address, cause, ?time, "a circuit breaker has opened");
            }
            State::Closed => tracing::info!(%upstream, route, address, "a circuit breaker has closed"),
            State::HalfOpen => tracing::debug!(%upstream, route, address, "a circuit breaker tries probes"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meters.open.decrement(self.open.load(Relaxed) as f64);
        self.meters.half_open.decrement(self.half_open.load(Relaxed) as f64);
    }
}

impl Panel {
    /// Whether each endpoint has a breaker of its own.
    pub fn is_of_endpoints(&self) -> bool {
        self.fuse.policy.scope == Scope::Endpoint
    }

    /// Whether another attempt may be made, as far as the breaker for all
    /// endpoints says.
    pub fn allows_route(&self, now: Instant) -> bool {
        self.is_of_endpoints() || !self.fuse.refuses() || self.fuse.whole.breaker.allows(now)
    }

    /// An attempt of a route that has one breaker for all.
    pub fn admit_route(&self, now: Instant) -> Result<Option<Rc<Guard>>, ProxyError> {
        self.admit(&self.fuse.whole, None, now).map_err(|refused| self.refused(Some(refused), now))
    }

    /// Whether the endpoint at `slot` may be called.
    pub fn allows(&self, slot: u32, member: &Member, now: Instant) -> bool {
        !self.fuse.refuses() || self.with(slot, member, |held| held.breaker.allows(now))
    }

    /// An attempt at an endpoint; `Err` where another one should be picked.
    pub fn admit_at(
        &self,
        endpoint: &Endpoint,
        member: &Member,
        now: Instant,
    ) -> Result<Option<Rc<Guard>>, Refused> {
        let held = self.with(endpoint.slot, member, Clone::clone);
        self.admit(&held, Some(member.facts.address), now)
    }

    fn admit(
        &self,
        held: &Arc<Held>,
        address: Option<SocketAddr>,
        now: Instant,
    ) -> Result<Option<Rc<Guard>>, Refused> {
        let (admitted, moved) = held.breaker.admit(now);
        if let Some(moved) = moved {
            held.told(&moved, &self.fuse, address);
        }
        match admitted {
            Ok(permit) => Ok(Some(Rc::new(Guard {
                held: held.clone(),
                fuse: self.fuse.clone(),
                address,
                probe: permit.is_probe(),
                permit: Cell::new(Some(permit)),
                began: now,
                took: Cell::new(None),
            }))),
            Err(_) if !self.fuse.refuses() => {
                self.fuse.meters.refused.increment(1);
                Ok(None)
            }
            Err(refused) => Err(refused),
        }
    }

    /// The error for a call that no breaker lets through.
    pub fn refused(&self, refused: Option<Refused>, now: Instant) -> ProxyError {
        let fuse = &*self.fuse;
        fuse.meters.refused.increment(1);
        let name = &fuse.upstream;
        let (who, (state, left), cause) = match refused {
            Some(Refused { state, left }) => {
                (format!("the circuit breaker of `{name}`"), (state, left), fuse.whole.cause.load(Relaxed))
            }
            None => {
                let (left, cause) = self.soonest(now);
                (format!("the circuit breaker of every endpoint of `{name}`"), (State::Open, left), cause)
            }
        };
        let cause = match CAUSES.get(usize::from(cause)) {
            Some(&"") | None => String::new(),
            Some(cause) => format!(" (opened by `{cause}`)"),
        };
        let detail = match state {
            State::HalfOpen => format!("{who} tries with a few calls whether it works again"),
            _ => format!("{who} is open for {:.1} s more{cause}", left.as_secs_f64()),
        };
        let error = ProxyError::unsent(Reason::CircuitOpen, detail);
        ProxyError { rule: self.rule.clone(), retry_after: Some(left), ..error }
    }

    /// When the first of the endpoints may be tried again, and what opened it.
    fn soonest(&self, now: Instant) -> (Duration, u8) {
        let slots = self.slots.borrow();
        let left = slots.iter().flatten().filter_map(|(_, held)| match held.breaker.state(now) {
            (State::Closed, _) => None,
            (_, left) => Some((left.max(Duration::from_millis(100)), held.cause.load(Relaxed))),
        });
        left.min().unwrap_or((Duration::from_secs(1), 0))
    }

    fn with<T>(&self, slot: u32, member: &Member, look: impl FnOnce(&Arc<Held>) -> T) -> T {
        let mut slots = self.slots.borrow_mut();
        let index = slot as usize;
        if index >= slots.len() {
            slots.resize_with(index + 1, || None);
        }
        match &mut slots[index] {
            Some((vitals, held)) if Arc::ptr_eq(vitals, &member.vitals) => look(held),
            other => {
                let held = self.fuse.of(member);
                let told = look(&held);
                *other = Some((member.vitals.clone(), held));
                told
            }
        }
    }
}

impl Guard {
    /// The head of the answer has come. The service could not answer before
    /// `whole`, when the last of the request had come.
    pub fn answered(&self, now: Instant, whole: Option<Instant>) {
        let since = whole.map_or(self.began, |whole| whole.max(self.began));
        self.took.set(Some(now.saturating_duration_since(since)));
    }

    /// How the attempt went; only the first word counts.
    pub fn tell(&self, class: Class, now: Instant) {
        let Some(permit) = self.permit.take() else { return };
        // What has more than it can do is no better off without any call.
        if matches!(class, Class::Nothing | Class::Busy) {
            return self.held.breaker.give_back(permit);
        }
        let took = self.took.get().unwrap_or_else(|| now.saturating_duration_since(self.began));
        let verdict = Verdict { failed: class != Class::Good, took };
        let moved = self.held.breaker.settle(permit, verdict, now, &mut fastrand::Rng::new());
        if let Some(moved) = moved {
            self.held.told(&moved, &self.fuse, self.address);
        }
    }

    /// Whether somebody waits for what it tells.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.held.breaker.give_back(permit);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
