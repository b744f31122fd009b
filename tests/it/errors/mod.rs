//! Every way that a request can fail: the status, `pillion-error`, the body
//! and the metric, for HTTP and for gRPC.

pub mod grpc;
mod scenes;

use std::collections::HashSet;

use bytes::Bytes;
use pillion::base::{Reason, Side};
use serde_json::Value;

use crate::support::h2peer::{Got, H2Client};
use crate::support::{Client, Response, beside_others};
use scenes::Scene;

/// The word of a side in the metric's label.
fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Proxy => "proxy",
        Side::Upstream => "upstream",
    }
}

/// Looks at everything that an answer of Pillion's must say.
#[track_caller]
fn check_problem(answer: &Response, reason: Reason) {
    let facts = reason.facts();
    assert_eq!(
        (answer.status, answer.reason().as_deref()),
        (facts.status, Some(facts.word)),
        "{}",
        answer.text()
    );
    assert_eq!(answer.field("content-type").as_deref(), Some("application/problem+json"), "{}", facts.word);
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()));
    assert_eq!(body["status"], facts.status, "{body}");
    assert_eq!(body["title"], facts.title, "{body}");
    // A gateway does not tell callers what to do within.
    if reason != Reason::UnknownHost {
        assert_eq!(body["remedy"], facts.remedy, "{body}");
    }
    let kind = body["type"].as_str().unwrap_or_default();
    assert!(kind.contains(facts.word) && kind.contains(':'), "the type names the reason by a URI: {body}");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
}

#[track_caller]
fn check_counted(scene: &Scene) {
    let facts = scene.reason.facts();
    let labels = [("reason", facts.word), ("side", side(facts.side)), ("direction", scene.direction)];
    scene.sidecar.metric_is("pillion_errors_total", &labels, 1.0);
    let metrics = scene.sidecar.metrics();
    let all = metrics.get("pillion_errors_total", &[]) - scene.noise;
    assert_eq!(all, 1.0, "{}", metrics.show("pillion_errors_total"));
}

#[test]
fn every_reason_has_its_scene() {
    let _turn = beside_others();
    let made: HashSet<_> = scenes::BUILDERS.iter().map(|(reason, _)| *reason).collect();
    let apart: HashSet<_> = APART.into_iter().collect();
    for reason in Reason::ALL {
        assert!(made.contains(&reason) ^ apart.contains(&reason), "{reason:?} has no test, or two");
    }
}

/// Runs `check` on every scene and tells of all that fail.
fn each_scene(check: impl Fn(Reason, &Scene)) {
    let mut failed = Vec::new();
    for (reason, build) in scenes::BUILDERS {
        let run = std::panic::AssertUnwindSafe(|| check(*reason, &build()));
        if std::panic::catch_unwind(run).is_err() {
            failed.push(reason);
        }
    }
    assert!(failed.is_empty(), "failed, each as told above: {failed:?}");
}

/// Those whose caller gets no whole answer, tested one by one below.
const APART: [Reason; 2] = [Reason::ClientClosed, Reason::ResetAfterHeaders];

#[test]
fn an_http1_caller_gets_status_reason_body_and_metric() {
    let _turn = beside_others();
    each_scene(|reason, scene| {
        assert_eq!(scene.reason, reason);
        let mut client = Client::connect(scene.address);
        client.send(&scene.raw);
        (scene.then)(scene);
        let answer = client.read("GET");
        check_problem(&answer, reason);
        if let Some(line) = scene.rule {
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(body["rule"], line, "{body}");
        }
        check_counted(scene);
    });
}

#[test]
fn an_http2_caller_gets_the_same() {
    let _turn = beside_others();
    each_scene(|reason, scene| {
        let Some(url) = scene.url() else { return };
        let got = scene.call(&url, None);
        let facts = reason.facts();
        assert_eq!((got.status(), got.field("pillion-error")), (facts.status, Some(facts.word)));
        assert_eq!(got.field("content-type"), Some("application/problem+json"));
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(body["title"], facts.title, "{body}");
        check_counted(scene);
    });
}

