use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    breaker: Breaker,
    start: Instant,
    now: Instant,
    random: fastrand::Rng,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let start = Instant::now();
        Self { breaker: Breaker::new(rules, start), start, now: start, random: fastrand::Rng::with_seed(7) }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn admit(&self) -> Result<Permit, Refused> {
        self.breaker.admit(self.now).0
    }

    fn end(&mut self, permit: Permit, failed: bool, took: Duration) -> Option<Moved> {
        self.breaker.settle(permit, Verdict { failed, took }, self.now, &mut self.random)
    }

    fn call(&mut self, failed: bool) -> Option<Moved> {
        let permit = self.admit().expect("it lets the call through");
        self.end(permit, failed, Duration::ZERO)
    }

    fn state(&self) -> State {
        self.breaker.state(self.now).0
    }

    /// Fails until it opens; for how long that is.
    fn trip(&mut self) -> Duration {
        (0..100).find_map(|_| self.call(true)).expect("it opens").time
    }
}

#[test]
fn failures_in_a_row_open_it_and_probes_close_it() {
    let mut bench = Bench::new(Rules::default());
    (0..4).for_each(|_| assert_eq!(bench.call(true), None));
    assert_eq!(bench.call(false), None, "a good call breaks the row");
    (0..4).for_each(|_| assert_eq!(bench.call(true), None));
    let moved = bench.call(true).unwrap();
    assert_eq!((moved.to, moved.cause), (State::Open, "consecutive_failures"));
    let refused = bench.admit().unwrap_err();
    assert!(refused.left <= 5 * SECOND && refused.left >= 4 * SECOND, "{:?}", refused.left);
    assert!(!bench.breaker.allows(bench.now));
    bench.wait(refused.left);
    assert!(bench.breaker.allows(bench.now));
    let probes: Vec<_> = (0..3).map(|_| bench.admit().unwrap()).collect();
    assert!(probes.iter().all(Permit::is_probe));
    assert_eq!(bench.admit().unwrap_err().state, State::HalfOpen, "three at one time");
    let mut last = None;
    for probe in probes {
        assert_eq!(last, None);
        last = bench.end(probe, false, Duration::ZERO);
    }
    assert_eq!(last.unwrap().to, State::Closed);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_probe_that_fails_opens_it_for_longer_and_rest_makes_good() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.trip();
    bench.wait(first);
    let second = bench.call(true).unwrap();
    assert_eq!(second.cause, "probe");
    assert!(second.time >= 8 * SECOND && second.time <= 10 * SECOND, "{:?}", second.time);
    bench.wait(second.time);
    (0..3).for_each(|_| _ = bench.call(false));
    assert_eq!(bench.state(), State::Closed);
    bench.wait(10 * SECOND);
    let third = bench.trip();
    assert!(third >= 16 * SECOND && third <= 20 * SECOND, "closed for a moment: {third:?}");
    bench.wait(third);
    (0..3).for_each(|_| _ = bench.call(false));
    bench.wait(60 * SECOND);
    assert!(bench.trip() <= 5 * SECOND, "closed for long");
}

#[test]
fn it_is_never_open_for_longer_than_told() {
    let mut bench = Bench::new(Rules::default());
    let mut time = bench.trip();
    for _ in 0..100 {
        bench.wait(time);
        time = bench.call(true).unwrap().time;
        assert!(time <= 60 * SECOND, "{time:?}");
    }
    assert!(time >= 48 * SECOND);
}

#[test]
fn an_answer_of_an_earlier_generation_changes_nothing() {
    let mut bench = Bench::new(Rules { half_open_requests: 1, close_after: 1, ..Rules::default() });
    let (late, later) = (bench.admit().unwrap(), bench.admit().unwrap());
    let time = bench.trip();
    assert_eq!(bench.end(late, false, Duration::ZERO), None);
    assert_eq!(bench.state(), State::Open);
    bench.wait(time);
    let probe = bench.admit().unwrap();
    assert_eq!(bench.end(later, true, Duration::ZERO), None);
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(bench.end(probe, false, Duration::ZERO).unwrap().to, State::Closed);
}

#[test]
fn a_probe_that_is_given_back_makes_room() {
    for style in [Style::Own, Style::Gobreaker, Style::Pybreaker] {
        let mut bench = Bench::new(Rules { half_open_requests: 1, close_after: 1, ..Rules::preset(style) });
        let time = bench.trip();
        bench.wait(time + SECOND);
        let probe = bench.admit().unwrap();
        assert!(bench.admit().is_err(), "{style:?}");
        bench.breaker.give_back(probe);
        assert_eq!(bench.call(false).unwrap().to, State::Closed, "{style:?}");
        assert_eq!(bench.breaker.probing(), 0);
    }
}

