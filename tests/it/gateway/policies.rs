//! The policies of routes of services, on calls from outside.

use bytes::Bytes;
use http::{Request, Response};

use super::{Gate, model, with_gateways};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::wire::Wire;
use crate::support::{Client, Recorder, Server, beside_others, sidecar};

#[test]
fn routes_take_what_they_leave_open_from_the_listener_and_then_from_the_upstream() {
    let _turn = beside_others();
    let keys = "    routes:
      - {response_headers: {set: {x-frame-options: DENY}}, timeout: 9s}
      - {route: /a, to: users, timeout: 1s}
      - {route: /b, to: users}";
    let model = model(keys, "outbound:\n  - {to: users, timeout: 5s, connect_timeout: 3s, retry: {max: 4}}");
    let routes = &model.gateways[0].routes;
    let timeouts: Vec<_> = routes.iter().map(|route| format!("{:?}", route.policy.timeout)).collect();
    assert_eq!(timeouts, ["Whole(1s)", "Whole(9s)"]);
    assert!(routes.iter().all(|route| route.policy.connect_timeout.as_secs() == 3));
    assert!(routes.iter().all(|route| route.policy.retry.as_ref().is_some_and(|retry| retry.max == 4)));
    let users = Recorder::start();
    let setup = sidecar("edge").upstream("users", users.address());
    let sidecar = with_gateways(setup, model).start();
    let at = *sidecar.at.gateways.values().next().unwrap();
    assert_eq!(crate::support::get(at, "shop", "/a").field("x-frame-options").as_deref(), Some("DENY"));
}

#[test]
fn browsers_limits_redirects_and_retries() {
    let _turn = beside_others();
    let gate = Gate::new(
        "- {cors: {origins: ['https://shop.example']}}
         - {route: POST /orders, to: orders, rate_limit: {rate: 1/h}, max_request_body: 4B}
         - {route: GET /old, redirect: {scheme: https, status: 308}}
         - {route: /users, to: nobody, split: {users: 100, orders: 0}}
         - {route: /away, to: nobody, retry: {max: 1}, circuit_breaker: {fallback: {status: 200, body: later}}}",
    );
    let origin = ("Origin", "https://shop.example");
    let asked = [origin, ("Access-Control-Request-Method", "POST")];
    let reply = gate.ask("OPTIONS", "shop", "/orders", &asked);
    assert_eq!(reply.status, 204);
    assert_eq!(reply.field("access-control-allow-origin"), Some("https://shop.example"));
    let reply = gate.ask("POST", "shop", "/orders", &[origin, ("Content-Length", "0")]);
    assert_eq!(
        (reply.status, reply.field("access-control-allow-origin")),
        (200, Some("https://shop.example"))
    );
    let reply = gate.ask("POST", "shop", "/orders", &[("Content-Length", "0")]);
    assert_eq!((reply.status, reply.field("pillion-error")), (429, Some("rate_limited")));
    assert!(!reply.text().contains("rule"), "{}", reply.text());
    let reply = gate.ask("GET", "shop.example:8080", "/old?x=1", &[]);
    assert_eq!((reply.status, reply.field("location")), (308, Some("https://shop.example/old?x=1")));
    assert_eq!(gate.get("shop", "/users").text(), "/users");
    assert_eq!(gate.orders.take().len(), 1);
}

#[test]
fn grpc_and_grpc_web_pass() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| {
        assert_eq!(seen.head.uri.path(), "/shop.v1.Users/Get");
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        Answer { head, trailers: Some(trailers), ..Answer::text("\0\0\0\0\x02ok") }
    });
    let keys = "    routes:\n      - {route: grpc shop.v1.Users/*, to: users, grpc_web: true}";
    let setup = sidecar("edge").upstream("users", backend.address());
    let sidecar = with_gateways(setup, model(keys, "outbound: [{to: users, protocol: grpc}]")).start();
    let at = *sidecar.at.gateways.values().next().unwrap();
    let client = H2Client::connect(at);
    let call = Request::post("http://shop/shop.v1.Users/Get").header("content-type", "application/grpc");
    let got = client.call(
        call.header("te", "trailers").body(()).unwrap(),
        vec![Bytes::from_static(b"\0\0\0\0\0")],
        None,
    );
    assert_eq!((got.status(), got.trailer("grpc-status"), &got.body[5..]), (200, Some("0"), &b"ok"[..]));
    let mut client = Client::connect(at);
    client.send(
        "POST /shop.v1.Users/Get HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc-web+proto\r\n\
         Content-Length: 5\r\n\r\n\0\0\0\0\0",
    );
    let answer = client.read("POST");
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("grpc-status:0") || answer.text().contains("grpc-status: 0"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_websocket_passes() {
    let _turn = beside_others();
    let server = Server::start(|_, stream| {
        use std::io::Write as _;
        let mut wire = Wire::new(&stream);
        let Ok(_) = crate::support::request::read_head(&mut wire, 0) else { return };
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let _ = (&stream).write_all(head.as_bytes());
        let _ = (&stream).write_all(b"\x81\x02hi\x88\x00");
        let mut close = [0; 6];
        let _ = std::io::Read::read_exact(&mut (&stream), &mut close);
    });
    let model = model("    routes:\n      - {route: GET /chat, to: users}", "");
    let sidecar = with_gateways(sidecar("edge").upstream("users", server.address()), model).start();
    let mut client = Client::connect(*sidecar.at.gateways.values().next().unwrap());
    client.send(
        "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = client.read_head().unwrap();
    assert_eq!(head.status, 101);
    client.send(b"\x88\x80\0\0\0\0");
    assert_eq!(client.rest(), b"\x81\x02hi\x88\x00");
}
