//! Unary calls with JSON.

use std::time::Duration;

use http::Request;
use pillion::base::{Origin, Protocol};
use pillion::config::model::{Pattern, Route, Timeout};
use serde_json::{Value, json};

use super::{check_call, encoded, frame, front, grpc, messages, policy, shop, trailers_only};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::{Client, Recorder, Response, beside_others, call, sidecar};

/// Answers with the user whose id was asked for.
fn users() -> H2Backend {
    H2Backend::answering(|seen| {
        let asked = messages("GetRequest", &seen.body);
        let user = json!({"id": asked[0]["id"], "fullName": "Ada", "level": "ADMIN"});
        grpc(vec![frame("User", &user.to_string())], &[("grpc-status", "0"), ("x-late", "l")])
    })
}

fn text(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
}

#[test]
fn a_get_of_http1_and_of_http2_becomes_a_call() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let raw = "GET /v1/users/7?verbose=true HTTP/1.1\r\nHost: a\r\nx-user: u\r\naccept-encoding: gzip\r\n\
        grpc-timeout: 5S\r\nGrpc-Metadata-X-Tenant: t\r\nGrpc-Metadata-Host: evil\r\n\r\n";
    let answer = call(sidecar.at.inbound, raw);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), r#"{"id":"7","fullName":"Ada","level":"ADMIN"}"#);
    assert_eq!(answer.field("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.field("x-meta").as_deref(), Some("m"));
    assert_eq!(answer.field("grpc-trailer-x-late").as_deref(), Some("l"));
    assert_eq!(answer.field("grpc-trailer-grpc-status"), None);
    let seen = backend.only();
    check_call(&seen, "/shop.v1.Users/Get");
    assert_eq!(seen.head.uri.query(), None);
    assert_eq!(seen.head.uri.authority().unwrap(), "a");
    assert_eq!(seen.head.headers["x-user"], "u");
    assert_eq!(seen.head.headers["x-tenant"], "t");
    assert!(seen.head.headers["grpc-timeout"].to_str().unwrap().starts_with("49"), "what is left of it");
    assert!(!seen.head.headers.contains_key("accept-encoding"));
    assert_eq!(messages("GetRequest", &seen.body), [json!({"id": "7", "verbose": true})]);

    let got = H2Client::connect(sidecar.at.inbound).get("http://a/v1/users/8");
    assert_eq!((got.status(), got.field("content-type")), (200, Some("application/json")));
    check_call(&backend.only(), "/shop.v1.Users/Get");
    let raw = "HEAD /v1/users/9 HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = call(sidecar.at.inbound, raw);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn a_connection_that_a_browser_keeps_in_store_is_read_when_it_speaks() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let mut client = Client::connect(sidecar.at.inbound);
    // Long enough for the service, whose HTTP/2 speaks at once, to be dialled.
    std::thread::sleep(Duration::from_millis(150));
    let answer = client.get("a", "/v1/users/7");
    assert_eq!(answer.status, 200, "{}", answer.text());
    check_call(&backend.only(), "/shop.v1.Users/Get");
}

#[test]
fn a_body_becomes_a_message_whatever_the_upstream_was_said_to_speak() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| grpc(vec![frame("User", "{}")], &[("grpc-status", "0")]));
    for protocol in [Protocol::Auto, Protocol::Http1, Protocol::Grpc] {
        let setup = front(&backend, |_| {}).with(|model| model.service.protocol = protocol);
        let sidecar = setup.start();
        let body = r#"{"fullName": "Ada"}"#;
        let raw = format!(
            "POST /v1/users?request_id=r HTTP/1.1\r\nHost: a\r\nContent-Type: application/json; charset=utf-8\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let answer = call(sidecar.at.inbound, raw);
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{protocol:?}");
        let seen = backend.only();
        check_call(&seen, "/shop.v1.Users/Create");
        let wanted = json!({"user": {"fullName": "Ada"}, "requestId": "r"});
        assert_eq!(messages("CreateRequest", &seen.body), [wanted]);
    }
}

