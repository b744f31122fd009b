//! Heads and connections of HTTP/1.

use crate::support::wire::all;
use crate::support::{Client, Recorder, beside_others, call, get};

use super::before;

#[test]
fn a_head_is_written_anew_with_what_a_proxy_adds() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let raw = "GET /a?b=c HTTP/1.1\r\nHost: users\r\nX-Custom: 1\r\nVia: 1.0 fred\r\n\r\n";
        let answer = call(address, raw);
        assert_eq!((answer.version.as_str(), answer.status), ("HTTP/1.1", 200));
        let seen = backend.only();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a?b=c"));
        assert_eq!(seen.field("x-custom").as_deref(), Some("1"));
        assert_eq!(seen.field("host").as_deref(), Some("users"));
        let via: Vec<_> = all(&seen.fields, "via").concat();
        let via = String::from_utf8(via).unwrap();
        assert!(via.starts_with("1.0 fred") && via.contains("1.1 "), "Via: {via}");
    }
}

#[test]
fn the_caller_is_told_in_forwarded_fields() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    get(sidecar.at.inbound, "users", "/");
    let seen = backend.only();
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("users"));
    let forwarded = seen.field("forwarded").unwrap_or_default();
    for part in ["for=127.0.0.1", "proto=http", "host=users"] {
        assert!(forwarded.to_ascii_lowercase().replace('"', "").contains(part), "Forwarded: {forwarded}");
    }
}

#[test]
fn fields_of_the_hop_end_here_in_both_directions() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-End: 1\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\nok".to_vec()
    });
    let sidecar = before(backend.address());
    let raw = "GET / HTTP/1.1\r\nHost: users\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nX-Hop: 1\r\nX-End: 1\r\nTE: gzip, trailers\r\n\r\n";
    let answer = call(sidecar.at.outbound, raw);
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let names = ["x-hop", "keep-alive", "proxy-connection", "upgrade"];
    let seen = backend.only();
    for name in names {
        assert!(!seen.has(name), "{name} reached the backend: {seen:?}");
        assert_eq!(answer.field(name), None, "{name} reached the caller");
    }
    assert!(seen.has("x-end") && answer.field("x-end").is_some());
}

#[test]
fn one_connection_upstream_serves_many_callers_in_turn() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    for _ in 0..20 {
        assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    }
    let seen = backend.wait(20);
    assert_eq!((seen.len(), seen[19].connection), (20, 0), "{} connections", backend.connections());
}

#[test]
fn a_caller_keeps_or_closes_its_connection() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..3 {
        assert_eq!(client.get("users", "/").field("connection"), None);
    }
    let answer = client.send("GET / HTTP/1.1\r\nHost: users\r\nConnection: close\r\n\r\n").read("GET");
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    assert!(client.is_ended());
}

#[test]
fn a_backend_that_closes_does_not_close_the_caller() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_vec()
    });
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..5 {
        let answer = client.get("users", "/");
        assert_eq!((answer.status, answer.field("connection")), (200, None));
    }
    assert_eq!(backend.connections(), 5);
}

#[test]
fn http10_callers_get_http10_manners() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n".to_vec()
    });
    let sidecar = before(backend.address());
    // No chunks, no 1xx, and the end of the connection as the end of the body.
    let mut client = Client::connect(sidecar.at.outbound);
    let answer = client.send("GET / HTTP/1.0\r\nHost: users\r\n\r\n").read("GET");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!((answer.field("transfer-encoding"), answer.interim.len()), (None, 0));
    assert!(client.is_ended());
}

#[test]
fn http10_callers_may_choose_to_keep_the_connection() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..2 {
        let raw = "GET / HTTP/1.0\r\nHost: users\r\nConnection: keep-alive\r\n\r\n";
        let answer = client.send(raw).read("GET");
        assert_eq!(answer.field("connection").map(|v| v.to_ascii_lowercase()).as_deref(), Some("keep-alive"));
    }
    client.send("GET / HTTP/1.0\r\nHost: users\r\n\r\n").read("GET");
    assert!(client.is_ended());
}

#[test]
fn an_http10_caller_without_host_reaches_the_service() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    assert_eq!(call(sidecar.at.inbound, "GET /old HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(backend.only().target, "/old");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let _turn = beside_others();
    let backend = Recorder::answering(|request| {
        let body = &request.target;
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    let all: String = (0..100).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: users\r\n\r\n")).collect();
    client.send(all);
    for number in 0..100 {
        assert_eq!(client.read("GET").text(), format!("/{number}"));
    }
}

#[test]
fn absolute_form_is_routed_by_its_authority() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let raw = "GET http://users/a?b HTTP/1.1\r\nHost: users\r\nProxy-Connection: keep-alive\r\n\r\n";
    assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    let seen = backend.only();
    assert_eq!((seen.target.as_str(), seen.field("host").as_deref()), ("/a?b", Some("users")));
}

#[test]
fn each_upstream_may_have_a_local_port() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar =
        crate::support::sidecar("front").upstream("users", backend.address()).local_port("users").start();
    let (name, address) = sidecar.at.upstreams.first_key_value().expect("a local port");
    assert_eq!(name.as_str(), "users");
    // The authority does not matter there.
    assert_eq!(get(*address, "localhost:9001", "/x").status, 200);
    assert_eq!(backend.only().target, "/x");
}

#[test]
fn a_caller_that_half_closes_is_still_answered() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n").close_sending();
    assert_eq!(client.read("GET").text(), "ok");
    assert!(client.is_ended());
}