#[test]
fn probes_that_never_end_do_not_keep_all_others_out() {
    for style in [Style::Own, Style::Pybreaker] {
        let mut bench =
            Bench::new(Rules { style, half_open_requests: 1, close_after: 1, ..Rules::default() });
        let time = bench.trip();
        bench.wait(time + SECOND);
        let hangs = bench.admit().unwrap();
        assert!(bench.admit().is_err());
        bench.wait(bench.breaker.rules.open_for.0);
        let another = bench.admit().unwrap();
        assert!(bench.admit().is_err(), "one, and not all who wait");
        assert_eq!(bench.end(another, false, Duration::ZERO).unwrap().to, State::Closed);
        bench.breaker.give_back(hangs);
        assert_eq!(bench.breaker.probing(), 0);
    }
}

#[test]
fn probes_of_an_earlier_time_keep_their_place() {
    let mut bench = Bench::new(Rules { half_open_requests: 2, close_after: 1, ..Rules::default() });
    let time = bench.trip();
    bench.wait(time);
    let hangs = bench.admit().unwrap();
    let moved = bench.call(true).unwrap();
    bench.wait(moved.time);
    let probe = bench.admit().unwrap();
    assert!(bench.admit().is_err(), "one of the two still hangs");
    bench.breaker.give_back(hangs);
    let other = bench.admit().unwrap();
    assert_eq!(bench.end(probe, false, Duration::ZERO).unwrap().to, State::Closed);
    bench.breaker.give_back(other);
}

#[test]
fn too_many_slow_calls_open_it_and_a_slow_probe_does_again() {
    let slow_calls = Some((Duration::from_millis(500), 0.5));
    let rules = Rules { consecutive_failures: 0, slow_calls, min_requests: 4, ..Rules::default() };
    let mut bench = Bench::new(rules);
    for took in [600, 10, 500] {
        let permit = bench.admit().unwrap();
        assert_eq!(bench.end(permit, false, Duration::from_millis(took)), None);
    }
    let mut slow = || {
        let permit = bench.admit().unwrap();
        let moved = bench.end(permit, false, Duration::from_millis(501));
        bench.wait(moved.map_or(Duration::ZERO, |moved| moved.time));
        moved.map(|moved| moved.cause)
    };
    assert_eq!(slow(), None, "half of them");
    assert_eq!(slow(), Some("slow_calls"));
    assert_eq!(slow(), Some("probe"));
}

#[test]
fn a_window_is_empty_after_it_has_closed() {
    let rules = Rules { consecutive_failures: 0, failure_rate: Some(0.5), ..Rules::default() };
    let rules = Rules { open_for: (SECOND, SECOND), min_requests: 4, ..rules };
    let mut bench = Bench::new(rules);
    let time = bench.trip();
    bench.wait(time);
    (0..3).for_each(|_| _ = bench.call(false));
    assert_eq!(bench.state(), State::Closed);
    (0..3).for_each(|_| assert_eq!(bench.call(true), None, "what was before is forgotten"));
}

#[test]
fn gobreaker_forgets_a_row_at_each_interval() {
    let mut bench = Bench::new(Rules::preset(Style::Gobreaker));
    (0..5).for_each(|_| assert_eq!(bench.call(true), None));
    bench.wait(11 * SECOND);
    (0..5).for_each(|_| assert_eq!(bench.call(true), None));
    assert_eq!(bench.call(true).unwrap().time, 60 * SECOND);
    bench.wait(60 * SECOND);
    assert_eq!(bench.state(), State::Open, "after the time, not when it is over");
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.state(), State::HalfOpen);
    assert!(bench.start < bench.now);
}

#[test]
fn a_late_answer_begins_the_time_in_which_gobreaker_counts() {
    let mut bench = Bench::new(Rules::preset(Style::Gobreaker));
    let late = bench.admit().unwrap();
    bench.wait(11 * SECOND);
    bench.call(false);
    bench.wait(11 * SECOND);
    assert_eq!(bench.end(late, true, Duration::ZERO), None, "it is not heard");
    bench.wait(4 * SECOND);
    (0..5).for_each(|_| assert_eq!(bench.call(true), None));
    bench.wait(7 * SECOND);
    assert_eq!(bench.call(true), None, "ten seconds after the late one all is forgotten");
}