#[test]
fn a_grpc_status_becomes_a_status_of_http() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| match messages("GetRequest", &seen.body)[0]["id"].as_str() {
        Some("1") => trailers_only("5", "no such user %E2%82%AC"),
        Some("2") => grpc(Vec::new(), &[("grpc-status", "7")]),
        // A message, and then a failure: the failure counts.
        _ => grpc(vec![frame("User", "{}")], &[("grpc-status", "14"), ("grpc-message", "later")]),
    });
    let sidecar = front(&backend, |_| {}).start();
    for (id, status, body) in [
        (1, 404, json!({"code": 5, "message": "no such user €", "details": []})),
        (2, 403, json!({"code": 7, "message": "", "details": []})),
        (3, 503, json!({"code": 14, "message": "later", "details": []})),
    ] {
        let answer = call(sidecar.at.inbound, format!("GET /v1/users/{id} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((answer.status, text(&answer)), (status, body));
        assert_eq!(answer.field("grpc-status"), None);
        assert_eq!(answer.reason(), None);
    }
}

#[test]
fn what_is_not_translated_passes_untouched() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| grpc(vec![frame("User", "{}")], &[("grpc-status", "0")]));
    let sidecar = front(&backend, |_| {}).start();
    let client = H2Client::connect(sidecar.at.inbound);
    let request =
        Request::post("http://a/shop.v1.Users/Get").header("content-type", "application/grpc+proto");
    let got = client.call(request.body(()).unwrap(), vec![frame("GetRequest", "{}")], None);
    assert_eq!(got.trailer("grpc-status"), Some("0"));
    assert_eq!(got.body, frame("User", "{}"));
    assert_eq!(backend.only().head.headers["content-type"], "application/grpc+proto");

    // A service of HTTP/1 that answers in its own way, and a preflight.
    let plain = Recorder::start();
    let setup = sidecar_of_both(&plain);
    let sidecar = setup.start();
    let raw = "OPTIONS /v1/users/1 HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n";
    assert_eq!(call(sidecar.at.inbound, raw).text(), "ok");
    assert_eq!(plain.only().method, "OPTIONS");

    let other = H2Backend::answering(|_| Answer {
        head: http::Response::builder().status(418).header("content-type", "text/plain").body(()).unwrap(),
        ..Answer::text("tea")
    });
    let sidecar = front(&other, |_| {}).start();
    let answer = call(sidecar.at.inbound, "GET /v1/users/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (418, "tea"));
}

fn sidecar_of_both(plain: &Recorder) -> crate::support::sidecar::Setup {
    sidecar("front").service(plain.address()).with(|model| model.inbound_defaults = policy())
}

#[test]
fn the_route_of_the_grpc_call_applies() {
    let _turn = beside_others();
    let backend = users();
    let route = |pattern: &str, seconds: u64, json: bool| Route {
        to: None,
        pattern: Pattern::parse(pattern).unwrap(),
        policy: pillion::config::model::RoutePolicy {
            timeout: Timeout::Whole(Duration::from_secs(seconds)),
            json: json.then(|| shop("")),
            ..policy()
        },
        origin: Origin { file: "a.yaml".into(), line: 1, column: 1 },
    };
    let routes = vec![
        route("/v1/**", 5, true),
        route("grpc shop.v1.Users/Get", 6, true),
        route("/v1/shelves/**", 7, false),
    ];
    let sidecar = front(&backend, |_| {}).with(|model| model.inbound = routes).start();
    for (path, status, template) in [
        ("/v1/users/1", 200, "/shop.v1.Users/Get"),
        ("/v1/nothing", 404, "/v1/**"),
        // Not translated: the service does not speak HTTP/1.
        ("/v1/shelves/1/books/2", 502, "/v1/shelves/**"),
    ] {
        let answer = call(sidecar.at.inbound, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let labels = [("http_route", template)];
        sidecar.metric_is("http_server_request_duration_seconds_count", &labels, 1.0);
    }
}

#[test]
fn bodies_of_their_own_kind_pass_as_they_are() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| {
        // `google.api.HttpBody` on both sides, or made of a name.
        let body = match seen.head.uri.path() {
            "/shop.v1.Users/Store" => seen.body.clone().into(),
            _ => bytes::Bytes::from_static(b"\0\0\0\0\x0e\x0a\x09image/png\x12\x01P"),
        };
        grpc(vec![body], &[("grpc-status", "0")])
    });
    let sidecar = front(&backend, |_| {}).start();
    let answer = call(sidecar.at.inbound, "GET /v1/files/a/b.png HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "P"));
    assert_eq!(answer.field("content-type").as_deref(), Some("image/png"));
    let raw = "PUT /v1/file HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\nContent-Length: 3\r\n\r\n\0{x";
    let answer = call(sidecar.at.inbound, raw);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"\0{x".as_slice()));
    assert_eq!(answer.field("content-type").as_deref(), Some("text/x"));
}

