//! A limit that follows the measured latency, after the gradient of Netflix's
//! concurrency-limits (<https://netflixtechblog.medium.com/performance-under-load-3e6fa9a60581>,
//! `Gradient2Limit`): the limit shrinks by the ratio of what calls take without a
//! queue to what they take now, and grows by its square root.
//!
//! Three things differ. The latency is averaged by its logarithm, so that of
//! calls of very different length the few long ones do not decide. What calls
//! take without a queue is never measured by stopping them: it is learned while
//! few calls are inside; and where fewer calls do not make it shorter, the
//! latency is the service's own and no queue. And an answer that says "too many"
//! shrinks the limit, whatever the latency.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::model::Bounds;

/// The limit is looked at no more often than this, and than a call takes.
const SHORTEST: Duration = Duration::from_millis(100);
/// And if there were calls enough, as often as this.
const LONGEST: Duration = Duration::from_secs(1);
/// So many calls are enough.
const ENOUGH: u32 = 10;
/// Fewer are, after this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// The limit shrinks at most by this in one step, before its square root is added.
const STEEPEST: f64 = 0.5;
/// What part of the way the limit goes in one step, down and up.
const DOWN: f64 = 0.5;
const UP: f64 = 0.3;
/// How fast the latency without a queue is learned where it is less.
const LEARN_DOWN: f64 = 0.2;
/// How long it takes where it is more, while few calls are inside, in seconds.
const LEARN_UP: f64 = 20.0;
/// How long a limit takes that is far more than is needed to go back to where it
/// began, in seconds.
const DECAY: f64 = 60.0;
/// So far the calls inside must have become fewer before it is judged whether
/// that has helped.
const FEWER: f64 = 0.75;
/// Of what a queue would have become shorter, in its logarithm: less than this, up
/// or down, and there is none.
const HELP: f64 = 0.5;

/// How one call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// It was answered after this time.
    Answered(Duration),
    /// It was told that there are too many, or got no answer in time.
    Dropped,
    /// Its caller gave it up after this time: if that was long, as if dropped.
    GivenUp(Duration),
    /// Nothing.
    Nothing,
}

/// What was seen in one stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Its length in seconds.
    pub seconds: f64,
    /// Calls that were answered.
    pub answered: u32,
    /// Calls that were dropped.
    pub dropped: u32,
    /// Mean of the natural logarithm of what they took, in microseconds.
    pub log_latency: f64,
    /// How many were inside when they entered: the mean by the logarithm too, since
    /// the two are compared.
    pub inside: f64,
    /// Most calls inside at one time, or at the gate.
    pub peak: usize,
}

/// The limit and what it goes by. Pure: see [`Self::step`].
#[derive(Clone, Debug)]
pub struct Gradient {
    bounds: Bounds,
    limit: f64,
    /// What calls take without a queue, as in [`Window::log_latency`].
    base: Option<f64>,
    /// How many were inside, and what calls took, when the limit began to shrink.
    mark: Option<(f64, f64)>,
}

/// A [`Gradient`] that all workers tell of their calls at the same time.
#[derive(Debug)]
pub struct Adaptive {
    epoch: Instant,
    tolerance: f64,
    /// Held for a moment by the one who ends a window; nobody waits for it.
    gradient: Mutex<Gradient>,
    limit: AtomicUsize,
    /// What calls take without a queue, in microseconds; 0 where it is unknown.
    base: AtomicU64,
    /// In microseconds since `epoch`.
    begun: AtomicU64,
    due: AtomicU64,
    answered: AtomicU32,
    dropped: AtomicU32,
    /// Sums of logarithms, in thousandths: of what calls took, and of how many were
    /// inside.
    latency: AtomicU64,
    inside: AtomicU64,
    peak: AtomicUsize,
}

impl Gradient {
    /// One that has seen nothing.
    pub fn new(bounds: &Bounds) -> Self {
        Self { bounds: bounds.clone(), limit: bounds.start as f64, base: None, mark: None }
    }

    /// Calls that may be inside at one time.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// What calls take without a queue, as far as it is known.
    pub fn base(&self) -> Option<Duration> {
        self.base.map(|base| Duration::from_secs_f64(base.exp() / 1e6))
    }

    /// Goes by what was seen.
    pub fn step(&mut self, window: &Window) {
        let peak = window.peak as f64;
        let pressed = 2.0 * peak >= self.limit;
        let mut gradient = 1.0;
        if window.answered > 0 {
            gradient = self.by_latency(window, pressed);
        }
        if window.dropped > 0 {
            let share = f64::from(window.dropped) / f64::from(window.dropped + window.answered);
            gradient = gradient.min(1.0 - share).max(STEEPEST);
            // What is beyond those who were there has no meaning.
            self.limit = self.limit.min(2.0 * peak.max(1.0)).max(self.bounds.min as f64);
        } else if !pressed {
            gradient = 1.0;
        }
        let room = self.limit.sqrt();
        if pressed || window.dropped > 0 {
            let change = self.limit * gradient + room - self.limit;
            self.limit += change * if change < 0.0 { DOWN } else { UP };
        } else if 4.0 * peak < self.limit {
            let needed = (self.bounds.start as f64).max(4.0 * peak);
            self.limit -= (self.limit - needed).max(0.0) * (window.seconds / DECAY).min(1.0);
        }
        self.limit = self.limit.clamp(self.bounds.min as f64, self.bounds.max as f64);
    }

