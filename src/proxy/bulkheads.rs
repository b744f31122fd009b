//! The limits of calls at one time, which all workers share: each is found by
//! the place where it is written, so that it lives on through a reload that does
//! not change it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use http::request;
use metrics::{Counter, Gauge};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::base::clock;
use crate::config::model::{Concurrency, Mode, Occupancy, Place};
use crate::policy::concurrency::{Gate, Sample, Who, kind_of};
use crate::telemetry::{Metrics, names};
use crate::upstream::snapshot::ConcurrencyState;

/// The limits of one sidecar. All clones are the same.
#[derive(Clone, Default)]
pub struct Bulkheads(Arc<Mutex<HashMap<Place, Known>>>);

/// A limit that some route holds, or held lately.
struct Known {
    bulkhead: Weak<Bulkhead>,
    gauges: [Gauge; 3],
}

/// One limit and its counts.
pub struct Bulkhead {
    rules: Occupancy,
    place: Arc<Place>,
    gate: Gate,
    /// Those who wait, by their level.
    freed: Vec<Notify>,
    /// Calls that it refused, by their level.
    refused: Vec<Counter>,
    /// Calls that it would have refused.
    shadowed: Vec<Counter>,
    /// Calls of it are of one kind: they all match one template.
    uniform: bool,
}

/// A call that is inside, for as long as it is held.
pub struct Inside {
    bulkhead: Arc<Bulkhead>,
    who: Who,
    count: usize,
    since: Instant,
    told: Cell<bool>,
}

/// A call that waits, for as long as it is held.
pub struct Waiting<'a> {
    bulkhead: &'a Bulkhead,
    who: Who,
}

impl Bulkheads {
    /// The limit for `limit`: what it was, as long as its rules are the same.
    pub fn get(&self, limit: &Concurrency, service: &str, metrics: &Metrics, now: Instant) -> Arc<Bulkhead> {
        let mut all = self.lock();
        let known = all.get(&*limit.place).and_then(|known| known.bulkhead.upgrade());
        if let Some(bulkhead) = known.filter(|bulkhead| bulkhead.rules == limit.rules) {
            return bulkhead;
        }
        let place = &limit.place;
        let direction = super::rates::direction(place);
        let upstream = metrics.label(place.to.as_ref().map_or(service, |to| to.as_str()));
        let labels = [direction.as_str(), &upstream, &place.route];
        let bulkhead = Arc::new(Bulkhead::new(limit, labels, metrics, now));
        let gauges = [&names::CONCURRENCY_LIMIT, &names::CONCURRENCY_IN_USE, &names::CONCURRENCY_WAITING];
        let gauges = gauges.map(|name| metrics.gauge(name, &labels));
        all.insert(Place::clone(place), Known { bulkhead: Arc::downgrade(&bulkhead), gauges });
        bulkhead
    }

    /// Brings the gauges up to date.
    pub fn tell(&self) {
        let mut gone = Vec::new();
        let mut all = self.lock();
        all.retain(|_, known| {
            let held = known.bulkhead.strong_count() > 0;
            if !held {
                gone.push(known.gauges.clone());
            }
            held
        });
        // Before those that are held: another limit may have taken the labels.
        gone.iter().flatten().for_each(|gauge| gauge.set(0.0));
        for known in all.values() {
            if let Some(Bulkhead { gate, .. }) = known.bulkhead.upgrade().as_deref() {
                let values = [gate.limit(), gate.inside(), gate.waiting()];
                known.gauges.iter().zip(values).for_each(|(gauge, value)| gauge.set(value as f64));
            }
        }
    }

