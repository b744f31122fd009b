//! All of an upstream answers 503: how many attempts come of how many calls.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pillion::base::UpstreamName;
use pillion::config::model::{Retry, RoutePolicy, Upstream};

use super::answer;
use crate::support::{Client, Recorder, Sidecar, beside_others, sidecar};

/// How long it lasts.
pub fn seconds() -> u64 {
    std::env::var("PILLION_TEST_LASTS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// A sidecar that calls `next` with the default budget and two retries.
fn hop(name: &str, next: SocketAddr, service: Option<SocketAddr>) -> Sidecar {
    let retry = Retry { max: 2, ..Retry::default() };
    let policy = RoutePolicy { retry: Some(retry), ..RoutePolicy::default() };
    let setup = sidecar(name).upstream("users", next).with(|model| {
        model.workers = 2;
        let block = Upstream { policy, ..Upstream::default() };
        model.upstreams.insert(UpstreamName::new("users"), block);
    });
    match service {
        Some(service) => setup.service(service).start(),
        None => setup.start(),
    }
}

/// About 400 calls a second for as long as the test lasts; says how many.
fn load(at: SocketAddr) -> usize {
    let until = Instant::now() + Duration::from_secs(seconds());
    let calls: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut calls) = (Client::connect(at), 0);
                    while Instant::now() < until {
                        let next = Instant::now() + Duration::from_millis(20);
                        client.get("users", "/");
                        calls += 1;
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                    calls
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    calls
}

#[test]
fn a_service_that_only_fails_gets_a_fifth_more() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| answer(503, ""));
    let sidecar = hop("one", backend.address(), None);
    let calls = load(sidecar.at.outbound);
    let attempts = backend.take().len();
    println!("{attempts} attempts of {calls} calls: {:.3}", attempts as f64 / calls as f64);
    assert!(calls > 500 && attempts > calls * 11 / 10, "{attempts} of {calls}: retries are made at all");
    assert!(attempts as f64 <= calls as f64 * 1.2, "{attempts} of {calls}");
    assert!(sidecar.metrics().get("pillion_retries_skipped_total", &[("why", "budget")]) > 0.0);
}

#[test]
fn three_sidecars_in_a_row_stay_within_the_third_power() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| answer(503, ""));
    let third = hop("three", backend.address(), None);
    let second = hop("two", third.at.outbound, None);
    let first = hop("one", second.at.outbound, None);
    let calls = load(first.at.outbound);
    let attempts = backend.take().len();
    println!("{attempts} attempts of {calls} calls: {:.3}", attempts as f64 / calls as f64);
    assert!(calls > 500 && attempts as f64 <= calls as f64 * 1.75, "{attempts} of {calls}");
}
