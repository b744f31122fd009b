//! HTTP/2 on either side.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use pillion::base::{Protocol, UpstreamName};
use pillion::config::model::{RoutePolicy, Upstream};

use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::{Recorder, Sidecar, beside_others, call, sidecar};

use super::before;

/// A sidecar that speaks `protocol` with `users` whatever the caller speaks.
fn speaking(protocol: Protocol, at: std::net::SocketAddr) -> Sidecar {
    let upstream = Upstream { protocol, listen: None, policy: RoutePolicy::default(), ..Upstream::default() };
    let edit = |model: &mut pillion::config::Model| {
        model.upstreams.insert(UpstreamName::new("users"), upstream);
        model.service.protocol = protocol;
    };
    sidecar("front").upstream("users", at).service(at).with(edit).start()
}

fn one(name: &'static str, value: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(name, value.parse().unwrap());
    fields
}

#[test]
fn http2_to_http2_with_everything() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| Answer {
        interim: vec![Response::builder().status(103).header("link", "</a>").body(()).unwrap()],
        head: Response::builder().status(201).header("x-a", "1").body(()).unwrap(),
        body: vec![Bytes::from(seen.body.clone())],
        trailers: Some(one("x-down", "2")),
        reset: None,
    });
    let sidecar = before(backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let client = H2Client::connect(address);
        let request = Request::post("http://users/a?b").header("x-b", "2").body(()).unwrap();
        let body = vec![Bytes::from(vec![b'x'; 500_000]), Bytes::from_static(b"end")];
        let got = client.call(request, body, Some(one("x-up", "1")));
        assert_eq!((got.status(), got.field("x-a"), got.trailer("x-down")), (201, Some("1"), Some("2")));
        assert_eq!((got.body.len(), got.interim.len()), (500_003, 1));
        let seen = backend.only();
        assert_eq!(seen.head.uri.path_and_query().unwrap(), "/a?b");
        assert_eq!(seen.head.uri.authority().unwrap(), "users");
        assert_eq!(seen.head.headers["x-b"], "2");
        assert_eq!(seen.trailers.unwrap()["x-up"], "1");
    }
}

#[test]
fn http2_to_http1() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\n\r\n".to_vec()
    });
    let sidecar = speaking(Protocol::Http1, backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let client = H2Client::connect(address);
        let request = Request::post("http://users/a").header("cookie", "a=1").header("cookie", "b=2");
        let body = vec![Bytes::from_static(b"hello")];
        let got = client.call(request.body(()).unwrap(), body, Some(one("x-up", "1")));
        assert_eq!((got.status(), got.body.as_slice()), (200, b"ok".as_slice()));
        assert_eq!((got.trailer("x-down"), got.interim.len()), (Some("2"), 1));
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert_eq!(got.field(name), None);
        }
        let seen = backend.only();
        assert_eq!(seen.field("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(
            (seen.body.as_slice(), seen.field("host").as_deref()),
            (b"hello".as_slice(), Some("users"))
        );
        assert_eq!(seen.trailers, [("x-up".to_owned(), b"1".to_vec())]);
    }
}

#[test]
fn http1_to_http2() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        interim: vec![Response::builder().status(103).body(()).unwrap()],
        body: vec![Bytes::from_static(b"ok")],
        trailers: Some(one("x-down", "2")),
        ..Answer::default()
    });
    let sidecar = speaking(Protocol::Http2, backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let raw = "POST /a HTTP/1.1\r\nHost: users\r\nTE: trailers\r\nConnection: TE, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-up: 1\r\n\r\n";
        let answer = call(address, raw);
        assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (200, "ok", 1));
        assert_eq!(answer.trailers, [("x-down".to_owned(), b"2".to_vec())]);
        let seen = backend.only();
        for name in ["connection", "x-hop", "keep-alive", "transfer-encoding", "host"] {
            assert!(!seen.head.headers.contains_key(name), "{name}: {seen:?}");
        }
        assert_eq!(seen.head.uri, "http://users/a");
        assert_eq!(seen.trailers.unwrap()["x-up"], "1");
    }
}

#[test]
fn http10_gets_no_1xx_and_no_trailers_of_http2() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        interim: vec![Response::builder().status(103).body(()).unwrap()],
        body: vec![Bytes::from_static(b"ok")],
        trailers: Some(one("x-down", "2")),
        ..Answer::default()
    });
    let sidecar = speaking(Protocol::Http2, backend.address());
    let answer = call(sidecar.at.outbound, "GET / HTTP/1.0\r\nHost: users\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str(), answer.interim.len()), (200, "ok", 0));
}

#[test]
fn many_streams_share_one_connection_upstream() {
    let _turn = beside_others();
    let backend = H2Backend::start();
    let sidecar = before(backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let calls = (0..200).map(|number| {
        let request = Request::get(format!("http://users/{number}")).body(()).unwrap();
        crate::support::h2peer::exchange(client.sender.clone(), request, Vec::new(), None)
    });
    let all = client.block_on(futures_util::future::join_all(calls));
    let failed: Vec<_> =
        all.iter().filter(|got| !got.as_ref().is_ok_and(|got| got.status() == 200)).collect();
    assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), all.len());
    let seen = backend.take();
    assert_eq!(seen.len(), 200);
    let connections: std::collections::HashSet<_> = seen.iter().map(|one| one.connection).collect();
    assert!(connections.len() <= 4, "{} connections", connections.len());
}

#[test]
fn an_answer_without_a_body_ends_with_its_head() {
    let _turn = beside_others();
    let backend = Recorder::answering(|request| match request.method.as_str() {
        "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    });
    let sidecar = speaking(Protocol::Http1, backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let got = client.call(Request::head("http://users/").body(()).unwrap(), Vec::new(), None);
    assert_eq!((got.status(), got.field("content-length"), got.body.len()), (200, Some("99"), 0));
    assert_eq!(client.get("http://users/").status(), 204);
}

#[test]
fn grpc_keeps_its_trailers() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        head: Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        body: vec![Bytes::from_static(b"\0\0\0\0\x02ok")],
        trailers: Some(one("grpc-status", "5")),
        ..Answer::default()
    });
    let sidecar = before(backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let request = Request::post("http://users/pay.v1.Pay/Charge")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let got = client.call(request.body(()).unwrap(), vec![Bytes::from_static(b"\0\0\0\0\0")], None);
    assert_eq!((got.body.as_slice(), got.trailer("grpc-status")), (b"\0\0\0\0\x02ok".as_slice(), Some("5")));
    assert_eq!(backend.only().head.headers["te"], "trailers");
}
