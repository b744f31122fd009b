use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::base::UpstreamName;
use crate::base::drain::{self, Signal, Stage};
use crate::base::{Endpoint, EndpointSet, Origin, Resolution};

/// The API on a thread of its own, as on the control thread.
struct Served {
    admin: SocketAddr,
    probes: SocketAddr,
    readiness: Readiness,
    signal: Signal,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn serve_for_test(mut model: Model) -> Served {
    let origin = |line| Origin { file: "pillion.yaml".into(), line, column: 3 };
    model.sources = Arc::new([("service.name".to_owned(), origin(2))].into());
    let (directory, mut names) = Directory::new();
    let receiver = directory.watch(&UpstreamName::new("users")).unwrap();
    let asked = names.try_recv().unwrap();
    let endpoint = Endpoint::new("127.0.0.1:9".parse().unwrap());
    let as_of = SystemTime::UNIX_EPOCH;
    asked.sender.send_replace(Resolution::Found(EndpointSet::new(vec![endpoint], "static", as_of)));
    let readiness = Readiness::default();
    let model = Arc::new(model);
    let state = AdminState {
        readiness: readiness.clone(),
        metrics: Metrics::new(),
        model: Arc::new(move || Arc::clone(&model)),
        directory,
        endpoints: Arc::new(|| {
            vec![EndpointStats {
                active: 1,
                requests: 12,
                failures: 2,
                ewma_ms: Some(1.25),
                connections: 3,
                state: "ejected",
                why: "gateway_errors, 2 in a row".into(),
                ..EndpointStats::new(UpstreamName::new("users"), "127.0.0.1:9".parse().unwrap())
            }]
        }),
        breakers: Arc::new(|| {
            let at = |address, state| BreakerState {
                upstream: UpstreamName::new("users"),
                route: "/v1/users/{id}".into(),
                address,
                state,
            };
            vec![at(Some("127.0.0.1:9".parse().unwrap()), "open"), at(None, "half_open"), at(None, "closed")]
        }),
        concurrency: Arc::new(|| {
            let of = |upstream: Option<&str>| ConcurrencyState {
                upstream: upstream.map(UpstreamName::new),
                route: "".into(),
                adaptive: true,
                limit: 40,
                in_use: 7,
                waiting: 1,
            };
            vec![of(Some("users")), of(None)]
        }),
        allow_remote: false,
    };
    let (signal, watch) = drain::channel();
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (bind(), bind());
    let (admin_at, probes_at) = (one.local_addr().unwrap(), other.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let _receiver = receiver;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::join!(serve(one, admin(state.clone()), watch.clone()), serve(other, probes(state), watch));
        });
    });
    Served { admin: admin_at, probes: probes_at, readiness, signal, thread: Some(thread) }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.signal.advance(Stage::Stopped);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the server panicked");
        }
    }
}

