//! How many calls there may be at one time: a bulkhead, whose limit is fixed or
//! follows the latency, and of which calls of lesser priority may use a part.
//!
//! Must hold: never more calls are inside than the limit was when the last of
//! them entered; whoever leaves makes room for exactly one; no call of a level
//! enters beyond its share; none passes one of its own or a higher level that
//! waits already.
//!
//! Where the limit follows the latency, calls of a kind (what their paths begin
//! with) that hold more than an equal part of it leave a quarter to the others:
//! those that a slow dependency holds up do not keep out those that don't need it.

mod gradient;

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Instant;

pub use self::gradient::{Adaptive, Gradient, Sample, Window};
use crate::config::model::{Ceiling, Occupancy};

/// The count of one limit, for all workers: they ask it at the same time.
#[derive(Debug)]
pub struct Gate {
    limit: Limit,
    levels: Vec<Level>,
    pending: usize,
    inside: AtomicUsize,
    waiting: AtomicUsize,
    kinds: Option<Box<Kinds>>,
}

/// Calls of one kind are told from others by their hash: there is room for as
/// many as a number has bits.
const KINDS: usize = 64;
/// What part of the limit is left to kinds that hold less than their part of it.
const LEFT: f64 = 0.25;

/// What each kind of calls holds.
#[derive(Debug)]
struct Kinds {
    inside: [AtomicUsize; KINDS],
    /// Which have come lately, and which in the stretch of time before: bits.
    lately: AtomicU64,
    before: AtomicU64,
}

/// Whose call asks to enter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Its priority: the index of its level.
    pub level: usize,
    /// A hash of what its path begins with.
    pub kind: u64,
}

#[derive(Debug)]
enum Limit {
    Fixed(usize),
    Adaptive(Box<Adaptive>),
}

#[derive(Debug)]
struct Level {
    share: f64,
    waiting: AtomicUsize,
}

impl Gate {
    /// A gate that nobody has entered.
    pub fn new(rules: &Occupancy, now: Instant) -> Self {
        let limit = match &rules.limit {
            Ceiling::Fixed(max) => Limit::Fixed(*max),
            Ceiling::Adaptive(bounds) => Limit::Adaptive(Box::new(Adaptive::new(bounds, now))),
        };
        let level = |share| Level { share, waiting: AtomicUsize::new(0) };
        let mut levels = vec![level(1.0)];
        if let Some(priority) = &rules.priority {
            let shares = priority.levels.iter().map(|(_, share)| *share);
            levels = shares.chain([priority.others]).map(level).collect();
        }
        let kinds = matches!(limit, Limit::Adaptive(_)).then(Box::<Kinds>::default);
        let (inside, waiting) = Default::default();
        Self { limit, levels, pending: rules.pending, inside, waiting, kinds }
    }

    /// Calls that may be inside at one time now.
    pub fn limit(&self) -> usize {
        match &self.limit {
            Limit::Fixed(max) => *max,
            Limit::Adaptive(adaptive) => adaptive.limit(),
        }
    }

    /// Calls that are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(SeqCst)
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether its limit follows the latency.
    pub fn is_adaptive(&self) -> bool {
        matches!(self.limit, Limit::Adaptive(_))
    }

    /// So many may be inside when a call of `level` enters: at least one.
    pub fn share(&self, level: usize) -> usize {
        let share = self.levels.get(level).map_or(1.0, |level| level.share);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let share = (self.limit() as f64 * share + 1e-9) as usize;
        share.max(1).min(self.limit())
    }

    /// A call that has not waited enters, if there is room and nobody waits who
    /// comes before it: so many are inside then.
    pub fn enter(&self, who: Who) -> Option<usize> {
        let before = || {
            let own = self.levels.get(who.level).map_or(1.0, |level| level.share);
            let mut others = self.levels.iter().filter(|other| other.share >= own);
            others.any(|other| other.waiting.load(SeqCst) > 0)
        };
        // One that holds little passes those of a kind that holds much.
        let light = || self.kinds.as_ref().is_some_and(|kinds| kinds.is_light(who.kind, self.limit()));
        if self.waiting() > 0 && before() && !light() {
            return None;
        }
        self.enter_waited(who)
    }

    /// A call that waits enters, if there is room: so many are inside then.
    pub fn enter_waited(&self, who: Who) -> Option<usize> {
        let mut most = self.share(who.level);
        if let Some(kinds) = &self.kinds {
            most = most.min(kinds.most(who.kind, self.limit()));
        }
        let entered = self.inside.fetch_update(SeqCst, SeqCst, |now| (now < most).then_some(now + 1));
        self.used(entered.map_or_else(|inside| inside, |before| before + 1));
        self.count(entered.ok().map(|_| who)?);
        entered.ok().map(|before| before + 1)
    }

