//! The limits of rates, which all workers share: each is found by the place
//! where it is written, so that it lives on through a reload that does not
//! change it.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, Histogram};

use super::ledger::{Ledger, Ledgers, Lost};
use super::umpire::{Bench, Umpires};
use crate::config::model::{self, Place, Quota, RateLimit, RateServer, RateService};
use crate::policy::rate::{Limiter, Verdict};
use crate::telemetry::record::Direction;
use crate::telemetry::{Metrics, names};

/// The limits of one sidecar. All clones are the same.
#[derive(Clone)]
pub struct Rates(Arc<Shared>);

struct Shared {
    all: Mutex<HashMap<(Place, Arc<str>), Known>>,
    parts: Mutex<Vec<Weak<Part>>>,
    /// So many sidecars shared the limits of a name when they were counted last.
    counts: Mutex<HashMap<Arc<str>, u32>>,
    metrics: Metrics,
    service: String,
    ledgers: Ledgers,
    umpires: Umpires,
}

/// A limit that some route holds, or held lately.
struct Known {
    rated: Weak<Rated>,
    keys: Gauge,
}

/// One limit and its counts.
pub struct Rated {
    /// What it counts and decides, for this sidecar alone.
    pub limiter: Limiter,
    /// For one that is shared: what this sidecar lets pass while the server that
    /// counts for all says nothing.
    pub share: Option<Share>,
    /// Calls that it refused.
    pub refused: Counter,
    /// Calls that it would have refused.
    pub shadowed: Counter,
    overflow: Counter,
    /// Calls without room for their key, as far as they were counted.
    told: AtomicU64,
}

/// What a sidecar lets pass of a limit that is shared while nobody counts for
/// all: one for all places that name it.
struct Part {
    shared: model::Shared,
    quota: Quota,
    limiter: ArcSwap<Limiter>,
}

/// A sidecar's part of a limit that is shared, and how the server was asked.
pub struct Share {
    part: Arc<Part>,
    /// Calls that the server decided.
    pub answered: Counter,
    gone: Counter,
    late: Counter,
    failed: Counter,
    /// How long calls waited for the server.
    pub waited: Histogram,
}

impl Share {
    fn new(part: Arc<Part>, metrics: &Metrics) -> Self {
        let name = part.shared.name.clone();
        let result = |result| metrics.counter(&names::RATE_LIMIT_SHARED, &[&name, result]);
        Self {
            part,
            answered: result("answered"),
            gone: result("gone"),
            late: result("late"),
            failed: result("failed"),
            waited: metrics.histogram(&names::RATE_LIMIT_SHARED_WAIT, &[&name]),
        }
    }

    /// The server said nothing: what this sidecar says.
    pub fn take(&self, lost: Lost, value: Option<&[u8]>, now: Instant) -> Verdict {
        match lost {
            Lost::Gone => self.gone.increment(1),
            Lost::Late => self.late.increment(1),
            Lost::Failed => self.failed.increment(1),
        }
        self.part.limiter.load().take(value, now)
    }
}

impl Rates {
    /// No limits as yet. `service` is the fronted one; `ledgers` makes the way to
    /// the server that counts for all sidecars.
    pub fn new(metrics: Metrics, service: &str, (ledgers, umpires): (Ledgers, Umpires)) -> Self {
        let (all, parts, counts) = Default::default();
        Self(Arc::new(Shared { all, parts, counts, metrics, service: service.to_owned(), ledgers, umpires }))
    }

    /// A worker's way to a server.
    pub fn ledger(&self, server: &RateServer) -> Option<Rc<dyn Ledger>> {
        (self.0.ledgers)(server)
    }

    /// A worker's way to a server that decides.
    pub fn umpire(&self, service: &RateService) -> Option<Rc<Bench>> {
        Some(Rc::new(Bench::new((self.0.umpires)(service)?, &self.0.metrics)))
    }

    /// The names of the limits that are shared.
    pub fn shared(&self) -> BTreeSet<Arc<str>> {
        let parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(Weak::upgrade).map(|part| part.shared.name.clone()).collect()
    }

