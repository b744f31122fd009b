//! How one endpoint fares: a few numbers that all workers write and the
//! control thread reads, and a state that it writes and they read. No lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::outcome::Class;

/// It does not answer its health check.
const SICK: u32 = 1;
/// It is ejected.
const EJECTED: u32 = 1 << 1;
/// It has come back from an ejection and has not served since.
const PROBATION: u32 = 1 << 2;
/// Its share grows.
const WARMING: u32 = 1 << 3;

/// How often it has come back, in the bits from here on.
const RETURN: u32 = 1 << 8;

/// The least share of an endpoint whose share grows.
const LEAST_SHARE: f64 = 0.1;

/// See the module's text.
#[derive(Debug)]
pub struct Vitals {
    watch: Arc<Watch>,
    state: AtomicU32,
    /// Calls in a row without an answer, and with one that says that it can't serve.
    silent: AtomicU32,
    gateway: AtomicU32,
    /// When its share began to grow, in milliseconds since `watch.epoch`.
    warm_from: AtomicU64,
    counts: Counts,
}

/// On a line of its own: every call writes here, and every pick reads the rest.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts {
    good: AtomicU64,
    bad: AtomicU64,
    short: AtomicU64,
}

/// How many calls went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// They were answered well.
    pub good: u64,
    /// They were not.
    pub bad: u64,
    /// They found no place: without an answer, or with one that it can't serve or
    /// has too much to do.
    pub short: u64,
}

impl Tally {
    /// What has come since.
    pub fn since(self, before: Self) -> Self {
        Self {
            good: self.good.saturating_sub(before.good),
            bad: self.bad.saturating_sub(before.bad),
            short: self.short.saturating_sub(before.short),
        }
    }
}

/// What all endpoints of an upstream share: the limits, and a bell for when one
/// of them is reached.
#[derive(Debug)]
pub struct Watch {
    epoch: Instant,
    silent: AtomicU32,
    gateway: AtomicU32,
    counts: AtomicBool,
    /// In milliseconds.
    slow_start: AtomicU64,
    /// An endpoint has reached a limit, or workers miss something of the set.
    pub bell: Notify,
}

/// A limit that an endpoint has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Calls in a row without an answer.
    Failures,
    /// Answers in a row that it can't serve.
    GatewayErrors,
    /// It succeeds less often than the others.
    SuccessRate,
}

impl Cause {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "consecutive_failures",
            Self::GatewayErrors => "gateway_errors",
            Self::SuccessRate => "success_rate",
        }
    }
}

