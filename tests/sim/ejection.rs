//! Ejection: endpoints that fail, heal, come and go, calls that count, and the
//! judge as the control thread asks it.
//!
//! 1. Never more are out than `max_percent` of all, rounded up, nor the last one
//!    that can be used, unless `max_percent` is 100 %.
//! 2. An endpoint of which no call fails is never out.
//! 3. Whoever is out comes back: not before four fifths of its time, not after
//!    it, and its time doubles from the first to the longest. Sooner only where
//!    all fail, its check says that it is well, too many are out, or those in use
//!    do not suffice: then one that answers, after a second.
//! 4. Back and on probation, a single failure accuses it; a good call ends that.
//! 5. When all fail all are let in, and nothing is remembered.
//! 6. The judge and the endpoints agree on who is out.
//! 7. However they were treated, all are in use once they are well, within the
//!    longest time, and stay so: nobody starves, and no state feeds itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion::config::model::Ejection;
use pillion::policy::ejection::{Judge, Out, Scene, Verdict};
use pillion::policy::outcome::Class;
use pillion::policy::vitals::{Cause, Vitals, Watch};

use crate::seeds;

struct World {
    random: fastrand::Rng,
    rules: Ejection,
    judge: Judge,
    watch: Arc<Watch>,
    endpoints: BTreeMap<u32, Endpoint>,
    next: u32,
    now: Instant,
    /// Since when anybody who is out knows no mercy.
    out: BTreeMap<u32, (Instant, Out)>,
}