    /// So many sidecars share the limits of this name.
    pub fn sharing(&self, name: &str, sidecars: u32, now: Instant) {
        let parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let sidecars = sidecars.max(1);
        let before =
            self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), sidecars);
        if before.unwrap_or(1) == sidecars {
            return;
        }
        let equal = |part: &Arc<Part>| part.shared.fallback.is_none() && *part.shared.name == *name;
        for part in parts.iter().filter_map(Weak::upgrade).filter(equal) {
            let quota = part.quota.part(1.0 / f64::from(sidecars));
            part.limiter.store(Arc::new(Limiter::new(quota, now)));
        }
    }

    /// This sidecar's part of a limit that is shared: by the last count, also
    /// where a reload comes while nobody can count.
    fn part(&self, shared: &model::Shared, quota: &Quota, now: Instant) -> Arc<Part> {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| part.strong_count() > 0);
        let same = |part: &Arc<Part>| part.shared == *shared && part.quota == *quota;
        if let Some(part) = parts.iter().filter_map(Weak::upgrade).find(same) {
            return part;
        }
        let counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sidecars = counts.get(&shared.name).copied().unwrap_or(1);
        let share = shared.fallback.unwrap_or(1.0 / f64::from(sidecars));
        let limiter = ArcSwap::from_pointee(Limiter::new(quota.part(share), now));
        let part = Arc::new(Part { shared: shared.clone(), quota: quota.clone(), limiter });
        parts.push(Arc::downgrade(&part));
        part
    }

    /// The limit for `limit`: what it was, as long as its quota is the same.
    pub fn get(&self, limit: &RateLimit, now: Instant) -> Arc<Rated> {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Place::clone(&limit.place), limit.name.clone());
        let known = all.get(&key).and_then(|known| known.rated.upgrade());
        let same = |rated: &Arc<Rated>| {
            *rated.limiter.quota() == limit.own()
                && rated.share.as_ref().map(|share| &share.part.shared) == limit.shared.as_ref()
        };
        if let Some(rated) = known.filter(same) {
            return rated;
        }
        let (rated, keys) = self.made(limit, now);
        all.insert(key, Known { rated: Arc::downgrade(&rated), keys });
        rated
    }

    /// Lets go of keys that are as if they had never called, and counts the rest.
    pub fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut held = Vec::new();
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, known| {
            match known.rated.upgrade() {
                Some(rated) => held.push((rated, known.keys.clone())),
                None => gone.push(known.keys.clone()),
            }
            known.rated.strong_count() > 0
        });
        // Before those that are held: another limit may have taken the name.
        gone.iter().for_each(|keys| keys.set(0.0));
        for (rated, keys) in held {
            let left = match &rated.share {
                None => rated.limiter.sweep(now),
                Some(share) => share.part.limiter.load().sweep(now),
            };
            keys.set(left.keys as f64);
            // Another part begins anew.
            let new = left.spilled.saturating_sub(rated.told.swap(left.spilled, Ordering::Relaxed));
            rated.overflow.increment(new);
        }
    }

    fn made(&self, limit: &RateLimit, now: Instant) -> (Arc<Rated>, Gauge) {
        let metrics = &self.0.metrics;
        let direction = direction(&limit.place);
        let upstream = limit.place.to.as_ref().map_or(&*self.0.service, |to| to.as_str());
        let upstream = metrics.label(upstream);
        let labels = [direction.as_str(), &upstream, &limit.place.route, &limit.name];
        let limited = |mode| {
            let [direction, upstream, route, name] = labels;
            metrics.counter(&names::RATE_LIMITED, &[direction, upstream, route, name, mode])
        };
        let rated = Rated {
            limiter: Limiter::new(limit.own(), now),
            share: limit.shared.as_ref().map(|shared| {
                let part = self.part(shared, &limit.quota, now);
                Share::new(part, metrics)
            }),
            refused: limited("enforce"),
            shadowed: limited("shadow"),
            overflow: metrics.counter(&names::RATE_LIMIT_OVERFLOW, &labels),
            told: AtomicU64::new(0),
        };
        (Arc::new(rated), metrics.gauge(&names::RATE_LIMIT_KEYS, &labels))
    }
}

/// Which way the calls go that an entry is about.
pub fn direction(place: &Place) -> Direction {
    match (place.gateway, &place.to) {
        (Some(_), _) => Direction::Gateway,
        (None, Some(_)) => Direction::Outbound,
        (None, None) => Direction::Inbound,
    }
}
