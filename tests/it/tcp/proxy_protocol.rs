//! Who the caller is, said before the first byte.

use std::net::SocketAddr;
use std::time::Duration;

use pillion::base::ProxyProtocol;
use pillion::codec::proxy_protocol::write;
use pillion::config::model::Model;

use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::{Client, Recorder, Server, Sidecar, beside_others, sidecar};

use super::{echo, expect, greeter};

const BOTH: [ProxyProtocol; 2] = [ProxyProtocol::V1, ProxyProtocol::V2];
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: users\r\n\r\n";

fn header(version: ProxyProtocol, source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    write(version, Some((source, SocketAddr::new(source.ip(), 443))))
}

/// Takes the word of callers on 127.0.0.1.
fn trusting(model: &mut Model) {
    model.listen.proxy_protocol = vec!["127.0.0.1".parse().unwrap()];
    model.limits.header_timeout = Duration::from_millis(500);
}

fn fronting(service: SocketAddr) -> Sidecar {
    sidecar("front").service(service).with(trusting).start()
}

#[test]
fn the_service_sees_the_caller_that_the_header_names() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = fronting(service.address());
    for version in BOTH {
        for (source, seen, forwarded) in [
            ("192.0.2.7:4711", "192.0.2.7", "192.0.2.7"),
            ("[2001:db8::7]:4711", "2001:db8::7", "\"[2001:db8::7]\""),
            ("[::ffff:192.0.2.7]:4711", "192.0.2.7", "192.0.2.7"),
        ] {
            let bytes = [&header(version, source), GET].concat();
            for piece in [bytes.len(), 1] {
                let mut client = Client::connect(sidecar.at.inbound);
                for part in bytes.chunks(piece) {
                    client.send(part);
                }
                assert_eq!(client.read("GET").text(), "ok", "{version:?} {source}");
                assert_eq!(client.get("users", "/b").text(), "ok", "a header is said once");
                for request in service.wait(2) {
                    assert_eq!(request.field("x-forwarded-for").as_deref(), Some(seen));
                    let field = request.field("forwarded").unwrap();
                    assert!(field.contains(&format!("for={forwarded}")), "{field}");
                }
                service.take();
            }
        }
    }
    assert_eq!(sidecar.metrics().get("pillion_errors_total", &[]), 0.0);
}

#[test]
fn http2_behind_a_header() {
    let _turn = beside_others();
    let service = H2Backend::start();
    let sidecar = fronting(service.address());
    for version in BOTH {
        let client = H2Client::connect_after(sidecar.at.inbound, &header(version, "192.0.2.7:4711"));
        assert_eq!(client.get("http://users/a").status(), 200);
        let seen = service.only();
        assert_eq!(seen.head.headers["x-forwarded-for"], "192.0.2.7");
    }
}

#[test]
fn opaque_bytes_behind_a_header() {
    let _turn = beside_others();
    for (service, greeting) in
        [(Server::start(|_, stream| echo(stream)), &b""[..]), (greeter(), b"220 ready\r\n")]
    {
        let sidecar = fronting(service.address());
        for version in BOTH {
            let bytes = [&header(version, "[2001:db8::7]:4711"), &b"\xffhello"[..]].concat();
            for piece in [bytes.len(), 1] {
                let mut client = Client::connect(sidecar.at.inbound);
                for part in bytes.chunks(piece) {
                    client.send(part);
                }
                expect(&mut client, &[greeting, b"\xffHELLO"].concat());
            }
            // The service speaks first.
            let mut client = Client::connect(sidecar.at.inbound);
            client.send(header(version, "192.0.2.7:4711"));
            expect(&mut client, greeting);
        }
    }
}

#[test]
fn a_header_of_no_caller_leaves_the_address_of_the_connection() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = fronting(service.address());
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'u'; 216]].concat();
    for header in [write(ProxyProtocol::V1, None), write(ProxyProtocol::V2, None), unix] {
        let mut client = Client::connect(sidecar.at.inbound);
        client.send([&header, GET].concat());
        assert_eq!(client.read("GET").text(), "ok");
        assert_eq!(service.only().field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        service.take();
    }
}