struct Endpoint {
    vitals: Arc<Vitals>,
    /// Chance of a failure.
    bad: f64,
    /// It has failed since it is here.
    failed: bool,
    /// Ejections so far, for `times`.
    times: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let first = Duration::from_millis(random.u64(1..20_000));
        let rules = Ejection {
            max_percent: random.choice([0.0, 0.1, 0.34, 0.5, 0.9, 1.0]).unwrap(),
            time: (first, first * random.u32(1..64)),
            ..Ejection::default()
        };
        let now = Instant::now();
        let watch = Watch::new(now);
        watch.set(random.u32(1..8), random.u32(1..8), true, Duration::ZERO);
        let judge = Judge::new(Some(rules.clone()));
        let (endpoints, next, out) = Default::default();
        let mut world = Self { random, rules, judge, watch, endpoints, next, now, out };
        (0..world.random.u32(1..12)).for_each(|_| world.arrive());
        world
    }

    fn arrive(&mut self) {
        let bad = if self.random.u8(..3) == 0 { self.random.f64() } else { 0.0 };
        let vitals = Vitals::new(&self.watch);
        self.endpoints.insert(self.next, Endpoint { vitals, bad, failed: false, times: 0 });
        self.next += 1;
    }

    fn leave(&mut self) {
        let Some(who) = self.anybody().filter(|_| self.endpoints.len() > 1) else { return };
        self.endpoints.remove(&who);
        self.out.remove(&who);
        self.judge.forget(who);
        for back in self.judge.fit(self.endpoints.len(), self.now) {
            self.let_in(back, true);
        }
    }

    fn anybody(&mut self) -> Option<u32> {
        let all: Vec<u32> = self.endpoints.keys().copied().collect();
        self.random.choice(all)
    }

    fn let_in(&mut self, who: u32, probation: bool) {
        assert!(self.out.remove(&who).is_some(), "6: {who} was out");
        let endpoint = &self.endpoints[&who];
        endpoint.vitals.let_in(probation, self.now);
        assert_eq!(endpoint.vitals.cause(), None, "nothing is held against it");
    }

    /// One call to somebody who is in, and what comes of it.
    fn call(&mut self) {
        let inside = |(_, endpoint): &(&u32, &mut Endpoint)| endpoint.vitals.is_fit();
        let mut fit: Vec<_> = self.endpoints.iter_mut().filter(inside).collect();
        if fit.is_empty() {
            assert!(self.rules.max_percent >= 1.0, "1: nobody is left");
            return;
        }
        let index = self.random.usize(..fit.len());
        let (who, endpoint) = &mut fit[index];
        let (who, was) = (**who, endpoint.vitals.state(self.now));
        let class = match self.random.f64() < endpoint.bad {
            true if self.random.bool() => Class::Silent,
            true => Class::Gateway,
            false if self.random.u8(..10) == 0 => Class::Nothing,
            false => Class::Good,
        };
        let failed = matches!(class, Class::Silent | Class::Gateway);
        endpoint.failed |= failed;
        endpoint.vitals.note(class);
        let cause = endpoint.vitals.cause();
        if was == "on_probation" {
            assert!(!failed || cause.is_some(), "4: one failure is enough");
            assert!(class != Class::Good || cause.is_none(), "4: a good call makes good");
            let over = endpoint.vitals.state(self.now) != "on_probation";
            assert_eq!(over, class == Class::Good, "4: after {class:?}");
        }
        // The bell rings for failures only.
        if failed && let Some(cause) = cause {
            self.accuse(who, cause);
        }
    }

    fn accuse(&mut self, who: u32, cause: Cause) {
        assert!(self.endpoints[&who].failed, "2: {who} never failed");
        let total = self.endpoints.len();
        let is_failing =
            |endpoint: &&Endpoint| !endpoint.vitals.is_fit() || endpoint.vitals.cause().is_some();
        let failing = self.endpoints.values().filter(is_failing).count();
        let scene = Scene { total, in_use: total - self.judge.count(), failing };
        match self.judge.accuse(who, cause, scene, self.now, &mut self.random) {
            Verdict::Out(out) => {
                let (first, longest) = self.rules.time;
                let endpoint = self.endpoints.get_mut(&who).unwrap();
                endpoint.vitals.eject();
                assert!(out.times <= endpoint.times + 1, "3: it grows by one");
                endpoint.times = out.times;
                let whole = first.saturating_mul(1 << (out.times - 1).min(16)).min(longest);
                let time = out.until - self.now;
                assert!(time <= whole && time >= whole.mul_f64(0.79), "3: {time:?} of {whole:?}");
                self.out.insert(who, (self.now, out));
            }
            Verdict::Stays => {}
            Verdict::AllFail(back) => {
                assert!(failing >= total, "5: some do not fail");
                back.into_iter().for_each(|who| self.let_in(who, false));
                assert_eq!((self.judge.count(), self.judge.next()), (0, None), "5");
                for endpoint in self.endpoints.values_mut() {
                    endpoint.vitals.let_in(false, self.now);
                    endpoint.times = 0;
                }
            }
        }
    }

    /// Those in use do not suffice.
    fn relieve(&mut self) {
        let second = Duration::from_secs(1);
        let Some(who) = self.judge.relieve(self.now - second, self.now) else { return };
        let (since, out) = self.out[&who];
        assert!(self.now - since >= second && out.cause != Cause::Failures, "3: {who} is back too early");
        self.endpoints.get_mut(&who).unwrap().times = out.times - 1;
        self.let_in(who, true);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        // The control thread wakes when the next one is due.
        assert_eq!(self.judge.next(), self.out.values().map(|(_, out)| out.until).min(), "3");
        for who in self.judge.returns(self.now) {
            assert!(self.out[&who].1.until <= self.now, "3: {who} is back too early");
            self.let_in(who, true);
        }
        assert!(self.out.values().all(|(_, out)| out.until > self.now), "3: somebody is still out");
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..60 => self.call(),
            60..85 => {
                let time = Duration::from_millis(self.random.u64(0..500));
                self.wait(time);
            }
            85..90 => {
                let time = Duration::from_millis(self.random.u64(0..200_000));
                self.wait(time);
            }
            90 => self.arrive(),
            91 => self.leave(),
            92 => self.endpoints.values_mut().for_each(|one| one.bad = 1.0),
            93 => self.endpoints.values_mut().for_each(|one| one.bad = 0.0),
            94..97 => {
                let bad = self.random.f64();
                if let Some(who) = self.anybody() {
                    self.endpoints.get_mut(&who).unwrap().bad = bad;
                }
            }
            97 => self.relieve(),
            // Its health check says that it is well again.
            _ => {
                if let Some(who) = self.anybody()
                    && self.judge.pardon(who, self.now)
                {
                    self.let_in(who, true);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let total = self.endpoints.len();
        let most = ((self.rules.max_percent * total as f64).ceil() as usize).min(total);
        let out = self.endpoints.values().filter(|one| one.vitals.is_ejected()).count();
        assert!(out <= most, "1: {out} of {total}");
        assert!(self.rules.max_percent >= 1.0 || out < total, "1: the last one");
        assert_eq!((self.judge.count(), self.out.len()), (out, out), "6");
        for (who, endpoint) in &self.endpoints {
            assert_eq!(self.judge.out(*who).is_some(), endpoint.vitals.is_ejected(), "6: {who}");
            assert!(endpoint.failed || !endpoint.vitals.is_ejected(), "2: {who} never failed");
        }
        let longest = self.rules.time.1;
        assert!(self.out.values().all(|(since, out)| out.until - *since <= longest), "3");
    }

    /// All are well from now on.
    fn recover(&mut self) {
        self.endpoints.values_mut().for_each(|one| one.bad = 0.0);
        self.wait(self.rules.time.1);
        assert_eq!((self.judge.count(), self.judge.next()), (0, None), "7: all are back");
        for _ in 0..self.endpoints.len() * 40 {
            self.call();
            self.check();
            assert_eq!(self.judge.count(), 0, "7: and stay");
        }
        // Each was called, and whatever was held against it is over.
        assert!(self.endpoints.values().all(|one| one.vitals.cause().is_none()), "7");
    }
}

#[test]
fn ejection_keeps_its_promises() {
    seeds(|seed| {
        let mut world = World::new(seed);
        (0..400).for_each(|_| world.step());
        world.recover();
    });
}
