use std::time::Duration;

use super::*;
use crate::config::model::{Bounds, Priority};

fn rules(limit: Ceiling, pending: usize, priority: Option<Priority>) -> Occupancy {
    Occupancy { limit, pending, wait: Duration::from_millis(100), priority }
}

fn gate(max: usize, pending: usize, priority: Option<Priority>) -> Gate {
    Gate::new(&rules(Ceiling::Fixed(max), pending, priority), Instant::now())
}

fn at(level: usize) -> Who {
    Who { level, kind: 0 }
}

#[test]
fn as_many_enter_as_the_limit_says() {
    let gate = gate(3, 0, None);
    assert_eq!((0..5).filter(|_| gate.enter(at(0)).is_some()).count(), 3);
    gate.leave(at(0));
    assert!(gate.enter(at(0)).is_some() && gate.enter(at(0)).is_none() && !gate.queue(0));
    gate.force(at(0));
    assert_eq!((gate.inside(), gate.limit()), (4, 3), "forced in");
    (0..4).for_each(|_| gate.leave(at(0)));
    assert_eq!(gate.inside(), 0);
}

#[test]
fn workers_that_enter_at_a_time_stay_within_the_limit() {
    let gate = gate(50, 0, None);
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if gate.enter(at(0)).is_some() {
                        most.fetch_max(gate.inside(), SeqCst);
                        gate.leave(at(0));
                    }
                }
            });
        }
    });
    assert!(most.load(SeqCst) <= 50 && gate.inside() == 0);
}

#[test]
fn a_lesser_priority_uses_a_part_of_the_limit() {
    let gate = gate(10, 0, Some(Priority::of("x-priority".parse().unwrap())));
    let [high, normal, low, other] = [0, 1, 2, 3];
    assert_eq!([high, normal, low, other].map(|level| gate.share(level)), [10, 8, 5, 8]);
    assert_eq!((0..10).filter(|_| gate.enter(at(low)).is_some()).count(), 5);
    assert_eq!((0..10).filter(|_| gate.enter(at(other)).is_some()).count(), 3);
    assert_eq!((0..10).filter(|_| gate.enter(at(high)).is_some()).count(), 2);
}

#[test]
fn nobody_passes_one_of_its_own_level_who_waits() {
    let gate = gate(2, 2, Some(Priority::of("x-priority".parse().unwrap())));
    let [high, low] = [0, 2];
    assert!(gate.enter(at(high)).is_some() && gate.enter(at(high)).is_some());
    assert!(gate.queue(low) && gate.queue(high) && !gate.queue(high), "two may wait");
    assert_eq!(gate.next(), None, "nobody has left");
    gate.leave(at(0));
    assert!(
        gate.enter(at(low)).is_none() && gate.enter(at(high)).is_none(),
        "there is room, and one that waits"
    );
    assert_eq!(gate.next(), Some(high));
    assert!(gate.enter_waited(at(high)).is_some());
    gate.unqueue(high);
    assert_eq!(gate.next(), None);
    gate.leave(at(0));
    gate.leave(at(0));
    assert_eq!(gate.next(), Some(low));
    assert!(gate.enter(at(high)).is_some(), "it comes before the one that waits");
}

/// One window of calls that take `millis`, with so many inside.
fn window(millis: f64, inside: f64) -> Window {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let peak = inside as usize;
    Window { seconds: 0.1, answered: 20, dropped: 0, log_latency: (millis * 1000.0).ln(), inside, peak }
}

fn calm() -> Gradient {
    let mut gradient = Gradient::new(&Bounds::default());
    (0..50).for_each(|_| gradient.step(&window(20.0, 5.0)));
    gradient
}

#[test]
fn what_is_not_used_is_left_as_it_is() {
    let mut gradient = calm();
    assert!((gradient.limit() - 50.0).abs() < 1e-9);
    (0..20).for_each(|_| gradient.step(&window(200.0, 20.0)));
    assert!((gradient.limit() - 50.0).abs() < 1e-9, "slow, but not for want of room");
}

#[test]
fn it_grows_while_it_is_used_and_calls_take_no_longer() {
    let mut gradient = calm();
    for _ in 0..50 {
        let inside = gradient.limit();
        gradient.step(&window(22.0, inside));
    }
    assert!(gradient.limit() > 200.0, "{}", gradient.limit());
}

#[test]
fn it_shrinks_to_what_a_queue_leaves_room_for() {
    let mut gradient = calm();
    for _ in 0..100 {
        let inside = gradient.limit();
        // Eight at a time, 20 ms each, the rest wait.
        gradient.step(&window(20.0 * (inside / 8.0).max(1.0), inside));
    }
    assert!((16.0..24.0).contains(&gradient.limit()), "{}", gradient.limit());
    assert_eq!(gradient.base().unwrap().as_millis(), 20, "a queue is not taken for the service");
}

#[test]
fn a_service_that_takes_longer_by_itself_keeps_its_calls() {
    let mut gradient = calm();
    for _ in 0..100 {
        let inside = gradient.limit();
        gradient.step(&window(100.0 * (inside / 8.0).max(1.0), inside));
    }
    assert!((12.0..30.0).contains(&gradient.limit()), "{}", gradient.limit());
}

#[test]
fn what_has_not_shown_itself_yet_is_no_proof() {
    let mut gradient = calm();
    gradient.step(&window(400.0, 27.0));
    // The calls that take longest end last: few are inside by then.
    gradient.step(&window(750.0, 26.0));
    gradient.step(&window(1200.0, 20.0));
    assert_eq!(gradient.base().unwrap().as_millis(), 20);
    gradient.step(&window(1200.0, 15.0));
    assert_eq!(gradient.base().unwrap().as_millis(), 1200, "fewer calls do not make it shorter");
}

#[test]
fn a_word_of_too_many_shrinks_it_whatever_the_latency() {
    let mut gradient = calm();
    for _ in 0..20 {
        let dropped = if gradient.limit() > 12.0 { 20 } else { 0 };
        gradient.step(&Window { dropped, ..window(20.0, 10.0) });
    }
    assert!(gradient.limit() < 16.0, "{}", gradient.limit());
    let lost = Window { dropped: 20, answered: 0, ..window(20.0, 10.0) };
    (0..100).for_each(|_| gradient.step(&lost));
    assert!(gradient.limit() >= 5.0, "never less than its bound");
}

#[test]
fn a_caller_that_gives_up_late_counts_as_dropped() {
    let (start, ms) = (Instant::now(), Duration::from_millis);
    let adaptive = Adaptive::new(&Bounds { start: 20, ..Bounds::default() }, start);
    let mut now = start;
    let mut calls = |sample, count: u32| {
        for _ in 0..count {
            now += ms(10);
            adaptive.used(20);
            adaptive.record(sample, 20, now);
        }
        adaptive.limit()
    };
    let before = calls(Sample::Answered(ms(20)), 100);
    assert!(calls(Sample::GivenUp(ms(1)), 100) >= before, "soon: it says nothing");
    assert!(calls(Sample::GivenUp(ms(500)), 100) < before);
}