impl Watch {
    /// Without limits, as of `now`.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch: now,
            silent: AtomicU32::new(0),
            gateway: AtomicU32::new(0),
            counts: AtomicBool::new(false),
            slow_start: AtomicU64::new(0),
            bell: Notify::new(),
        })
    }

    /// The limits from now on; 0 for none. `counts` says whether calls are counted.
    pub fn set(&self, silent: u32, gateway: u32, counts: bool, slow_start: Duration) {
        self.silent.store(silent, Relaxed);
        self.gateway.store(gateway, Relaxed);
        self.counts.store(counts, Relaxed);
        self.slow_start.store(u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Counts {
    fn count(&self, class: Class) {
        match class {
            Class::Good => drop(self.good.fetch_add(1, Relaxed)),
            Class::Server => drop(self.bad.fetch_add(1, Relaxed)),
            Class::Silent | Class::Gateway => {
                self.bad.fetch_add(1, Relaxed);
                self.short.fetch_add(1, Relaxed);
            }
            Class::Busy => drop(self.short.fetch_add(1, Relaxed)),
            Class::Nothing => {}
        }
    }
}

impl Vitals {
    /// Of an endpoint of which nothing is known.
    pub fn new(watch: &Arc<Watch>) -> Arc<Self> {
        Arc::new(Self {
            watch: watch.clone(),
            state: AtomicU32::new(0),
            silent: AtomicU32::new(0),
            gateway: AtomicU32::new(0),
            warm_from: AtomicU64::new(0),
            counts: Counts::default(),
        })
    }

    /// A call has ended. Wakes the control thread where a limit is reached, and
    /// again each time that so many more have failed.
    pub fn note(&self, class: Class) {
        let counts = self.watch.counts.load(Relaxed);
        match class {
            Class::Good | Class::Server => {
                for streak in [&self.silent, &self.gateway] {
                    // To look is cheaper than to write.
                    if streak.load(Relaxed) != 0 {
                        streak.store(0, Relaxed);
                    }
                }
                if self.is(PROBATION) && class == Class::Good {
                    self.state.fetch_and(!PROBATION, Relaxed);
                }
            }
            Class::Silent => self.count(&self.silent, &self.watch.silent),
            Class::Gateway => {
                // It did answer.
                if self.silent.load(Relaxed) != 0 {
                    self.silent.store(0, Relaxed);
                }
                self.count(&self.gateway, &self.watch.gateway);
            }
            Class::Nothing | Class::Busy => {}
        }
        if counts {
            self.counts.count(class);
        }
    }

    fn count(&self, streak: &AtomicU32, limit: &AtomicU32) {
        let limit = self.limit(limit);
        let now = streak.fetch_add(1, Relaxed).saturating_add(1);
        if limit > 0 && now.is_multiple_of(limit) {
            self.ring();
        }
    }

    /// Wakes the control thread.
    pub fn ring(&self) {
        self.watch.bell.notify_one();
    }

    /// One failure is enough for an endpoint that has just come back.
    fn limit(&self, limit: &AtomicU32) -> u32 {
        let limit = limit.load(Relaxed);
        if self.is(PROBATION) { limit.min(1) } else { limit }
    }

    /// The limit that it stands at, if any.
    pub fn cause(&self) -> Option<Cause> {
        let at = |streak: &AtomicU32, limit: &AtomicU32| {
            let limit = self.limit(limit);
            limit > 0 && streak.load(Relaxed) >= limit
        };
        if at(&self.silent, &self.watch.silent) {
            Some(Cause::Failures)
        } else if at(&self.gateway, &self.watch.gateway) {
            Some(Cause::GatewayErrors)
        } else {
            None
        }
    }

    /// How calls went since the start.
    pub fn tally(&self) -> Tally {
        let Counts { good, bad, short } = &self.counts;
        Tally { good: good.load(Relaxed), bad: bad.load(Relaxed), short: short.load(Relaxed) }
    }

    /// Whether it may be used.
    pub fn is_fit(&self) -> bool {
        !self.is(SICK | EJECTED)
    }

    /// Whether it does not answer its health check.
    pub fn is_sick(&self) -> bool {
        self.is(SICK)
    }

    /// Whether it is ejected.
    pub fn is_ejected(&self) -> bool {
        self.is(EJECTED)
    }

    /// Whether it is back from an ejection and has not served since.
    pub fn is_on_probation(&self) -> bool {
        self.is(PROBATION)
    }

    fn is(&self, state: u32) -> bool {
        self.state.load(Relaxed) & state != 0
    }

    /// Its health check says so; whether that is news.
    pub fn set_sick(&self, sick: bool, now: Instant) -> bool {
        let before =
            if sick { self.state.fetch_or(SICK, Relaxed) } else { self.state.fetch_and(!SICK, Relaxed) };
        let news = (before & SICK != 0) != sick;
        if news && !sick {
            self.state.fetch_add(RETURN, Relaxed);
            self.warm(now);
        }
        news
    }

    /// It is left out.
    pub fn eject(&self) {
        self.state.fetch_or(EJECTED, Relaxed);
    }

    /// It is let back in: with `probation` one failure sends it out again,
    /// without it nothing is held against it.
    pub fn let_in(&self, probation: bool, now: Instant) {
        self.silent.store(0, Relaxed);
        self.gateway.store(0, Relaxed);
        if probation {
            self.state.fetch_or(PROBATION, Relaxed);
        }
        let ends = if probation { EJECTED } else { EJECTED | PROBATION };
        let before = self.state.fetch_and(!ends, Relaxed);
        if before & EJECTED != 0 {
            self.state.fetch_add(RETURN, Relaxed);
        }
        if probation {
            self.warm(now);
        }
    }

    /// A number that changes when it comes back: what workers have measured
    /// before says nothing of it any more.
    pub fn returns(&self) -> u32 {
        self.state.load(Relaxed) / RETURN
    }

    /// Its share grows from now on, where the upstream wants that.
    pub fn warm(&self, now: Instant) {
        if self.watch.slow_start.load(Relaxed) > 0 {
            self.warm_from.store(self.watch.since(now), Relaxed);
            self.state.fetch_or(WARMING, Relaxed);
        }
    }

    /// The part of its share that it gets, 0 to 1.
    pub fn share(&self, now: Instant) -> f64 {
        if !self.is(WARMING) {
            return 1.0;
        }
        let whole = self.watch.slow_start.load(Relaxed);
        let passed = self.watch.since(now).saturating_sub(self.warm_from.load(Relaxed));
        if passed >= whole {
            self.state.fetch_and(!WARMING, Relaxed);
            return 1.0;
        }
        (passed as f64 / whole as f64).max(LEAST_SHARE)
    }

    /// How it stands, for a person.
    pub fn state(&self, now: Instant) -> &'static str {
        match self.state.load(Relaxed) {
            state if state & SICK != 0 => "unhealthy",
            state if state & EJECTED != 0 => "ejected",
            _ if self.share(now) < 1.0 => "warming",
            state if state & PROBATION != 0 => "on_probation",
            _ => "in_use",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streaks_are_broken_by_success_and_ring_at_the_limit() {
        let now = Instant::now();
        let watch = Watch::new(now);
        watch.set(3, 2, true, Duration::ZERO);
        let vitals = Vitals::new(&watch);
        vitals.note(Class::Silent);
        vitals.note(Class::Silent);
        vitals.note(Class::Nothing);
        vitals.note(Class::Good);
        vitals.note(Class::Silent);
        vitals.note(Class::Silent);
        assert_eq!(vitals.cause(), None);
        vitals.note(Class::Silent);
        assert_eq!(vitals.cause(), Some(Cause::Failures));
        vitals.note(Class::Gateway);
        assert_eq!(vitals.cause(), None, "it answers");
        vitals.note(Class::Gateway);
        assert_eq!(vitals.cause(), Some(Cause::GatewayErrors));
        assert_eq!(vitals.tally(), Tally { good: 1, bad: 7, short: 7 });
        vitals.eject();
        assert!(!vitals.is_fit());
        vitals.let_in(true, now);
        assert_eq!((vitals.cause(), vitals.is_fit()), (None, true));
        vitals.note(Class::Silent);
        assert_eq!(vitals.cause(), Some(Cause::Failures), "one is enough on probation");
        vitals.note(Class::Good);
        vitals.note(Class::Silent);
        assert_eq!(vitals.cause(), None, "probation is over");
        vitals.let_in(true, now);
        vitals.let_in(false, now);
        vitals.note(Class::Silent);
        assert_eq!((vitals.cause(), vitals.state(now)), (None, "in_use"), "nothing is held against it");
    }

    #[test]
    fn who_comes_back_is_known_to() {
        let now = Instant::now();
        let vitals = Vitals::new(&Watch::new(now));
        let before = vitals.returns();
        vitals.let_in(false, now);
        vitals.set_sick(true, now);
        vitals.eject();
        assert_eq!(vitals.returns(), before);
        vitals.let_in(true, now);
        assert_ne!(vitals.returns(), before);
        let before = vitals.returns();
        vitals.set_sick(false, now);
        assert_ne!(vitals.returns(), before);
        assert_eq!(vitals.state(now), "on_probation");
    }

    #[test]
    fn a_share_grows_to_its_whole() {
        let now = Instant::now();
        let watch = Watch::new(now);
        let vitals = Vitals::new(&watch);
        vitals.warm(now);
        assert_eq!(vitals.share(now), 1.0, "nothing without slow_start");
        watch.set(0, 0, false, Duration::from_secs(10));
        vitals.warm(now);
        let at = |seconds: u64| vitals.share(now + Duration::from_secs(seconds));
        assert_eq!(at(0), LEAST_SHARE);
        assert!((at(5) - 0.5).abs() < 0.01);
        assert_eq!(at(10), 1.0);
        assert_eq!(at(0), 1.0, "and stays there");
    }
}
