//! What callers from outside are believed, and what they are told.

use std::io::Write;
use std::time::Duration;

use pillion::base::ProxyProtocol;
use pillion::codec::proxy_protocol::write;

use super::{Gate, model, with_gateways};
use crate::support::{Client, Deaf, Recorder, beside_others, sidecar};

const USERS: &str = "- {route: /**, to: users}";

#[test]
fn nobody_outside_says_who_calls() {
    let _turn = beside_others();
    let gate = Gate::new(USERS);
    let said = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Real-IP", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("Pillion-Deadline", "0"),
        ("X-Envoy-Expected-Rq-Timeout-Ms", "0"),
        ("X-Envoy-Original-Path", "/admin"),
        ("X-Forwarded-Client-Cert", "By=evil"),
    ];
    assert_eq!(gate.ask("GET", "shop.example", "/a", &said).status, 200);
    let seen = gate.users.only();
    let field = |name: &str| seen.field(name);
    assert_eq!(field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(field("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(field("x-forwarded-host").as_deref(), Some("shop.example"));
    assert_eq!(field("forwarded").as_deref(), Some("for=127.0.0.1;host=\"shop.example\";proto=http"));
    assert_eq!(field("host").as_deref(), Some("shop.example"));
    for name in [
        "x-forwarded-prefix",
        "x-real-ip",
        "pillion-deadline",
        "x-envoy-original-path",
        "x-forwarded-client-cert",
    ] {
        assert_eq!(field(name), None, "{name}");
    }
    assert_eq!(field("x-envoy-expected-rq-timeout-ms"), None);
}

#[test]
fn a_proxy_that_is_trusted_is_believed() {
    let _turn = beside_others();
    let keys = "    trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]";
    let limited = "- {route: /**, to: users, rate_limit: {rate: 1/h, per: source}}";
    let gate = Gate::with(keys, limited);
    let ask = |list: &str| {
        gate.ask("GET", "shop", "/", &[("X-Forwarded-For", list), ("X-Forwarded-Proto", "https")]).status
    };
    // The one whom the last trusted proxy has seen counts, whatever it said itself.
    assert_eq!(ask("6.6.6.6, 9.9.9.9, 10.0.0.2"), 200);
    let seen = gate.users.only();
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("6.6.6.6, 9.9.9.9, 10.0.0.2, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(ask("7.7.7.7, 9.9.9.9"), 429);
    assert_eq!(ask("9.9.9.8"), 200);
    let limited = ("pillion_rate_limited_total", [("direction", "gateway"), ("upstream", "users")]);
    gate.sidecar.metric_is(limited.0, &limited.1, 1.0);
}

#[test]
fn only_whom_a_route_names_comes_in() {
    let _turn = beside_others();
    let keys = "    trusted_proxies: [127.0.0.1]";
    let gate = Gate::with(keys, "- {route: /**, to: users, allow: {any: [{source: 10.0.0.0/8}]}}");
    assert_eq!(gate.get("shop", "/").status, 403);
    assert_eq!(gate.ask("GET", "shop", "/", &[("X-Forwarded-For", "9.9.9.9")]).status, 403);
    assert_eq!(gate.ask("GET", "shop", "/", &[("X-Forwarded-For", "10.1.1.1")]).status, 200);
    assert_eq!(gate.users.take().len(), 1);
}

#[test]
fn the_proxy_protocol_is_taken_only_where_it_is_set() {
    let _turn = beside_others();
    let header =
        |version| write(version, Some(("9.9.9.9:7".parse().unwrap(), "8.8.8.8:80".parse().unwrap())));
    let request = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let gate = Gate::with("    proxy_protocol: [127.0.0.1]", USERS);
        let mut client = Client::connect(gate.at());
        client.send([&header(version)[..], request].concat());
        assert_eq!(client.read("GET").status, 200);
        assert_eq!(gate.users.only().field("x-forwarded-for").as_deref(), Some("9.9.9.9"));
        // Without one nobody is served.
        let mut client = Client::connect(gate.at());
        let _ = client.try_send(request);
        assert!(client.is_ended());
    }
    let gate = Gate::new(USERS);
    let mut client = Client::connect(gate.at());
    client.send([&header(ProxyProtocol::V1)[..], request].concat());
    assert_eq!(client.read("GET").status, 400);
}

#[test]
fn errors_tell_nothing_of_what_is_within() {
    let _turn = beside_others();
    let nobody = Deaf::new();
    let address = nobody.address().to_string();
    let model = model("    routes:\n      - {route: /**, to: users}", "");
    let sidecar = with_gateways(sidecar("edge").upstream("users", nobody.address()), model).start();
    let at = *sidecar.at.gateways.values().next().unwrap();
    let answer = crate::support::get(at, "shop", "/");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("connect_refused")));
    let text = answer.text();
    assert!(!text.contains(&address) && !text.contains("edge") && !text.contains("f:"), "{text}");
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&problem["status"], &problem["reason"]), (&502.into(), &"connect_refused".into()));
    let reply = crate::shaping::grpc(at, "/shop.v1.Users/Get", &[]);
    assert_eq!(reply.field("grpc-status"), Some("14"));
    assert!(!reply.field("grpc-message").unwrap().contains(&address));
    sidecar.metric_is(
        "pillion_errors_total",
        &[("direction", "gateway"), ("reason", "connect_refused")],
        2.0,
    );
}

#[test]
fn slow_and_large_heads_end() {
    let _turn = beside_others();
    let users = Recorder::start();
    let model = model("    routes:\n      - {route: /**, to: users}", "");
    let setup = sidecar("edge").upstream("users", users.address());
    let setup = with_gateways(setup, model).with(|model| {
        model.limits.header_timeout = Duration::from_millis(200);
        model.limits.header_bytes = 2048;
    });
    let sidecar = setup.start();
    let at = *sidecar.at.gateways.values().next().unwrap();
    let mut slow = Client::connect(at);
    slow.stream().write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    assert_eq!(slow.read("GET").status, 408);
    let large = format!("GET / HTTP/1.1\r\nHost: shop\r\nx: {}\r\n\r\n", "a".repeat(3000));
    let mut client = Client::connect(at);
    client.send(large);
    assert_eq!(client.read("GET").status, 431);
    assert_eq!(users.take().len(), 0);
}
