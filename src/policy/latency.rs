//! How long the calls of one route took lately: a small sliding histogram.

use std::time::{Duration, Instant};

/// How long a call is remembered at least, and half of how long at most.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Calls without which nothing is said.
const ENOUGH: u32 = 20;
/// Steps within each power of two: what is said is up to an eighth too long.
const STEPS: u32 = 8;
/// Powers of two of a microsecond: up to 67 s.
const POWERS: u32 = 26;
const BUCKETS: usize = 208;
/// Calls after which what is said is worked out anew.
const AGAIN: u32 = 32;

/// See the module's text. It takes two kilobytes.
#[derive(Clone, Debug)]
pub struct Latencies {
    since: Option<Instant>,
    now: Counts,
    before: Counts,
    /// What was said last, of how many calls, of which share.
    said: Option<(Option<Duration>, f64)>,
    /// Calls since.
    fresh: u32,
}

#[derive(Clone, Debug)]
struct Counts {
    buckets: [u32; BUCKETS],
    all: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        let none = Counts { buckets: [0; BUCKETS], all: 0 };
        Self { since: None, before: none.clone(), now: none, said: None, fresh: 0 }
    }
}

impl Latencies {
    /// A call took so long.
    pub fn record(&mut self, now: Instant, latency: Duration) {
        self.turn(now);
        let bucket = &mut self.now.buckets[bucket(latency)];
        *bucket = bucket.saturating_add(1);
        self.now.all = self.now.all.saturating_add(1);
        self.fresh = self.fresh.saturating_add(1);
        if self.fresh >= AGAIN {
            self.said = None;
        }
    }

    /// What `share` (0 to 1) of the calls did not exceed; `None` while too few
    /// are known.
    pub fn percentile(&mut self, share: f64, now: Instant) -> Option<Duration> {
        self.turn(now);
        if let Some((said, of)) = self.said
            && of.to_bits() == share.to_bits()
            && said.is_some()
        {
            return said;
        }
        let said = self.look(share);
        self.said = Some((said, share));
        self.fresh = 0;
        said
    }

    fn look(&self, share: f64) -> Option<Duration> {
        let all = self.now.all.saturating_add(self.before.all);
        if all < ENOUGH {
            return None;
        }
        let wanted = f64::from(all) * share;
        let mut passed = 0u64;
        let both = self.now.buckets.iter().zip(&self.before.buckets);
        for (index, (now, before)) in both.enumerate() {
            passed += u64::from(*now) + u64::from(*before);
            if passed as f64 >= wanted {
                return Some(longest(index));
            }
        }
        Some(longest(BUCKETS - 1))
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed < REMEMBERED {
            return;
        }
        std::mem::swap(&mut self.before, &mut self.now);
        let none = Counts { buckets: [0; BUCKETS], all: 0 };
        if passed >= REMEMBERED * 2 {
            self.before = none.clone();
        }
        self.now = none;
        self.since = Some(now);
        self.said = None;
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    if power >= POWERS {
        return BUCKETS - 1;
    }
    // Below eight microseconds there are fewer steps than that.
    let step = if power >= 3 { (micros >> (power - 3)) & 7 } else { (micros << (3 - power)) & 7 };
    usize::try_from(u64::from(power * STEPS) + step).unwrap_or(BUCKETS - 1)
}

/// The end of a bucket.
fn longest(bucket: usize) -> Duration {
    let (power, step) = (bucket / STEPS as usize, bucket % STEPS as usize);
    let eighths = 8 + step as u64 + 1;
    Duration::from_nanos(((eighths * 1_000) << power) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_an_eighth_too_long() {
        let start = Instant::now();
        for (low, high) in [(1u64, 1_000), (900, 1_100), (10_000, 60_000), (1_000_000, 9_000_000)] {
            let mut latencies = Latencies::default();
            let mut random = fastrand::Rng::with_seed(low);
            let mut all: Vec<u64> = (0..5_000).map(|_| random.u64(low..high)).collect();
            all.iter().for_each(|micros| latencies.record(start, Duration::from_micros(*micros)));
            all.sort_unstable();
            for (share, rank) in [(0.5, 2_499), (0.9, 4_499), (0.95, 4_749), (0.99, 4_949)] {
                let exact = all[rank] as f64;
                let said = latencies.percentile(share, start).unwrap().as_secs_f64() * 1e6;
                assert!(
                    said >= exact && said <= exact * 1.13 + 1.0,
                    "{share} of {low}..{high}: {said} for {exact}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_said_of_few_calls_and_old_ones_are_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut latencies = Latencies::default();
        (0..19).for_each(|_| latencies.record(start, Duration::from_millis(10)));
        assert_eq!(latencies.percentile(0.95, start), None);
        latencies.record(start, Duration::from_millis(10));
        assert!(latencies.percentile(0.95, at(9)).is_some());
        (0..100).for_each(|_| latencies.record(at(12), Duration::from_millis(80)));
        let ten = latencies.percentile(0.1, at(12)).unwrap();
        assert!(ten < Duration::from_millis(12), "both are known: {ten:?}");
        let ten = latencies.percentile(0.1, at(25)).unwrap();
        assert!(ten > Duration::from_millis(79), "{ten:?}");
        assert_eq!(latencies.percentile(0.5, at(60)), None);
    }

    #[test]
    fn the_shortest_and_the_longest_have_their_place() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_secs(3_600)), BUCKETS - 1);
        let mut last = 0;
        for micros in 1..200_000u64 {
            let now = bucket(Duration::from_micros(micros));
            assert!(now >= last && longest(now) >= Duration::from_micros(micros), "{micros}");
            last = now;
        }
    }
}
