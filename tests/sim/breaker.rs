//! The circuit breaker.
//!
//! 1. There are never more than N probes at one time, those of earlier times
//!    included, but for one more each time that none has begun for as long as
//!    the breaker is open first, or for a second; with gobreaker's way, never more
//!    than N of one generation.
//! 2. An answer to a call that began before the last change changes nothing;
//!    with failsafe's way it may.
//! 3. While it is open no call goes through, and it opens for no longer than
//!    it may.
//! 4. What it says of itself beforehand (`allows`) is what it does.
//! 5. A probe whose caller goes away gives its place back: once all calls have
//!    ended, no place is taken.
//! 6. However it was treated, it closes once the service is good, within the
//!    longest time open, after as many probes as it takes.
//! 7. With no failure and no slow call it never opens.

use std::time::{Duration, Instant};

use pillion::config::model::{Rules, Style};
use pillion::policy::breaker::{Breaker, Permit, State, Verdict};

use crate::seeds;

struct World {
    random: fastrand::Rng,
    rules: Rules,
    breaker: Breaker,
    now: Instant,
    /// The breaker was something else so often, by what it told.
    generation: u32,
    state: State,
    open_until: Instant,
    calls: Vec<Call>,
    /// Chance of a failure, and of a slow call.
    bad: f64,
    slow: f64,
}

struct Call {
    permit: Permit,
    generation: u32,
    probe: bool,
    began: Instant,
}

fn rules(random: &mut fastrand::Rng) -> Rules {
    let style = random.choice([
        Style::Own,
        Style::Own,
        Style::Own,
        Style::Gobreaker,
        Style::Pybreaker,
        Style::Failsafe,
    ]);
    let preset = Rules::preset(style.unwrap());
    if preset.style == Style::Failsafe || (preset.style == Style::Pybreaker && random.bool()) {
        return preset;
    }
    let first = Duration::from_millis(random.u64(1..10_000));
    let longest = if preset.style == Style::Own { first * random.u32(1..100) } else { first };
    let half_open_requests = random.u32(1..6);
    let own = preset.style == Style::Own;
    Rules {
        consecutive_failures: random.u32(u32::from(!own)..8),
        failure_rate: (own && random.bool()).then(|| random.f64()),
        slow_calls: (own && random.bool()).then(|| (Duration::from_millis(100), random.f64())),
        window: Duration::from_millis(random.u64(10..20_000)),
        min_requests: random.u32(1..30),
        open_for: (first, longest),
        half_open_requests,
        close_after: random.u32(1..=half_open_requests),
        ..preset
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = rules(&mut random);
        let now = Instant::now();
        let breaker = Breaker::new(rules.clone(), now);
        let (bad, slow) = (random.f64(), random.f64());
        let (state, generation) = (State::Closed, 0);
        Self { random, rules, breaker, now, generation, state, open_until: now, calls: Vec::new(), bad, slow }
    }

    fn told(&mut self, moved: Option<pillion::policy::breaker::Moved>) {
        let Some(moved) = moved else { return };
        assert_eq!(moved.from, self.state, "changes follow each other");
        self.state = moved.to;
        self.generation += 1;
        if moved.to == State::Open {
            assert!(moved.time <= self.rules.open_for.1, "3: open for {:?}", moved.time);
            assert!(moved.time >= self.rules.open_for.0.mul_f64(0.79), "3: open for {:?}", moved.time);
            self.open_until = self.now + moved.time;
        }
    }

    fn begin(&mut self) -> bool {
        let (says, before) = (self.breaker.allows(self.now), self.state);
        let (admitted, moved) = self.breaker.admit(self.now);
        assert_eq!(says, admitted.is_ok(), "4: in {before:?}");
        self.told(moved);
        // Times are held in milliseconds.
        let open = before == State::Open && self.now + Duration::from_millis(1) < self.open_until;
        assert!(!(open && admitted.is_ok()), "3: a call went through");
        let Ok(permit) = admitted else { return false };
        let probe = permit.is_probe();
        self.calls.push(Call { permit, generation: self.generation, probe, began: self.now });
        true
    }

    fn end(&mut self, index: usize, gone: bool) {
        let Call { permit, generation, .. } = self.calls.swap_remove(index);
        let before = self.breaker.state(self.now).0;
        if gone {
            self.breaker.give_back(permit);
            assert_eq!(self.breaker.state(self.now).0, before, "5: nothing was said");
            return;
        }
        let failed = self.random.f64() < self.bad;
        let slow = self.random.f64() < self.slow;
        let took =
            Duration::from_millis(if slow { self.random.u64(101..10_000) } else { self.random.u64(0..100) });
        let moved = self.breaker.settle(permit, Verdict { failed, took }, self.now, &mut self.random);
        if generation != self.generation && self.rules.style != Style::Failsafe {
            assert_eq!(moved, None, "2: a late answer");
        }
        self.told(moved);
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..45 => _ = self.begin(),
            45..80 if !self.calls.is_empty() => {
                let index = self.random.usize(..self.calls.len());
                let gone = self.random.u32(0..8) == 0;
                self.end(index, gone);
            }
            80..95 => self.now += Duration::from_millis(self.random.u64(0..50)),
            95..98 => self.now += Duration::from_millis(self.random.u64(0..30_000)),
            98 => self.now += Duration::from_secs(self.random.u64(0..400_000)),
            _ => (self.bad, self.slow) = (self.random.f64().powi(2), self.random.f64().powi(2)),
        }
        self.check();
    }

    fn check(&self) {
        let probes = self.calls.iter().filter(|call| call.probe);
        let most = self.rules.half_open_requests;
        match self.rules.style {
            Style::Own | Style::Pybreaker => {
                let while_open = self.rules.open_for.0.max(Duration::from_secs(1));
                let young = probes.filter(|call| call.began + while_open > self.now);
                assert!(young.count() <= most as usize, "1");
            }
            Style::Gobreaker => {
                let here = probes.filter(|call| call.generation == self.generation).count();
                assert!(here <= most as usize, "1: of one generation");
            }
            Style::Failsafe => {}
        }
    }

    /// The service is good from now on, and callers come one after the other.
    fn recover(&mut self) {
        (self.bad, self.slow) = (0.0, 0.0);
        while !self.calls.is_empty() {
            let gone = self.random.bool();
            self.end(0, gone);
        }
        assert_eq!(self.breaker.probing(), 0, "5: no place is taken");
        let end = self.now + self.rules.open_for.1 + Duration::from_millis(2);
        let mut probes = 0;
        while self.breaker.state(self.now).0 != State::Closed {
            match self.begin() {
                true => {
                    probes += 1;
                    self.end(0, false);
                }
                false => {
                    assert!(self.now < end, "6: still open");
                    self.now += Duration::from_millis(self.random.u64(1..500)).min(end - self.now);
                }
            }
        }
        assert!(probes <= self.rules.close_after.max(1), "6: {probes} probes");
        for _ in 0..50 {
            assert!(self.begin(), "7");
            self.end(0, false);
            self.now += Duration::from_millis(self.random.u64(0..1000));
        }
        assert_eq!(self.state, State::Closed, "7");
    }
}