#[test]
fn a_grpc_caller_gets_a_status_with_details() {
    let _turn = beside_others();
    each_scene(|reason, scene| {
        let Some(url) = scene.url() else { return };
        let got = scene.call(&url, Some("application/grpc+proto"));
        let facts = reason.facts();
        assert_eq!((got.status(), got.body.as_slice()), (200, b"".as_slice()), "{}", facts.word);
        assert_eq!(got.field("content-type"), Some("application/grpc+proto"));
        assert_eq!(got.field("pillion-error"), Some(facts.word));
        let code = (facts.grpc as u8).to_string();
        assert_eq!(got.field("grpc-status"), Some(code.as_str()), "{}", facts.word);
        let message = got.field("grpc-message").unwrap_or_default();
        assert!(message.bytes().all(|b| (0x20..0x7f).contains(&b)), "{message}");
        assert!(!message.is_empty(), "{}", facts.word);
        let details = got.field("grpc-status-details-bin").expect("details");
        let status = grpc::Status::decode(details);
        assert_eq!(status.code, u64::from(facts.grpc as u8), "{status:?}");
        assert_eq!(status.message, grpc::percent_decoded(message), "{status:?}");
        let info = status.error_info.expect("an ErrorInfo");
        assert!(info.reason.eq_ignore_ascii_case(facts.word), "{info:?}");
        assert!(info.domain.contains("pillion"), "{info:?}");
        check_counted(scene);
    });
}

#[test]
fn a_head_request_gets_no_body() {
    let _turn = beside_others();
    let scene = scenes::build(Reason::UnknownUpstream);
    let mut client = Client::connect(scene.address);
    let answer = client.send("HEAD / HTTP/1.1\r\nHost: nobody\r\n\r\n").read("HEAD");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("unknown_upstream")));
    let again = client.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").read("GET");
    assert_eq!(again.reason().as_deref(), Some("unknown_upstream"), "the connection is in step");
}

#[test]
fn a_caller_who_goes_away_is_counted() {
    let _turn = beside_others();
    let scene = scenes::silent(Reason::ClientClosed, |_| {});
    let mut client = Client::connect(scene.address);
    client.send(&scene.raw);
    scene.wait_for_request();
    drop(client);
    check_counted(&scene);
    let labels = [("http_response_status_code", "499"), ("error_type", "client_closed")];
    scene.sidecar.metric_is("http_client_request_duration_seconds_count", &labels, 1.0);
}

#[test]
fn an_answer_that_breaks_off_is_cut_and_counted() {
    let _turn = beside_others();
    let scene =
        scenes::saying(Reason::ResetAfterHeaders, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!");
    let mut client = Client::connect(scene.address);
    client.send(&scene.raw);
    match client.try_read("GET") {
        Err(bad) => assert!(!bad.is_silence(), "the connection must end"),
        // It may be known before the head has gone out.
        Ok(answer) => check_problem(&answer, Reason::ResetAfterHeaders),
    }
    check_counted(&scene);
}

impl Scene {
    /// One call by HTTP/2 of the same kind.
    fn call(&self, url: &str, content_type: Option<&str>) -> Got {
        let client = H2Client::connect(self.address);
        let mut request = http::Request::post(url).body(()).unwrap();
        if let Some(kind) = content_type {
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            request.headers_mut().insert("te", "trailers".parse().unwrap());
        }
        let exchange = crate::support::h2peer::exchange(
            client.sender.clone(),
            request,
            vec![Bytes::from_static(b"\0\0\0\0\0")],
            None,
        );
        let got = std::thread::scope(|scope| {
            let then = scope.spawn(|| (self.then)(self));
            let got = client.block_on(exchange);
            then.join().expect("what happens beside the call");
            got
        });
        got.unwrap_or_else(|error| panic!("{:?}: {error}", self.reason))
    }
}
