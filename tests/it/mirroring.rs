//! Copies of calls for another service: what it gets, and that nobody waits
//! for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::shaping::with_policy;
use crate::support::h2peer::{Answer, Got, H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::{Client, Deaf, Recorder, Sidecar, beside_others, call, get, sidecar, until};

/// `users` is copied to `next`, and more is said of it.
fn copying(real: std::net::SocketAddr, next: std::net::SocketAddr, more: &str) -> Setup {
    let policy = format!("outbound: [{{to: users, mirror: {{to: next{more}}}}}]\n");
    with_policy(sidecar("front").upstream("users", real).upstream("next", next), &policy)
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[track_caller]
fn copies(sidecar: &Sidecar, result: &str, count: f64) {
    let labels = [("upstream", "users"), ("to", "next"), ("result", result)];
    sidecar.metric_is("pillion_mirrored_total", &labels, count);
}

#[track_caller]
fn compared(sidecar: &Sidecar, result: &str, count: f64) {
    sidecar.metric_is("pillion_mirror_compared_total", &[("to", "next"), ("result", result)], count);
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: users\r\nX-A: b\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let head = "PUT /c?d=e HTTP/1.1\r\nHost: users\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{body}\r\n0\r\nx-sum: 7\r\n\r\n", body.len())
}

#[test]
fn a_copy_is_the_call_and_says_so() {
    let _turn = beside_others();
    let (real, next) = (Recorder::start(), Recorder::answering(|_| answer(500, "")));
    let sidecar = copying(real.address(), next.address(), "").start();
    let get = "GET /a HTTP/1.1\r\nHost: users\r\n\r\n".to_owned();
    for raw in [get, post("/b", "hello"), chunked("hello again")] {
        assert_eq!(call(sidecar.at.outbound, raw).text(), "ok");
        let (sent, copied) = (real.only(), next.only());
        assert_eq!((&sent.method, &sent.target, &sent.body), (&copied.method, &copied.target, &copied.body));
        for name in ["host", "x-a", "traceparent", "via", "trailer"] {
            assert_eq!(sent.field(name), copied.field(name), "{name}");
        }
        assert_eq!(sent.trailers, copied.trailers);
        assert_eq!(copied.field("pillion-mirrored").as_deref(), Some("users"));
        let left: u64 = copied.field("pillion-deadline").unwrap().parse().unwrap();
        assert!((9_000..=10_000).contains(&left), "{left} ms");
        assert!(!sent.has("pillion-mirrored") && !sent.has("pillion-deadline"));
    }
    copies(&sidecar, "answered", 3.0);
    let labels = [("upstream", "next")];
    assert_eq!(sidecar.metrics().get("http_client_request_duration_seconds_count", &labels), 0.0);
}

#[test]
fn a_copy_has_the_host_that_it_is_told_and_is_not_copied_itself() {
    let _turn = beside_others();
    let (real, next) = (Recorder::start(), Recorder::start());
    let policy = "
outbound:
  - {to: users, mirror: {to: next, host: next.staging.example}}
  - {to: next, mirror: {to: users}}
";
    let setup = sidecar("front").upstream("users", real.address()).upstream("next", next.address());
    let sidecar = with_policy(setup, policy).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    assert_eq!(next.only().field("host").as_deref(), Some("next.staging.example"));
    // As it comes to a sidecar that mirrors the other way.
    let raw = "GET /copy HTTP/1.1\r\nHost: next\r\nPillion-Mirrored: users\r\n\r\n";
    assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    assert_eq!(next.only().target, "/copy");
    assert_eq!(real.end().len(), 1);
}

#[test]
fn nobody_waits_for_a_copy() {
    let _turn = beside_others();
    let real = Recorder::start();
    let slow = Recorder::answering(|_| {
        std::thread::sleep(Duration::from_secs(1));
        answer(200, "")
    });
    let sidecar = copying(real.address(), slow.address(), ", timeout: 200ms").start();
    let mut client = Client::connect(sidecar.at.outbound);
    let began = Instant::now();
    for number in 0..20 {
        assert_eq!(client.send(post("/", "hello")).read("POST").status, 200, "{number}");
    }
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    copies(&sidecar, "late", 20.0);
    // Nobody is there.
    let nobody = Deaf::new();
    let sidecar = copying(real.address(), nobody.address(), "").start();
    for _ in 0..20 {
        assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    }
    copies(&sidecar, "failed", 20.0);
    assert_eq!(sidecar.metrics().get("pillion_errors_total", &[]), 0.0);
    assert_eq!(real.take().len(), 40);
}

#[test]
fn what_finds_no_room_is_not_copied() {
    let _turn = beside_others();
    let real = Recorder::start();
    let slow = Recorder::answering(|_| {
        std::thread::sleep(Duration::from_millis(300));
        answer(200, "")
    });
    let sidecar = copying(real.address(), slow.address(), ", max: 2, buffer: 1KiB").start();
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..10 {
        assert_eq!(client.get("users", "/").status, 200);
    }
    copies(&sidecar, "full", 8.0);
    copies(&sidecar, "answered", 2.0);
    assert_eq!(slow.take().len(), 2);
    for raw in [post("/", &"a".repeat(1025)), chunked(&"a".repeat(1025))] {
        assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    }
    copies(&sidecar, "too_large", 2.0);
    assert_eq!(call(sidecar.at.outbound, chunked(&"a".repeat(1024))).status, 200);
    assert_eq!(slow.only().body.len(), 1024, "there is room again");
    assert_eq!(real.take().len(), 13);
}

#[test]
fn a_request_that_breaks_off_is_not_copied() {
    let _turn = beside_others();
    let (real, next) = (Recorder::start(), Recorder::start());
    let sidecar = copying(real.address(), next.address(), ", max: 1").start();
    for _ in 0..3 {
        let mut client = Client::connect(sidecar.at.outbound);
        client.send("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 10\r\n\r\nhello");
        until("the call is on its way", || real.open() > 0);
        drop(client);
        until("the call has ended", || real.open() == 0);
    }
    copies(&sidecar, "unfinished", 3.0);
    assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    assert_eq!(next.only().method, "GET", "its room was left");
}

#[test]
fn a_share_is_copied() {
    let _turn = beside_others();
    let (real, next) = (Recorder::start(), Recorder::start());
    let sidecar = copying(real.address(), next.address(), ", percent: 20%, max: 1000").start();
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..500 {
        assert_eq!(client.get("users", "/").status, 200);
    }
    // Five standard deviations, of which the last copies may still be on their way.
    let mut copied = 0;
    until("so many are copied", || {
        copied += next.take().len();
        copied >= 55
    });
    assert!(copied + next.end().len() <= 145, "{copied}");
}

#[test]
fn a_call_that_is_tried_anew_is_copied_once() {
    let _turn = beside_others();
    let bad = || Recorder::answering(|_| answer(503, ""));
    let (real, next) = (bad(), bad());
    let retry = "retry: {max: 2, on: [503], only_if: always, backoff: 1ms..2ms, budget: 100%}";
    let breaker = "circuit_breaker: {consecutive_failures: 4, scope: route}";
    let policy = format!(
        "outbound: [{{to: users, {retry}, {breaker}, mirror: {{to: next}}}}, {{to: next, {retry}, {breaker}}}]\n"
    );
    let setup = sidecar("front").upstream("users", real.address()).upstream("next", next.address());
    let sidecar = with_policy(setup, &policy).start();
    assert_eq!(call(sidecar.at.outbound, post("/", "hello")).status, 503);
    assert_eq!(next.only().body, b"hello");
    let sent = real.take();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|request| request.body == b"hello" && !request.has("pillion-mirrored")));
    copies(&sidecar, "answered", 1.0);
    assert_eq!(sidecar.metrics().get("pillion_circuit_breaker_transitions_total", &[]), 0.0, "3 failures");
}

