//! Answers without an upstream.

use super::{both, with_policy};
use crate::support::{Client, beside_others, sidecar};

const DIRECT: &str = r#"
inbound:
  - {route: '/login', redirect: {scheme: https}}
  - {route: '/old/{id}', redirect: {path: '/new/{id}', status: 308}}
  - {route: '/open/{rest...}', redirect: {path: '/{rest}'}}
  - {route: '/moved/{rest...}', redirect: {to: 'https://new.example/x/{rest}?from=old', status: 301}}
  - {route: 'POST /form', redirect: {host: 'other.example:8080', status: 303}}
  - route: GET,HEAD /robots.txt
    respond: {body: "User-agent: *\nDisallow: /\n", headers: {cache-control: max-age=60}}
    response_headers: {set: {x-by: front}}
  - {route: '/gone', respond: {status: 410, body: '{"gone": true}', content_type: application/json}}
  - {route: '/quiet', respond: {status: 204}}
"#;

#[test]
fn callers_are_sent_elsewhere() {
    let _turn = beside_others();
    both(DIRECT, &[], |way| {
        for (method, path, status, location) in [
            ("GET", "/login?next=%2Fa", 302, "https://users/login?next=%2Fa"),
            ("GET", "/old/7?x=1", 308, "/new/7?x=1"),
            ("GET", "/open/a/b", 302, "/a/b"),
            ("GET", "/open//evil.example/a", 302, "/.//evil.example/a"),
            ("GET", "/open/%5Cevil.example", 302, "/%5Cevil.example"),
            ("GET", "/moved/a/b?c", 301, "https://new.example/x/a/b?from=old"),
            ("POST", "/form", 303, "http://other.example:8080/form"),
        ] {
            let answer = way.into(method, path, &[]);
            assert_eq!((answer.status, answer.field("location")), (status, Some(location)), "{path}");
            assert_eq!((answer.body.len(), answer.field("pillion-error")), (0, None), "{path}");
            assert!(answer.field("date").is_some(), "{path}");
        }
        let answer = way.into("GET", "/moved/../x", &[]);
        assert_eq!((answer.status, answer.field("pillion-error")), (400, Some("malformed_request")));
        assert_eq!(way.seen().len(), 0, "the service hears of none of it");
        let labels = [("http_route", "/old/{id}"), ("http_response_status_code", "308"), ("error_type", "")];
        way.sidecar.metric_is("http_server_request_duration_seconds_count", &labels, 1.0);
    });
}

#[test]
fn the_policy_answers() {
    let _turn = beside_others();
    both(DIRECT, &[], |way| {
        let answer = way.into("GET", "/robots.txt", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "User-agent: *\nDisallow: /\n"));
        assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(
            (answer.field("cache-control"), answer.field("x-by")),
            (Some("max-age=60"), Some("front"))
        );
        assert_eq!(answer.field("pillion-error"), None);
        let answer = way.into("HEAD", "/robots.txt", &[]);
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        let answer = way.into("DELETE", "/gone", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (410, "{\"gone\": true}"));
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let answer = way.into("GET", "/quiet", &[]);
        assert_eq!((answer.status, answer.body.len(), answer.field("content-type")), (204, 0, None));
        assert_eq!(way.seen().len(), 0, "the service hears of none of it");
        assert_eq!(way.into("GET", "/else", &[]).text(), "ok");
        assert_eq!(way.seen().len(), 1);
    });
}

#[test]
fn no_upstream_is_needed_and_the_connection_goes_on() {
    let _turn = beside_others();
    let policy = "outbound: [{to: nowhere, route: /**, respond: {status: 200, body: here}}]";
    let sidecar = with_policy(sidecar("front").empty("users"), policy).start();
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..2 {
        let answer = client.get("nowhere", "/a");
        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
    }
    // A body that nobody reads.
    let raw = "POST /a HTTP/1.1\r\nHost: nowhere\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.send(raw).read("POST").text(), "here");
}