    /// A call enters whether or not there is room: so many are inside then.
    pub fn force(&self, who: Who) -> usize {
        let inside = self.inside.fetch_add(1, SeqCst) + 1;
        self.used(inside);
        self.count(who);
        inside
    }

    fn count(&self, who: Who) {
        if let Some(kinds) = &self.kinds {
            kinds.of(who.kind).fetch_add(1, Relaxed);
        }
    }

    /// So many are inside, or were when one was refused.
    fn used(&self, inside: usize) {
        if let Limit::Adaptive(adaptive) = &self.limit {
            adaptive.used(inside);
        }
    }

    /// A call that entered leaves.
    pub fn leave(&self, who: Who) {
        if let Some(kinds) = &self.kinds {
            kinds.of(who.kind).fetch_sub(1, Relaxed);
        }
        let before = self.inside.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "more leave than enter");
    }

    /// The level of which one that waits may try to enter now: the one with the
    /// greatest share.
    pub fn next(&self) -> Option<usize> {
        if self.waiting() == 0 {
            return None;
        }
        let inside = self.inside();
        let waits =
            |index: &usize| self.levels[*index].waiting.load(SeqCst) > 0 && inside < self.share(*index);
        (0..self.levels.len())
            .filter(waits)
            .max_by(|a, b| self.levels[*a].share.total_cmp(&self.levels[*b].share))
    }

    /// A call begins to wait, if it may.
    pub fn queue(&self, level: usize) -> bool {
        let joins = |now| (now < self.pending).then_some(now + 1);
        let joined = self.waiting.fetch_update(SeqCst, SeqCst, joins).is_ok();
        if joined && let Some(level) = self.levels.get(level) {
            level.waiting.fetch_add(1, SeqCst);
        }
        joined
    }

    /// A call waits no more.
    pub fn unqueue(&self, level: usize) {
        if let Some(level) = self.levels.get(level) {
            level.waiting.fetch_sub(1, SeqCst);
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    /// Whether so many wait that the newest goes first: those who have waited
    /// long are likely to be given up by their callers (Maurer: Fail at Scale,
    /// ACM Queue 13(8), 2015).
    pub fn is_crowded(&self) -> bool {
        2 * self.waiting() > self.pending
    }

    /// How a call went that entered when so many were `inside`, for a limit that
    /// goes by it.
    pub fn tell(&self, sample: Sample, inside: usize, now: Instant) {
        if let Limit::Adaptive(adaptive) = &self.limit
            && adaptive.record(sample, inside, now)
            && let Some(kinds) = &self.kinds
        {
            kinds.before.store(kinds.lately.swap(0, Relaxed), Relaxed);
        }
    }
}

impl Default for Kinds {
    fn default() -> Self {
        let inside = std::array::from_fn(|_| AtomicUsize::new(0));
        Self { inside, lately: AtomicU64::new(0), before: AtomicU64::new(0) }
    }
}

impl Kinds {
    fn of(&self, kind: u64) -> &AtomicUsize {
        &self.inside[Self::index(kind)]
    }

    fn index(kind: u64) -> usize {
        usize::try_from(kind % KINDS as u64).unwrap_or(0)
    }

    /// So many may be inside, whatever they are, when one of this kind enters.
    fn most(&self, kind: u64, limit: usize) -> usize {
        let (part, others) = self.part(kind, limit);
        if !others || (self.of(kind).load(Relaxed) as f64) < part {
            return limit;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let left = (limit as f64 * LEFT).ceil() as usize;
        limit.saturating_sub(left).max(1)
    }

    fn is_light(&self, kind: u64, limit: usize) -> bool {
        let (part, others) = self.part(kind, limit);
        others && (self.of(kind).load(Relaxed) as f64) < part
    }

    /// An equal part of the limit for each kind that has come lately, and
    /// whether there is another one.
    fn part(&self, kind: u64, limit: usize) -> (f64, bool) {
        let bit = 1 << Self::index(kind);
        let mut seen = self.lately.load(Relaxed);
        if seen & bit == 0 {
            seen |= self.lately.fetch_or(bit, Relaxed) | bit;
        }
        let kinds = (seen | self.before.load(Relaxed)).count_ones();
        (limit as f64 / f64::from(kinds), kinds > 1)
    }
}

/// The kind of calls with this path: by its first two segments, up to one with a
/// digit that is no version, as a name of one thing among many has.
pub fn kind_of(path: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for segment in path.split('/').skip(1).take(2) {
        let version = segment.len() <= 3 && segment.starts_with('v');
        if !version && segment.bytes().any(|byte| byte.is_ascii_digit()) {
            break;
        }
        // FNV-1a: what collides shares a part.
        for byte in segment.bytes().chain([b'/']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests;