#[test]
fn what_is_divided_or_upgraded() {
    let _turn = beside_others();
    let (real, next) = (Recorder::start(), Recorder::start());
    let policy = "outbound: [{to: users, split: {v1: 1}, mirror: {to: next}}]\n";
    let setup = sidecar("front").upstream("v1", real.address()).upstream("next", next.address());
    let sidecar = with_policy(setup.empty("users"), policy).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    assert_eq!(next.only().field("pillion-mirrored").as_deref(), Some("users"));
    let raw = "GET / HTTP/1.1\r\nHost: users\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    assert_eq!((real.take().len(), next.end().len()), (2, 0));
}

fn grpc(client: &H2Client, body: Vec<Bytes>, trailers: Option<HeaderMap>) -> Got {
    let request = Request::post("http://users/a.B/C")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "30S")
        .header("te", "trailers");
    client.call(request.body(()).unwrap(), body, trailers)
}

fn trailers(name: &str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())])
}

/// A service of gRPC that ends each call so.
fn ending(code: &'static str) -> H2Backend {
    H2Backend::answering(move |_| Answer {
        head: Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        body: vec![Bytes::from_static(b"\0\0\0\0\x01a")],
        trailers: Some(trailers("grpc-status", code)),
        ..Answer::default()
    })
}

#[test]
fn calls_of_http2_and_grpc_are_copied_with_all_their_parts() {
    let _turn = beside_others();
    let (real, next) = (ending("0"), ending("13"));
    let sidecar = copying(real.address(), next.address(), ", timeout: 5s, compare: {}").start();
    let client = H2Client::connect(sidecar.at.outbound);
    let parts = || vec![Bytes::from_static(b"\0\0\0"), Bytes::from_static(b"\0\x01a")];
    let got = grpc(&client, parts(), Some(trailers("x-sum", "7")));
    assert_eq!((got.status(), got.trailer("grpc-status")), (200, Some("0")));
    let (sent, copied) = (real.only(), next.only());
    assert_eq!((&sent.body, &sent.trailers), (&copied.body, &copied.trailers));
    assert_eq!(copied.trailers, Some(trailers("x-sum", "7")));
    assert_eq!(copied.head.uri.path(), "/a.B/C");
    assert_eq!(copied.head.headers["pillion-mirrored"], "users");
    let left = |seen: &crate::support::h2peer::Seen| {
        let text = seen.head.headers["grpc-timeout"].to_str().unwrap().to_owned();
        assert!(seen.head.headers.get_all("grpc-timeout").iter().count() == 1);
        text
    };
    assert_ne!(left(&sent), left(&copied), "a time of its own");
    compared(&sidecar, "status", 1.0);
    assert_eq!(client.get("http://users/").status(), 200);
    copies(&sidecar, "answered", 2.0);
}

