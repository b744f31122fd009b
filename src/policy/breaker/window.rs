//! Calls of the last seconds, counted in slices of time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::model::Rules;

const SLICES: usize = 10;
const WHOLE: u64 = SLICES as u64;
/// Bits of a count; over that all counts of a slice are halved, so that shares stay.
const BITS: u32 = 14;
const COUNT: u64 = (1 << BITS) - 1;
const STAMP: u64 = (1 << 22) - 1;

/// A ring of slices, each one word: which slice of time it is, and the calls,
/// the failures and the slow calls in it.
#[derive(Debug)]
pub struct Window {
    /// Of one slice, in milliseconds.
    width: u64,
    slices: [AtomicU64; SLICES],
}

impl Window {
    /// An empty one that reaches back so far.
    pub fn new(reach: Duration) -> Self {
        let width = u64::try_from(reach.as_millis()).unwrap_or(u64::MAX) / WHOLE;
        Self { width: width.max(1), slices: Default::default() }
    }

    /// Counts a call that ended at `at`.
    #[allow(clippy::cast_possible_truncation, reason = "it is below the number of slices")]
    pub fn add(&self, at: u64, failed: bool, slow: bool) {
        // From 1 on: a slice of zeros is nobody's.
        let tick = at / self.width + 1;
        let slice = &self.slices[(tick % WHOLE) as usize];
        let add = |bits: u64| {
            let (mut total, mut bad, mut late) = match bits & STAMP == tick & STAMP {
                true => counts(bits),
                false => (0, 0, 0),
            };
            if total >= COUNT {
                (total, bad, late) = (total / 2, bad / 2, late / 2);
            }
            (total, bad, late) = (total + 1, bad + u64::from(failed), late + u64::from(slow));
            Some(tick & STAMP | total << 22 | bad << (22 + BITS) | late << (22 + 2 * BITS))
        };
        // It never declines.
        let _ = slice.fetch_update(Relaxed, Relaxed, add);
    }

    /// Which share is over its limit at `at`.
    pub fn over(&self, at: u64, rules: &Rules) -> Option<&'static str> {
        let (total, bad, late) = self.sum(at);
        if total < u64::from(rules.min_requests).max(1) {
            return None;
        }
        let share = |part: u64| part as f64 / total as f64;
        if rules.failure_rate.is_some_and(|limit| share(bad) > limit) {
            Some("failure_rate")
        } else if rules.slow_calls.is_some_and(|(_, limit)| share(late) > limit) {
            Some("slow_calls")
        } else {
            None
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.slices.iter().for_each(|slice| slice.store(0, Relaxed));
    }

    fn sum(&self, at: u64) -> (u64, u64, u64) {
        let tick = at / self.width + 1;
        self.slices.iter().map(|slice| slice.load(Relaxed)).fold((0, 0, 0), |sum, bits| {
            let age = tick.wrapping_sub(bits) & STAMP;
            let (total, bad, late) = if age < WHOLE && bits != 0 { counts(bits) } else { (0, 0, 0) };
            (sum.0 + total, sum.1 + bad, sum.2 + late)
        })
    }
}

fn counts(bits: u64) -> (u64, u64, u64) {
    (bits >> 22 & COUNT, bits >> (22 + BITS) & COUNT, bits >> (22 + 2 * BITS) & COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(over: f64) -> Rules {
        Rules { failure_rate: Some(over), min_requests: 4, ..Rules::default() }
    }

    #[test]
    fn a_share_is_judged_over_the_window_and_with_enough_calls() {
        let window = Window::new(Duration::from_secs(10));
        for at in [0, 1000, 2000] {
            window.add(at, true, false);
        }
        assert_eq!(window.over(2000, &rules(0.5)), None, "too few calls");
        window.add(3000, false, false);
        assert_eq!(window.over(3000, &rules(0.5)), Some("failure_rate"));
        assert_eq!(window.over(3000, &rules(0.75)), None, "not over");
        window.add(10_500, false, false);
        assert_eq!(window.over(10_500, &rules(0.5)), None, "the first is out of sight");
        window.clear();
        assert_eq!(window.sum(10_500), (0, 0, 0));
    }

    #[test]
    fn very_many_calls_keep_their_shares() {
        let window = Window::new(Duration::from_secs(10));
        (0..100_000).for_each(|call| window.add(5, call % 4 == 0, call % 2 == 0));
        let (total, bad, late) = window.sum(5);
        let share = |part: u64| part as f64 / total as f64;
        assert!((share(bad) - 0.25).abs() < 0.01 && (share(late) - 0.5).abs() < 0.01, "{total} {bad} {late}");
        assert_eq!(window.sum(u64::from(u32::MAX)), (0, 0, 0), "long after");
    }
}
