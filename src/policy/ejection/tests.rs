//! The judge, one rule at a time; `tests/sim/ejection.rs` plays hostile schedules.

use super::*;

fn rules(max_percent: f64) -> Ejection {
    Ejection { max_percent, ..Ejection::default() }
}

fn scene(total: usize, out: usize) -> Scene {
    Scene { total, in_use: total - out, failing: out + 1 }
}

#[test]
fn of_one_none_of_two_one_of_three_two_go() {
    for (total, most) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (10, 5)] {
        let mut judge = Judge::new(Some(rules(0.5)));
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
        for who in 0..total as u32 {
            let scene = Scene { failing: 0, ..scene(total, judge.count()) };
            judge.accuse(who, Cause::Failures, scene, now, &mut random);
        }
        assert_eq!(judge.count(), most, "of {total}");
    }
    let mut judge = Judge::new(Some(rules(1.0)));
    let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    let verdict = judge.accuse(0, Cause::Failures, scene(1, 0), now, &mut random);
    assert!(matches!(verdict, Verdict::Out(_)), "the last one, where the file says so");
}

#[test]
fn when_all_fail_nobody_is_out_and_nothing_is_remembered() {
    let mut judge = Judge::new(Some(rules(0.5)));
    let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    for who in 0..3 {
        let scene = scene(3, who as usize);
        let verdict = judge.accuse(who, Cause::GatewayErrors, scene, now, &mut random);
        assert_eq!(matches!(verdict, Verdict::Out(_)), who < 2);
        if who == 2 {
            assert_eq!(verdict, Verdict::AllFail(vec![0, 1]));
        }
    }
    assert_eq!((judge.count(), judge.next()), (0, None));
    let Verdict::Out(out) = judge.accuse(0, Cause::Failures, scene(3, 0), now, &mut random) else { panic!() };
    assert_eq!(out.times, 1);
}

#[test]
fn times_grow_up_to_the_longest_and_time_served_forgives() {
    let mut judge = Judge::new(Some(rules(0.5)));
    let (mut now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    for times in 1..10u32 {
        let Verdict::Out(out) = judge.accuse(7, Cause::Failures, scene(3, 0), now, &mut random) else {
            panic!()
        };
        let whole = Duration::from_secs(5 << (times - 1)).min(Duration::from_secs(120));
        let time = out.until - now;
        assert!(time <= whole && time >= whole.mul_f64(0.8), "{times}: {time:?}");
        assert_eq!(out.times, times);
        assert_eq!(judge.returns(out.until - Duration::from_millis(1)), [0; 0]);
        now = out.until;
        assert_eq!(judge.returns(now), [7]);
    }
    now += Duration::from_secs(3600);
    let Verdict::Out(out) = judge.accuse(7, Cause::Failures, scene(3, 0), now, &mut random) else { panic!() };
    assert_eq!(out.times, 1, "an hour without a fault");
}

#[test]
fn a_smaller_set_and_other_rules_let_back_in() {
    let mut judge = Judge::new(Some(rules(0.5)));
    let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    for who in 0..3 {
        judge.accuse(who, Cause::Failures, Scene { failing: 0, ..scene(6, 0) }, now, &mut random);
    }
    judge.forget(0);
    assert_eq!(judge.fit(2, now).len(), 1, "one of two may stay out");
    assert_eq!(judge.set(None).len(), 1);
    assert_eq!(judge.count(), 0);
}

#[test]
fn outliers_are_far_below_the_mean_and_only_with_enough_calls() {
    let rule = SuccessRate::default();
    let of = |rates: &[(u64, u64)]| {
        let tally = |&(good, bad)| Tally { good, bad, short: 0 };
        outliers(&rule, &(0..).zip(rates.iter().map(tally)).collect::<Vec<_>>())
    };
    let good = (1000, 0);
    assert_eq!(of(&[good, good, (500, 500), good, good]), [2]);
    assert_eq!(of(&[good, good, (500, 500), good]), [0; 0], "too few to compare");
    assert_eq!(of(&[good, good, (49, 50), good, good]), [0; 0], "too few calls");
    assert_eq!(of(&[good, good, (980, 20), good, good]), [0; 0], "too small a difference");
    assert_eq!(of(&[(500, 500); 6]), [0; 0], "all are alike");
    assert_eq!(of(&[good; 6]), [0; 0]);
}

#[test]
fn who_answers_comes_back_early_where_the_others_do_not_suffice() {
    let of = |good, short| {
        falls_short(&[(1, Tally { good, bad: 0, short: 0 }), (2, Tally { good: 0, bad: short, short })])
    };
    assert!(of(27, 3) && of(0, 3), "a tenth");
    assert!(!of(28, 3) && !of(0, 2) && !of(0, 0), "less, or too few to say");
    let mut judge = Judge::new(Some(rules(0.5)));
    let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(1));
    let second = Duration::from_secs(1);
    let mut accuse =
        |judge: &mut Judge, who, cause, now| match judge.accuse(who, cause, scene(9, 0), now, &mut random) {
            Verdict::Out(out) => out,
            other => panic!("{other:?}"),
        };
    accuse(&mut judge, 1, Cause::Failures, now);
    accuse(&mut judge, 2, Cause::GatewayErrors, now + second);
    accuse(&mut judge, 3, Cause::SuccessRate, now + second * 2);
    let relieve = |judge: &mut Judge, at: Instant| judge.relieve(at - second, at);
    assert_eq!(relieve(&mut judge, now + second * 3 / 2), None, "the first is silent, the others too early");
    assert_eq!(relieve(&mut judge, now + second * 3), Some(2));
    assert_eq!(relieve(&mut judge, now + second * 3), Some(3));
    assert_eq!(relieve(&mut judge, now + second * 3), None);
    assert_eq!(judge.count(), 1);
    assert_eq!(accuse(&mut judge, 2, Cause::GatewayErrors, now + second * 3).times, 1, "it counts once only");
}