    /// How each of them stands.
    pub fn states(&self) -> Vec<ConcurrencyState> {
        let all: Vec<_> = self.lock().values().filter_map(|known| known.bulkhead.upgrade()).collect();
        let one = |bulkhead: &Arc<Bulkhead>| ConcurrencyState {
            upstream: bulkhead.place.to.clone(),
            route: bulkhead.place.route.clone(),
            adaptive: bulkhead.gate.is_adaptive(),
            limit: bulkhead.gate.limit(),
            in_use: bulkhead.gate.inside(),
            waiting: bulkhead.gate.waiting(),
        };
        all.iter().map(one).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bulkhead {
    fn new(limit: &Concurrency, labels: [&str; 3], metrics: &Metrics, now: Instant) -> Self {
        let [direction, upstream, route] = labels;
        let rules = &limit.rules;
        let levels: Vec<&str> = match &rules.priority {
            None => vec![""],
            Some(priority) => priority.levels.iter().map(|(name, _)| &**name).chain(["others"]).collect(),
        };
        let count = |mode| -> Vec<Counter> {
            let one = |level: &&str| {
                metrics.counter(&names::CONCURRENCY_REFUSED, &[direction, upstream, route, level, mode])
            };
            levels.iter().map(one).collect()
        };
        let template = &limit.place.route;
        Self {
            rules: rules.clone(),
            place: limit.place.clone(),
            gate: Gate::new(rules, now),
            freed: levels.iter().map(|_| Notify::new()).collect(),
            refused: count("enforce"),
            shadowed: count("shadow"),
            uniform: !template.is_empty() && !template.ends_with("**") && !template.ends_with("...}"),
        }
    }

    /// The limit and those who wait, for a person.
    pub fn shown(&self) -> String {
        let (limit, pending) = (self.gate.limit(), self.rules.pending);
        let how = if self.gate.is_adaptive() { ", by the latency" } else { "" };
        match pending {
            0 => format!("at most {limit} calls at one time{how}"),
            _ => format!("at most {limit} calls at one time{how}, and {pending} wait for one to end"),
        }
    }

    /// Whose call this is.
    pub fn who(&self, head: &request::Parts) -> Who {
        let level = match &self.rules.priority {
            None => 0,
            Some(priority) => level(&priority.levels, head.headers.get(&priority.header)),
        };
        let kind = if self.uniform || !self.gate.is_adaptive() { 0 } else { kind_of(head.uri.path()) };
        Who { level, kind }
    }

    /// Lets a call in that has not waited, if it may.
    pub fn enter(self: &Arc<Self>, who: Who, mode: Mode) -> Option<Inside> {
        match self.gate.enter(who) {
            Some(count) => Some(self.inside(who, count)),
            None if mode == Mode::Shadow => {
                self.shadowed[who.level].increment(1);
                let count = self.gate.force(who);
                Some(self.inside(who, count))
            }
            None => None,
        }
    }

    /// A place among those who wait.
    pub fn queue(&self, who: Who) -> Option<Waiting<'_>> {
        // Not made where it may not wait: to drop it would count.
        self.gate.queue(who.level).then(|| Waiting { bulkhead: self, who })
    }

    /// A call is refused.
    pub fn refused(&self, who: Who) {
        self.refused[who.level].increment(1);
    }

    fn inside(self: &Arc<Self>, who: Who, count: usize) -> Inside {
        Inside { bulkhead: self.clone(), who, count, since: clock::now(), told: Cell::new(false) }
    }

    /// There may be room.
    fn wake(&self) {
        if let Some(level) = self.gate.next() {
            match self.gate.is_crowded() {
                true => self.freed[level].notify_last(),
                false => self.freed[level].notify_one(),
            }
        }
    }
}

/// The index of the level with this name, or of the others.
fn level(levels: &[(Arc<str>, f64)], named: Option<&http::HeaderValue>) -> usize {
    let named = named.map_or(&b""[..], |value| value.as_bytes());
    let found = levels.iter().position(|(name, _)| name.as_bytes().eq_ignore_ascii_case(named));
    found.unwrap_or(levels.len())
}

impl Inside {
    /// When it entered.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How the call went, as far as the limit goes by it; only the first word counts.
    pub fn tell(&self, sample: Sample, now: Instant) {
        if !self.told.replace(true) {
            self.bulkhead.gate.tell(sample, self.count, now);
            // The limit may have grown.
            self.bulkhead.wake();
        }
    }

    /// Whether it is held until the end of an answer that has no end in sight.
    pub fn outlasts_streams(&self) -> bool {
        !self.bulkhead.gate.is_adaptive()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.told.get() {
            let now = clock::now();
            self.tell(Sample::GivenUp(now.saturating_duration_since(self.since)), now);
        }
        self.bulkhead.gate.leave(self.who);
        self.bulkhead.wake();
    }
}

impl Waiting<'_> {
    /// Told when it may try.
    pub fn turn(&self) -> Notified<'_> {
        self.bulkhead.freed[self.who.level].notified()
    }

    /// Enters, if there is room.
    pub fn enter(&self, of: &Arc<Bulkhead>) -> Option<Inside> {
        let count = self.bulkhead.gate.enter_waited(self.who)?;
        Some(of.inside(self.who, count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.bulkhead.gate.unqueue(self.who.level);
        // Whoever was told in its place, and those for whom there is room too.
        self.bulkhead.wake();
    }
}