#[test]
fn a_breaker_keeps_its_promises() {
    seeds(|seed| {
        let mut world = World::new(seed);
        for _ in 0..3 {
            (0..300).for_each(|_| world.step());
            world.recover();
        }
    });
}

/// The same invariants with threads that really run at one time.
#[test]
fn a_breaker_keeps_its_promises_between_threads() {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
    for seed in 0..20 {
        let open_for = (Duration::from_millis(2), Duration::from_millis(4));
        let rules = Rules { open_for, half_open_requests: 3, close_after: 3, ..Rules::default() };
        let breaker = Breaker::new(rules, Instant::now());
        let (probing, opened) = (AtomicI64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (breaker, probing, opened) = (&breaker, &probing, &opened);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed * 4 + thread);
                    let end = Instant::now() + Duration::from_millis(50);
                    while Instant::now() < end {
                        let (Ok(permit), _) = breaker.admit(Instant::now()) else {
                            std::thread::yield_now();
                            continue;
                        };
                        let probe = i64::from(permit.is_probe());
                        assert!(probing.fetch_add(probe, SeqCst) + probe <= 3, "1");
                        if probe == 1 {
                            std::thread::yield_now();
                        }
                        probing.fetch_sub(probe, SeqCst);
                        if random.u32(0..10) == 0 {
                            breaker.give_back(permit);
                            continue;
                        }
                        let verdict = Verdict { failed: random.bool(), took: Duration::ZERO };
                        let moved = breaker.settle(permit, verdict, Instant::now(), &mut random);
                        opened.fetch_add(u64::from(moved.is_some_and(|m| m.to == State::Open)), SeqCst);
                    }
                });
            }
        });
        assert_eq!(breaker.probing(), 0, "5");
        assert!(opened.load(SeqCst) > 0, "it was put to the test");
    }
}
