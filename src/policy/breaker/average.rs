//! The average of success that failsafe goes by
//! (<https://docs.rs/failsafe/1.3.0/failsafe/failure_policy/fn.success_rate_over_time_window.html>):
//! it fades exponentially, counts for nothing before the window has passed
//! once, and needs so many calls within the window.
//!
//! A few words that workers change one after the other: calls at the very same
//! moment may see each other's half of a change, which moves the average by
//! less than one call does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::config::model::Rules;

const SLICES: usize = 5;
const WHOLE: u64 = SLICES as u64;

/// See the module's text. Times are in milliseconds.
#[derive(Debug)]
pub struct Average {
    window: u64,
    /// When it began.
    since: AtomicU64,
    /// The moment of the last call since then (32 bits), and the average.
    average: AtomicU64,
    /// When the slice in use began (61 bits), and which one it is.
    slice: AtomicU64,
    counts: [AtomicU32; SLICES],
}

impl Average {
    /// One that reaches back so far.
    pub fn new(reach: Duration) -> Self {
        Self {
            window: reach.as_secs() * 1000,
            since: AtomicU64::new(0),
            average: AtomicU64::new(0),
            slice: AtomicU64::new(0),
            counts: Default::default(),
        }
    }

    /// Counts a call; whether success has become too rare.
    pub fn add(&self, at: u64, failed: bool, rules: &Rules) -> bool {
        self.expire(at);
        let current = self.slice.load(SeqCst) & 7;
        if let Some(count) = self.counts.get(usize::try_from(current).unwrap_or_default()) {
            count.fetch_add(1, SeqCst);
        }
        let passed = at.saturating_sub(self.since.load(SeqCst));
        let average = self.average(passed, if failed { 0.0 } else { 1.0 });
        let calls: u32 = self.counts.iter().map(|count| count.load(SeqCst)).sum();
        failed
            && passed >= self.window
            && rules.failure_rate.is_some_and(|limit| f64::from(average) < 1.0 - limit)
            && calls >= rules.min_requests
    }

    /// Begins anew.
    pub fn revive(&self, at: u64) {
        self.since.store(at, SeqCst);
        self.average.store(0, SeqCst);
        self.counts.iter().for_each(|count| count.store(0, SeqCst));
        let current = self.slice.load(SeqCst) & 7;
        self.slice.store(at << 3 | current, SeqCst);
    }

    fn average(&self, passed: u64, value: f32) -> f32 {
        let next = |bits: u64| {
            let (stamp, average) = (bits >> 32, f32::from_bits(low(bits)));
            // The first call counts whole, and so does each in the first millisecond.
            let average = if stamp == 0 {
                f64::from(value)
            } else {
                let since = passed.wrapping_sub(stamp) & u64::from(u32::MAX);
                let fades = (-(since as f64) / self.window.max(1) as f64).exp();
                f64::from(value) * (1.0 - fades) + f64::from(average) * fades
            };
            (passed & u64::from(u32::MAX)) << 32 | u64::from(narrow(average).to_bits())
        };
        let before = self.average.fetch_update(SeqCst, SeqCst, |bits| Some(next(bits)));
        before.map_or(value, |bits| f32::from_bits(low(next(bits))))
    }

    /// Empties the slices of time that are over.
    fn expire(&self, at: u64) {
        let width = (self.window / WHOLE).max(1);
        let seen = self.slice.load(SeqCst);
        let (began, current) = (seen >> 3, seen & 7);
        let passed = at.saturating_sub(began);
        if passed < width {
            return;
        }
        let over = (passed / width).min(WHOLE + 1);
        let next = (current + over) % WHOLE;
        if self.slice.compare_exchange(seen, at << 3 | next, SeqCst, SeqCst).is_ok() {
            for step in 1..=over {
                let gone = usize::try_from((current + step) % WHOLE).unwrap_or_default();
                self.counts[gone].store(0, SeqCst);
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the bits are cut out")]
fn low(bits: u64) -> u32 {
    bits as u32
}

#[allow(clippy::cast_possible_truncation, reason = "32 bits are exact enough for a share")]
fn narrow(share: f64) -> f32 {
    share as f32
}
