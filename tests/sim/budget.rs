//! The budget of retries and hedges.
//!
//! 1. In any window that ends with an attempt that was let through, no more were
//!    than the greater of the floor and what the calls of that window earned.
//! 2. Since its beginning no more were let through than the calls have earned
//!    and one floor for each window, however the clocks of workers differ.
//! 3. What it says to be left is what it gives, and after a window without an
//!    attempt that is at least the floor and all that the calls have earned.
//! 4. With every answer a failure and any number of retries wanted, attempts of
//!    20 s stay within 1.2 times the calls at one hop and 1.75 times at three.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pillion::policy::budget::{Budget, FLOOR, WINDOW};

use crate::seeds;

/// Parts of the window.
const PARTS: u32 = 32;

struct World {
    random: fastrand::Rng,
    budget: Budget,
    start: Instant,
    now: Instant,
    /// What was earned, in thousandths, and spent, by parts of time.
    parts: VecDeque<(u128, u64, u64)>,
    earned: u64,
    spent: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let random = fastrand::Rng::with_seed(seed);
        let budget = Budget::new(start);
        Self { random, budget, start, now: start, parts: VecDeque::new(), earned: 0, spent: 0 }
    }

    fn part(&mut self) -> &mut (u128, u64, u64) {
        let part = (self.now - self.start).as_micros() / (WINDOW / PARTS).as_micros();
        self.parts.retain(|(old, ..)| old + u128::from(PARTS) > part);
        if self.parts.back().is_none_or(|(last, ..)| *last != part) {
            self.parts.push_back((part, 0, 0));
        }
        self.parts.back_mut().unwrap()
    }

    /// Earned and spent in the window that ends now.
    fn window(&mut self) -> (u64, u64) {
        self.part();
        // A call counts from the next part on.
        let earned: u64 = self.parts.iter().rev().skip(1).map(|(_, earned, _)| earned).sum();
        let spent = self.parts.iter().map(|(.., spent)| spent).sum();
        ((earned / 1000).max(FLOOR.into()), spent)
    }

    fn call(&mut self) {
        let share = *self.random.choice(&[0.0, 0.01, 0.2, 0.2, 0.5, 1.0]).unwrap();
        self.budget.deposit(share, self.now);
        let thousandths = (share * 1000.0) as u64;
        self.part().1 += thousandths;
        self.earned += thousandths;
    }

    fn attempt(&mut self) {
        let (may, spent) = self.window();
        let left = self.budget.left(self.now);
        assert_eq!(left, may.saturating_sub(spent), "what is said to be left");
        let given = self.budget.withdraw(self.now);
        assert_eq!(given, left > 0, "what was said is what is given");
        if given {
            self.part().2 += 1;
            self.spent += 1;
        }
        let (may, spent) = self.window();
        assert!(!given || spent <= may, "{spent} of {may}");
        self.check_all();
    }

    fn check_all(&self) {
        let windows = (self.now - self.start).as_millis() / WINDOW.as_millis() + 2;
        let most = self.earned / 1000 + windows as u64 * u64::from(FLOOR);
        assert!(self.spent <= most, "{} of {most}", self.spent);
    }
}

#[test]
fn never_more_than_the_calls_of_the_window_earned_or_the_floor() {
    seeds(|seed| {
        let mut world = World::new(seed);
        for _ in 0..400 {
            let pause = match world.random.u8(..20) {
                0 => world.random.u64(0..20_000),
                1..4 => world.random.u64(0..1_000),
                _ => world.random.u64(0..5),
            };
            world.now += Duration::from_millis(pause);
            (0..world.random.u32(0..30)).for_each(|_| world.call());
            (0..world.random.u32(0..12)).for_each(|_| world.attempt());
        }
        let quiet = world.now + WINDOW;
        world.now = quiet;
        (0..50).for_each(|_| world.call());
        let (may, spent) = world.window();
        assert_eq!((world.budget.left(quiet), spent), (may, 0), "it always recovers");
    });
}

#[test]
fn clocks_that_differ_lend_nothing() {
    seeds(|seed| {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.now += Duration::from_millis(world.random.u64(0..400));
            for _ in 0..world.random.u32(0..30) {
                // A worker read its clock a moment ago.
                let earlier = Duration::from_millis(world.random.u64(0..20));
                let at = world.now.checked_sub(earlier).unwrap_or(world.start).max(world.start);
                world.budget.deposit(0.2, at);
                world.earned += 200;
                world.spent += u64::from(world.random.bool() && world.budget.withdraw(at));
            }
            world.check_all();
        }
    });
}

/// A call at the first of `hops`, whose last answers nothing but failures; says
/// how often that was asked.
fn call(hops: &[Budget], retries: u32, now: Instant) -> u64 {
    let Some((hop, rest)) = hops.split_first() else { return 1 };
    hop.deposit(0.2, now);
    let mut asked = call(rest, retries, now);
    for _ in 0..retries {
        if !hop.withdraw(now) {
            break;
        }
        asked += call(rest, retries, now);
    }
    asked
}

#[test]
fn hops_in_a_row_multiply_by_no_more_than_their_shares() {
    seeds(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for (count, most) in [[(1, 1.2)], [(3, 1.75)]][seed as usize % 2] {
            let start = Instant::now();
            let hops: Vec<Budget> = (0..count).map(|_| Budget::new(start)).collect();
            let (rate, retries) = (random.u64(90..200), random.u32(1..4));
            let (mut calls, mut asked) = (0u64, 0u64);
            let mut now = start;
            while now - start < Duration::from_secs(20) {
                now += Duration::from_micros(random.u64(0..2_000_000 / rate));
                calls += 1;
                asked += call(&hops, retries, now);
            }
            let factor = asked as f64 / calls as f64;
            assert!(factor <= most, "{factor:.3} at {rate}/s over {count} hops, {retries} retries");
        }
    });
}
