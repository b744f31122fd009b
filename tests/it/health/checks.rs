//! Endpoints that are asked for their health; panic, slow start, zones.

use std::time::Duration;

use pillion::config::model::{Fitness, HealthCheck, Question, Source};

use super::faulty::{Faulty, Mood, before, call, state};
use crate::support::{beside_others, get, until};

fn asked(panic: f64) -> Fitness {
    let check = HealthCheck {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(40),
        ..HealthCheck::new(Question::Path("/health".into()))
    };
    Fitness { check: Some(check), ejection: None, panic, ..Fitness::default() }
}

#[test]
fn an_endpoint_that_does_not_answer_its_check_gets_no_call_until_it_does() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..3).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, asked(0.3)).start();
    let admin = sidecar.at.admin;
    for mood in [Mood::Says503, Mood::Hangs, Mood::Closes] {
        servers[1].is(mood);
        until("it is known to be sick", || state(admin, &servers[1]).0 == "unhealthy");
        assert!(state(admin, &servers[1]).1.starts_with("health_check: "), "{:?}", state(admin, &servers[1]));
        until("the workers know", || {
            servers[1].take();
            call(sidecar.at.outbound, 20) == [(200, 20)].into() && servers[1].take() == 0
        });
        servers[1].is(Mood::Well);
        until("it is healthy", || state(admin, &servers[1]).0 == "ready");
        until("it is called", || {
            call(sidecar.at.outbound, 6);
            servers[1].take() > 0
        });
    }
}

#[test]
fn with_too_few_healthy_endpoints_all_are_used_unless_the_file_says_otherwise() {
    let _turn = beside_others();
    for (panic, status) in [(0.3, 200), (0.0, 503)] {
        let servers: Vec<_> = (0..4).map(|_| Faulty::start()).collect();
        // A port on which nobody listens for checks: all are sick, and serve.
        let closed = crate::support::Deaf::new();
        let mut fitness = asked(panic);
        fitness.check.as_mut().unwrap().port = Some(closed.address().port());
        let sidecar = before(&servers, fitness).start();
        sidecar.metric_is(
            "pillion_endpoints_in_use",
            &[("upstream", "users")],
            if panic > 0.0 { 4.0 } else { 0.0 },
        );
        until("all are known to be sick", || {
            servers.iter().all(|server| state(sidecar.at.admin, server).0 == "unhealthy")
        });
        sidecar.metric_is("pillion_panic", &[("upstream", "users")], f64::from(u8::from(panic > 0.0)));
        until("the workers know", || get(sidecar.at.outbound, "users", "/call").status == status);
        servers.iter().for_each(|server| _ = server.take());
        assert_eq!(call(sidecar.at.outbound, 20), [(status, 20)].into());
        let reason = get(sidecar.at.outbound, "users", "/call").reason();
        assert_eq!(reason.as_deref(), (panic == 0.0).then_some("no_endpoint"));
        assert!(servers.iter().all(|server| (server.take() > 0) == (panic > 0.0)));
    }
}

#[test]
fn the_share_of_an_endpoint_that_comes_back_grows() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..2).map(|_| Faulty::start()).collect();
    let fitness = Fitness { slow_start: Some(Duration::from_secs(600)), ..asked(0.3) };
    let sidecar = before(&servers, fitness).start();
    let share = || {
        servers[1].take();
        call(sidecar.at.outbound, 200);
        servers[1].take()
    };
    assert!((90..=110).contains(&share()), "of the first answer it has its whole share");
    servers[1].is(Mood::Says503);
    until("it is sick", || state(sidecar.at.admin, &servers[1]).0 == "unhealthy");
    servers[1].is(Mood::Well);
    until("it is healthy", || state(sidecar.at.admin, &servers[1]).0 == "warming");
    let some = share();
    assert!((1..50).contains(&some), "{some} of 200");
}

#[test]
fn calls_stay_in_the_own_zone_and_spill_when_it_is_too_weak() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..4).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, asked(0.0)).with(|_| ());
    let mut model = sidecar.finished_model();
    for source in &mut model.discovery {
        let Source::Static(services) = source else { continue };
        for (index, endpoint) in services.values_mut().flatten().enumerate() {
            endpoint.locality.zone = Some(if index < 2 { "a" } else { "b" }.into());
        }
    }
    let sidecar = before(&[], asked(0.0)).with(|all| *all = model).start();
    let near = || {
        servers.iter().for_each(|server| _ = server.take());
        assert_eq!(call(sidecar.at.outbound, 60), [(200, 60)].into());
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| servers[index].take());
        (a + b, c + d)
    };
    assert_eq!(near(), (60, 0));
    let sick = |index: usize| {
        servers[index].is(Mood::Says503);
        until("it is sick", || state(sidecar.at.admin, &servers[index]).0 == "unhealthy");
    };
    sick(0);
    let (own, other) = near();
    // 1.4 × 2 zones × 1 of 3.
    assert!(own > 45 && other < 15, "{own} {other}");
    sick(1);
    until("the other zone takes over", || near() == (0, 60));
    servers[0].is(Mood::Well);
    until("the own zone is back", || near().0 > 45);
}
