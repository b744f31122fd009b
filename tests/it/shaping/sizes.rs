//! Bodies that are larger than a route allows.

use bytes::Bytes;
use http::{Request, Response};

use super::with_policy;
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::{Client, Recorder, beside_others, call, get, sidecar};

const SIZES: &str = "
outbound:
  - {to: users, max_request_body: 1KiB, max_response_body: 2KiB}
  - {to: users, route: /small, max_response_body: 1B}
";

fn chunked(path: &str, size: usize) -> String {
    let body = "a".repeat(size);
    let head = format!("POST {path} HTTP/1.1\r\nHost: users\r\nTransfer-Encoding: chunked\r\n\r\n");
    format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[test]
fn a_request_is_refused_at_once_where_its_length_is_told() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), SIZES).start();
    // Not a byte of the body is there.
    let raw = "POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 1025\r\n\r\n";
    let answer = call(sidecar.at.outbound, raw);
    assert_eq!((answer.status, answer.reason().as_deref()), (413, Some("request_too_large")));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("1024 bytes of `max_request_body`"), "{problem}");
    assert_eq!(backend.take().len(), 0);
    let raw = format!("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 1024\r\n\r\n{}", "a".repeat(1024));
    assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    assert_eq!(backend.only().body.len(), 1024);
    sidecar.metric_is("pillion_errors_total", &[("reason", "request_too_large"), ("side", "client")], 1.0);
}

#[test]
fn a_request_that_does_not_tell_is_cut() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), SIZES).start();
    let answer = call(sidecar.at.outbound, chunked("/", 1025));
    assert_eq!((answer.status, answer.reason().as_deref()), (413, Some("request_too_large")));
    assert!(backend.take().iter().all(|request| request.bad.is_some()), "no whole request has come");
    assert_eq!(call(sidecar.at.outbound, chunked("/", 1024)).status, 200);
    assert_eq!(backend.end().iter().filter(|request| request.bad.is_none()).count(), 1);
}

#[test]
fn the_same_for_http2_and_grpc() {
    let _turn = beside_others();
    let backend = H2Backend::start();
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), SIZES).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let post = |size: usize, kind: &str| {
        let request =
            Request::post("http://users/a.B/C").header("content-type", kind).header("te", "trailers");
        let parts = vec![Bytes::from(vec![0; size / 2]), Bytes::from(vec![0; size - size / 2])];
        client.call(request.body(()).unwrap(), parts, None)
    };
    let got = post(1025, "text/plain");
    assert_eq!((got.status(), got.field("pillion-error")), (413, Some("request_too_large")));
    let got = post(1025, "application/grpc");
    assert_eq!((got.status(), got.field("grpc-status")), (200, Some("8")), "{got:?}");
    assert_eq!(got.field("pillion-error"), Some("request_too_large"));
    assert_eq!(backend.take().len(), 0, "no whole request has come");
    assert_eq!(post(1024, "text/plain").status(), 200);
}

#[test]
fn an_answer_whose_length_is_told_is_replaced() {
    let _turn = beside_others();
    let plain = Recorder::start();
    let sidecar = with_policy(sidecar("front").upstream("users", plain.address()), SIZES).start();
    let answer = get(sidecar.at.outbound, "users", "/small");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("response_too_large")));
    assert_eq!(get(sidecar.at.outbound, "users", "/").text(), "ok");
    let backend = H2Backend::answering(|_| Answer {
        head: Response::builder().header("content-length", "2").body(()).unwrap(),
        ..Answer::text("ok")
    });
    let sidecar =
        with_policy(crate::support::sidecar("front").upstream("users", backend.address()), SIZES).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let got = client.get("http://users/small");
    assert_eq!((got.status(), got.field("pillion-error")), (502, Some("response_too_large")));
    assert_eq!(client.get("http://users/").body, b"ok");
}

#[test]
fn an_answer_that_does_not_tell_is_cut() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        let body = "a".repeat(1500);
        let twice = format!("5dc\r\n{body}\r\n5dc\r\n{body}\r\n0\r\n\r\n");
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{twice}").into_bytes()
    });
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), SIZES).start();
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    let answer = client.try_read("GET");
    assert!(answer.is_err_and(|bad| !bad.is_silence()), "an answer that was cut must not look whole");
    sidecar.metric_is("pillion_errors_total", &[("reason", "response_too_large"), ("side", "upstream")], 1.0);
}

#[test]
fn an_answer_of_grpc_ends_with_a_status() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        head: Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        body: vec![Bytes::from(vec![0; 1500]), Bytes::from(vec![0; 1500])],
        trailers: Some(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )])),
        ..Answer::default()
    });
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), SIZES).start();
    let request = Request::post("http://users/a.B/C").header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(()).unwrap();
    let got =
        H2Client::connect(sidecar.at.outbound).call(request, vec![Bytes::from_static(b"\0\0\0\0\0")], None);
    assert_eq!((got.status(), got.trailer("grpc-status")), (200, Some("8")), "{got:?}");
    assert!(got.trailer("grpc-message").unwrap().starts_with("response_too_large"), "{got:?}");
}
