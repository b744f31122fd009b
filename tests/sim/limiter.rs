//! The limits of rates.
//!
//! 1. In any time, a key passes at most `burst` + `rate` × time calls, whether it
//!    has a count of its own, shares one for want of room, or went from one to
//!    the other.
//! 2. At most `keys` keys are held.
//! 3. To sweep changes no verdict: one that is swept all the time and one that
//!    never is say the same, as long as there is room.
//! 4. Who is refused and comes back when it was told to is let through, if nobody
//!    else of its key was faster.
//! 5. A key that calls no more than `rate`, evenly, is never refused while it has
//!    a count of its own.
//! 6. Once all are silent, nothing is held.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use pillion::config::model::{Per, Quota, Rate};
use pillion::policy::rate::Limiter;

use crate::seeds;

struct World {
    random: fastrand::Rng,
    quota: Quota,
    start: Instant,
    now: Instant,
    limiter: Limiter,
    /// What passed of each key, in order.
    passed: HashMap<u8, Vec<Instant>>,
}

fn quota(random: &mut fastrand::Rng, keys: usize) -> Quota {
    let number = |number| NonZeroU32::new(number).unwrap();
    let seconds = random.choice([1, 60, 3600, 86_400]).unwrap();
    let rate = Rate { count: number(random.u32(1..200)), period: Duration::from_secs(seconds) };
    let per = if random.u8(..8) == 0 { Per::All } else { Per::Source };
    Quota { rate, burst: number(random.u32(1..40)), per, keys }
}

impl World {
    fn new(seed: u64, keys: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (quota, start) = (quota(&mut random, keys), Instant::now());
        let limiter = Limiter::new(quota.clone(), start);
        Self { random, quota, start, now: start, limiter, passed: HashMap::new() }
    }

    /// A little while, mostly; now and then a long one.
    fn wait(&mut self) {
        let interval = self.quota.rate.interval();
        let factor = match self.random.u8(..20) {
            0 => 100.0,
            1..5 => 2.0,
            5..12 => 0.2,
            _ => 0.0,
        };
        self.now += interval.mul_f64(factor * self.random.f64());
    }

    fn call(&mut self, key: u8) -> pillion::policy::rate::Verdict {
        let verdict = self.limiter.take(Some(&[key]), self.now);
        if verdict.passes {
            let counted = if self.quota.per == Per::All { 0 } else { key };
            self.passed.entry(counted).or_default().push(self.now);
        }
        verdict
    }

    /// Looks at every span between two calls that passed.
    fn check(&self) {
        let interval = self.quota.rate.interval().as_nanos();
        let burst = u128::from(self.quota.burst.get());
        for (key, times) in &self.passed {
            for (first, from) in times.iter().enumerate() {
                for (last, until) in times.iter().enumerate().skip(first) {
                    let calls = (last - first + 1) as u128;
                    let most = burst + (*until - *from).as_nanos() / interval;
                    assert!(calls <= most, "1: key {key}: {calls} calls where {most} may pass");
                }
            }
        }
    }
}

#[test]
fn no_key_passes_more_than_its_burst_and_its_rate() {
    seeds(|seed| {
        let mut world = World::new(seed, (seed % 7) as usize + 1);
        let keys = world.random.u8(1..20);
        for _ in 0..300 {
            world.wait();
            let key = world.random.u8(..keys);
            world.call(key);
            if world.random.u8(..10) == 0 {
                let held = world.limiter.sweep(world.now).keys;
                assert!(held <= world.quota.keys, "2: {held}");
            }
        }
        world.check();
        let silent = world.now + world.quota.window() + world.quota.rate.interval();
        assert_eq!(world.limiter.sweep(silent).keys, 0, "6");
    });
}

#[test]
fn sweeping_changes_no_verdict() {
    seeds(|seed| {
        let mut world = World::new(seed, 100);
        let untouched = Limiter::new(world.quota.clone(), world.start);
        for _ in 0..200 {
            world.wait();
            let key = world.random.u8(..10);
            let verdict = world.call(key);
            assert_eq!(verdict, untouched.take(Some(&[key]), world.now), "3");
            world.limiter.sweep(world.now);
        }
    });
}

#[test]
fn whoever_comes_back_when_it_was_told_to_is_let_through() {
    seeds(|seed| {
        let mut world = World::new(seed, 100);
        for _ in 0..200 {
            world.wait();
            let verdict = world.call(1);
            if !verdict.passes {
                assert!(verdict.wait > Duration::ZERO && verdict.wait <= world.quota.rate.interval(), "4");
                world.now += verdict.wait;
                assert!(world.call(1).passes, "4: after {:?}", verdict.wait);
            }
        }
        world.check();
    });
}

#[test]
fn whoever_keeps_to_the_rate_is_never_refused() {
    seeds(|seed| {
        let mut world = World::new(seed, 2);
        world.quota.per = Per::Source;
        world.limiter = Limiter::new(world.quota.clone(), world.start);
        assert!(world.call(1).passes);
        for round in 0..100u32 {
            world.now += world.quota.rate.interval();
            // Others take all the room that is left, and more.
            for other in 2..world.random.u8(3..12) {
                world.call(other);
            }
            assert!(world.call(1).passes, "5: in round {round}");
        }
    });
}
