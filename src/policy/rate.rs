//! How many calls there may be in a time: the generic cell rate algorithm of
//! `governor`, whose state is one number for each key.
//!
//! Must hold: whatever the schedule, a key passes at most `burst` + `rate` ×
//! time calls in any time; at most `keys` keys are held; to sweep changes no
//! verdict.

mod keys;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota as Cells, RateLimiter};

use self::keys::Keys;
use crate::config::model::{Per, Quota};

/// One limit, for all who share it: workers ask it at the same time.
pub struct Limiter {
    quota: Quota,
    /// Times are counted from here.
    start: Instant,
    cells: State,
    /// Makes keys of values; differs from process to process.
    hasher: RandomState,
}

enum State {
    One(RateLimiter<NotKeyed, InMemoryState, Told, StateInformationMiddleware>),
    Keyed(RateLimiter<u64, Keys, Told, StateInformationMiddleware>, Keys),
}

/// What a limit says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may pass.
    pub passes: bool,
    /// Calls that may follow at once.
    pub left: u32,
    /// Until the whole burst is there again, if nothing is called.
    pub whole: Duration,
    /// Until one call may pass; zero where this one does.
    pub wait: Duration,
}

/// What the keys of a limit come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Keys that are held.
    pub keys: usize,
    /// Calls so far whose key found no room.
    pub spilled: u64,
}

/// The time that the caller of a check gave: `governor` asks a clock.
struct Told;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        NOW.get().into()
    }
}

impl Limiter {
    /// A limit of which nothing has been taken.
    pub fn new(quota: Quota, start: Instant) -> Self {
        NOW.set(0);
        let cells = Cells::with_period(quota.rate.interval());
        // An interval is never zero.
        let cells = cells.unwrap_or_else(|| Cells::per_second(quota.burst)).allow_burst(quota.burst);
        let state = match quota.per {
            Per::All => State::One(RateLimiter::new(cells, InMemoryState::default(), Told)),
            _ => {
                let keys = Keys::new(quota.keys);
                State::Keyed(RateLimiter::new(cells, keys.clone(), Told), keys)
            }
        };
        Self { quota, start, cells: state, hasher: RandomState::new() }
    }

    /// What it was made of.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Takes one call out, if there is one. `value` is what tells this caller
    /// from others; without one it shares a count with all that have none.
    pub fn take(&self, value: Option<&[u8]>, now: Instant) -> Verdict {
        NOW.set(self.nanos(now));
        let result = match &self.cells {
            State::One(cells) => cells.check(),
            State::Keyed(cells, _) => cells.check_key(&self.hasher.hash_one(value)),
        };
        match result {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let taken = self.quota.burst.get().saturating_sub(left);
                let whole = self.quota.rate.interval().saturating_mul(taken);
                Verdict { passes: true, left, whole, wait: Duration::ZERO }
            }
            Err(until) => {
                let wait = until.wait_time_from(Told.now());
                let others = self.quota.rate.interval().saturating_mul(self.quota.burst.get() - 1);
                Verdict { passes: false, left: 0, whole: wait + others, wait }
            }
        }
    }

    /// Lets go of keys whose whole burst is there again, and says what is left.
    pub fn sweep(&self, now: Instant) -> Held {
        match &self.cells {
            State::One(_) => Held::default(),
            State::Keyed(_, keys) => keys.sweep(self.nanos(now).into()),
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Rate;
    use std::num::NonZeroU32;

    fn quota(rate: u32, burst: u32, per: Per, keys: usize) -> Quota {
        let number = |number| NonZeroU32::new(number).unwrap();
        let rate = Rate { count: number(rate), period: Duration::from_secs(1) };
        Quota { rate, burst: number(burst), per, keys }
    }

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let limiter = Limiter::new(quota(10, 3, Per::All, 0), start);
        let take = |at| limiter.take(None, start + ms(at));
        assert_eq!(take(0), Verdict { passes: true, left: 2, whole: ms(100), wait: ms(0) });
        assert_eq!(take(0).left, 1);
        assert_eq!(take(0), Verdict { passes: true, left: 0, whole: ms(300), wait: ms(0) });
        assert_eq!(take(0), Verdict { passes: false, left: 0, whole: ms(300), wait: ms(100) });
        assert_eq!(take(60).wait, ms(40));
        assert!(take(100).passes && !take(199).passes && take(200).passes);
        assert_eq!(take(10_000).left, 2, "no more than the burst is saved up");
    }

    #[test]
    fn values_are_told_apart_and_those_without_one_share() {
        let start = Instant::now();
        let limiter = Limiter::new(quota(1, 1, Per::Source, 10), start);
        let passes = |value: Option<&[u8]>| limiter.take(value, start).passes;
        assert!(passes(Some(b"a")) && passes(Some(b"b")) && !passes(Some(b"a")));
        assert!(passes(None) && !passes(None));
        assert!(passes(Some(b"")), "an empty value is a value");
        assert_eq!(limiter.sweep(start), Held { keys: 4, spilled: 0 });
    }

    #[test]
    fn keys_beyond_the_most_share_a_count_until_others_have_gone() {
        let start = Instant::now();
        let limiter = Limiter::new(quota(1, 2, Per::Source, 2), start);
        let passes = |value: &[u8], at| limiter.take(Some(value), start + ms(at)).passes;
        assert!(passes(b"a", 0) && passes(b"b", 0));
        assert!(passes(b"c", 0) && passes(b"d", 0) && !passes(b"e", 0), "they share one burst of 2");
        assert!(passes(b"a", 0), "who was there before has its own");
        assert_eq!(limiter.sweep(start), Held { keys: 2, spilled: 3 });
        // `b` called once, so its burst is whole again; what `c` took is not forgotten.
        assert_eq!(limiter.sweep(start + ms(1000)).keys, 1);
        assert!(passes(b"c", 1000) && !passes(b"c", 1000), "its second call of two was within a second");
        assert_eq!(limiter.sweep(start + ms(10_000)).keys, 0);
    }

    #[test]
    fn workers_that_ask_at_the_same_time_get_no_more() {
        let start = Instant::now();
        let limiter = Limiter::new(quota(1, 500, Per::Source, 4), start);
        let ask = || {
            (0..1000u32).filter(|call| limiter.take(Some(&(call % 4).to_be_bytes()), start).passes).count()
        };
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 2000, "4 keys with 500 each");
        assert_eq!(limiter.sweep(start), Held { keys: 4, spilled: 0 });
    }
}
