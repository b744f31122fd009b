//! The limits of rates, which all workers share: each is found by the place
//! where it is written, so that it lives on through a reload that does not
//! change it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use metrics::{Counter, Gauge};

use crate::config::model::{Place, RateLimit};
use crate::policy::rate::Limiter;
use crate::telemetry::record::Direction;
use crate::telemetry::{Metrics, names};

/// The limits of one sidecar. All clones are the same.
#[derive(Clone)]
pub struct Rates(Arc<Shared>);

struct Shared {
    all: Mutex<HashMap<(Place, Arc<str>), Known>>,
    metrics: Metrics,
    service: String,
}

/// A limit that some route holds, or held lately.
struct Known {
    rated: Weak<Rated>,
    keys: Gauge,
}

/// One limit and its counts.
pub struct Rated {
    /// What it counts and decides.
    pub limiter: Limiter,
    /// Calls that it refused.
    pub refused: Counter,
    /// Calls that it would have refused.
    pub shadowed: Counter,
    overflow: Counter,
    /// Calls without room for their key, as far as they were counted.
    told: AtomicU64,
}

impl Rates {
    /// No limits as yet. `service` is the fronted one.
    pub fn new(metrics: Metrics, service: &str) -> Self {
        Self(Arc::new(Shared { all: Mutex::default(), metrics, service: service.to_owned() }))
    }

    /// The limit for `limit`: what it was, as long as its quota is the same.
    pub fn get(&self, limit: &RateLimit, now: Instant) -> Arc<Rated> {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Place::clone(&limit.place), limit.name.clone());
        let known = all.get(&key).and_then(|known| known.rated.upgrade());
        if let Some(rated) = known.filter(|rated| *rated.limiter.quota() == limit.quota) {
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
            let left = rated.limiter.sweep(now);
            keys.set(left.keys as f64);
            let new = left.spilled - rated.told.swap(left.spilled, Ordering::Relaxed);
            rated.overflow.increment(new);
        }
    }

    fn made(&self, limit: &RateLimit, now: Instant) -> (Arc<Rated>, Gauge) {
        let metrics = &self.0.metrics;
        let direction = if limit.place.to.is_some() { Direction::Outbound } else { Direction::Inbound };
        let upstream = limit.place.to.as_ref().map_or(&*self.0.service, |to| to.as_str());
        let upstream = metrics.label(upstream);
        let labels = [direction.as_str(), &upstream, &limit.place.route, &limit.name];
        let limited = |mode| {
            let [direction, upstream, route, name] = labels;
            metrics.counter(&names::RATE_LIMITED, &[direction, upstream, route, name, mode])
        };
        let rated = Rated {
            limiter: Limiter::new(limit.quota.clone(), now),
            refused: limited("enforce"),
            shadowed: limited("shadow"),
            overflow: metrics.counter(&names::RATE_LIMIT_OVERFLOW, &labels),
            told: AtomicU64::new(0),
        };
        (Arc::new(rated), metrics.gauge(&names::RATE_LIMIT_KEYS, &labels))
    }
}
