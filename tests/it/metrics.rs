//! Metrics that no other test reads.

use std::sync::{Mutex, mpsc};

use crate::support::backend::ok;
use crate::support::{Client, Deaf, PATIENCE, Recorder, beside_others, get, sidecar};

#[test]
fn requests_at_hand_are_gauged() {
    let _turn = beside_others();
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let backend = Recorder::answering(move |request| {
        held.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        ok(request)
    });
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    let gauge = |direction, wanted| {
        sidecar.metric_is("pillion_active_requests", &[("direction", direction)], wanted);
    };
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    gauge("outbound", 1.0);
    gauge("inbound", 0.0);
    release.send(()).unwrap();
    assert_eq!(client.read("GET").status, 200);
    gauge("outbound", 0.0);
}

#[test]
fn connections_to_endpoints_are_counted_by_how_they_ended() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let closed = Deaf::new();
    let sidecar =
        sidecar("front").upstream("users", backend.address()).upstream("gone", closed.address()).start();
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..2 {
        assert_eq!(client.get("users", "/").status, 200);
    }
    assert_eq!(get(sidecar.at.outbound, "gone", "/").status, 502);
    let metrics = sidecar.metrics();
    let count = |upstream, result| {
        metrics.get("pillion_upstream_connects_total", &[("upstream", upstream), ("result", result)])
    };
    assert_eq!(count("users", "ok"), 1.0, "one connection for two requests");
    assert!(count("gone", "refused") >= 1.0);
    assert_eq!(count("gone", "ok") + count("users", "refused"), 0.0);
}
