//! What is left of a call's time: told to the next hop, less at each, and what
//! is refused for it.

use std::time::{Duration, Instant};

use http::Request;
use pillion::config::model::{Retry, RetryOn, Timeout};

use crate::policy::routed;
use crate::retries::answer;
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::{Recorder, beside_others, call, get, sidecar};

const WHOLE: Timeout = Timeout::Whole(Duration::from_secs(20));

fn timed(field: &str, millis: u64) -> String {
    format!("GET / HTTP/1.1\r\nHost: users\r\n{field}: {millis}\r\n\r\n")
}

#[track_caller]
fn left(request: &crate::support::Request, field: &str) -> u64 {
    request.field(field).unwrap_or_else(|| panic!("{request:?}")).parse().unwrap()
}

#[test]
fn it_shrinks_over_two_sidecars_and_with_each_attempt() {
    let _turn = beside_others();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = Recorder::answering(move |_| {
        let first = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if first {
            std::thread::sleep(Duration::from_millis(300));
        }
        answer(if first { 503 } else { 200 }, "")
    });
    let second = sidecar("users").service(backend.address()).start();
    let retry = Retry { on: vec![RetryOn::Gateway], ..Retry::default() };
    let first = routed(second.at.inbound, |policy| {
        policy.timeout = WHOLE;
        policy.retry = Some(retry);
    })
    .start();
    assert_eq!(call(first.at.outbound, timed("Pillion-Deadline", 15_000)).status, 200);
    let seen = backend.take();
    let (one, two) = (left(&seen[0], "pillion-deadline"), left(&seen[1], "pillion-deadline"));
    assert!((5_000..15_000).contains(&one), "of the caller, less the way: {one}");
    assert!(two + 300 <= one, "{one}, and then {two}");
}

#[test]
fn the_routes_own_time_travels_on_and_no_caller_lengthens_it() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let setup = routed(backend.address(), |policy| policy.timeout = WHOLE);
    let sidecar = setup.start();
    get(sidecar.at.outbound, "users", "/");
    assert!((10_000..=20_000).contains(&left(&backend.only(), "pillion-deadline")));
    call(sidecar.at.outbound, timed("Pillion-Deadline", 60_000));
    assert!((10_000..=20_000).contains(&left(&backend.only(), "pillion-deadline")));
    call(sidecar.at.outbound, timed("X-Envoy-Expected-Rq-Timeout-Ms", 9_000));
    let request = backend.only();
    for field in ["pillion-deadline", "x-envoy-expected-rq-timeout-ms"] {
        assert!((4_000..9_000).contains(&left(&request, field)), "{request:?}");
    }
    let plain = crate::support::sidecar("front").upstream("users", backend.address()).start();
    get(plain.at.outbound, "users", "/");
    assert!(!backend.only().has("pillion-deadline"), "nothing is bounded as a whole");
}

#[test]
fn the_callers_time_ends_a_call_that_is_not_grpc_too() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        std::thread::sleep(Duration::from_millis(600));
        answer(200, "")
    });
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    let answer = call(sidecar.at.outbound, timed("Pillion-Deadline", 200));
    assert_eq!((answer.status, answer.reason().as_deref()), (504, Some("timeout")));
    assert!(answer.text().contains("`pillion-deadline`"), "{}", answer.text());
}

#[test]
fn a_call_whose_time_is_over_is_refused_before_anything_is_sent() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = sidecar("front").upstream("users", backend.address()).service(backend.address()).start();
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let answer = call(address, timed("Pillion-Deadline", 0));
        assert_eq!((answer.status, answer.reason().as_deref()), (504, Some("deadline_passed")));
        let client = H2Client::connect(address);
        let head = Request::post("http://users/pay.v1.Pay/Charge")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "0n");
        let got = client.call(head.body(()).unwrap(), Vec::new(), None);
        assert_eq!(
            (got.field("grpc-status"), got.field("pillion-error")),
            (Some("4"), Some("deadline_passed"))
        );
    }
    assert!(backend.take().is_empty());
    sidecar.metric_is("pillion_errors_total", &[("reason", "deadline_passed"), ("side", "client")], 4.0);
}

#[test]
fn a_call_that_nobody_could_answer_in_time_is_refused_at_once() {
    let _turn = beside_others();
    let slow = Duration::from_millis(120);
    let backend = Recorder::answering(move |_| {
        std::thread::sleep(slow);
        answer(200, "")
    });
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(call(sidecar.at.outbound, timed("Pillion-Deadline", 10_000)).status, 200);
                }
            });
        }
    });
    backend.take();
    let began = Instant::now();
    let answer = call(sidecar.at.outbound, timed("Pillion-Deadline", 60));
    assert_eq!(answer.reason().as_deref(), Some("deadline_passed"), "{}", answer.text());
    assert!(began.elapsed() < slow, "{:?}", began.elapsed());
    assert!(backend.take().is_empty());
    assert_eq!(call(sidecar.at.outbound, timed("Pillion-Deadline", 9_000)).status, 200);
}

#[test]
fn the_next_hop_of_grpc_reads_it_too() {
    let _turn = beside_others();
    let backend = H2Backend::start();
    let second = sidecar("users").service(backend.address()).start();
    let first = routed(second.at.inbound, |policy| policy.timeout = WHOLE).start();
    let client = H2Client::connect(first.at.outbound);
    let head = Request::post("http://users/pay.v1.Pay/Charge")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "9S");
    client.call(head.body(()).unwrap(), vec![bytes::Bytes::from_static(b"\0\0\0\0\0")], None);
    let heard = backend.only().head.headers["grpc-timeout"].to_str().unwrap().to_owned();
    let micros: u32 = heard.strip_suffix('u').expect(&heard).parse().unwrap();
    assert!((4_000_000..9_000_000).contains(&micros), "{heard}");
}