#[test]
fn what_is_missing_broken_too_long_or_slow_is_closed_and_counted() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = fronting(service.address());
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x01"[..], &[0; 5000]].concat();
    let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let cut = &header(ProxyProtocol::V2, "192.0.2.7:4711")[..20];
    for (bytes, reason) in [
        (GET, "malformed_request"),
        (b"\x16\x03\x01\0\x05", "malformed_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed_request"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n", "malformed_request"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\r", "request_timeout"),
        (&endless, "malformed_request"),
        (&long, "malformed_request"),
        (cut, "request_timeout"),
        (b"PROXY TCP4", "request_timeout"),
    ] {
        let before = sidecar.metrics().get("pillion_errors_total", &[("reason", reason)]);
        let mut client = Client::connect(sidecar.at.inbound);
        let _ = client.try_send(bytes);
        assert!(client.is_ended(), "{bytes:?}");
        let labels = [("reason", reason), ("direction", "inbound")];
        sidecar.metric_is("pillion_errors_total", &labels, before + 1.0);
    }
    let slow = sidecar.metrics().get("pillion_limited_total", &[("limit", "header_timeout")]);
    assert_eq!(slow, 3.0, "{}", sidecar.metrics().show("pillion_limited_total"));
    // The end of a header that does not come, and a check of a load balancer.
    let errors = sidecar.metrics().get("pillion_errors_total", &[]);
    Client::connect(sidecar.at.inbound).send(cut).close_sending();
    sidecar.metric_is("pillion_errors_total", &[], errors + 1.0);
    let none = [("protocol", "none"), ("direction", "inbound")];
    let ended = sidecar.metrics().get("pillion_connections_total", &none);
    drop(Client::connect(sidecar.at.inbound));
    sidecar.metric_is("pillion_connections_total", &none, ended + 1.0);
    assert_eq!(sidecar.metrics().get("pillion_errors_total", &[]), errors + 1.0);
    assert!(service.take().is_empty());
}

#[test]
fn nobody_else_is_believed() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = sidecar("front")
        .service(service.address())
        .upstream("users", service.address())
        .with(|model| {
            trusting(model);
            model.listen.proxy_protocol = vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
            model.service.protocol = pillion::base::Protocol::Http1;
        })
        .start();
    for version in BOTH {
        let mut client = Client::connect(sidecar.at.inbound);
        client.send([&header(version, "192.0.2.7:4711"), GET].concat());
        assert_eq!(client.read("GET").status, 400, "{version:?}");
    }
    assert!(service.take().is_empty());
    assert_eq!(Client::connect(sidecar.at.inbound).get("users", "/a").text(), "ok");
    assert_eq!(service.only().field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
}

#[test]
fn the_outbound_listener_takes_no_header() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = sidecar("front").upstream("users", service.address()).with(trusting).start();
    assert_eq!(Client::connect(sidecar.at.outbound).get("users", "/a").text(), "ok");
    let mut client = Client::connect(sidecar.at.outbound);
    client.send([&header(ProxyProtocol::V1, "192.0.2.7:4711"), GET].concat());
    assert_eq!(client.read("GET").status, 400);
}

#[test]
fn a_drain_does_not_wait_for_a_header() {
    let _turn = beside_others();
    let service = Recorder::start();
    let sidecar = sidecar("front")
        .service(service.address())
        .with(|model| {
            trusting(model);
            model.limits.header_timeout = Duration::from_secs(60);
            model.drain.deadline = Duration::from_secs(30);
        })
        .start();
    let mut client = Client::connect(sidecar.at.inbound);
    client.send("PROXY");
    sidecar.metric_is("pillion_connections_open", &[("direction", "inbound")], 1.0);
    let start = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(sidecar.app().drain()), "nothing is left");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
