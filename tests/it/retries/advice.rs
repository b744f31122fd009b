//! What a service says of when to come back.

use std::time::{Duration, Instant};

use pillion::config::model::Timeout;

use super::{answer, eager};
use crate::policy::routed;
use crate::support::{Recorder, beside_others, get};

/// Answers `first` to the first request of each path, and then 200.
fn first(first: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Recorder {
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    Recorder::answering(move |request| match seen.lock().unwrap().insert(request.target.clone()) {
        true => first(&request.target),
        false => answer(200, ""),
    })
}

#[test]
fn retry_after_is_the_least_pause() {
    let _turn = beside_others();
    let backend = first(|_| answer(503, "Retry-After: 1\r\n"));
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let began = Instant::now();
    assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn what_would_take_too_long_is_passed_on_at_once() {
    let _turn = beside_others();
    let backend = first(|target| match target {
        "/long" => answer(503, "Retry-After: 11\r\n"),
        "/deadline" => answer(503, "Retry-After: 3\r\n"),
        _ => answer(503, "grpc-retry-pushback-ms: -1\r\n"),
    });
    let sidecar = routed(backend.address(), |policy| {
        policy.retry = Some(eager(2));
        policy.timeout = Timeout::Whole(Duration::from_secs(3));
    })
    .start();
    let began = Instant::now();
    for (path, why) in [("/long", "pushback"), ("/deadline", "deadline"), ("/never", "pushback")] {
        assert_eq!(get(sidecar.at.outbound, "users", path).status, 503, "{path}");
        assert!(sidecar.metrics().get("pillion_retries_skipped_total", &[("why", why)]) > 0.0, "{path}");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(backend.take().len(), 3);
}
