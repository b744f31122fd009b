//! Endpoints to which calls fail.

use pillion::config::model::{Ejection, Fitness, Timeout};

use super::faulty::{Faulty, Mood, PATIENT, before, call, failures, quick, state};
use crate::support::{Deaf, beside_others, until};

fn fitness() -> Fitness {
    Fitness { ejection: Some(quick()), ..Fitness::default() }
}

#[test]
fn one_of_two_and_of_three_that_fails_is_left_out_and_comes_back() {
    let _turn = beside_others();
    for count in [2, 3] {
        for mood in [Mood::Says503, Mood::Closes, Mood::Hangs] {
            let servers: Vec<_> = (0..count).map(|_| Faulty::start()).collect();
            let sidecar = before(&servers, fitness()).start();
            let (bad, admin) = (&servers[0], sidecar.at.admin);
            assert_eq!(call(sidecar.at.outbound, 4 * count)[&200], 4 * count);
            bad.is(mood);
            until("it is ejected", || {
                call(sidecar.at.outbound, 1);
                state(admin, bad).0 == "ejected"
            });
            let cause = if mood == Mood::Says503 { "gateway_errors" } else { "consecutive_failures" };
            assert!(state(admin, bad).1.starts_with(cause), "{mood:?}: {:?}", state(admin, bad));
            let labels = [("upstream", "users"), ("cause", cause)];
            assert!(sidecar.metrics().get("pillion_ejections_total", &labels) >= 1.0);
            // Sick as it is, it costs one call each time that it comes back.
            bad.take();
            let seen = call(sidecar.at.outbound, 60);
            assert!(bad.take() <= 4, "{mood:?}: it is hardly called");
            assert!(seen[&200] >= 56, "{mood:?}: {seen:?}");
            bad.is(Mood::Well);
            until("it takes its share again", || {
                bad.take();
                let seen = call(sidecar.at.outbound, 4 * count);
                seen.get(&200) == Some(&(4 * count)) && bad.take() >= 3
            });
            assert_eq!(state(admin, bad).0, "ready");
            sidecar.end();
        }
    }
}

#[test]
fn the_only_endpoint_is_never_left_out() {
    let _turn = beside_others();
    let servers = [Faulty::start()];
    let sidecar = before(&servers, fitness()).start();
    servers[0].is(Mood::Says503);
    assert_eq!(call(sidecar.at.outbound, 20), [(503, 20)].into());
    assert_eq!(servers[0].take(), 20);
    until("all are counted", || failures(sidecar.at.admin, &servers[0]) == 20);
    assert_eq!(sidecar.metrics().get("pillion_ejections_total", &[]), 0.0);
    servers[0].is(Mood::Well);
    assert_eq!(call(sidecar.at.outbound, 20), [(200, 20)].into(), "at once");
}

#[test]
fn when_all_fail_and_heal_all_are_used_at_once_again() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..3).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, fitness()).start();
    servers.iter().for_each(|server| server.is(Mood::Says503));
    assert_eq!(call(sidecar.at.outbound, 100), [(503, 100)].into());
    servers.iter().for_each(|server| {
        assert!(server.take() > 5, "nobody is out for long");
        server.is(Mood::Well);
    });
    assert_eq!(call(sidecar.at.outbound, 30), [(200, 30)].into());
    until("all are used", || {
        call(sidecar.at.outbound, 9);
        servers.iter().all(|server| server.take() >= 2)
    });
}

#[test]
fn an_endpoint_that_refuses_connections_fails_no_call_and_is_ejected() {
    let _turn = beside_others();
    let (well, deaf) = ([Faulty::start()], Deaf::new());
    let ejection = Ejection { consecutive_failures: 1, ..quick() };
    let fitness = Fitness { ejection: Some(ejection), ..Fitness::default() };
    let sidecar = before(&well, fitness).upstream("users", deaf.address()).start();
    assert_eq!(call(sidecar.at.outbound, 20), [(200, 20)].into());
    sidecar.metric_is("pillion_ejections_total", &[("cause", "consecutive_failures")], 1.0);
    sidecar.metric_is("pillion_endpoints_in_use", &[("upstream", "users")], 1.0);
}

#[test]
fn nobody_is_ejected_where_the_file_says_so() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..2).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, Fitness { ejection: None, ..Fitness::default() }).start();
    servers[0].is(Mood::Says503);
    let seen = call(sidecar.at.outbound, 40);
    assert_eq!(seen[&503], 20, "its share: {seen:?}");
    assert_eq!(sidecar.metrics().get("pillion_ejections_total", &[]), 0.0);
}

#[test]
fn the_callers_own_impatience_ejects_nobody() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..2).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, fitness())
        .with(|model| model.upstreams.values_mut().for_each(|block| block.policy = Default::default()))
        .start();
    servers.iter().for_each(|server| server.is(Mood::Hangs));
    for _ in 0..12 {
        let mut caller = crate::support::Client::connect(sidecar.at.outbound);
        caller.send("GET /call HTTP/1.1\r\nHost: users\r\n\r\n");
        until("the call has come", || servers.iter().any(|server| server.take() > 0));
    }
    assert_eq!(sidecar.metrics().get("pillion_ejections_total", &[]), 0.0);
}

#[test]
fn callers_who_are_slow_to_send_eject_nobody() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..2).map(|_| Faulty::start()).collect();
    let sidecar = before(&servers, fitness())
        .with(|model| {
            let users = model.upstreams.values_mut();
            users.for_each(|block| block.policy.timeout = Timeout::Whole(PATIENT));
        })
        .start();
    for _ in 0..12 {
        let mut caller = crate::support::Client::connect(sidecar.at.outbound);
        caller.send("PUT /call HTTP/1.1\r\nHost: users\r\nContent-Length: 10\r\n\r\nhalf ");
        assert_eq!(caller.read("PUT").status, 504, "its time is over");
    }
    assert_eq!(sidecar.metrics().get("pillion_ejections_total", &[]), 0.0);
    assert_eq!(call(sidecar.at.outbound, 10), [(200, 10)].into());
}