    /// Learns from the latency, and gives the ratio of what it may be to what it is.
    fn by_latency(&mut self, window: &Window, pressed: bool) -> f64 {
        let (now, inside) = (window.log_latency, window.inside.max(1.0));
        let base = self.base.get_or_insert(now);
        let tolerated = self.bounds.tolerance.ln();
        if now <= *base {
            *base += (now - *base) * LEARN_DOWN;
        } else if 4.0 * (window.peak as f64) < self.limit {
            *base += (now - *base) * (window.seconds / LEARN_UP).min(LEARN_DOWN);
        }
        // Those that were given up would have taken longest.
        if !pressed || window.dropped > 0 || now <= *base + tolerated {
            self.mark = None;
        } else {
            match self.mark {
                Some((then, before)) if inside <= FEWER * then => {
                    // With a queue, half the calls take half the time. Where they take
                    // longer than before, what was before has not shown itself yet.
                    let helped = (before - now) / (then / inside).ln();
                    if helped.abs() < HELP {
                        (self.mark, *base) = (None, now);
                    } else {
                        self.mark = Some((inside, now));
                    }
                }
                Some((then, _)) if inside <= then => {}
                _ => self.mark = Some((inside, now)),
            }
        }
        (*base + tolerated - now).exp().clamp(STEEPEST, 1.0)
    }
}

impl Adaptive {
    /// One that has seen nothing.
    pub fn new(bounds: &Bounds, now: Instant) -> Self {
        Self {
            epoch: now,
            tolerance: bounds.tolerance,
            gradient: Mutex::new(Gradient::new(bounds)),
            limit: AtomicUsize::new(bounds.start),
            base: AtomicU64::default(),
            begun: AtomicU64::default(),
            due: AtomicU64::new(micros(SHORTEST)),
            answered: AtomicU32::default(),
            dropped: AtomicU32::default(),
            latency: AtomicU64::default(),
            inside: AtomicU64::default(),
            peak: AtomicUsize::default(),
        }
    }

    /// Calls that may be inside at one time.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// So many are inside, or were when one was refused.
    pub fn used(&self, inside: usize) {
        if self.peak.load(Relaxed) < inside {
            self.peak.fetch_max(inside, Relaxed);
        }
    }

    /// How a call went, and how many were inside when it entered, itself among
    /// them. Whether the limit was looked at anew.
    pub fn record(&self, sample: Sample, inside: usize, now: Instant) -> bool {
        match sample {
            Sample::Answered(took) => self.answered(took, inside),
            Sample::Dropped => drop(self.dropped.fetch_add(1, Relaxed)),
            Sample::GivenUp(after) => {
                let base = self.base.load(Relaxed);
                if base == 0 || (micros(after) as f64) < self.tolerance * base as f64 {
                    return false;
                }
                self.dropped.fetch_add(1, Relaxed);
            }
            Sample::Nothing => return false,
        }
        let at = micros(now.saturating_duration_since(self.epoch));
        at >= self.due.load(Relaxed) && self.end_window(at)
    }

    fn answered(&self, took: Duration, inside: usize) {
        self.answered.fetch_add(1, Relaxed);
        self.latency.fetch_add(log(micros(took)), Relaxed);
        self.inside.fetch_add(log(inside as u64), Relaxed);
    }

    /// Ends the window if there were calls enough in it, and somebody else is not
    /// at it.
    fn end_window(&self, at: u64) -> bool {
        let begun = self.begun.load(Relaxed);
        let (answered, dropped) = (self.answered.load(Relaxed), self.dropped.load(Relaxed));
        if answered + dropped < ENOUGH && at < begun + micros(PATIENCE) {
            return false;
        }
        let Ok(mut gradient) = self.gradient.try_lock() else { return false };
        if self.begun.load(Relaxed) != begun {
            return false;
        }
        // A call that is counted meanwhile may be lost in part; that does no harm.
        let answered = self.answered.swap(0, Relaxed);
        let dropped = self.dropped.swap(0, Relaxed);
        let sums = [&self.latency, &self.inside].map(|sum| sum.swap(0, Relaxed) as f64);
        let [log_latency, log_inside] = sums.map(|sum| sum / 1000.0 / f64::from(answered.max(1)));
        let inside = log_inside.exp();
        let peak = self.peak.swap(0, Relaxed);
        let seconds = (at.saturating_sub(begun) as f64 / 1e6).min(PATIENCE.as_secs_f64());
        gradient.step(&Window { seconds, answered, dropped, log_latency, inside, peak });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let limit = gradient.limit().round() as usize;
        self.limit.store(limit, Relaxed);
        self.base.store(gradient.base().map_or(0, micros), Relaxed);
        let latency = Duration::from_secs_f64((log_latency.exp() / 1e6).min(LONGEST.as_secs_f64()));
        self.begun.store(at, Relaxed);
        self.due.store(at + micros(latency.max(SHORTEST)), Relaxed);
        true
    }
}

/// The natural logarithm, in thousandths; 0 of 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn log(number: u64) -> u64 {
    ((number.max(1) as f64).ln() * 1000.0) as u64
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