#[test]
fn what_can_not_be_translated_is_refused() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| {
        let mut large = frame("User", &json!({"fullName": "a".repeat(3000)}).to_string()).to_vec();
        match messages("GetRequest", &seen.body)[0]["id"].as_str() {
            Some("1") => large = b"\x01\0\0\0\0".to_vec(),
            Some("2") => large = b"\0\0\0\0\x09abc".to_vec(),
            Some("3") => large = b"\0\0\0\0\x01\xff".to_vec(),
            Some("4") => large = Vec::new(),
            Some("5") => large = b"\0\0\0\0\0\0\0\0\0\0".to_vec(),
            Some("6") => return Answer { trailers: None, ..grpc(vec![frame("User", "{}")], &[]) },
            _ => {}
        }
        grpc(vec![large.into()], &[("grpc-status", "0")])
    });
    let sidecar = front(&backend, |policy| policy.json = Some(shop(", max_message: 1KiB"))).start();
    for id in 0..7 {
        let answer = call(sidecar.at.inbound, format!("GET /v1/users/{id} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let wanted = if id == 6 { "reset_after_headers" } else { "untranslatable_response" };
        assert_eq!(
            (answer.status, answer.reason().as_deref()),
            (502, Some(wanted)),
            "{id}: {}",
            answer.text()
        );
        assert_eq!(answer.field("content-type").as_deref(), Some("application/problem+json"));
    }
    backend.take();
    for (head, body, status, reason) in [
        ("content-type: text/plain", "{}", 415, "unsupported_media_type"),
        ("content-type: application/x-www-form-urlencoded", "{}", 415, "unsupported_media_type"),
        ("content-type: application/json\r\ncontent-encoding: gzip", "{}", 415, "unsupported_media_type"),
        ("content-type: application/json", "{", 400, "invalid_message"),
        ("x: y", "{\"nobody\": 1}", 400, "invalid_message"),
        ("x: y", &*format!("{{\"fullName\": \"{}\"}}", "a".repeat(2000)), 413, "message_too_large"),
    ] {
        let length = body.len();
        let raw =
            format!("POST /v1/users HTTP/1.1\r\nHost: a\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = call(sidecar.at.inbound, raw);
        assert_eq!((answer.status, answer.reason().as_deref()), (status, Some(reason)), "{}", answer.text());
    }
    assert!(backend.take().is_empty(), "none of these was sent on");
}

#[test]
fn a_call_that_is_slow_ends_in_time() {
    let _turn = beside_others();
    let backend = users();
    let short = Timeout::Whole(Duration::from_millis(200));
    let sidecar = front(&backend, |policy| policy.timeout = short).start();
    let raw = "POST /v1/users HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{";
    let answer = call(sidecar.at.inbound, raw);
    assert_eq!((answer.status, answer.reason().as_deref()), (504, Some("timeout")), "{}", answer.text());
    assert!(backend.take().is_empty());
}

#[test]
fn an_outbound_entry_translates_too() {
    let _turn = beside_others();
    let backend = users();
    let sidecar =
        sidecar("front").upstream("users", backend.address()).with(|model| model.defaults = policy()).start();
    let answer = call(sidecar.at.outbound, "GET http://users/v1/users/7 HTTP/1.1\r\nHost: users\r\n\r\n");
    assert_eq!((answer.status, text(&answer)["id"].clone()), (200, json!("7")), "{}", answer.text());
    let seen = backend.only();
    assert_eq!(seen.head.uri.authority().unwrap(), "users");
    assert_eq!(seen.body[5..], encoded("GetRequest", r#"{"id": "7"}"#));
}