#[test]
fn answers_are_compared() {
    let _turn = beside_others();
    let real = Recorder::start();
    let next = Recorder::answering(|request| match request.target.as_str() {
        "/equal" => {
            b"HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
                .to_vec()
        }
        "/status" => answer(404, "ok"),
        "/headers" => b"HTTP/1.1 200 OK\r\nX-A: other\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        "/body" => answer(200, "no"),
        _ => Vec::new(),
    });
    let more = ", timeout: 500ms, compare: {headers: [x-a], body: true}";
    let sidecar = copying(real.address(), next.address(), more).start();
    let mut client = Client::connect(sidecar.at.outbound);
    for path in ["/equal", "/status", "/headers", "/body", "/never"] {
        assert_eq!(client.get("users", path).text(), "ok");
    }
    for result in ["equal", "status", "headers", "body", "unknown"] {
        compared(&sidecar, result, 1.0);
    }
    copies(&sidecar, "late", 1.0);
}

#[test]
fn a_large_answer_is_compared_and_comes_whole() {
    let _turn = beside_others();
    let body = |last: u8| {
        let mut body = vec![7; 3 << 20];
        body.push(last);
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
    };
    let real = Recorder::answering(move |_| body(1));
    let next = Recorder::answering(move |request| body(u8::from(request.target == "/same")));
    let sidecar = copying(real.address(), next.address(), ", compare: {body: true}").start();
    for (path, result) in [("/same", "equal"), ("/other", "body")] {
        let answer = get(sidecar.at.outbound, "users", path);
        assert_eq!((answer.body.len(), answer.body.last()), ((3 << 20) + 1, Some(&1)));
        compared(&sidecar, result, 1.0);
    }
}
