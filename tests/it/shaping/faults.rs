//! Faults that are made on purpose.

use std::time::{Duration, Instant};

use super::{Way, both, grpc, with_policy};
use crate::support::{beside_others, get, sidecar};

const DELAY: Duration = Duration::from_millis(300);

const FAULTS: &str = "
outbound:
  - {to: users, route: /slow, fault: {delay: 300ms}}
  - {to: users, route: /late, timeout: 100ms, fault: {delay: 5s}}
  - {to: users, route: /broken, fault: {abort: {status: 418}, if_header: x-chaos}}
  - {to: users, route: /both, fault: {delay: 300ms, abort: {status: 500}}}
  - {to: users, route: /some, fault: {abort: {grpc: UNAVAILABLE}, percent: 25%}}
  - {to: users, route: /here, fault: {abort: {status: 500}, environments: [dev, test]}}
  - {to: users, route: /elsewhere, fault: {abort: {status: 500}, environments: [dev]}}
  - {to: users, route: grpc pay.v1.Pay/Code, fault: {abort: {grpc: ALREADY_EXISTS}}}
  - {to: users, route: grpc pay.v1.Pay/Status, fault: {abort: {status: 429}}}
";

fn struck(way: &Way, kind: &str, count: f64) {
    way.sidecar.metric_is("pillion_faults_total", &[("upstream", "users"), ("kind", kind)], count);
}

#[test]
fn a_delay_comes_before_the_call_and_counts_as_the_services_own() {
    let _turn = beside_others();
    both(FAULTS, &[], |way| {
        let began = Instant::now();
        assert_eq!(way.out("GET", "/slow", &[]).text(), "ok");
        assert!(began.elapsed() >= DELAY, "{:?}", began.elapsed());
        assert_eq!(way.seen().len(), 1);
        let began = Instant::now();
        let answer = way.out("GET", "/late", &[]);
        assert_eq!((answer.status, answer.field("pillion-error")), (504, Some("timeout")));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(way.out("GET", "/both", &[]).status, 500);
        assert!(began.elapsed() >= DELAY, "{:?}", began.elapsed());
        assert_eq!(way.seen().len(), 0);
        struck(way, "delay", 3.0);
        struck(way, "abort", 1.0);
    });
}

#[test]
fn a_call_is_aborted_and_the_answer_says_so() {
    let _turn = beside_others();
    both(FAULTS, &[], |way| {
        let answer = way.out("GET", "/broken", &[("x-chaos", "1")]);
        assert_eq!((answer.status, answer.field("pillion-error")), (418, Some("fault_injected")));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&problem["status"], &problem["reason"]), (&418.into(), &"fault_injected".into()));
        assert!(problem["rule"].as_str().unwrap().starts_with("f:"), "{problem}");
        assert_eq!(way.out("GET", "/broken", &[]).status, 200, "only with the header");
        assert_eq!(way.out("GET", "/here", &[]).status, 500);
        assert_eq!(way.out("GET", "/elsewhere", &[]).status, 200, "only in its environment");
        assert_eq!(way.seen().len(), 2);
        let labels = [("reason", "fault_injected"), ("side", "proxy"), ("upstream", "users")];
        way.sidecar.metric_is("pillion_errors_total", &labels, 2.0);
        struck(way, "abort", 2.0);
        // The endpoint is not to blame.
        assert_eq!(way.sidecar.metrics().get("pillion_ejections_total", &[]), 0.0);
    });
}

#[test]
fn a_share_of_the_calls_is_struck() {
    let _turn = beside_others();
    let sidecar = with_policy(sidecar("front").empty("users"), FAULTS).start();
    let mut client = crate::support::Client::connect(sidecar.at.outbound);
    let mut struck = 0;
    for _ in 0..400 {
        let answer = client.get("users", "/some");
        match answer.reason().as_deref() {
            Some("fault_injected") => struck += 1,
            other => assert_eq!(other, Some("no_endpoint")),
        }
        assert_eq!(answer.status, 503);
    }
    // Five standard deviations.
    assert!((57..=143).contains(&struck), "{struck} of 400");
}

#[test]
fn a_caller_of_grpc_gets_a_code() {
    let _turn = beside_others();
    let sidecar = with_policy(sidecar("front").empty("users"), FAULTS).start();
    for (method, code) in [("Code", "6"), ("Status", "14")] {
        let answer = grpc(sidecar.at.outbound, &format!("/pay.v1.Pay/{method}"), &[]);
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(code)), "{method}");
        assert_eq!(answer.field("pillion-error"), Some("fault_injected"));
    }
    let raw = "POST /pay.v1.Pay/Code HTTP/1.1\r\nHost: users\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(crate::support::call(sidecar.at.outbound, raw).status, 409, "another caller gets the status");
    assert_eq!(get(sidecar.at.outbound, "users", "/none").reason().as_deref(), Some("no_endpoint"));
}