fn ask(address: SocketAddr, method: &str, target: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    write!(stream, "{method} {target} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn json_of(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn probes_tell_what_is_waited_for_and_drain_is_for_good() {
    let served = serve_for_test(Model::minimal("orders"));
    let condition = served.readiness.condition("discovery");
    let (status, answer) = ask(served.probes, "GET", "/readyz", "");
    assert_eq!(status, 503);
    assert!(answer.ends_with("waits for: discovery\n"), "{answer}");
    assert_eq!(ask(served.probes, "GET", "/livez", "").0, 200);
    condition.met();
    assert_eq!(ask(served.probes, "GET", "/readyz", "").0, 200);
    for _ in 0..2 {
        assert_eq!(ask(served.admin, "POST", "/drain", "").0, 202);
    }
    let (status, answer) = ask(served.admin, "GET", "/readyz", "");
    assert_eq!(status, 503);
    assert!(answer.ends_with("leaving\n"), "{answer}");
}

#[test]
fn metrics_are_prometheus_text() {
    let served = serve_for_test(Model::minimal("orders"));
    for address in [served.probes, served.admin] {
        let (status, answer) = ask(address, "GET", "/metrics", "");
        assert_eq!(status, 200);
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
        assert!(answer.contains("\nprocess_resident_memory_bytes "), "{answer}");
        assert!(answer.contains("\npillion_ready 0\n"), "{answer}");
    }
}

#[test]
fn the_dump_names_the_place_of_each_value() {
    let served = serve_for_test(Model::minimal("orders"));
    let (status, answer) = ask(served.admin, "GET", "/config_dump", "");
    assert_eq!(status, 200);
    let dump = json_of(&answer);
    let name = &dump["values"]["service.name"];
    assert_eq!((name["value"].as_str(), name["origin"].as_str()), (Some("orders"), Some("pillion.yaml:2:3")));
    let delay = &dump["values"]["drain.delay"];
    assert_eq!((delay["value"].as_str(), delay["origin"].as_str()), (Some("2s"), Some("default")));
}

#[test]
fn clusters_come_as_json_and_as_text() {
    let mut model = Model::minimal("orders");
    // The policy names it, and nobody has called it for a while.
    model.upstreams.insert(UpstreamName::new("mail"), crate::config::model::Upstream::default());
    let served = serve_for_test(model);
    let clusters = json_of(&ask(served.admin, "GET", "/clusters", "").1);
    let idle = &clusters["upstreams"][0];
    assert_eq!((&idle["upstream"], &idle["state"]), (&"mail".into(), &"idle".into()));
    let users = &clusters["upstreams"][1];
    assert_eq!((users["upstream"].as_str(), users["source"].as_str()), (Some("users"), Some("static")));
    assert!(users["age_seconds"].as_u64().unwrap() > 1_000_000);
    assert_eq!(users["endpoints"][0]["address"], "127.0.0.1:9");
    assert_eq!(users["endpoints"][0]["failures"], 2);
    assert_eq!(users["endpoints"][0]["breaker"], "open");
    assert_eq!(users["breakers"].as_array().unwrap().len(), 2, "those that are not closed");
    assert_eq!(users["breakers"][1]["state"], "half_open");
    assert_eq!(
        (&users["concurrency"][0]["limit"], &users["concurrency"][0]["in_use"]),
        (&40.into(), &7.into())
    );
    assert_eq!(clusters["inbound"]["concurrency"][0]["adaptive"], true);
    let (_, text) = ask(served.admin, "GET", "/clusters?format=text", "");
    assert!(
        text.contains("mail  not called for a while")
            && text.contains("users  1 by static")
            && text.contains("failures 2 connections 3 ewma 1.2 ms"),
        "{text}"
    );
    assert_eq!(ask(served.admin, "GET", "/clusters?format=xml", "").0, 400);
}

#[test]
fn what_is_not_there_and_what_is_not_allowed() {
    let served = serve_for_test(Model::minimal("orders"));
    assert_eq!(ask(served.admin, "GET", "/nothing", "").0, 404);
    assert_eq!(ask(served.probes, "GET", "/config_dump", "").0, 404, "the probes port tells nothing more");
    for (method, target, allow) in
        [("GET", "/drain", "POST"), ("POST", "/logging", "GET,HEAD,PUT"), ("DELETE", "/metrics", "GET,HEAD")]
    {
        let (status, answer) = ask(served.admin, method, target, "");
        assert_eq!(status, 405, "{method} {target}");
        let allowed = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_default();
        let sorted = |text: &str| {
            let mut words: Vec<_> = text.split(',').map(|word| word.trim().to_owned()).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(allowed), sorted(allow), "{method} {target}");
    }
    let (status, index) = ask(served.admin, "GET", "/", "");
    assert!(status == 200 && index.contains("beside orders") && index.contains("/clusters"), "{index}");
}

#[test]
fn a_rebound_name_and_another_origin_are_refused() {
    let served = serve_for_test(Model::minimal("orders"));
    assert_eq!(ask(served.admin, "GET", "/config_dump", "Host: evil.example\r\n").0, 403);
    assert_eq!(ask(served.admin, "POST", "/drain", "Origin: http://evil.example\r\n").0, 403);
    assert_ne!(served.readiness.state(), crate::base::readiness::State::Leaving);
    assert_eq!(
        ask(served.probes, "GET", "/livez", "Host: orders.shop.svc\r\n").0,
        200,
        "probes come by any name"
    );
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let served = serve_for_test(Model::minimal("orders"));
    let mut stream = TcpStream::connect(served.admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(200_000)).as_bytes());
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap_or(0);
    let text = String::from_utf8_lossy(&answer[..read]);
    assert!(read == 0 || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(ask(served.admin, "GET", "/livez", "").0, 200, "and others are served");
}
